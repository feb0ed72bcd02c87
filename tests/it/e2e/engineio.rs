//! The protocols Engine.IO 4 and Socket.IO 5 as documented: handshake, polling, upgrade, heartbeats, acks, and the end
//! of a session.

use std::time::Duration;

use futures_util::future::join;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::harness::{
    engineio::{
        POLLING, Polling, Raw, WEBSOCKET, ask, open_sockets, plan, until_no_session_is_open,
    },
    eventually,
};

#[tokio::test]
async fn the_handshake_announces_the_settings() {
    let settings = plan()
        .set("socketio.ping_interval_ms", 12_000)
        .set("socketio.ping_timeout_ms", 7000)
        .set("socketio.max_payload", 5000);
    let chat = settings.start().await;
    let ada = chat.register("ada").await;
    let polling = Polling::open(&chat).await;
    let (mut raw, open) = Raw::open(&chat).await;
    for (open, upgrades) in [(&polling.open, json!(["websocket"])), (&open, json!([]))] {
        let expected = json!({
            "sid": open["sid"], "upgrades": upgrades, "pingInterval": 12_000, "pingTimeout": 7000, "maxPayload": 5000,
        });
        assert_eq!(open, &expected);
        assert!(
            open["sid"].as_str().is_some_and(|sid| sid.len() >= 20),
            "{open}"
        );
    }
    assert_ne!(polling.open["sid"], open["sid"]);

    let limits = json!({"maxFrameBytes": 5000, "maxBodyBytes": 16000, "pingIntervalMs": 12_000});
    raw.say(&format!("40{}", json!({"token": ada.access})))
        .await;
    assert!(
        raw.receive()
            .await
            .is_ok_and(|text| text.starts_with("40{\"sid\":"))
    );
    let connected = raw.until("42[").await;
    let connected: Value = serde_json::from_str(&connected[2..]).expect("JSON");
    assert_eq!(connected[1]["limits"], limits);

    // A payload over the limit is refused, with and without a Content-Length; a WebSocket message over it closes the
    // socket.
    let large = format!("42[\"typing\",{:?}]", "x".repeat(5000));
    assert_eq!(polling.post(&large).await.status, 413);
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let mut post = polling
        .begin_post("transfer-encoding: chunked", &chunk)
        .await;
    let mut status = [0; 12];
    post.read_exact(&mut status).await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 413");
    raw.say(&large).await;
    assert!(raw.until("42[\"exception\"").await.contains("too_large"));
    assert_eq!(raw.closed().await, 1009);
}

#[tokio::test]
async fn a_polling_session_allows_one_poll_and_one_post() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;

    // Concurrent polls: the first gets a close packet, the second a 400, and the session ends.
    let polling = Polling::connected(&chat, &ada).await;
    let second = async {
        // The server may receive either poll first: one of the two is refused.
        tokio::task::yield_now().await;
        polling.get().await
    };
    let (one, two) = join(polling.get(), second).await;
    let mut statuses = [
        (one.status, one.text.as_str()),
        (two.status, two.text.as_str()),
    ];
    statuses.sort_unstable();
    assert_eq!(statuses[0], (200, "1"));
    assert_eq!(statuses[1].0, 400);
    polling.assert_ended("a second poll").await;

    // Concurrent posts: the second arrives while the first is still being read.
    let polling = Polling::connected(&chat, &ada).await;
    let slow = polling.begin_post("content-length: 10", "42[\"x").await;
    eventually("the second post to be refused", || async {
        let answer = polling.post("3").await;
        (answer.status == 400).then_some(())
    })
    .await;
    polling.assert_ended("a second post").await;
    drop(slow);

    // A poll whose client disconnects.
    let polling = Polling::connected(&chat, &ada).await;
    let given_up = tokio::time::timeout(Duration::from_millis(200), polling.get()).await;
    assert!(given_up.is_err(), "there was nothing to send");
    eventually("the session to end", || async {
        (polling.get().await.status == 400).then_some(())
    })
    .await;
    until_no_session_is_open(&chat).await;
}

