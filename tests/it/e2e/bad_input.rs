//! Whatever a client gets wrong has its code and a sentence that says what to do, and the connection lives on unless
//! the protocol itself is broken.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};
use uuid::Uuid;

use crate::harness::{
    Chat, Kind, Rest, Socket, User, both_ways,
    deployment::SECRET,
    eventually,
    socket::{Closed, WireError},
};

both_ways!(
    frames_that_are_no_requests,
    requests_with_wrong_fields,
    what_ends_a_socket,
    sockets_without_good_credentials,
    requests_over_rest,
    tokens_over_rest,
    who_sends_too_much_is_told_to_wait,
);

/// Ada with a room of her own, and a room that is not hers.
struct Scene {
    chat: Chat,
    ada: User,
    bob: User,
    room: Uuid,
    foreign: Uuid,
    socket: Socket,
}

async fn scene(chat: Chat) -> Scene {
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "public", &[]).await;
    let foreign = chat.room(&bob, "private", &[]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("her own");
    Scene {
        chat,
        ada,
        bob,
        room,
        foreign,
        socket,
    }
}

/// That the socket does its work as before.
async fn still_works(socket: &mut Socket, room: Uuid) {
    let name = Uuid::new_v4().to_string();
    socket.say(room, &name, "still here").await;
    while socket.event("newMessage").await["clientMsgId"] != name.as_str() {}
}

#[track_caller]
fn assert_helpful(error: &WireError, code: &str, what: &str) {
    assert_eq!(error.code, code, "{what}: {error:?}");
    assert!(error.message.len() > 10, "{what}: {error:?}");
}

async fn frames_that_are_no_requests(kind: Kind) {
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
            .until(text, |heard| {
                (heard.unasked.len() > i).then(|| heard.unasked[i].clone())
            })
            .await;
        assert_helpful(&error, "malformed", text);
    }
    // Where the number can be read, the answer has it.
    let pending = socket.send("noSuchEvent", json!({})).await;
    assert_helpful(
        &pending.ack().await.expect_err("no such event"),
        "unknown_event",
        "noSuchEvent",
    );
    socket.raw("{\"id\":4000,\"data\":{}}").await;
    let answer = socket
        .until("ack 4000", |heard| heard.acks.get(&4000).cloned())
        .await;
    assert_helpful(&answer.expect_err("no event"), "malformed", "no event");
    // Without a number a request is done all the same, and only errors are told.
    socket.raw("{\"event\":\"markRead\",\"data\":{}}").await;
    let error = socket
        .until("an error", |heard| heard.unasked.get(texts.len()).cloned())
        .await;
    assert_helpful(&error, "invalid", "markRead without fields");
    still_works(&mut socket, room).await;
}

