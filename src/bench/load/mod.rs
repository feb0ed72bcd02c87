//! Open-loop load over real sockets, and the judge of what comes back: every accepted message must come to every member
//! once and in order. Latency counts from when a message was *meant* to be sent, so that a server that makes the
//! generator wait does not look fast.

mod plan;
mod sockets;
mod tally;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, Parser};
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use uuid::Uuid;

use self::{
    plan::{Plan, Script},
    sockets::{Desk, KEYS, Seated, number_after},
    tally::Tally,
};
use super::{
    client::{Registered, Socket, Target, Transport, failed, open},
    judge::{Judge, RoomNo},
    measure::{Latency, Meter, duration, process, progress, save},
    report,
};
use crate::{
    error::{Error, Result},
    job::partition_of,
    model::Seq,
    plot::{Panel, Series, over, stacked},
};

pub use self::plan::Step;

/// Users registered, rooms made and sockets opened at once.
const AT_ONCE: usize = 32;
/// Between two looks at what has come.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long what was accepted may take to arrive once nothing more is sent and nothing comes any more.
const LAST_ARRIVALS: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Args)]
pub struct Load {
    /// The server, as it prints its address; several are used in turns.
    #[arg(long, default_value = "http://127.0.0.1:3000", value_delimiter = ',')]
    pub url: Vec<String>,
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Online members of each room.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Users that send, in turns; each has one socket and is a member of several rooms.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub senders: u32,
    /// Messages a second, all senders together; limits.messages_per_second bounds each of them.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// How long to send, such as 30s or 2m.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub duration: Duration,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub body: u32,
    /// Plays a chat log instead, with lines such as `[12:34] <nick> text`: one room, a user for each nick.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rooms", "members", "senders", "rate", "duration", "body"])]
    pub replay: Option<PathBuf>,
    /// How many times faster than it was written the log is played.
    #[arg(long, default_value_t = 60.0, value_parser = positive, requires = "replay")]
    pub speed: f64,
    /// Only rooms of these partitions of all that `queue.partitions` has, such as 0,1,2,3/8: to leave others alone.
    #[arg(long, value_name = "LIST/ALL", value_parser = partitions)]
    pub partitions: Option<Partitions>,
    /// Ends when every send is answered. What was not delivered by then does not count as lost: for a look at
    /// accepting alone, while no worker runs.
    #[arg(long)]
    pub accept_only: bool,
    /// Once everyone has joined, waits for a line on standard input before it sends.
    #[arg(long)]
    pub pause: bool,
    /// Instead of `rate` and `duration`: one after the other.
    #[arg(skip)]
    pub steps: Vec<Step>,
    /// Processes on this machine whose CPU time is told, their children's included, as NAME=PID.
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = process)]
    pub pid: Vec<(String, u32)>,
    /// Writes the result here as well, with the figures of each second.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draws it: rates and latency over time, and the latency's distribution.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl Default for Load {
    fn default() -> Self {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            load: Load,
        }
        Alone::parse_from(["bench"]).load
    }
}

/// Some of the queue's partitions.
#[derive(Debug, Clone)]
pub struct Partitions {
    some: Vec<u16>,
    all: u16,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|n: &f64| n.is_normal() && *n > 0.0);
    number.ok_or_else(|| "a number above 0".to_owned())
}

fn partitions(text: &str) -> Result<Partitions, String> {
    let read = || {
        let (some, all) = text.split_once('/')?;
        let all: u16 = all.parse().ok()?;
        let some: Option<Vec<u16>> = some.split(',').map(|n| n.parse().ok()).collect();
        Some(Partitions { some: some?, all })
    };
    read()
        .filter(|p| !p.some.is_empty() && p.some.iter().all(|n| *n < p.all))
        .ok_or_else(|| "such as 0,1,2,3/8, counted from 0".to_owned())
}

/// What a run came to.
#[derive(Debug, Serialize)]
pub struct Report {
    pub sent: u64,
    pub accepted: u64,
    pub stored: u64,
    pub delivered: u64,
    pub expected: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub accepted_per_s: f64,
    pub delivered_per_s: f64,
    /// From the last intended send to the last delivery: what had piled up.
    pub behind_ms: f64,
    /// From the intended send to each member.
    pub latency_ms: Latency,
    /// From the intended send to the acknowledgement.
    pub accept_ms: Latency,
    /// Refused sends by code.
    pub errors: BTreeMap<String, u64>,
    /// CPU microseconds an accepted message, of this generator and of each `--pid`.
    pub cpu_us_per_message: BTreeMap<String, f64>,
    /// A few faults, for people.
    pub examples: Vec<String>,
    /// Quantiles of the latency, in milliseconds.
    #[serde(skip)]
    pub distribution: Vec<(f64, f64)>,
    /// What happened in each second.
    #[serde(skip)]
    pub seconds: Vec<Second>,
    /// When the first message was to be sent.
    #[serde(skip)]
    pub started: Instant,
}

