//! Scaling from zero to several workers and back, with a broker crash in between.

use super::{PACE, until_edges_report};
use crate::{
    e2e::autoscale::{children, is_running, plan, until_workers},
    harness::load::Load,
    support::OwnBroker,
};

/// `autoscale.max`.
const MOST: usize = 3;

// Two threads: `children` blocks one, and the load must go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_recovers_from_a_broker_crash() {
    let broker = OwnBroker::start("pool").await;
    let chat = plan()
        .address("AMQP_URL", broker.url())
        // The API's figures are lost when the broker restarts.
        .set("autoscale.api_url", broker.api_url())
        .set("queue.confirm_timeout", "5s")
        .set("autoscale.max", MOST)
        // Logs each measurement, for failures.
        .set("log.filter", "info,chat::autoscale=debug")
        // Longer than the edges need to reconnect to the broker and to fill its queues.
        .set("autoscale.cooldown", "6s")
        // Low enough that the load requires all workers, however fast this machine is.
        .set("autoscale.messages_per_second", 20)
        .start()
        .await;
    let mut autoscaler = chat.program("autoscale", &["autoscale"]).start().await;
    let load = Load::start(&chat, 4, 6, PACE).await;
    load.settled().await;
    until_workers(&autoscaler, "no worker runs", |n| n == 0).await;

    load.resume_sending();
    let workers = until_workers(&autoscaler, "the maximum of workers", |n| n == MOST).await;
    load.accepted(200).await;
    broker.run(&["kill", "rabbitmq"]).await;
    until_edges_report(&chat, 503, "queue", false).await;
    let before = load.figures().busy;
    load.until("sends to be refused as busy", || {
        load.figures().busy > before + 50
    })
    .await;
    // Without figures, no worker is started or stopped.
    assert_eq!(children(autoscaler.pid()), workers);
    broker.run(&["start", "rabbitmq"]).await;
    until_edges_report(&chat, 200, "queue", true).await;
    load.accepted(200).await;
    assert_eq!(
        children(autoscaler.pid()),
        workers,
        "the workers keep running"
    );

    load.end(&chat).await;
    until_workers(&autoscaler, "no worker runs", |n| n == 0).await;
    let log = autoscaler.log();
    for said in [
        "unknown what waits; the workers stay as they are",
        "the queue's figures are back",
    ] {
        assert!(log.contains(said), "{log}");
    }
    autoscaler.sigterm();
    assert_eq!(autoscaler.ended().await, Some(0));
    assert!(!workers.into_iter().any(is_running), "a worker is left");
}
