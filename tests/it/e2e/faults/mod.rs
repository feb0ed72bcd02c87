//! Fault injection with real processes, servers and sockets; every message is checked.

mod broker;
mod crashes;
mod crowd;
pub mod dead;
mod deaths;
mod full_disk;
mod goodbye;
mod locked;
mod long_ago;
mod moments;
mod owners;
mod pgbouncer;
mod pool;
mod readers;
mod sentinel;
mod servers;
mod twice;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Chat, Socket, eventually};

/// Interval of each load client's messages.
const PACE: Duration = Duration::from_millis(20);

/// Bound of a response during an outage. Loose, because tests share the machine; the outage outlasts it, so that no
/// response can have waited for the outage's end.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Waits until `/readyz` of every edge has this status and this result of `check`.
async fn until_edges_report(chat: &Chat, status: u16, check: &str, ok: bool) {
    for edge in 0..chat.edges.len() {
        eventually(&format!("/readyz: {status}, {check} {ok}"), || async move {
            let answer = chat.rest(edge).get("/readyz").await;
            let said = &answer.json()["checks"][check]["ok"];
            (answer.status == status && *said == json!(ok)).then_some(())
        })
        .await;
    }
}

/// Waits until this metric of every edge has this value.
async fn until_edges_count(chat: &Chat, metric: &str, value: i64) {
    let line = format!("{metric} {value}");
    for edge in 0..chat.edges.len() {
        eventually(&line, || async {
            let metrics = chat.rest(edge).get("/metrics").await.text;
            metrics.lines().any(|found| found == line).then_some(())
        })
        .await;
    }
}

/// Sends one message; returns `accepted` or the error code, and the duration.
async fn probe(socket: &Socket, room: Uuid, name: &str) -> (String, Duration) {
    let started = Instant::now();
    let data = json!({"room": room, "body": name, "clientMsgId": name});
    let came = match socket.call("sendMessage", data).await {
        Ok(ack) => ack["status"].as_str().unwrap_or_default().to_owned(),
        Err(error) => error.code,
    };
    (came, started.elapsed())
}

/// Number and `clientMsgId` of a room's messages, from its history.
async fn history(chat: &Chat, user: &crate::harness::User, room: Uuid) -> Vec<(i64, String)> {
    let rest = chat.rest_as(0, user);
    let (mut after, mut found) = (0, Vec::new());
    loop {
        let path = format!("/v1/rooms/{room}/messages?after={after}&limit=200");
        let page = rest.get(&path).await.ok(200);
        for item in page["items"].as_array().expect("a list") {
            let name = item["clientMsgId"].as_str().expect("a name").to_owned();
            after = item["seq"].as_i64().expect("a number");
            found.push((after, name));
        }
        if page["hasMore"] == Value::Bool(false) {
            return found;
        }
    }
}
