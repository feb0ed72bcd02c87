//! The whole way from nobody to several workers and back, with the broker killed in the middle of it.

use super::{PACE, edges_say};
use crate::{
    e2e::autoscale::{children, is_running, plan, until_workers},
    harness::load::Load,
    support::OwnBroker,
};

/// The most workers there may be.
const MOST: usize = 3;

// Whoever counts processes must not hold up the load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_recovers_from_a_broker_crash() {
    let broker = OwnBroker::start("pool").await;
    let chat = plan()
        .address("AMQP_URL", broker.url())
        // Its figures are gone when the broker is back.
        .set("autoscale.api_url", broker.api_url())
        .set("queue.confirm_timeout", "5s")
        .set("autoscale.max", MOST)
        // What was seen at each look, for a failure.
        .set("log.filter", "info,chat::autoscale=debug")
        // Longer than the edges may take to find the broker again, and to fill its queues.
        .set("autoscale.cooldown", "6s")
        // So few that the load asks for all of them, however fast this machine is.
        .set("autoscale.messages_per_second", 20)
        .start()
        .await;
    let mut autoscaler = chat.recipe("autoscale", &["autoscale"]).start().await;
    let load = Load::start(&chat, 4, 6, PACE).await;
    load.settled().await;
    until_workers(&autoscaler, "nobody works", |n| n == 0).await;

    load.go_on();
    let workers = until_workers(&autoscaler, "as many as there may be", |n| n == MOST).await;
    load.accepted(200).await;
    broker.run(&["kill", "rabbitmq"]).await;
    edges_say(&chat, 503, "queue", false).await;
    let before = load.figures().busy;
    load.until("the outage is felt", || load.figures().busy > before + 50)
        .await;
    // Nobody knows what waits: that starts nobody and sends nobody away.
    assert_eq!(children(autoscaler.pid()), workers);
    broker.run(&["start", "rabbitmq"]).await;
    edges_say(&chat, 200, "queue", true).await;
    load.accepted(200).await;
    assert_eq!(children(autoscaler.pid()), workers, "they go on");

    load.end(&chat).await;
    until_workers(&autoscaler, "back to nobody", |n| n == 0).await;
    let log = autoscaler.log();
    for said in [
        "unknown what waits; the workers stay as they are",
        "the queue's figures are back",
    ] {
        assert!(log.contains(said), "{log}");
    }
    autoscaler.sigterm();
    assert_eq!(autoscaler.ended().await, Some(0));
    assert!(!workers.into_iter().any(is_running), "nobody is left");
}
