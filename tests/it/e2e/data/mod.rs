//! The data of a deployment: backups, the way from standalone to a cluster, full disks, upgrades.

mod backup;
mod full_disk;
mod postgres;
mod transfer;
mod upgrade;

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Chat, Socket, User};

/// Sends messages at once and waits until all are acknowledged.
async fn say_all(socket: &Socket, room: Uuid, names: &[String]) {
    let sends = names.iter().map(|name| {
        let data =
            json!({"room": room, "body": format!("the body of {name}"), "clientMsgId": name});
        socket.call("sendMessage", data)
    });
    for sent in join_all(sends).await {
        sent.expect("accepted");
    }
}

fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{name} {i}")).collect()
}

/// The names of a room's messages, in order.
async fn names(chat: &Chat, user: &User, room: Uuid) -> Vec<String> {
    let rest = chat.rest_as(0, user);
    let (mut after, mut found) = (0, Vec::new());
    loop {
        let path = format!("/v1/rooms/{room}/messages?after={after}&limit=200");
        let page = rest.get(&path).await.ok(200);
        for item in page["items"].as_array().expect("a list") {
            let seq = item["seq"].as_i64().expect("a number");
            assert!(seq > after, "{seq} after {after}");
            after = seq;
            found.push(item["clientMsgId"].as_str().expect("a name").to_owned());
        }
        if page["hasMore"] == Value::Bool(false) {
            return found;
        }
    }
}