#[tokio::test]
async fn acks_and_namespaces() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;
    let (mut raw, _) = Raw::open(&chat).await;
    raw.say("40/random").await;
    assert_eq!(
        raw.receive().await.as_deref(),
        Ok("44/random,{\"message\":\"Invalid namespace\"}")
    );
    raw.say("40").await;
    let refused = raw.receive().await.expect("an answer");
    let refused: Value =
        serde_json::from_str(refused.strip_prefix("44").expect("a refusal")).expect("JSON");
    assert_eq!(refused["data"]["code"], "unauthorized");
    // A client can retry CONNECT, disconnect and reconnect on the same connection.
    for id in ["0", "5", "18446744073709551615"] {
        raw.say(&format!("40{}", json!({"token": ada.access})))
            .await;
        raw.until("40{\"sid\":\"").await;
        raw.until("42[\"connected\"").await;
        raw.say("41/random,").await;
        raw.say(&format!("42{id}[\"nobodyKnows\",{{}}]")).await;
        assert!(
            raw.until(&format!("43{id}["))
                .await
                .contains("unknown_event")
        );
        raw.say("43[\"unasked\"]".replace("43", "4312").as_str())
            .await;
        raw.say("41").await;
    }
    raw.say("1").await;
    raw.closed().await;

    // The number of attempts is limited.
    let (mut raw, _) = Raw::open(&chat).await;
    for _ in 0..30 {
        raw.say("40{\"token\":\"x\"}").await;
    }
    assert_eq!(raw.closed().await, 4400);

    // The token may also be in the handshake's header.
    let bearer = format!("Bearer {}", ada.access);
    let mut raw = Raw::dial(&chat, WEBSOCKET, &[("authorization", &bearer)], None)
        .await
        .expect("a WebSocket");
    raw.say("40").await;
    raw.until("42[\"connected\"").await;
    // `disconnect` is also an event of our protocol.
    raw.say("42[\"disconnect\"]").await;
    raw.until("41").await;
    raw.closed().await;
    until_no_session_is_open(&chat).await;
}

#[tokio::test]
async fn the_upgrade_replaces_polling() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;
    let polling = Polling::connected(&chat, &ada).await;

    // An upgrade that is given up after the handshake changes nothing.
    let mut raw = polling.websocket().await.expect("a WebSocket");
    raw.say("4hello").await;
    raw.closed().await;
    polling.say("421[\"nobodyKnows\"]").await;
    polling.until("431[").await;

    let upgrade = || async {
        eventually("the next upgrade to be allowed", || async {
            polling.websocket().await.ok()
        })
        .await
    };
    let mut raw = upgrade().await;
    assert_eq!(polling.websocket().await.err(), Some(400), "one at a time");
    // The pending poll ends with a noop packet, and so does the next one.
    let probe = async {
        raw.say("2probe").await;
        assert_eq!(raw.receive().await.as_deref(), Ok("3probe"));
    };
    let (waiting, ()) = join(polling.get(), probe).await;
    assert_eq!((waiting.status, waiting.text.as_str()), (200, "6"));
    assert_eq!(polling.get().await.text, "6");
    // Polling works until the upgrade packet.
    polling.say("422[\"nobodyKnows\"]").await;
    polling.until("432[").await;
    raw.say("5").await;
    raw.say("423[\"nobodyKnows\"]").await;
    raw.until("433[").await;
    polling.get().await.refused(1, "Session ID unknown");
    polling.post("3").await.refused(1, "Session ID unknown");
    assert_eq!(polling.websocket().await.err(), Some(400));
    raw.say("424[\"nobodyKnows\"]").await;
    raw.until("434[").await;
    assert_eq!(open_sockets(&chat).await, 1);
    drop(raw);
    until_no_session_is_open(&chat).await;
}

/// The ping interval is long, so that no ping flushes the pending packet.
#[tokio::test]
async fn packets_pending_for_a_poll_are_sent_after_the_upgrade() {
    let settings = plan().set("socketio.ping_interval_ms", 300_000);
    let chat = settings.start().await;
    let ada = chat.register("ada").await;
    let polling = Polling::connected(&chat, &ada).await;
    let mut raw = polling.websocket().await.expect("a WebSocket");
    raw.say("2probe").await;
    assert_eq!(raw.receive().await.as_deref(), Ok("3probe"));
    // The ack finds neither a pending poll nor an upgraded socket.
    polling.say("421[\"nobodyKnows\"]").await;
    raw.say("5").await;
    raw.until("431[").await;
}

