//! Readers that stop reading, and readers that resume after a long absence, while their room is busy.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::{
    e2e::people::seqs,
    harness::{Kind, Socket, both_ways, eventually, load::Load},
};

both_ways!(
    a_reader_catches_up_on_thousands_of_messages,
    a_stalled_reader_is_closed_and_resumes
);

/// Joins page by page from `after` until the socket is live. Returns the number of pages.
async fn catch_up(socket: &Socket, room: Uuid, after: i64, got: &mut Vec<i64>) -> usize {
    let mut after = after;
    for pages in 1.. {
        let joined = socket.join(room, Some(after)).await.expect("a page");
        got.extend(seqs(&joined["messages"]));
        after = joined["seq"].as_i64().expect("a number");
        if joined["hasMore"] == json!(false) {
            return pages;
        }
    }
    unreachable!("it ends")
}

fn live_seqs(socket: &Socket) -> Vec<i64> {
    let messages = socket.events("newMessage");
    messages.iter().filter_map(|m| m["seq"].as_i64()).collect()
}

/// Waits until the socket has received every message of the load, and compares.
async fn assert_received_all(load: &Load, socket: &Socket, mut got: Vec<i64>, base: i64) {
    load.settled().await;
    let all = load.figures().accepted as i64;
    let before = got.len() as i64;
    load.until("the reader to receive every message", || {
        before + live_seqs(socket).len() as i64 >= all
    })
    .await;
    got.extend(live_seqs(socket));
    let expected: Vec<i64> = (base + 1..=base + all).collect();
    let wrong = got.iter().zip(&expected).position(|(got, seq)| got != seq);
    assert!(
        wrong.is_none() && got.len() == expected.len(),
        "{} of {}; wrong from {:?} on",
        got.len(),
        expected.len(),
        wrong.map(|at| (&got[at.saturating_sub(1)..=at], expected[at]))
    );
}

/// The room has no other reader, so that on a slow machine no other socket can be closed as slow.
async fn a_stalled_reader_is_closed_and_resumes(kind: Kind) {
    let chat = Load::plan(kind)
        .set("edge.send_queue_bytes", 256 * 1024)
        .set("edge.max_body_bytes", 8_000)
        .start()
        .await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "public", &[&bob]).await;
    let dial = chat.dial(0).bearer(&ada.access);
    let slow = dial.receive_buffer(4096).connect().await.expect("a socket");
    let base = slow.join(room, None).await.expect("joined");
    let base = base["seq"].as_i64().expect("a number");
    let talker = chat.connect(1, &bob).await;
    talker.say(room, "first", "hello").await;
    slow.until("something live", |received| {
        let mut events = received.events.iter();
        events.any(|event| event.name == "newMessage").then_some(())
    })
    .await;
    slow.stop_reading();
    // Its outbox and the system's buffers fill up.
    let (mut said, body) = (1, ".".repeat(7000));
    eventually("it to be closed as a slow reader", || {
        said += 20;
        let (talker, body, upto) = (&talker, &body, said);
        let chat = &chat;
        async move {
            for i in upto - 20..upto {
                talker.say(room, &i.to_string(), body).await;
            }
            let metrics = chat.rest(0).get("/metrics").await.text;
            let mut lines = metrics.lines();
            lines
                .any(|line| line == "chat_slow_readers_closed_total 1")
                .then_some(())
        }
    })
    .await;
    slow.read_on();
    let closed = slow.closed().await;
    assert_eq!(closed.code, 4008, "{closed:?}");
    let mut got = live_seqs(&slow);
    let last = *got.last().expect("a message was received");

    // It resumes on the other edge.
    let back = chat.connect(1, &ada).await;
    catch_up(&back, room, last, &mut got).await;
    talker.say(room, "last", "goodbye").await;
    back.until("the last", |received| {
        let mut events = received.events.iter();
        events
            .any(|event| event.text.contains("\"clientMsgId\":\"last\""))
            .then_some(())
    })
    .await;
    got.extend(live_seqs(&back));
    let expected: Vec<i64> = (base + 1..=base + said as i64 + 1).collect();
    assert_eq!(got, expected);
}

async fn a_reader_catches_up_on_thousands_of_messages(kind: Kind) {
    const MISSED: u64 = 5000;
    let chat = Load::plan(kind).start().await;
    let load = Load::start(&chat, 1, 4, Duration::from_millis(5)).await;
    let (room, base) = load.room(0);
    let away = chat.connect(0, load.owner()).await;
    let mut got = Vec::new();
    catch_up(&away, room, base, &mut got).await;
    load.accepted(20).await;
    away.close().await;
    got.extend(live_seqs(&away));
    load.accepted(MISSED).await;
    // On the other edge, while the room is busy.
    let back = chat.connect(1, load.owner()).await;
    let last = got.last().copied().unwrap_or(base);
    let pages = catch_up(&back, room, last, &mut got).await;
    assert!(pages > 5, "{pages} pages");
    load.accepted(200).await;
    assert_received_all(&load, &back, got, base).await;
    load.end(&chat).await;
}
