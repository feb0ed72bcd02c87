//! Repeated sends over every transport and edge: the message is stored once, and every response has the same id and
//! number.

use serde_json::{Value, json};
use uuid::Uuid;

use super::history;
use crate::harness::{Chat, Kind, User, both_ways, eventually};

both_ways!(
    concurrent_duplicates_over_two_edges_are_stored_once,
    duplicates_after_days_and_restarts_are_stored_once
);

/// Sends a message over REST until it is stored.
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

async fn concurrent_duplicates_over_two_edges_are_stored_once(kind: Kind) {
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
    // Number 1 is the owner's join.
    let expected = (0..MESSAGES).map(|i| (i as i64 + 2, i.to_string()));
    assert_eq!(stored, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn duplicates_after_crashes_are_stored_once() {
    const MESSAGES: usize = 40;
    let mut chat = Chat::plan(Kind::Cluster)
        .set("limits.burst", 100_000)
        .start()
        .await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("joined");
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

/// No deduplication state outside of the store is left: every process is new, hundreds of later messages have displaced
/// the message from Redis's cache, and it is older than any time window.
async fn duplicates_after_days_and_restarts_are_stored_once(kind: Kind) {
    let mut chat = Chat::plan(kind).set("limits.burst", 100_000).start().await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let first = store(&chat, 0, &ada, room, "the same").await;
    for process in chat.workers.iter_mut().chain(&mut chat.edges) {
        process.sigterm();
        assert_eq!(process.ended().await, Some(0));
    }
    backdate_messages(&chat).await;
    for process in chat.workers.iter_mut().chain(&mut chat.edges) {
        process.restart().await;
    }
    let socket = chat.connect(1, &ada).await;
    socket.join(room, Some(0)).await.expect("joined");
    for i in 0..300 {
        socket.say(room, &i.to_string(), "something else").await;
    }
    let again = store(&chat, 0, &ada, room, "the same").await;
    let shown = |m: &Value| [m["id"].clone(), m["seq"].clone(), m["createdAt"].clone()];
    assert_eq!(shown(&again)[..2], shown(&first)[..2]);
    assert_ne!(shown(&again)[2], shown(&first)[2], "it is older now");
    // Over a socket: the ack has the same id, and no event is published.
    let id = socket.say(room, "the same", "the same").await;
    assert_eq!(json!(id), first["id"]);
    socket.say(room, "the last", "the last").await;
    let last = eventually("the last message", || async {
        let messages = socket.events("newMessage");
        let last = messages
            .into_iter()
            .find(|m| m["clientMsgId"] == "the last");
        last.and_then(|last| last["seq"].as_i64())
    })
    .await;
    let stored = history(&chat, &ada, room).await;
    assert_eq!(stored.len(), 302);
    assert_eq!(last, 303, "1 is the owner");
}

/// Moves the time of all messages two days into the past.
async fn backdate_messages(chat: &Chat) {
    use sqlx::{Connection, Executor, PgConnection, SqliteConnection};
    let done = match chat.kind {
        Kind::Cluster => {
            let mut database = PgConnection::connect(chat.database_url()).await.unwrap();
            let sql = "UPDATE messages SET created_at = created_at - interval '2 days'";
            database.execute(sql).await.unwrap().rows_affected()
        }
        Kind::Standalone => {
            let file = chat.dir().join("data/chat.db");
            let url = format!("sqlite://{}", file.display());
            let mut database = SqliteConnection::connect(&url).await.unwrap();
            let sql = "UPDATE messages SET created_at = created_at - 2 * 86400 * 1000";
            database.execute(sql).await.unwrap().rows_affected()
        }
    };
    assert_eq!(done, 1);
}
