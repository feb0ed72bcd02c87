//! The same message sent again and again, through every door: it is stored once, and everyone is told the same.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Chat, Kind, User, both_ways};

both_ways!(the_same_through_two_edges_at_once);

/// Stores a message over REST, asking until it is stored.
async fn store(chat: &Chat, edge: usize, user: &User, room: Uuid, name: &str) -> Value {
    let path = format!("/v1/rooms/{room}/messages?wait=stored");
    loop {
        let body = json!({"body": name, "clientMsgId": name});
        let answer = chat.rest_as(edge, user).post(&path, body).await;
        match answer.status {
            200 | 201 => return answer.json(),
            202 | 503 => {}
            status => panic!("{status}: {}", answer.text),
        }
    }
}

async fn history(chat: &Chat, user: &User, room: Uuid) -> Vec<Value> {
    let path = format!("/v1/rooms/{room}/messages?after=0&limit=200");
    let page = chat.rest_as(0, user).get(&path).await.ok(200);
    page["items"].as_array().expect("a list").clone()
}

async fn the_same_through_two_edges_at_once(kind: Kind) {
    const MESSAGES: usize = 30;
    let chat = Chat::plan(kind).set("limits.burst", 100_000).start().await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    for i in 0..MESSAGES {
        let name = i.to_string();
        let (one, other, third) = tokio::join!(
            store(&chat, 0, &ada, room, &name),
            store(&chat, 1, &ada, room, &name),
            store(&chat, 0, &ada, room, &name),
        );
        assert_eq!((&one["id"], &one["seq"]), (&other["id"], &other["seq"]));
        assert_eq!((&one["id"], &one["seq"]), (&third["id"], &third["seq"]));
    }
    let stored = history(&chat, &ada, room).await;
    let names: Vec<&Value> = stored.iter().map(|item| &item["clientMsgId"]).collect();
    let expected: Vec<String> = (0..MESSAGES).map(|i| i.to_string()).collect();
    assert_eq!(names, expected.iter().collect::<Vec<_>>());
    // 1 is the owner.
    let seqs: Vec<i64> = stored.iter().filter_map(|m| m["seq"].as_i64()).collect();
    assert_eq!(seqs, (2..MESSAGES as i64 + 2).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_same_after_crashes() {
    const MESSAGES: usize = 40;
    let mut chat = Chat::plan(Kind::Cluster)
        .set("limits.burst", 100_000)
        .start()
        .await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("her own");
    let mut pending = Vec::new();
    for i in 0..MESSAGES {
        let data = json!({"room": room, "body": i.to_string(), "clientMsgId": i.to_string()});
        pending.push(socket.send("sendMessage", data).await);
    }
    let mut ids = Vec::new();
    for pending in pending {
        let ack = pending.ack().await.expect("accepted");
        ids.push(ack["id"].clone());
    }
    for worker in &mut chat.workers {
        worker.kill9().await;
        worker.restart().await;
    }
    for (i, id) in ids.iter().enumerate() {
        let name = i.to_string();
        let (one, other) = tokio::join!(
            store(&chat, 0, &ada, room, &name),
            store(&chat, 1, &ada, room, &name),
        );
        assert_eq!((&one["id"], &other["id"]), (id, id));
        let seq = json!(i + 2);
        assert_eq!((&one["seq"], &other["seq"]), (&seq, &seq));
    }
    assert_eq!(history(&chat, &ada, room).await.len(), MESSAGES);
}
