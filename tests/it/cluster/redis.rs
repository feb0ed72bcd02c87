//! Redis behind Sentinels: the master fails, and the replica takes over. While the Sentinels decide, they still name
//! the old master, so that the first attempts to connect are refused.

use super::{Watched, alone};
use crate::harness::{Chat, Kind, engines::Redis, load::Load};

async fn deployment(redis: &Redis) -> Chat {
    let plan = Load::plan(Kind::Cluster).workers(3);
    redis.serve(plan).start().await
}

/// The new master's subscribers are the edges and the workers.
async fn until_subscribed(redis: &Redis, watched: &Watched, master: usize) {
    let processes = watched.chat.edges.len() + watched.chat.workers.len();
    redis.until_subscribers(master, processes).await;
    watched.load.accepted(200).await;
}

#[tokio::test]
async fn the_master_is_killed_and_comes_back_as_a_replica() {
    let _alone = alone().await;
    let mut redis = Redis::start().await;
    let chat = deployment(&redis).await;
    let mut watched = Watched::begin("Redis, master killed", chat).await;
    redis.kill9(0);
    let master = redis.failed_over(0).await;
    until_subscribed(&redis, &watched, master).await;
    watched.measure().await;
    watched.account().await;

    watched.next("Redis, former master back").await;
    redis.restart(0);
    redis.until_complete().await;
    watched.measure().await;
    watched.end().await;
}

#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn the_master_is_frozen() {
    let _alone = alone().await;
    let mut redis = Redis::start().await;
    let chat = deployment(&redis).await;
    let mut watched = Watched::begin("Redis, master frozen", chat).await;
    redis.freeze(0);
    let master = redis.failed_over(0).await;
    until_subscribed(&redis, &watched, master).await;
    watched.measure().await;
    redis.thaw(0);
    redis.until_complete().await;
    watched.end().await;
}
