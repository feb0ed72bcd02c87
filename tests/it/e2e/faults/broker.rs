//! RabbitMQ is killed, and later blocked by its memory alarm: sends are accepted or answered with `busy` in time, and
//! what was accepted is stored.

use std::time::Duration;

use super::{AT_ONCE, PACE, probe, until_edges_count, until_edges_report};
use crate::{
    harness::{Kind, load::Load},
    support::OwnBroker,
};

/// `queue.confirm_timeout`: how long a pending publish waits for the broker.
const CONFIRM: Duration = Duration::from_secs(5);

#[tokio::test]
async fn sends_survive_a_broker_crash_and_a_memory_alarm() {
    let broker = OwnBroker::start("faults").await;
    let chat = Load::plan(Kind::Cluster)
        .address("AMQP_URL", broker.url())
        .set("queue.confirm_timeout", "5s")
        .start()
        .await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    // A separate client whose sends the test controls.
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "private", &[]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("joined");
    load.accepted(200).await;

    broker.run(&["kill", "rabbitmq"]).await;
    until_edges_report(&chat, 503, "queue", false).await;
    until_edges_count(&chat, "chat_queue_state", 0).await;
    for i in 0..20 {
        let (came, took) = probe(&socket, room, &format!("down {i}")).await;
        assert_eq!(came, "busy");
        assert!(took < AT_ONCE, "{took:?}");
    }
    load.until("every pending send to be answered", || {
        load.figures().busy >= 20
    })
    .await;
    broker.run(&["start", "rabbitmq"]).await;
    until_edges_report(&chat, 200, "queue", true).await;
    load.accepted(200).await;
    load.settled().await;
    let crashed = load.figures();
    eprintln!(
        "killed: {} busy, the slowest answer {:.1?}",
        crashed.busy, crashed.slowest
    );
    assert!(crashed.slowest < CONFIRM + AT_ONCE, "{crashed:?}");
    load.resume_sending();
    load.accepted(100).await;

    broker.alarm(true).await;
    load.until("sends to be refused as busy", || {
        load.figures().busy > crashed.busy
    })
    .await;
    until_edges_count(&chat, "chat_queue_state", -1).await;
    until_edges_report(&chat, 200, "queue", false).await;
    for i in 0..20 {
        let (came, took) = probe(&socket, room, &format!("blocked {i}")).await;
        assert_eq!(came, "busy");
        assert!(took < AT_ONCE, "{took:?}");
    }
    broker.alarm(false).await;
    until_edges_count(&chat, "chat_queue_state", 1).await;
    load.accepted(200).await;
    assert_eq!(probe(&socket, room, "up").await.0, "accepted");
    assert_eq!(load.figures().reconnects, 0, "no client was disconnected");
    load.end(&chat).await;
}
