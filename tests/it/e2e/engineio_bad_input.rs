//! Violations of the Engine.IO and Socket.IO protocols on both transports: each is refused as documented, no request
//! hangs, and no session is left behind.

use futures_util::SinkExt;
use reqwest::Method;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::engineio::{
    POLLING, Polling, Raw, WEBSOCKET, ask, plan, until_no_session_is_open,
};

#[tokio::test]
async fn an_invalid_handshake_is_refused() {
    let chat = plan().start().await;
    let get = |path: &'static str| {
        let chat = &chat;
        async move { ask(chat, Method::GET, path, &[], "").await }
    };
    for version in [
        "/socket.io/?transport=polling",
        "/socket.io/?EIO=3&transport=polling",
        "/socket.io/?EIO=x&transport=polling",
    ] {
        get(version)
            .await
            .refused(5, "Unsupported protocol version");
    }
    for transport in [
        "/socket.io/",
        "/socket.io/?EIO=4",
        "/socket.io/?EIO=4&transport=webtransport",
    ] {
        get(transport).await.refused(0, "Transport unknown");
    }
    for sid in ["x", "00000000000000000000000000000000", "", "%00"] {
        let path = format!("{POLLING}&sid={sid}");
        ask(&chat, Method::GET, &path, &[], "")
            .await
            .refused(1, "Session ID unknown");
        ask(&chat, Method::POST, &path, &[], "40")
            .await
            .refused(1, "Session ID unknown");
        let path = format!("{WEBSOCKET}&sid={sid}");
        assert_eq!(Raw::dial(&chat, &path, &[], None).await.err(), Some(400));
    }
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        ask(&chat, method, POLLING, &[], "40")
            .await
            .refused(2, "Bad handshake method");
    }
    let polling = Polling::open(&chat).await;
    ask(&chat, Method::PUT, &polling.path, &[], "40")
        .await
        .refused(2, "Bad handshake method");
    // A WebSocket transport without an upgrade.
    get(WEBSOCKET).await.refused(3, "Bad request");
    for path in [
        "/socket.io/?transport=websocket",
        "/socket.io/?EIO=3&transport=websocket",
        "/socket.io/?EIO=4&transport=x",
    ] {
        assert_eq!(
            Raw::dial(&chat, path, &[], None).await.err(),
            Some(400),
            "{path}"
        );
    }
    // The trailing slash of the path is optional: the stock client sends it, others omit it.
    assert_eq!(get("/socket.io?EIO=4&transport=polling").await.status, 200);
}

#[tokio::test]
async fn an_invalid_packet_ends_the_session() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;
    for bad in [
        "",
        "abc",
        "0",
        "2",
        "5",
        "7",
        "4",
        "4abc",
        "49",
        "42",
        "42{}",
        "42[]",
        "42[null]",
        "42[\"a\"",
        "42abc[\"a\"]",
        "4299999999999999999999[\"a\"]",
        "40{\"token\":\"twice\"}",
        "44{}",
        "451-[\"a\",{\"_placeholder\":true,\"num\":0}]\x1e42[\"a\"]",
        "4599-[\"a\"]",
        "bAQID",
        "42/elsewhere,[\"a\"]",
        "43[]",
    ] {
        let polling = Polling::connected(&chat, &ada).await;
        let answer = polling.post(bad).await;
        assert!(
            [200, 400].contains(&answer.status),
            "{bad:?}: {}",
            answer.status
        );
        polling.assert_ended(bad).await;

        let mut raw = Raw::connected(&chat, &ada).await;
        for packet in bad.split('\x1e') {
            raw.say(packet).await;
        }
        assert_eq!(raw.closed().await, 4400, "{bad:?}");
    }
    // Before CONNECT, no event is allowed.
    let polling = Polling::open(&chat).await;
    polling.say("42[\"joinRoom\",{}]").await;
    polling.assert_ended("an event before CONNECT").await;
    let (mut raw, _) = Raw::open(&chat).await;
    raw.say("42[\"joinRoom\",{}]").await;
    assert_eq!(raw.closed().await, 4400);
    // Not UTF-8.
    let polling = Polling::connected(&chat, &ada).await;
    let url = format!("{}{}", chat.edge(0).url(), polling.path);
    let answer = chat
        .http
        .post(url)
        .body(vec![0x34, 0xff])
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status().as_u16(), 400);
    polling.assert_ended("bytes").await;
    until_no_session_is_open(&chat).await;
}