#[derive(Debug, Serialize)]
pub struct Second {
    pub accepted: u64,
    pub delivered: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Report {
    /// Nothing lost, repeated or out of order.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered == 0 && self.examples.is_empty()
    }
}

/// Runs the load against running servers.
///
/// # Errors
/// Where a server refuses to register users, make rooms or open sockets.
pub async fn run(load: &Load) -> Result<Report> {
    let targets = load
        .url
        .iter()
        .map(|url| Target::new(url))
        .collect::<Result<Vec<_>>>()?;
    let script = Script::of(load)?;
    let (users, rooms) = cast(load, &script, &targets).await?;
    let joined = join_all(load, &script, &targets, &users, &rooms).await?;
    if load.pause {
        eprintln!("ready: press Enter to send");
        let waiting =
            tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        waiting
            .await
            .map_err(Error::internal)?
            .map_err(|e| failed("--pause", e))?;
    }

    let mut judge = Judge::new();
    // Everyone is in: what is heard from here on lies above what anyone's joining made.
    let mut bases: Vec<Seq> = vec![0; rooms.len()];
    for (room, base) in joined.iter().flat_map(|(_, joined)| joined) {
        bases[*room] = bases[*room].max(*base);
    }
    let numbers: Vec<RoomNo> = rooms.iter().map(|id| judge.room(id.to_string())).collect();
    let messages = script.messages;
    let plan = Arc::new(Plan {
        script,
        users,
        rooms,
        started: Instant::now() + Duration::from_millis(200),
    });
    let meter = Meter::start(&load.pid)?;

    let (desk, notes) = Desk::new();
    let (answers, asked) = mpsc::unbounded_channel();
    let mut connections = Vec::new();
    let mut writers = Vec::new();
    for (user, (socket, joined)) in joined.into_iter().enumerate() {
        let seats = joined
            .into_iter()
            .map(|(room, _)| {
                let base = bases[room];
                let seat = judge.seat(numbers[room], format!("user {user}"), base);
                (plan.rooms[room].to_string(), Seated { seat, base })
            })
            .collect();
        connections.push(judge.connection());
        writers.push(socket.writer);
        let (plan, notes, answers) = (plan.clone(), notes.clone(), answers.clone());
        tokio::spawn(sockets::listen(
            user,
            socket.reader,
            seats,
            plan,
            notes,
            answers,
        ));
    }
    tokio::spawn(sockets::speak(
        writers,
        load.transport,
        plan.clone(),
        notes,
        asked,
    ));

    let mut tally = Tally::new(&plan, judge, numbers, connections);
    let bar = progress("sending", messages);
    let sent = plan.started + plan.script.duration();
    let mut quiet_since = sent;
    while tally.answered < messages || (!load.accept_only && tally.delivered < tally.expected) {
        tokio::time::sleep(LOOK_EVERY).await;
        let notes = desk.take();
        let now = Instant::now();
        if !notes.is_empty() {
            quiet_since = sent.max(now);
        } else if now.saturating_duration_since(quiet_since) > LAST_ARRIVALS {
            break;
        }
        tally.take(notes)?;
        bar.set_position(tally.answered);
    }
    bar.finish();
    let cpu = meter.per(tally.accepted)?;
    if load.accept_only {
        tally.dismiss();
    }
    Ok(tally.report(cpu))
}