#[tokio::test]
async fn a_peer_that_misses_pings_is_disconnected() {
    let settings = plan()
        .set("socketio.ping_interval_ms", 300)
        .set("socketio.ping_timeout_ms", 300);
    let chat = settings.start().await;
    let ada = chat.register("ada").await;
    // Before and after CONNECT.
    for connected in [false, true] {
        let (mut raw, polling) = if connected {
            (
                Raw::connected(&chat, &ada).await,
                Polling::connected(&chat, &ada).await,
            )
        } else {
            (Raw::open(&chat).await.0, Polling::open(&chat).await)
        };
        for _ in 0..3 {
            assert_eq!(raw.receive().await.as_deref(), Ok("2"));
            raw.say("3").await;
        }
        assert_eq!(raw.receive().await.as_deref(), Ok("2"));
        // A noop packet is not a pong.
        raw.say("6").await;
        assert_eq!(raw.closed().await, 4009);
        polling.assert_ended("silence").await;
    }
    until_no_session_is_open(&chat).await;
}

#[tokio::test]
async fn a_session_without_connect_is_closed() {
    let chat = plan().set("edge.auth_timeout", "300ms").start().await;
    let ada = chat.register("ada").await;
    let polling = Polling::open(&chat).await;
    let (mut raw, _) = Raw::open(&chat).await;
    assert_eq!(raw.closed().await, 4001);
    polling.assert_ended("no CONNECT").await;
    // After DISCONNECT, the client has the same time to connect again.
    let mut raw = Raw::connected(&chat, &ada).await;
    raw.say("41").await;
    assert_eq!(raw.closed().await, 4001);
    until_no_session_is_open(&chat).await;
}

#[tokio::test]
async fn polling_sessions_are_limited() {
    let chat = plan()
        .set("edge.max_unauthenticated", 8)
        .set("edge.auth_timeout", "1s")
        .start()
        .await;
    let mut full = 0;
    for _ in 0..12 {
        full += usize::from(ask(&chat, Method::GET, POLLING, &[], "").await.status == 503);
    }
    assert_eq!(full, 4);
    until_no_session_is_open(&chat).await;
    Polling::open(&chat).await;
}

#[tokio::test]
async fn a_slow_reader_does_not_delay_others() {
    let settings = plan()
        .set("edge.send_queue_bytes", 200_000)
        .set("edge.max_body_bytes", 8_000)
        .set("limits.messages_per_second", 1_000_000)
        .set("limits.burst", 1_000_000);
    let chat = settings.start().await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let join = format!("421[\"joinRoom\",{}]", json!({"room": room}));
    let mut slow = Raw::dial(&chat, WEBSOCKET, &[], Some(4096))
        .await
        .expect("a WebSocket");
    slow.say(&format!("40{}", json!({"token": ada.access})))
        .await;
    slow.say(&join).await;
    slow.until("431[{\"ok\":true").await;
    // This session never polls again.
    let silent = Polling::connected(&chat, &ada).await;
    silent.say(&join).await;
    silent.until("431[{\"ok\":true").await;

    let talker = chat.connect(0, &ada).await;
    talker.join(room, None).await.expect("joined");
    let body = "x".repeat(7000);
    let mut said = 0;
    eventually("both to be closed as slow readers", || {
        said += 1;
        let (talker, name, body, chat) = (&talker, said.to_string(), &body, &chat);
        async move {
            talker.say(room, &name, body).await;
            let metrics = chat.rest(0).get("/metrics").await.text;
            metrics
                .contains("chat_slow_readers_closed_total 2\n")
                .then_some(())
        }
    })
    .await;
    assert_eq!(slow.closed().await, 4008);
    until_no_session_is_open(&chat).await;
    silent.get().await.refused(1, "Session ID unknown");
    // A client that reads receives every message.
    talker
        .until("every message", |received| {
            let messages = received
                .events
                .iter()
                .filter(|event| event.name == "newMessage");
            (messages.count() == said).then_some(())
        })
        .await;
}
