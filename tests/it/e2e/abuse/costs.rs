//! Floods of single operations: each has a cost on every transport, and one user's flood does not affect other users.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Chat, Kind, Socket, both_ways};

both_ways!(
    every_socket_event_is_rate_limited,
    a_socket_that_ignores_rate_limits_is_closed,
    reads_have_a_rate_limit_separate_from_sends,
);

const SOON: Duration = Duration::from_secs(5);

async fn start(kind: Kind) -> Chat {
    Chat::plan(kind)
        .set("limits.messages_per_second", 5)
        .set("limits.burst", 20)
        .set("limits.reads_per_second", 5)
        .set("limits.read_burst", 20)
        .start()
        .await
}

async fn send(socket: &Socket, room: Uuid, id: &str) {
    let asked = Instant::now();
    socket.say(room, id, "still here").await;
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}

async fn every_socket_event_is_rate_limited(kind: Kind) {
    let chat = start(kind).await;
    let bob = chat.register("bob").await;
    let room = chat.room(&bob, "public", &[]).await;
    let honest = chat.connect(0, &bob).await;
    honest.join(room, None).await.expect("bob's own room");
    let messages = format!("/v1/rooms/{room}/messages?wait=stored");
    let rest = chat.rest_as(0, &bob);
    let sent = rest.post(&messages, json!({"body": "x"})).await.ok(201);
    let message = sent["id"].clone();
    let data = |event: &str, n: usize| -> Value {
        match event {
            "sendMessage" => json!({"room": room, "body": "x", "clientMsgId": n.to_string()}),
            "editMessage" => json!({"room": room, "id": message, "body": "y"}),
            "deleteMessage" => json!({"room": room, "id": message}),
            "react" => json!({"room": room, "id": message, "emoji": "👍"}),
            "markRead" => json!({"room": room, "seq": 1}),
            "auth" => json!({"token": "none"}),
            _ => json!({"room": room}),
        }
    };
    let events = [
        "joinRoom",
        "leaveRoom",
        "markRead",
        "auth",
        "sendMessage",
        "editMessage",
        "deleteMessage",
        "react",
        "noSuchEvent",
    ];
    for (n, event) in events.into_iter().enumerate() {
        let attacker = chat.register(&format!("attacker{n}")).await;
        let socket = chat.connect(0, &attacker).await;
        let started = Instant::now();
        let mut pending = Vec::new();
        for n in 0..100 {
            pending.push(socket.send(event, data(event, n)).await);
        }
        send(&honest, room, event).await;
        let (mut limited, mut other) = (0, 0);
        for pending in pending {
            match pending.ack().await {
                Err(error) if error.code == "rate_limited" => {
                    assert!(error.retry_after_ms.is_some(), "{event}");
                    limited += 1;
                }
                _ => other += 1,
            }
        }
        // The burst, plus what was refilled meanwhile.
        let allowed = 21 + 5 * (started.elapsed().as_secs() as usize + 1);
        println!("{event}: {other} done, {limited} refused");
        assert!(limited > 0 && other >= 20, "{event}: {other}, {limited}");
        assert!(other <= allowed, "{event}: {other} of {allowed}");
    }
}

async fn a_socket_that_ignores_rate_limits_is_closed(kind: Kind) {
    let chat = start(kind).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    let room = chat.room(&bob, "public", &[&ada]).await;
    let honest = chat.connect(0, &bob).await;
    honest.join(room, None).await.expect("bob's own room");
    for event in ["markRead", "noSuchEvent"] {
        let socket = chat.connect(0, &ada).await;
        let frame = json!({"event": event, "data": {"room": room, "seq": 1}}).to_string();
        for _ in 0..1200 {
            socket.raw(&frame).await;
        }
        assert_eq!(socket.closed().await.code, 4029, "{event}");
        send(&honest, room, event).await;
    }
}

async fn reads_have_a_rate_limit_separate_from_sends(kind: Kind) {
    let chat = start(kind).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    let room = chat.room(&bob, "public", &[&ada]).await;
    let (reader, other) = (chat.rest_as(0, &ada), chat.rest_as(0, &bob));
    let paths = [
        format!("/v1/rooms/{room}/messages?limit=200"),
        format!("/v1/rooms/{room}/changes?after=0&limit=200"),
        "/v1/rooms?limit=200".to_owned(),
        "/v1/me".to_owned(),
    ];
    for path in &paths {
        let (mut read, mut refused) = (0, 0);
        for _ in 0..60 {
            let answer = reader.get(path).await;
            match answer.status {
                200 => read += 1,
                _ => {
                    answer.problem(429, "rate_limited");
                    refused += 1;
                }
            }
        }
        println!("{path}: {read} read, {refused} refused");
        assert!(refused > 0, "{path}");
        other.get(path).await.ok(200);
    }
    // The newest page of a room is served from the cache and counts as well.
    let messages = format!("/v1/rooms/{room}/messages?wait=stored");
    reader.post(&messages, json!({"body": "x"})).await.ok(201);
    let socket = chat.connect(0, &ada).await;
    let asked = Instant::now();
    let data = json!({"room": room, "body": "x", "clientMsgId": "1"});
    socket
        .call("sendMessage", data)
        .await
        .expect("sends are apart");
    assert!(asked.elapsed() < SOON);
}
