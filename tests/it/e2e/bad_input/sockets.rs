//! Invalid frames and requests on a socket.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};
use uuid::Uuid;

use super::{Scene, assert_helpful, scene, still_works};
use crate::harness::{Chat, Kind, both_ways, eventually};

both_ways!(
    malformed_frames_are_answered_with_errors,
    invalid_fields_are_named_in_errors,
    protocol_violations_close_the_socket,
    rate_limited_sends_are_answered_with_retry_after,
);

async fn malformed_frames_are_answered_with_errors(kind: Kind) {
    let Scene {
        chat: _chat,
        room,
        mut socket,
        ..
    } = scene(Chat::start(kind).await).await;
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let texts = [
        "",
        "hello",
        "{",
        "{\"id\":1,\"event\":\"joinRoom\",\"data\":{}",
        "[]",
        "7",
        "null",
        "{}",
        "{\"event\":5}",
        "{\"event\":\"joinRoom\",\"id\":-1}",
        "{\"event\":\"joinRoom\",\"id\":\"one\"}",
        "\u{0}",
        &deep,
    ];
    for (i, text) in texts.iter().enumerate() {
        socket.raw(text).await;
        let error = socket
            .until(text, |received| {
                (received.unasked.len() > i).then(|| received.unasked[i].clone())
            })
            .await;
        assert_helpful(&error, "malformed", text);
    }
    // The answer has the request's id wherever the id is readable.
    let pending = socket.send("noSuchEvent", json!({})).await;
    assert_helpful(
        &pending.ack().await.expect_err("no such event"),
        "unknown_event",
        "noSuchEvent",
    );
    socket.raw("{\"id\":4000,\"data\":{}}").await;
    let answer = socket
        .until("ack 4000", |received| received.acks.get(&4000).cloned())
        .await;
    assert_helpful(&answer.expect_err("no event"), "malformed", "no event");
    // A request without an id is executed as well; only an error is answered.
    socket.raw("{\"event\":\"markRead\",\"data\":{}}").await;
    let error = socket
        .until("an error", |received| {
            received.unasked.get(texts.len()).cloned()
        })
        .await;
    assert_helpful(&error, "invalid", "markRead without fields");
    still_works(&mut socket, room).await;
}

