//! One run, from the first registration to the report.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    args::Load,
    observations::Observations,
    plan::{Plan, Script},
    report::Report,
    setup::{Member, PartitionOf, Setup},
    sockets::{self, Subscription},
    tally::Tally,
};
use crate::{
    error::{Result, failed},
    judge::{Judge, RoomNo, Seq},
    measure::{note, progress},
    process::Meter,
};

/// How often observations are taken.
const POLL_EVERY: Duration = Duration::from_millis(5);
/// How long the last deliveries are awaited once nothing more is sent and nothing more arrives.
const LAST_ARRIVALS: Duration = Duration::from_secs(30);
/// From the end of the setup to the first send.
const START_AFTER: Duration = Duration::from_millis(200);

/// Runs the load against running servers. `partition_of` is needed for `--partitions`. `stop` ends it early: the report
/// then counts messages on their way as lost.
///
/// # Errors
/// A server that refuses to register users, create rooms or open sockets; a socket that ends during the run; `stop`
/// before the first message.
pub async fn run(
    load: &Load,
    partition_of: PartitionOf,
    stop: &CancellationToken,
) -> Result<Report> {
    let script = Script::of(load)?;
    let setup = Setup::new(load, &script, partition_of);
    let setup = stop.run_until_cancelled(setup).await;
    let Setup {
        users,
        rooms,
        members,
    } = setup.unwrap_or_else(|| Err(failed("the setup", "interrupted")))?;
    if load.pause {
        wait_for_line().await?;
    }

    let mut judge = Judge::new();
    let numbers: Vec<RoomNo> = rooms.iter().map(|id| judge.room(id.to_string())).collect();
    let bases = bases(&members, rooms.len());
    let messages = script.messages;
    let plan = Arc::new(Plan {
        script,
        users,
        rooms,
        started: Instant::now() + START_AFTER,
    });
    let meter = Meter::start(&load.pid)?;

    let (observations, recorder) = Observations::new();
    let (pings, unanswered) = mpsc::unbounded_channel();
    let mut connections = Vec::new();
    let mut writers = Vec::new();
    for (user, Member { socket, joined }) in members.into_iter().enumerate() {
        let subscriptions = joined.into_iter().map(|(room, _)| {
            let base = bases[room];
            let number = judge.subscribe(numbers[room], format!("user {user}"), base);
            let room = plan.rooms[room].to_string();
            Subscription { room, number, base }
        });
        let subscriptions = subscriptions.collect();
        connections.push(judge.connection());
        writers.push(socket.writer);
        tokio::spawn(sockets::receive(
            user,
            socket.reader,
            subscriptions,
            plan.clone(),
            recorder.clone(),
            pings.clone(),
        ));
    }
    drop(pings);
    tokio::spawn(sockets::send(
        writers,
        load.transport,
        plan.clone(),
        recorder,
        unanswered,
    ));

    let mut tally = Tally::new(&plan, judge, numbers, connections);
    let bar = progress("sending", messages);
    let sent = plan.started + plan.script.duration();
    let mut quiet_since = sent;
    while tally.answered < messages || (!load.accept_only && tally.delivered < tally.expected) {
        if stop.is_cancelled() {
            break;
        }
        tokio::time::sleep(POLL_EVERY).await;
        let observed = observations.take();
        let now = Instant::now();
        if !observed.is_empty() {
            quiet_since = sent.max(now);
        } else if now.saturating_duration_since(quiet_since) > LAST_ARRIVALS {
            break;
        }
        tally.add(observed)?;
        bar.set_position(tally.answered);
    }
    bar.finish();
    let cpu = meter.per(tally.accepted)?;
    if load.accept_only {
        tally.unsubscribe_all();
    }
    Ok(tally.report(cpu))
}

/// The head of each room after the last join: events up to it were caused by the joins, and are ignored.
fn bases(members: &[Member], rooms: usize) -> Vec<Seq> {
    let mut bases = vec![0; rooms];
    for (room, head) in members.iter().flat_map(|member| &member.joined) {
        bases[*room] = bases[*room].max(*head);
    }
    bases
}

async fn wait_for_line() -> Result<()> {
    note("ready: press Enter to send");
    let line = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let read = line.await.map_err(|e| failed("--pause", e))?;
    read.map(drop).map_err(|e| failed("--pause", e))
}
