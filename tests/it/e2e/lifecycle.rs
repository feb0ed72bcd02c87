//! Graceful shutdown, crash and restart.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{Chat, Kind, both_ways, deployment::Nowhere};

both_ways!(
    a_graceful_shutdown_answers_pending_sends,
    stored_messages_survive_a_crash
);

async fn a_graceful_shutdown_answers_pending_sends(kind: Kind) {
    let mut chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("joined");
    // Pending sends are answered before the shutdown.
    let mut pending = Vec::new();
    for i in 0..20 {
        let data = json!({"room": room, "body": "x", "clientMsgId": i.to_string()});
        pending.push(socket.send("sendMessage", data).await);
    }
    pending.remove(0).ack().await.expect("the first of them");
    chat.edge(0).sigterm();
    let closed = socket.closed().await;
    assert_eq!(closed.code, 1012);
    let hint: serde_json::Value = serde_json::from_str(&closed.reason).expect("the reason is JSON");
    assert!(hint["retryAfterMs"].is_u64(), "{closed:?}");
    let mut accepted = 1;
    for pending in pending {
        accepted += u64::from(pending.ack().await.is_ok());
    }
    assert_eq!(chat.edge_mut(0).ended().await, Some(0));
    for worker in &mut chat.workers {
        worker.sigterm();
        assert_eq!(worker.ended().await, Some(0));
    }

    chat.edge_mut(0).restart().await;
    for worker in &mut chat.workers {
        worker.restart().await;
    }
    let messages = stored(&chat, &ada, room, accepted as usize).await;
    assert!(
        messages.len() as u64 >= accepted,
        "{} of {accepted}",
        messages.len()
    );
}

/// A reader of the log that stops reading, or that is gone, stops neither the server nor its shutdown.
#[tokio::test]
async fn a_log_without_a_reader_does_not_stop_a_server() {
    for gone in [false, true] {
        let nowhere = Nowhere::new();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let reader = (!gone).then_some(reader);
        let args = ["standalone", "--data", "data", "--port", "0"];
        let env = [
            ("RUST_LOG", "trace"),
            ("CHAT__LOG__DEPENDENCIES", "trace"),
            ("CHAT__LIMITS__ADDRESS_BURST", "10000"),
        ];
        let program = nowhere.program(&args, &env);
        let mut chat = program.start_with(Stdio::from(writer)).await;
        let http = reqwest::Client::new();
        let url = format!("{}/v1/auth/login", chat.url());
        // Each request logs more than 100 bytes; the pipe holds 64 KiB.
        for i in 0..1000 {
            let login = json!({"username": format!("unknown{i}"), "password": ""});
            let request = http.post(&url).json(&login).timeout(Duration::from_secs(5));
            let answer = request.send().await.expect("an answer");
            assert!(answer.status().is_client_error(), "{answer:?}");
        }
        let stopped = Instant::now();
        chat.sigterm();
        assert_eq!(chat.ended().await, Some(0), "gone: {gone}");
        assert!(stopped.elapsed() < Duration::from_secs(10), "{stopped:?}");
        drop(reader);
    }
}

#[tokio::test]
async fn a_command_whose_reader_is_gone_ends_quietly() {
    let nowhere = Nowhere::new();
    for args in [&["openapi"][..], &["asyncapi"], &["config"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let program = nowhere.program(args, &[]);
        let ended = program.run_into(Stdio::from(writer)).await;
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(0), ""),
            "{args:?}"
        );
    }
}

async fn stored_messages_survive_a_crash(kind: Kind) {
    let mut chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let socket = chat.connect(0, &ada).await;
    let mut pending = Vec::new();
    for i in 0..50 {
        let data = json!({"room": room, "body": "x", "clientMsgId": i.to_string()});
        pending.push(socket.send("sendMessage", data).await);
    }
    for pending in pending {
        pending.ack().await.expect("accepted");
    }
    for process in chat.edges.iter_mut().chain(&mut chat.workers) {
        process.kill9().await;
    }
    for process in chat.edges.iter_mut().chain(&mut chat.workers) {
        process.restart().await;
    }
    let messages = stored(&chat, &ada, room, 50).await;
    let expected: Vec<String> = (0..50).map(|i| i.to_string()).collect();
    assert_eq!(messages, expected);
}

/// The `clientMsgId`s of the room's history, once there are `count`.
async fn stored(
    chat: &Chat,
    user: &crate::harness::User,
    room: uuid::Uuid,
    count: usize,
) -> Vec<String> {
    let rest = chat.rest_as(0, user);
    crate::harness::eventually("the history", || async {
        let page = rest
            .get(&format!("/v1/rooms/{room}/messages?after=0&limit=200"))
            .await
            .ok(200);
        let items = page["items"].as_array().expect("a list");
        (items.len() >= count).then(|| {
            let names = items
                .iter()
                .map(|item| item["clientMsgId"].as_str().expect("a name").to_owned());
            names.collect()
        })
    })
    .await
}
