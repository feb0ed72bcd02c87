//! Another process holds the write lock of the standalone node's database file, as some backup tools do.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection, Executor, SqliteConnection};

use super::{dead::dead_letters, history};
use crate::harness::{Chat, Kind, eventually};

/// Bound of an answer while the file is locked.
const SOON: Duration = Duration::from_millis(2500);
const LOGGED: &str = "another process holds the write lock of the database file";

#[tokio::test]
async fn a_locked_database_file_is_answered_busy_within_two_seconds() {
    let chat = Chat::start(Kind::Standalone).await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "private", &[]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("a member");
    let rest = chat.rest_as(0, &ada);
    let path = format!("/v1/rooms/{room}/messages");
    let url = format!("sqlite://{}", chat.dir().join("data/chat.db").display());

    let mut expected = Vec::new();
    for (round, lock) in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"].iter().enumerate() {
        // Accepted, and in part not stored yet when the lock is taken.
        let before: Vec<String> = (0..50).map(|i| format!("before {round} {i}")).collect();
        let sends = before.iter().map(|name| {
            let data = json!({"room": room, "body": name, "clientMsgId": name});
            socket.call("sendMessage", data)
        });
        for sent in join_all(sends).await {
            sent.expect("accepted");
        }
        expected.extend(before);
        let mut other = SqliteConnection::connect(&url).await.expect("the file");
        // Waits for the server's own transactions.
        other.execute(*lock).await.expect("the lock");

        // The first write finds the lock; later ones know it.
        for i in 0..3 {
            let asked = Instant::now();
            let during = (0..10).map(|n| {
                let name = format!("during {round} {i} {n}");
                let data = json!({"room": room, "body": name, "clientMsgId": name});
                socket.call("sendMessage", data)
            });
            let body = json!({"body": "over REST", "clientMsgId": format!("rest {round} {i}")});
            let (sends, posted, joined) = tokio::join!(
                join_all(during),
                rest.post(&path, body),
                rest.post("/v1/rooms", json!({"kind": "public", "name": "new"})),
            );
            let took = asked.elapsed();
            assert!(took < SOON, "{lock}: {took:?}");
            for sent in sends {
                let refused = sent.expect_err("the file is locked");
                assert_eq!(refused.code, "busy", "{refused:?}");
                assert!(refused.retry_after_ms.is_some(), "{refused:?}");
            }
            for refused in [posted, joined] {
                let problem = refused.problem(503, "busy");
                assert!(problem["retryAfterMs"].as_u64().is_some(), "{problem}");
            }
            // Reads are answered.
            rest.get("/v1/rooms").await.ok(200);
        }
        let log = chat.edge(0).log();
        assert_eq!(log.matches(LOGGED).count(), round + 1, "{log}");
        assert!(log.contains("chat.db"), "the file is named: {log}");

        other.execute("ROLLBACK").await.expect("released");
        let name = format!("during {round} 0 0");
        eventually("the repeated send", async || {
            let data = json!({"room": room, "body": name, "clientMsgId": name});
            socket.call("sendMessage", data).await.ok()
        })
        .await;
        expected.push(name);
        other.close().await.expect("closed");
    }

    // Everything that was accepted is stored once, in order.
    eventually("the last message", async || {
        let stored = history(&chat, &ada, room).await;
        (stored.last().map(|(_, name)| name) == expected.last()).then_some(())
    })
    .await;
    let stored = history(&chat, &ada, room).await;
    let names: Vec<_> = stored.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, expected);
    assert_eq!(dead_letters(&chat).await, Vec::<serde_json::Value>::new());
    let log = chat.edge(0).log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("no other process holds the write lock"), 2, "{log}");
    // Apart from the line of each REST request that is answered 503.
    let others = lines("WARN") - lines("request rejected");
    assert!(others <= 16, "not one line per request: {log}");
}