async fn invalid_fields_are_named_in_errors(kind: Kind) {
    let scene = scene(Chat::start(kind).await).await;
    let (room, foreign, mut socket) = (scene.room, scene.foreign, scene.socket);
    let nobody = Uuid::new_v4();
    let send = |change: Value| {
        let mut data = json!({"room": room, "body": "b", "clientMsgId": "c"});
        for (key, value) in change.as_object().expect("an object") {
            data[key] = value.clone();
        }
        ("sendMessage", data)
    };
    let without = |field: &str| {
        let (event, mut data) = send(json!({}));
        data.as_object_mut().expect("an object").remove(field);
        (event, data)
    };
    // The data, the error code, and the field that the error names.
    let cases = [
        (("joinRoom", json!({})), "invalid", "room"),
        (("joinRoom", json!({"room": "lobby"})), "invalid", "room"),
        (("joinRoom", json!({"room": 5})), "invalid", "room"),
        (("joinRoom", json!([])), "invalid", ""),
        (
            ("joinRoom", json!({"room": room, "afterSeq": -1})),
            "invalid",
            "afterSeq",
        ),
        (
            ("joinRoom", json!({"room": room, "afterSeq": "1"})),
            "invalid",
            "afterSeq",
        ),
        (
            ("joinRoom", json!({"room": room, "afterSeq": 1e300})),
            "invalid",
            "afterSeq",
        ),
        (("joinRoom", json!({"room": nobody})), "not_found", ""),
        (("joinRoom", json!({"room": foreign})), "not_found", ""),
        (("leaveRoom", json!({})), "invalid", "room"),
        (without("room"), "invalid", "room"),
        (without("body"), "invalid", "body"),
        (without("clientMsgId"), "invalid", "clientMsgId"),
        (send(json!({"body": ""})), "invalid", "body"),
        (send(json!({"body": null})), "invalid", "body"),
        (
            send(json!({"body": "x".repeat(16_001)})),
            "too_large",
            "body",
        ),
        (send(json!({"body": "ä".repeat(8001)})), "too_large", "body"),
        (send(json!({"body": "nul \u{0}"})), "invalid", "body"),
        (send(json!({"clientMsgId": ""})), "invalid", "clientMsgId"),
        (
            send(json!({"clientMsgId": "x".repeat(129)})),
            "too_large",
            "clientMsgId",
        ),
        (
            send(json!({"metadata": "x".repeat(4095)})),
            "too_large",
            "metadata",
        ),
        (
            send(json!({"replyTo": "the last one"})),
            "invalid",
            "replyTo",
        ),
        (send(json!({"room": foreign})), "not_found", ""),
        (send(json!({"room": nobody})), "not_found", ""),
        (
            ("editMessage", json!({"room": room, "id": nobody})),
            "invalid",
            "body",
        ),
        (
            (
                "editMessage",
                json!({"room": room, "id": nobody, "body": ""}),
            ),
            "invalid",
            "body",
        ),
        (
            (
                "editMessage",
                json!({"room": room, "id": nobody, "body": "x"}),
            ),
            "not_found",
            "",
        ),
        (
            ("deleteMessage", json!({"room": room, "id": nobody})),
            "not_found",
            "",
        ),
        (
            ("deleteMessage", json!({"room": foreign, "id": nobody})),
            "not_found",
            "",
        ),
        (
            ("react", json!({"room": room, "id": nobody, "emoji": "x"})),
            "not_found",
            "",
        ),
        (
            ("react", json!({"room": room, "id": nobody, "emoji": ""})),
            "invalid",
            "emoji",
        ),
        (
            (
                "react",
                json!({"room": room, "id": nobody, "emoji": "x".repeat(65)}),
            ),
            "too_large",
            "emoji",
        ),
        (
            (
                "react",
                json!({"room": room, "id": nobody, "emoji": "x", "on": "yes"}),
            ),
            "invalid",
            "on",
        ),
        (("markRead", json!({"room": room})), "invalid", "seq"),
        (
            ("markRead", json!({"room": room, "seq": 1_000_000})),
            "invalid",
            "",
        ),
        (
            ("markRead", json!({"room": room, "seq": -1})),
            "invalid",
            "seq",
        ),
        (
            ("markRead", json!({"room": foreign, "seq": 1})),
            "not_found",
            "",
        ),
        (("auth", json!({})), "invalid", "token"),
        (("auth", json!({"token": "x"})), "unauthorized", ""),
        (
            ("auth", json!({"token": scene.bob.access})),
            "forbidden",
            "",
        ),
    ];
    for ((event, data), code, field) in cases {
        let mut what = format!("{event} {data}");
        what.truncate(what.floor_char_boundary(200));
        let error = socket.call(event, data).await.expect_err(&what);
        assert_helpful(&error, code, &what);
        assert_eq!(error.field(), field, "{what}: {error:?}");
    }
    // Values at the limits are accepted.
    for (event, data) in [
        send(json!({"body": "ä".repeat(8000), "clientMsgId": "longest body"})),
        send(json!({"body": "\u{1}".repeat(10_000), "clientMsgId": "long body, escaped"})),
        send(json!({"clientMsgId": "x".repeat(128)})),
        send(json!({"metadata": "x".repeat(4094), "clientMsgId": "longest metadata"})),
        (
            "joinRoom",
            json!({"room": room, "unknown": "fields are for newer servers"}),
        ),
    ] {
        socket.call(event, data).await.expect("at the limit");
    }
    assert_eq!(socket.event("newMessage").await["body"], "ä".repeat(8000));
    assert_eq!(
        socket.event("newMessage").await["body"],
        "\u{1}".repeat(10_000)
    );
    still_works(&mut socket, room).await;
}