async fn requests_with_wrong_fields(kind: Kind) {
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
    // What is sent, the code, and the field that is named.
    let cases = [
        (("joinRoom", json!({})), "invalid", "room"),
        (("joinRoom", json!({"room": "lobby"})), "invalid", ""),
        (("joinRoom", json!({"room": 5})), "invalid", ""),
        (("joinRoom", json!([])), "invalid", ""),
        (
            ("joinRoom", json!({"room": room, "afterSeq": -1})),
            "invalid",
            "afterSeq",
        ),
        (
            ("joinRoom", json!({"room": room, "afterSeq": 1_000_000})),
            "invalid",
            "afterSeq",
        ),
        (
            ("joinRoom", json!({"room": room, "afterSeq": "1"})),
            "invalid",
            "",
        ),
        (
            ("joinRoom", json!({"room": room, "afterSeq": 1e300})),
            "invalid",
            "",
        ),
        (("joinRoom", json!({"room": nobody})), "not_found", ""),
        (("joinRoom", json!({"room": foreign})), "not_found", ""),
        (("leaveRoom", json!({})), "invalid", "room"),
        (without("room"), "invalid", "room"),
        (without("body"), "invalid", "body"),
        (without("clientMsgId"), "invalid", "clientMsgId"),
        (send(json!({"body": ""})), "invalid", "body"),
        (send(json!({"body": null})), "invalid", ""),
        (send(json!({"body": "x".repeat(8001)})), "too_large", "body"),
        (send(json!({"body": "ä".repeat(4001)})), "too_large", "body"),
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
        (send(json!({"replyTo": "the last one"})), "invalid", ""),
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
            "",
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
    // The limits themselves are allowed.
    for (event, data) in [
        send(json!({"body": "ä".repeat(4000), "clientMsgId": "longest body"})),
        send(json!({"body": "\u{1}".repeat(8000), "clientMsgId": "longest body, escaped"})),
        send(json!({"clientMsgId": "x".repeat(128)})),
        send(json!({"metadata": "x".repeat(4094), "clientMsgId": "longest metadata"})),
        (
            "joinRoom",
            json!({"room": room, "unknown": "fields are for newer servers"}),
        ),
    ] {
        socket.call(event, data).await.expect("at the limit");
    }
    assert_eq!(socket.event("newMessage").await["body"], "ä".repeat(4000));
    assert_eq!(
        socket.event("newMessage").await["body"],
        "\u{1}".repeat(8000)
    );
    still_works(&mut socket, room).await;
}

async fn what_ends_a_socket(kind: Kind) {
    let Scene {
        chat,
        ada,
        room,
        mut socket,
        ..
    } = scene(Chat::start(kind).await).await;

    // A frame as long as allowed is only malformed; one byte more is over.
    socket.raw(&"x".repeat(65536)).await;
    assert_helpful(&socket.unasked().await, "malformed", "65536 bytes");
    still_works(&mut socket, room).await;
    socket.raw(&"x".repeat(65537)).await;
    let error = socket
        .until("the second error", |heard| heard.unasked.get(1).cloned())
        .await;
    assert_helpful(&error, "too_large", "65537 bytes");
    assert_eq!(socket.closed().await.code, 1009);

    // A frame that only announces its length is refused on sight.
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
    assert_eq!(socket.closed().await.code, 4400, "not UTF-8");

    let socket = chat.connect(0, &ada).await;
    socket.message(Message::binary(b"{}".to_vec())).await;
    assert_eq!(socket.closed().await.code, 4400, "binary");

    let socket = chat.connect(0, &ada).await;
    let reserved = Frame::message(b"{}".to_vec(), OpCode::Data(Data::Reserved(3)), true);
    socket.message(Message::Frame(reserved)).await;
    assert_eq!(
        socket.closed().await.code,
        4400,
        "a kind of frame that RFC 6455 does not know"
    );

    // Nonsense is answered for a while.
    let socket = chat.connect(1, &ada).await;
    for _ in 0..20 {
        socket.raw("nonsense").await;
    }
    assert_eq!(socket.closed().await.code, 4400);
    assert_eq!(socket.heard(|heard| heard.unasked.len()), 20);

    // None of it hurt anyone else.
    let mut socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("her own");
    still_works(&mut socket, room).await;
}

/// A token with the right shape, the given claims, and any signature.
fn token(user: Uuid, secret: &str, algorithm: Algorithm) -> String {
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let claims = json!({"sub": user, "sid": Uuid::new_v4(), "iat": now, "exp": now + 600});
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).expect("it can be signed")
}

/// Tokens that must not be good, each with what is wrong with it.
fn bad_tokens(ada: &User, bob: &User) -> Vec<(&'static str, String)> {
    let [header, claims, signature] = parts(&ada.access);
    let [_, bobs_claims, bobs_signature] = parts(&bob.access);
    // {"alg":"none","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    vec![
        ("empty", String::new()),
        ("no token", "x".to_owned()),
        ("not three parts", format!("{header}.{claims}")),
        (
            "someone else's claims",
            format!("{header}.{bobs_claims}.{signature}"),
        ),
        (
            "someone else's signature",
            format!("{header}.{claims}.{bobs_signature}"),
        ),
        ("no signature", format!("{header}.{claims}.")),
        ("alg none", format!("{none}.{claims}.")),
        (
            "alg none with a signature",
            format!("{none}.{claims}.{signature}"),
        ),
        (
            "another secret",
            token(
                ada.id,
                "another secret of thirty-two bytes",
                Algorithm::HS256,
            ),
        ),
        ("another algorithm", token(ada.id, SECRET, Algorithm::HS512)),
        ("a refresh token", ada.refresh.clone()),
    ]
}

fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<&str> = token.split('.').collect();
    parts.try_into().expect("an access token is a JWT")
}