/// Registers the users and makes the rooms.
async fn cast(
    load: &Load,
    script: &Script,
    targets: &[Target],
) -> Result<(Vec<Registered>, Vec<Uuid>)> {
    let target = |i: usize| &targets[i % targets.len()];
    let bar = progress("registering users", script.users as u64);
    let users: Vec<Registered> = stream::iter(0..script.users)
        .map(|i| counted(&bar, target(i).register()))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    bar.finish();

    let bar = progress("making rooms", script.rooms as u64);
    let owners = first_members(script);
    let rooms: Vec<Uuid> = stream::iter(0..script.rooms)
        .map(|room| {
            let owner = &users[owners[room]].token;
            counted(
                &bar,
                make_room(target(room), owner, load.partitions.as_ref()),
            )
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    bar.finish();
    Ok((users, rooms))
}

/// A user of each room.
fn first_members(script: &Script) -> Vec<usize> {
    let mut owners = vec![0; script.rooms];
    for (user, places) in script.places.iter().enumerate().rev() {
        places.iter().for_each(|room| owners[*room] = user);
    }
    owners
}

/// A room of one of the partitions: others are made until one is.
async fn make_room(target: &Target, owner: &str, only: Option<&Partitions>) -> Result<Uuid> {
    loop {
        let room = target.room(owner).await?;
        match only {
            Some(Partitions { some, all }) if !some.contains(&partition_of(room, *all)) => {}
            _ => return Ok(room),
        }
    }
}

type Joined = (Socket, Vec<(usize, Seq)>);

async fn join_all(
    load: &Load,
    script: &Script,
    targets: &[Target],
    users: &[Registered],
    rooms: &[Uuid],
) -> Result<Vec<Joined>> {
    let bar = progress("joining", users.len() as u64);
    let joined = stream::iter(users.iter().zip(&script.places).enumerate())
        .map(|(i, (user, mine))| {
            let target = &targets[i % targets.len()];
            counted(&bar, join(target, &user.token, load.transport, mine, rooms))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    bar.finish();
    Ok(joined)
}

/// Opens a socket and takes its place in every room it belongs to.
async fn join(
    target: &Target,
    token: &str,
    transport: Transport,
    mine: &[usize],
    rooms: &[Uuid],
) -> Result<Joined> {
    let mut socket = open(target, token, transport).await?;
    let mut joined = Vec::new();
    for (i, room) in mine.iter().enumerate() {
        let request = socket.request(i as u64 + 1, "joinRoom", json!({"room": rooms[*room]}));
        socket.say(&request).await?;
        let answer = socket.answered(i as u64 + 1).await?;
        let base = number_after(answer.as_bytes(), &KEYS.seq)
            .ok_or_else(|| failed("joinRoom", &answer))?;
        joined.push((*room, base));
    }
    Ok((socket, joined))
}

async fn counted<T>(bar: &ProgressBar, what: impl Future<Output = Result<T>>) -> Result<T> {
    let result = what.await;
    bar.inc(1);
    result
}

/// Writes the files that `--json` and `--html` name.
///
/// # Errors
/// Where one cannot be written.
pub fn write(load: &Load, report: &Report) -> Result<()> {
    if let Some(file) = &load.json {
        let mut value = json!(report);
        value["seconds"] = json!(report.seconds);
        save("--json", file, &format!("{value:#}\n"))?;
    }
    if let Some(file) = &load.html {
        save("--html", file, &page(load, report))?;
    }
    Ok(())
}

fn page(load: &Load, report: &Report) -> String {
    let what = match &load.replay {
        Some(log) => format!("{} at {} times its speed", log.display(), load.speed),
        None => format!(
            "{} messages a second of {} bytes for {} s: {} rooms of {} members, {} senders",
            load.rate,
            load.body,
            load.duration.as_secs_f64(),
            load.rooms,
            load.members,
            load.senders
        ),
    };
    let Latency {
        p50,
        p99,
        p999,
        max,
    } = report.latency_ms;
    let mut rows: Vec<(String, String)> = [
        ("sent", report.sent.to_string()),
        ("accepted", report.accepted.to_string()),
        (
            "delivered",
            format!("{} of {}", report.delivered, report.expected),
        ),
        ("accepted a second", report.accepted_per_s.to_string()),
        ("delivered a second", report.delivered_per_s.to_string()),
        (
            "latency from the intended send, p50 / p99 / p99.9 / max, ms",
            format!("{p50} / {p99} / {p999} / {max}"),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    let cpu = report.cpu_us_per_message.iter();
    rows.extend(cpu.map(|(name, micros)| {
        let name = format!("CPU of {name}, µs a message");
        (name, micros.to_string())
    }));

    let places = report.distribution.iter();
    let places: Vec<String> = places
        .map(|(quantile, _)| format!("{} %", quantile * 100.0))
        .collect();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let points = report.distribution.iter().enumerate();
    let points = points.map(|(at, (_, ms))| (at as f64, *ms)).collect();
    let distribution = [Panel::new("ms", vec![Series::new("latency", points)])];
    let charts = [
        stacked(
            "Over time",
            "seconds",
            &[report::rates(report), report::latencies(report)],
        ),
        over(
            "How long deliveries took",
            "of all deliveries within",
            &places,
            &distribution,
        ),
    ];
    report::page("chat bench", &what, report, &rows, &charts.concat())
}
