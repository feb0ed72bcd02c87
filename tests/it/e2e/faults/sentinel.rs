//! Redis behind Sentinels: the master is killed, frozen or demoted, and live delivery resumes on the new one.

use std::time::Instant;

use super::{PACE, until_edges_count, until_edges_report};
use crate::harness::{Chat, Kind, engines::Redis, load::Load};

/// Heads are not compared, so that what arrives after the failover has come over the new master, or was missed by a
/// later event or at the reconnect.
async fn under_load(redis: &Redis) -> (Chat, Load) {
    let plan = Load::plan(Kind::Cluster).set("edge.reconcile_interval", "1h");
    let chat = redis.serve(plan).start().await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    load.accepted(200).await;
    until_edges_count(&chat, "chat_bus_state", 1).await;
    (chat, load)
}

/// Waits until the edges and the workers use the new master.
async fn recovered(chat: &Chat, load: &Load, redis: &Redis, master: usize) {
    let failed_over = Instant::now();
    until_edges_count(chat, "chat_bus_state", 1).await;
    let subscribed = failed_over.elapsed();
    until_edges_report(chat, 200, "bus", true).await;
    let ready = failed_over.elapsed();
    println!("after the failover: subscribed in {subscribed:?}, ready in {ready:?}");
    for process in chat.edges.iter().chain(&chat.workers) {
        for line in process.log().lines().filter(|line| line.contains("Redis")) {
            println!("{} {line}", process.name());
        }
    }
    let processes = chat.edges.len() + chat.workers.len();
    redis.until_subscribers(master, processes).await;
    load.accepted(200).await;
}

#[tokio::test]
async fn a_killed_master_is_replaced() {
    let mut redis = Redis::start().await;
    let (chat, load) = under_load(&redis).await;
    redis.kill9(0);
    until_edges_count(&chat, "chat_bus_state", 0).await;
    let master = redis.failed_over(0).await;
    recovered(&chat, &load, &redis, master).await;
    load.end(&chat).await;
}

/// Its connections stay open, and it answers nothing. Afterwards it becomes a replica.
#[tokio::test]
async fn a_frozen_master_is_replaced() {
    let redis = Redis::start().await;
    let (chat, load) = under_load(&redis).await;
    redis.freeze(0);
    let master = redis.failed_over(0).await;
    recovered(&chat, &load, &redis, master).await;
    redis.thaw(0);
    load.accepted(200).await;
    load.end(&chat).await;
}

/// Sentinels fail as well; one that is left suffices for a process that starts.
#[tokio::test]
async fn a_node_starts_while_sentinels_are_away() {
    let mut redis = Redis::start().await;
    let (chat, load) = under_load(&redis).await;
    redis.kill_sentinel(0);
    redis.kill9(0);
    let master = redis.failed_over(0).await;
    recovered(&chat, &load, &redis, master).await;
    redis.kill_sentinel(1);
    let mut chat = chat;
    chat.workers[0].kill9().await;
    chat.workers[0].restart().await;
    load.accepted(200).await;
    load.end(&chat).await;
}