async fn sockets_without_good_credentials(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("auth.access_ttl", "1s")
        .set("edge.auth_timeout", "1s")
        .start()
        .await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let unauthorized =
        |closed: Closed, what: &str| assert_eq!(closed.code, 4001, "{what}: {closed:?}");

    for (what, token) in bad_tokens(&ada, &bob) {
        let refused = chat
            .dial(0)
            .bearer(&token)
            .connect()
            .await
            .err()
            .expect(what);
        assert_eq!(refused.status, 401, "{what}");
        assert_eq!(refused.content_type, "application/problem+json", "{what}");
        assert_eq!(refused.body["code"], "unauthorized", "{what}");

        let socket = chat
            .dial(1)
            .connect()
            .await
            .expect("credentials may come later");
        let error = socket
            .call("auth", json!({"token": token}))
            .await
            .expect_err(what);
        assert_helpful(&error, "unauthorized", what);
        unauthorized(socket.closed().await, what);
    }
    let control = token(ada.id, SECRET, Algorithm::HS256);
    assert!(
        chat.dial(0).bearer(&control).connect().await.is_ok(),
        "the forger can forge"
    );

    // One that was good a moment ago.
    let rest = chat.rest_as(0, &ada);
    eventually("the token's end", || async {
        (rest.get("/v1/me").await.status == 401).then_some(())
    })
    .await;
    let refused = chat
        .dial(0)
        .bearer(&ada.access)
        .connect()
        .await
        .err()
        .expect("expired");
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (401, &json!("token_expired"))
    );
    let socket = chat
        .dial(0)
        .connect()
        .await
        .expect("credentials may come later");
    let error = socket
        .call("auth", json!({"token": ada.access}))
        .await
        .expect_err("expired");
    assert_helpful(&error, "token_expired", "expired");
    unauthorized(socket.closed().await, "expired");

    let socket = chat
        .dial(0)
        .ticket("made-up")
        .connect()
        .await
        .expect("told by the close code");
    unauthorized(socket.closed().await, "a ticket nobody gave");
    let socket = chat
        .dial(0)
        .connect()
        .await
        .expect("credentials may come later");
    let error = socket
        .join(Uuid::new_v4(), None)
        .await
        .expect_err("auth comes first");
    assert_helpful(&error, "unauthorized", "another event first");
    unauthorized(socket.closed().await, "another event first");
    let socket = chat
        .dial(0)
        .connect()
        .await
        .expect("credentials may come later");
    unauthorized(socket.closed().await, "nothing at all");

    // A token in a URL ends up in logs.
    for key in ["token", "access_token"] {
        let refused = chat
            .dial(0)
            .query(key, &control)
            .connect()
            .await
            .err()
            .expect(key);
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (400, &json!("malformed"))
        );
    }
    // A web page from elsewhere.
    let dial = chat
        .dial(0)
        .header("origin", "https://evil.example".to_owned());
    let refused = dial
        .bearer(&control)
        .connect()
        .await
        .err()
        .expect("a foreign origin");
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (403, &json!("forbidden"))
    );
    // No WebSocket at all.
    chat.rest(0).get("/ws").await.problem(400, "malformed");
}

