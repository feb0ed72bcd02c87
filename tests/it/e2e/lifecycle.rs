//! Graceful shutdown, crash and restart.

use serde_json::json;

use crate::harness::{Chat, Kind, both_ways};

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