async fn protocol_violations_close_the_socket(kind: Kind) {
    let Scene {
        chat,
        ada,
        room,
        mut socket,
        ..
    } = scene(Chat::start(kind).await).await;

    // A frame of the maximum length is only malformed; one byte more closes the socket.
    socket.raw(&"x".repeat(65536)).await;
    assert_helpful(&socket.unasked().await, "malformed", "65536 bytes");
    still_works(&mut socket, room).await;
    socket.raw(&"x".repeat(65537)).await;
    let error = socket
        .until("the second error", |received| {
            received.unasked.get(1).cloned()
        })
        .await;
    assert_helpful(&error, "too_large", "65537 bytes");
    assert_eq!(socket.closed().await.code, 1009);

    // The limit applies to the whole message, not to each of its fragments.
    let socket = chat.connect(0, &ada).await;
    let mut huge = Frame::message(Vec::new(), OpCode::Data(Data::Text), false);
    huge.header_mut().is_final = false;
    socket.message(Message::Frame(huge)).await;
    for _ in 0..3 {
        let part = Frame::message(vec![b'x'; 30_000], OpCode::Data(Data::Continue), false);
        socket.message(Message::Frame(part)).await;
    }
    assert_eq!(
        socket.closed().await.code,
        1009,
        "in parts it is no shorter"
    );

    let socket = chat.connect(0, &ada).await;
    socket.raw_bytes(b"{\"event\":\"\xff\xfe\"}".to_vec()).await;
    assert_eq!(socket.closed().await.code, 1007, "not UTF-8");

    let socket = chat.connect(0, &ada).await;
    socket.message(Message::binary(b"{}".to_vec())).await;
    assert_eq!(socket.closed().await.code, 1003, "binary");

    // Sends that precede the frame are acknowledged before the close.
    let socket = chat.connect(0, &ada).await;
    let room = chat.room(&ada, "public", &[]).await;
    let mut sent = Vec::new();
    for i in 0..20 {
        let data = json!({"room": room, "body": "x", "clientMsgId": format!("before-{i}")});
        sent.push(socket.send("sendMessage", data).await);
    }
    socket.message(Message::binary(b"{}".to_vec())).await;
    assert_eq!(socket.closed().await.code, 1003, "binary after sends");
    for ack in sent {
        ack.now().expect("an answer").expect("accepted");
    }

    let socket = chat.connect(0, &ada).await;
    let reserved = Frame::message(b"{}".to_vec(), OpCode::Data(Data::Reserved(3)), true);
    socket.message(Message::Frame(reserved)).await;
    assert_eq!(
        socket.closed().await.code,
        1002,
        "a kind of frame that RFC 6455 does not know"
    );

    // 20 malformed frames are answered, then the socket is closed.
    let socket = chat.connect(1, &ada).await;
    for _ in 0..20 {
        socket.raw("nonsense").await;
    }
    assert_eq!(socket.closed().await.code, 4400);
    assert_eq!(socket.received(|received| received.unasked.len()), 20);

    // No other socket is affected.
    let mut socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("joined");
    still_works(&mut socket, room).await;
}

async fn rate_limited_sends_are_answered_with_retry_after(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("limits.messages_per_second", 1)
        .set("limits.burst", 10)
        .start()
        .await;
    let Scene {
        chat,
        ada,
        room,
        mut socket,
        ..
    } = scene(chat).await;
    let mut pending = Vec::new();
    for i in 0..20 {
        let data = json!({"room": room, "body": "x", "clientMsgId": i.to_string()});
        pending.push(socket.send("sendMessage", data).await);
    }
    let mut refused = None;
    for pending in pending {
        refused = pending.ack().await.err().or(refused);
    }
    let refused = refused.expect("20 are more than 10 and one a second");
    assert_helpful(&refused, "rate_limited", "too fast");
    assert!(
        matches!(refused.retry_after_ms, Some(1..=1000)),
        "{refused:?}"
    );
    // REST shares the user's limit on this edge; reads have their own.
    let rest = chat.rest_as(0, &ada);
    let messages = format!("/v1/rooms/{room}/messages");
    let answer = eventually("a refusal", || async {
        let answer = rest.post(&messages, json!({"body": "x"})).await;
        (answer.status != 202).then_some(answer)
    })
    .await;
    assert!(answer.headers.contains_key("retry-after"));
    let problem = answer.problem(429, "rate_limited");
    assert!(problem["retryAfterMs"].as_u64().is_some());
    rest.get(&messages).await.ok(200);
    // After waiting, the socket can send again.
    let accepted = eventually("the time to send again", || async {
        let data = json!({"room": room, "body": "x", "clientMsgId": "patient"});
        socket.call("sendMessage", data).await.ok()
    })
    .await;
    while socket.event("newMessage").await["id"] != accepted["id"] {}
}