async fn requests_over_rest(kind: Kind) {
    let Scene {
        chat,
        ada,
        room,
        foreign,
        ..
    } = scene(Chat::start(kind).await).await;
    let rest = chat.rest_as(1, &ada);
    let messages = format!("/v1/rooms/{room}/messages");
    let nobody = Uuid::new_v4();

    // Bodies that are none.
    let json = "application/json";
    for (content_type, body, status, code) in [
        (json, &b"{"[..], 400, "malformed"),
        (json, b"hello", 400, "malformed"),
        (json, b"[]", 400, "malformed"),
        (json, b"{\"body\":5}", 400, "malformed"),
        (json, b"{\"body\":\"\xff\xfe\"}", 400, "malformed"),
        (json, b"{\"body\":\"x\"} {}", 400, "malformed"),
        ("text/plain", b"{\"body\":\"x\"}", 400, "malformed"),
        (json, b"", 422, "invalid"),
        (json, &vec![b'x'; 1 << 20], 413, "too_large"),
    ] {
        rest.send(Method::POST, &messages, Some((content_type, body.to_vec())))
            .await
            .problem(status, code);
    }

    // Fields; the one that is wrong is named.
    let long = "x".repeat(8001);
    for (path, body, status, code, field) in [
        (&*messages, json!({}), 422, "invalid", "body"),
        (&messages, json!({"body": ""}), 422, "invalid", "body"),
        (&messages, json!({"body": long}), 413, "too_large", "body"),
        (&messages, json!({"body": "\u{0}"}), 422, "invalid", "body"),
        (
            &messages,
            json!({"body": "x", "clientMsgId": "x".repeat(129)}),
            413,
            "too_large",
            "clientMsgId",
        ),
        (
            &messages,
            json!({"body": "x", "metadata": "x".repeat(4095)}),
            413,
            "too_large",
            "metadata",
        ),
        ("/v1/rooms", json!({"name": "x"}), 422, "invalid", "kind"),
        (
            "/v1/rooms",
            json!({"name": "x", "kind": "secret"}),
            400,
            "malformed",
            "kind",
        ),
        (
            "/v1/rooms",
            json!({"name": "", "kind": "public"}),
            422,
            "invalid",
            "name",
        ),
        (
            "/v1/rooms",
            json!({"kind": "direct", "members": []}),
            422,
            "invalid",
            "members",
        ),
        (
            "/v1/rooms",
            json!({"kind": "direct", "members": [ada.id]}),
            422,
            "invalid",
            "members",
        ),
        (
            "/v1/auth/register",
            json!({"username": "x y", "password": "long enough"}),
            422,
            "invalid",
            "username",
        ),
        (
            "/v1/auth/register",
            json!({"username": "xy", "password": "short"}),
            422,
            "invalid",
            "password",
        ),
    ] {
        let problem = rest.post(path, body.clone()).await.problem(status, code);
        assert_eq!(
            problem["errors"][0]["field"], field,
            "{path} {body}: {problem}"
        );
    }
    rest.post(&messages, json!({"body": "x".repeat(8000)}))
        .await
        .ok(202);
    let unknown = json!({"kind": "private", "name": "x", "members": [nobody]});
    rest.post("/v1/rooms", unknown)
        .await
        .problem(422, "invalid");
    let taken = json!({"username": "Ada", "password": "long enough"});
    rest.post("/v1/auth/register", taken)
        .await
        .problem(409, "conflict");
    for wrong in [
        json!({"username": "ada", "password": "wrong"}),
        json!({"username": "nobody", "password": "wrong"}),
    ] {
        rest.post("/v1/auth/login", wrong)
            .await
            .problem(401, "unauthorized");
    }

    // Queries.
    for (query, status, code) in [
        ("limit=201", 422, "invalid"),
        ("limit=0", 422, "invalid"),
        ("limit=-1", 400, "malformed"),
        ("limit=many", 400, "malformed"),
        ("after=x", 400, "malformed"),
        ("after=1000000", 422, "invalid"),
        ("before=-1", 422, "invalid"),
        ("around=1000000", 422, "invalid"),
        ("after=-1", 422, "invalid"),
        ("after=1&before=2", 422, "invalid"),
    ] {
        rest.get(&format!("{messages}?{query}"))
            .await
            .problem(status, code);
    }
    let changes = format!("/v1/rooms/{room}/changes");
    rest.get(&format!("{changes}?after=1000000"))
        .await
        .problem(422, "invalid");
    rest.get(&format!("{changes}?limit=1000"))
        .await
        .problem(422, "invalid");
    rest.put(&format!("/v1/rooms/{room}/read"), json!({"seq": 1_000_000}))
        .await
        .problem(422, "invalid");
    rest.post(&format!("{messages}?wait=forever"), json!({"body": "x"}))
        .await
        .problem(400, "malformed");

    // Paths and methods.
    rest.get("/v1/nothing").await.problem(404, "not_found");
    rest.get("/nothing").await.problem(404, "not_found");
    rest.get("/v1/rooms/lobby").await.problem(400, "malformed");
    rest.get(&format!("/v1/rooms/{nobody}"))
        .await
        .problem(404, "not_found");
    rest.get(&format!("/v1/rooms/{foreign}/messages"))
        .await
        .problem(404, "not_found");
    rest.get(&format!("{messages}/{nobody}"))
        .await
        .problem(404, "not_found");
    for (method, path) in [
        (Method::DELETE, "/v1/rooms"),
        (Method::GET, "/v1/auth/login"),
        (Method::PUT, &messages),
    ] {
        let answer = rest.send(method, path, None).await;
        let allow = answer
            .headers
            .get("allow")
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        answer.problem(405, "malformed");
        assert!(allow.is_some_and(|allow| allow.contains("POST")), "{path}");
    }
}

async fn tokens_over_rest(kind: Kind) {
    let chat = Chat::plan(kind).set("auth.access_ttl", "1s").start().await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let with = |token: &str| -> Rest { chat.rest(0).with_token(token) };
    for (what, token) in bad_tokens(&ada, &bob) {
        let answer = with(&token).get("/v1/me").await;
        assert!(answer.headers.contains_key("www-authenticate"), "{what}");
        answer.problem(401, "unauthorized");
    }
    chat.rest(0)
        .get("/v1/me")
        .await
        .problem(401, "unauthorized");
    chat.rest(1)
        .post("/v1/rooms", json!({}))
        .await
        .problem(401, "unauthorized");
    with(&token(ada.id, SECRET, Algorithm::HS256))
        .get("/v1/me")
        .await
        .ok(200);
    let rest = with(&ada.access);
    eventually("the token's end", || async {
        (rest.get("/v1/me").await.status == 401).then_some(())
    })
    .await;
    rest.get("/v1/me").await.problem(401, "token_expired");
    for bad in ["", "x", &ada.access, &bob.refresh[1..]] {
        chat.rest(0)
            .post("/v1/auth/refresh", json!({"refreshToken": bad}))
            .await
            .problem(401, "unauthorized");
    }
}

async fn who_sends_too_much_is_told_to_wait(kind: Kind) {
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
    // REST draws from the same account, on this edge; reading is free.
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
    // Waiting helps, and the socket is as good as ever.
    let accepted = eventually("the time to send again", || async {
        let data = json!({"room": room, "body": "x", "clientMsgId": "patient"});
        socket.call("sendMessage", data).await.ok()
    })
    .await;
    while socket.event("newMessage").await["id"] != accepted["id"] {}
}