#[tokio::test]
async fn announced_binary_events_are_answered_with_errors() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;
    let event = "[\"sendMessage\",{\"body\":{\"_placeholder\":true,\"num\":0}}]";

    let mut raw = Raw::connected(&chat, &ada).await;
    raw.say(&format!("451-7{event}")).await;
    assert!(
        raw.until("437[{\"ok\":false").await.contains("malformed"),
        "before the data comes"
    );
    raw.0
        .send(Message::binary(vec![1, 2, 3]))
        .await
        .expect("an open socket");
    raw.say("428[\"leaveRoom\",{\"room\":\"00000000-0000-0000-0000-000000000000\"}]")
        .await;
    raw.until("438[{\"ok\":true").await;
    // Binary data that no event announced.
    raw.0
        .send(Message::binary(vec![1, 2, 3]))
        .await
        .expect("an open socket");
    assert_eq!(raw.closed().await, 4400);

    let polling = Polling::connected(&chat, &ada).await;
    polling.say(&format!("452-{event}\x1ebAQID\x1ebAQID")).await;
    assert!(
        polling
            .until("42[\"exception\"")
            .await
            .contains("malformed")
    );
    polling.say("bAQID").await;
    polling.assert_ended("binary data nothing announced").await;
    until_no_session_is_open(&chat).await;
}

#[tokio::test]
async fn only_allowed_origins_are_accepted() {
    let chat = plan()
        .set("edge.allowed_origins", "https://app.example")
        .start()
        .await;
    let ok = [("origin", "https://app.example")];
    let bad = [("origin", "https://app.example.evil")];
    let answer = ask(&chat, Method::GET, POLLING, &ok, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.headers["access-control-allow-origin"],
        "https://app.example"
    );
    assert_eq!(answer.headers["access-control-allow-credentials"], "true");
    assert_eq!(answer.headers["vary"], "Origin");
    // The browser may read refusals as well.
    let answer = ask(&chat, Method::GET, &format!("{POLLING}&sid=x"), &ok, "").await;
    answer.refused(1, "Session ID unknown");
    assert_eq!(
        answer.headers["access-control-allow-origin"],
        "https://app.example"
    );

    let asked = [
        ok[0],
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,x-y"),
    ];
    let answer = ask(&chat, Method::OPTIONS, POLLING, &asked, "").await;
    assert_eq!(answer.status, 204);
    assert_eq!(
        answer.headers["access-control-allow-headers"],
        "authorization,x-y"
    );
    assert_eq!(answer.headers["access-control-allow-methods"], "GET, POST");

    for method in [Method::GET, Method::OPTIONS] {
        let answer = ask(&chat, method, POLLING, &bad, "").await;
        assert_eq!(answer.status, 403);
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
    assert_eq!(
        Raw::dial(&chat, WEBSOCKET, &bad, None).await.err(),
        Some(403)
    );
    assert!(Raw::dial(&chat, WEBSOCKET, &ok, None).await.is_ok());
    // The server's own origin, and clients without an `Origin`.
    let own = chat.edge(0).url().to_owned();
    assert_eq!(
        ask(&chat, Method::GET, POLLING, &[("origin", &own)], "")
            .await
            .status,
        200
    );
    let answer = ask(&chat, Method::GET, POLLING, &[], "").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));

    let chat = plan().set("edge.allowed_origins", "*").start().await;
    let answer = ask(&chat, Method::GET, POLLING, &bad, "").await;
    assert_eq!(answer.headers["access-control-allow-origin"], bad[0].1);
    assert!(
        !answer
            .headers
            .contains_key("access-control-allow-credentials")
    );
}
