//! Ownership of partitions when workers start, stop and crash: partitions move soon, and no message waits for a worker
//! that is gone.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use super::PACE;
use crate::harness::{Chat, Kind, Socket, eventually, load::Load};

/// The design's bound is two seconds; asserted with a margin for busy machines.
const MOVED: Duration = Duration::from_secs(12);

/// Sends one message to each room and waits until all are stored.
async fn store_in_each_room(socket: &Socket, rooms: &[Uuid], name: &str) -> Duration {
    let started = Instant::now();
    let sends = rooms.iter().map(|room| async move {
        let data = json!({"room": room, "body": name, "clientMsgId": name});
        socket
            .send("sendMessage", data)
            .await
            .ack()
            .await
            .expect("accepted");
    });
    join_all(sends).await;
    socket
        .until("every room's message", |received| {
            let name = format!("\"clientMsgId\":\"{name}\"");
            let events = received.events.iter();
            let stored = events.filter(|e| e.name == "newMessage" && e.text.contains(&name));
            (stored.count() == rooms.len()).then_some(())
        })
        .await;
    started.elapsed()
}

#[tokio::test]
async fn partitions_move_when_a_worker_stops_or_crashes() {
    let mut chat = Chat::plan(Kind::Cluster)
        .edges(1)
        .set("limits.burst", 100_000)
        .start()
        .await;
    let ada = chat.register("ada").await;
    let mut rooms = Vec::new();
    for _ in 0..12 {
        rooms.push(chat.room(&ada, "private", &[]).await);
    }
    let socket = chat.connect(0, &ada).await;
    for room in &rooms {
        socket.join(*room, None).await.expect("joined");
    }
    store_in_each_room(&socket, &rooms, "before").await;
    let mut figures = Vec::new();
    for (round, i) in [0, 1, 0, 1].into_iter().enumerate() {
        // Both workers own partitions; otherwise nothing would move.
        let politely = round >= 2;
        if politely {
            chat.worker_mut(i).sigterm();
            assert_eq!(chat.worker_mut(i).ended().await, Some(0));
        } else {
            chat.worker_mut(i).kill9().await;
        }
        let took = store_in_each_room(&socket, &rooms, &format!("after {round}")).await;
        let how = if politely { "SIGTERM" } else { "SIGKILL" };
        figures.push((how, took));
        chat.worker_mut(i).restart().await;
        store_in_each_room(&socket, &rooms, &format!("again {round}")).await;
    }
    eprintln!("until every room's next message is stored: {figures:.1?}");
    assert!(figures.iter().all(|(_, took)| *took < MOVED), "{figures:?}");
}

/// Workers start, stop and crash in turn while the rooms are busy.
#[tokio::test]
async fn no_message_is_lost_when_workers_join_and_leave() {
    let mut chat = Load::plan(Kind::Cluster).workers(1).start().await;
    let load = Load::start(&chat, 6, 4, PACE).await;
    load.accepted(100).await;
    let second = chat.add_worker().await;
    load.accepted(100).await;
    let third = chat.add_worker().await;
    load.accepted(100).await;
    chat.worker_mut(0).kill9().await;
    load.accepted(100).await;
    chat.worker_mut(0).restart().await;
    chat.worker_mut(second).sigterm();
    load.accepted(100).await;
    chat.worker_mut(third).sigstop();
    load.accepted(100).await;
    chat.worker_mut(third).sigcont();
    load.accepted(100).await;
    eventually("the second worker to stop", || async {
        chat.workers[second]
            .log()
            .contains("shutting down")
            .then_some(())
    })
    .await;
    assert_eq!(chat.worker_mut(second).ended().await, Some(0));
    load.end(&chat).await;
}
