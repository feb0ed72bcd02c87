//! One run: start the cluster, inject faults under load, heal, read everything, judge.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::{interval, sleep_until};

use super::{
    client::{Client, membership, shared::Shared},
    cluster::Cluster,
    judge::judge,
    nemesis::Nemesis,
    options::Options,
    plan::plan,
    record::Record,
    report,
    truth::Api,
};

const CLIENTS: usize = 8;
const ROOMS: usize = 4;
/// How many violations are shown with their timeline.
const SHOWN: usize = 5;

/// The program under test, as harness/process.rs finds it.
fn program() -> PathBuf {
    let kept = std::env::var_os("CHAT_TEST_PROGRAM");
    kept.map_or_else(|| env!("CARGO_BIN_EXE_chat").into(), PathBuf::from)
}

/// The directory of the processes' logs. It is deleted after a run that passes.
struct Logs {
    directory: PathBuf,
    keep: bool,
}

impl Logs {
    fn new(options: &Options) -> Logs {
        let name = format!("chaos-{}-{}", options.seed, std::process::id());
        let parent = options.log.clone();
        let parent = parent.unwrap_or_else(|| format!("{}/target", crate::support::ROOT).into());
        let directory = parent.join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let directory = directory.canonicalize().expect("it exists");
        Logs {
            directory,
            keep: options.keep,
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("chaos: the logs are in {}", self.directory.display());
        } else if !self.keep {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

pub async fn run(options: Options) {
    let (seed, duration) = (options.seed, options.duration);
    println!("chaos: seed {seed}, {duration:?} of faults; repeat with scripts/chaos --seed {seed}");
    let logs = Logs::new(&options);
    let plan = plan(&options);
    let cluster = Cluster::start(&options, program(), logs.directory.clone()).await;
    let cluster = Arc::new(cluster);
    let api = Api::new(cluster.edges());
    let mut users = Vec::new();
    for client in 0..CLIENTS {
        users.push(api.register(&format!("client{client}")).await);
    }
    let mut rooms = Vec::new();
    for room in 0..ROOMS {
        rooms.push(
            api.room(&format!("room {room}"), room % 2 == 0, &users)
                .await,
        );
    }
    let started = Instant::now();
    let shared = Arc::new(Shared::new(started, users, rooms, cluster.edges()));
    let clients = start_clients(&shared, &options);
    let changes =
        (0..ROOMS).map(|room| tokio::spawn(membership::change(shared.clone(), room, seed)));
    let changes: Vec<_> = changes.collect();
    let stop = Arc::new(AtomicBool::new(false));
    let supervising = {
        let shared = shared.clone();
        let report = move |text| shared.surprise(text);
        tokio::spawn(cluster.clone().supervise(stop.clone(), report))
    };
    let nemesis = Arc::new(Nemesis::new(cluster.clone(), started));
    let watching = tokio::spawn(progress(shared.clone(), nemesis.clone()));
    nemesis.run(plan).await;
    sleep_until((started + duration).into()).await;
    shared.quiet.store(true, Ordering::Relaxed);
    for change in changes {
        change.await.expect("memberships are changed");
    }
    let settled = api.settle(&shared).await;
    watching.abort();
    stop.store(true, Ordering::Relaxed);
    supervising.await.expect("processes are supervised");
    let mut record = Record {
        users: shared.users.iter().map(|user| user.id).collect(),
        ..Record::default()
    };
    for room in &shared.rooms {
        record
            .rooms
            .push(api.truth(room.id, &shared.users[0].token).await);
    }
    shared.stop.store(true, Ordering::Relaxed);
    for client in clients {
        record.views.push(client.await.expect("a client"));
    }
    let mut acks = {
        let mut book = shared.book();
        record.ops = std::mem::take(&mut book.ops);
        record.failed = std::mem::take(&mut book.failed);
        record.surprises = std::mem::take(&mut book.surprises);
        std::mem::take(&mut book.acks)
    };
    // Two threads may have recorded theirs in another order.
    acks.sort_unstable();
    conclude(&mut record, &nemesis, &acks, &shared, settled, seed);
}

fn start_clients(
    shared: &Arc<Shared>,
    options: &Options,
) -> Vec<tokio::task::JoinHandle<Vec<super::record::View>>> {
    let clients = u64::try_from(CLIENTS).expect("a few");
    let pace = Duration::from_millis(1000 * clients / u64::from(options.rate));
    let client = |number| Client::new(shared.clone(), number, options.seed, pace).run();
    (0..CLIENTS)
        .map(|number| tokio::spawn(client(number)))
        .collect()
}

/// Prints a line every ten seconds.
async fn progress(shared: Arc<Shared>, nemesis: Arc<Nemesis>) {
    let mut ticks = interval(Duration::from_secs(10));
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let busy = shared.busy.load(Ordering::Relaxed);
        let line = report::progress(shared.now(), &nemesis.diary(), &shared.book().acks, busy);
        println!("{line}");
    }
}

/// Judges and prints the report.
///
/// # Panics
/// If a property is violated.
fn conclude(
    record: &mut Record,
    nemesis: &Nemesis,
    acks: &[u64],
    shared: &Shared,
    settled: bool,
    seed: u64,
) {
    let diary = nemesis.diary();
    record.surprises.extend(diary.failures.iter().cloned());
    let violations = judge(record);
    println!("{}", report::table(record, &diary, acks));
    let messages: usize = record.rooms.iter().map(|room| room.history.len()).sum();
    let events: usize = record.rooms.iter().map(|room| room.feed.len()).sum();
    println!(
        "{} faults; {} operations, {} acknowledged, {} busy; {messages} messages, {events} events; {} violations",
        diary.incidents.len(),
        record.ops.len(),
        acks.len(),
        shared.busy.load(Ordering::Relaxed),
        violations.len()
    );
    for violation in violations.iter().take(SHOWN) {
        println!(
            "\nVIOLATED: {}\n  room {}, {}",
            violation.property, violation.room, violation.text
        );
        println!("{}", report::timeline(violation, record, &diary.incidents));
    }
    for violation in violations.iter().skip(SHOWN) {
        println!(
            "VIOLATED: {}: room {}, {}",
            violation.property, violation.room, violation.text
        );
    }
    assert!(
        violations.is_empty(),
        "{} violations with seed {seed}",
        violations.len()
    );
    assert!(
        settled,
        "not everything was delivered in time, with seed {seed}"
    );
}
