//! The rules of docs/texts.md, seen from outside: names, mentions, metadata and the longest texts.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use uuid::Uuid;

use super::notify::say;
use crate::harness::{
    Chat, Kind, Socket, User, both_ways, engineio::Raw, eventually, socket::WireError,
};

both_ways!(
    names_of_irc_and_slack_are_accepted_and_mentioned,
    reserved_names_are_not_registered,
    mentions_follow_the_written_rule,
    metadata_that_is_not_i_json_is_refused_everywhere,
    stored_metadata_is_returned_as_i_json,
    the_longest_body_is_delivered_on_every_transport,
);

async fn register(chat: &Chat, name: &str) -> crate::harness::rest::RestResponse {
    let new = json!({"username": name, "password": "a long password"});
    chat.rest(1).post("/v1/auth/register", new).await
}

/// Stores a message over REST; returns the ids that it mentions.
async fn mentions(chat: &Chat, user: &User, room: Uuid, body: &str) -> Vec<Value> {
    let path = format!("/v1/rooms/{room}/messages?wait=stored");
    let stored = chat
        .rest_as(0, user)
        .post(&path, json!({"body": body}))
        .await;
    let stored = stored.ok(201);
    stored["mentions"].as_array().cloned().unwrap_or_default()
}

async fn names_of_irc_and_slack_are_accepted_and_mentioned(kind: Kind) {
    let chat = Chat::start(kind).await;
    let longest = "long-name".repeat(7) + "9";
    assert_eq!(longest.len(), 64);
    let names = [
        "John[1]",
        "Ep|phany",
        "away^_^",
        "x{y}",
        "first.last-2_",
        &longest,
    ];
    let mut users = Vec::new();
    for name in names {
        let answer = register(&chat, name).await;
        let user = User::read("a long password", answer);
        assert_eq!(user.username, name);
        let login = json!({"username": name.to_uppercase(), "password": "a long password"});
        eventually("the login", async || {
            let answer = chat.rest(0).post("/v1/auth/login", login.clone()).await;
            (answer.status == 200).then_some(())
        })
        .await;
        users.push(user);
    }
    for name in [
        format!("{longest}x"),
        "[ab]".to_owned(),
        "a`b".to_owned(),
        "a\\b".to_owned(),
    ] {
        let problem = register(&chat, &name).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["field"], "username", "{problem}");
    }
    for lookalike in ["JOHN[1]", "john[l]", "Eplphany", "EpIphany", "ep1phany"] {
        register(&chat, lookalike).await.problem(409, "conflict");
    }

    let ada = chat.register("ada").await;
    let members: Vec<&User> = users.iter().collect();
    let room = chat.room(&ada, "private", &members).await;
    for (name, user) in names.iter().zip(&users) {
        for body in [
            format!("@{name}"),
            format!("(@{name}], hello"),
            format!("给@{name}看"),
        ] {
            assert_eq!(
                mentions(&chat, &ada, room, &body).await,
                [json!(user.id)],
                "{body}"
            );
        }
    }
}

async fn reserved_names_are_not_registered(kind: Kind) {
    let chat = Chat::start(kind).await;
    for name in [
        "all", "ALL", "a11", "AII", "here", "Here", "everyone", "EVERY0NE", "admin", "adrnin",
        "ADM1N", "system", "systern", "_admin_", "all.",
    ] {
        let problem = register(&chat, name).await.problem(422, "invalid");
        let error = &problem["errors"][0];
        assert_eq!(error["field"], "username", "{name}: {problem}");
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| text.contains("choose another"))
        );
    }
    for free in ["allan", "administrator", "nowhere"] {
        register(&chat, free).await.ok(201);
    }

    // An account from before the rule stays.
    let old = User::read("a long password", register(&chat, "sysop").await);
    let rename = format!(
        "UPDATE users SET username = 'System', username_key = 'system' WHERE username = '{}'",
        old.username
    );
    sql(&chat, &rename).await;
    let login = json!({"username": "system", "password": "a long password"});
    let session = chat.rest(0).post("/v1/auth/login", login).await.ok(200);
    assert_eq!(session["user"]["id"], json!(old.id));
}

async fn sql(chat: &Chat, statement: &str) {
    let statement = AssertSqlSafe(statement.to_owned());
    let changed = match chat.kind {
        Kind::Standalone => {
            let url = format!("sqlite://{}", chat.dir().join("data/chat.db").display());
            let mut database = SqliteConnection::connect(&url).await.expect("the file");
            database
                .execute(statement)
                .await
                .expect("done")
                .rows_affected()
        }
        Kind::Cluster => {
            let database = PgConnection::connect(chat.database_url()).await;
            let mut database = database.expect("the database");
            database
                .execute(statement)
                .await
                .expect("done")
                .rows_affected()
        }
    };
    assert!(changed > 0);
}

async fn mentions_follow_the_written_rule(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "private", &[&bob]).await;
    let unknown: String = (0..60).map(|number| format!("@nobody{number} ")).collect();
    let many = format!("{unknown}@bob");
    for body in [
        "交给@bob处理",
        "これは@bobさんへ",
        "@bob님",
        "ถึง@bobครับ",
        "@bob...are you",
        "(@Bob)",
        &many,
    ] {
        assert_eq!(
            mentions(&chat, &ada, room, body).await,
            [json!(bob.id)],
            "{body}"
        );
    }
    for body in [
        "https://x.example/@bob/post",
        "x.example/@bob",
        "`@bob`",
        "```\n@bob\n```",
        "ada_@bob",
        "ada@bob",
        "@bobby",
        "привет@bob",
    ] {
        assert_eq!(
            mentions(&chat, &ada, room, body).await,
            [Value::Null; 0],
            "{body}"
        );
    }
    // An edit follows the same rule.
    let message = say(&chat, &ada, room, "nobody").await;
    let path = format!("/v1/rooms/{room}/messages/{message}");
    let edited = chat
        .rest_as(1, &ada)
        .patch(&path, json!({"body": "给@bob"}))
        .await;
    assert_eq!(edited.ok(200)["mentions"], json!([bob.id]));
}

/// The error that a request on `/ws` is answered with.
async fn refusal(socket: &Socket, id: u64) -> WireError {
    let answer = socket.until("an answer", |received| received.acks.get(&id).cloned());
    answer.await.expect_err("refused")
}

async fn metadata_that_is_not_i_json_is_refused_everywhere(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "private", &[]).await;
    let rest = chat.rest_as(1, &ada);
    let path = format!("/v1/rooms/{room}/messages");
    let mut socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("a member");
    let mut io = Raw::connected(&chat, &ada).await;

    let deep = "[".repeat(1990) + &"]".repeat(1990);
    let digits = "7".repeat(3000);
    let fraction = format!("0.{digits}");
    let mut number = 0;
    for metadata in [
        r#""\ud800""#,
        r#"{"\udc00":1}"#,
        r#"["\ud800\ud800"]"#,
        &deep,
        "1e999",
        "[-1e999]",
        &digits,
        &fraction,
        "9007199254740993",
        r#"{"a":1,"a":2}"#,
        r#"{"a":{"b":1,"\u0062":2}}"#,
    ] {
        number += 1;
        let fields = format!(r#""body":"x","clientMsgId":"bad {number}","metadata":{metadata}"#);
        let shown = &metadata[..metadata.len().min(40)];
        let body = format!("{{{fields}}}").into_bytes();
        let answer = rest
            .send(Method::POST, &path, Some(("application/json", body)))
            .await;
        let problem = answer.problem(422, "invalid");
        assert_eq!(
            problem["errors"][0]["field"], "metadata",
            "{shown}: {problem}"
        );

        socket
            .raw(&format!(
                r#"{{"id":{},"event":"sendMessage","data":{{"room":"{room}",{fields}}}}}"#,
                1000 + number
            ))
            .await;
        let refused = refusal(&socket, 1000 + number).await;
        assert_eq!(
            (&*refused.code, refused.field()),
            ("invalid", "metadata"),
            "{shown}"
        );
        io.say(&format!(
            r#"42{number}["sendMessage",{{"room":"{room}",{fields}}}]"#
        ))
        .await;
        let ack = io.until(&format!("43{number}[")).await;
        assert!(
            ack.contains("\"invalid\"") && ack.contains("metadata"),
            "{shown}: {ack}"
        );
    }
    // Halves of surrogate pairs in other texts.
    for (event, data) in [
        (
            "sendMessage",
            format!(r#"{{"room":"{room}","body":"\ud800","clientMsgId":"c"}}"#),
        ),
        (
            "sendMessage",
            format!(r#"{{"room":"{room}","body":"x","clientMsgId":"\udc00"}}"#),
        ),
        ("\\ud800", "{}".to_owned()),
    ] {
        number += 1;
        io.say(&format!(r#"42{number}["{event}",{data}]"#)).await;
        if event == "sendMessage" {
            let ack = io.until(&format!("43{number}[")).await;
            assert!(
                ack.contains("\"ok\":false") && ack.contains("surrogate"),
                "{ack}"
            );
        }
        socket
            .raw(&format!(
                r#"{{"id":{},"event":"{event}","data":{data}}}"#,
                1000 + number
            ))
            .await;
        let refused = refusal(&socket, 1000 + number).await;
        let code = match event {
            "sendMessage" => "invalid",
            _ => "malformed",
        };
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(code == "malformed" || refused.message.contains("surrogate"));
    }
    for (method, path, body) in [
        (Method::POST, &*path, r#"{"body":"\ud800"}"#),
        (
            Method::POST,
            "/v1/rooms",
            r#"{"kind":"public","name":"\ud800x"}"#,
        ),
        (Method::PATCH, "/v1/me", r#"{"displayName":"\udfff"}"#),
    ] {
        let body = ("application/json", body.as_bytes().to_vec());
        let problem = rest
            .send(method, path, Some(body))
            .await
            .problem(400, "malformed");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|text| text.contains("surrogate")),
            "{problem}"
        );
    }

    // Valid metadata is returned as it was written, in events and pages.
    let good = r#"{"n":[0.1,1e300,1152921504606846976,-0.0],"s":"\ud83d\ude00 ü","o":{"a":null}}"#;
    let body =
        format!(r#"{{"body":"good","clientMsgId":"good","metadata": {good} }}"#).into_bytes();
    let answer = rest
        .send(Method::POST, &path, Some(("application/json", body)))
        .await;
    answer.ok(202);
    let live = socket.event("newMessage").await;
    let expected: Value = serde_json::from_str(good).expect("strict JSON");
    assert_eq!(live["metadata"], expected);
    assert_eq!(live["clientMsgId"], "good", "nothing else was stored");
    let page = rest.get(&path).await;
    assert!(page.text.contains(good), "{}", page.text);
}

async fn stored_metadata_is_returned_as_i_json(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "private", &[]).await;
    let old = [
        (r#""\ud800""#.to_owned(), json!("\u{FFFD}")),
        ("[".repeat(1990) + &"]".repeat(1990), Value::Null),
        ("[1e999, 2]".to_owned(), json!([null, 2])),
        (
            r#"{"id": 12345678901234567890123}"#.to_owned(),
            json!({"id": 1.2345678901234568e22}),
        ),
        (r#"{"a":1,"a":2}"#.to_owned(), json!({"a": 2})),
        ("{".to_owned(), Value::Null),
    ];
    let path = format!("/v1/rooms/{room}/messages?wait=stored");
    for (number, (text, _)) in old.iter().enumerate() {
        let message = json!({"body": "old", "clientMsgId": format!("{number}"), "metadata": 1});
        chat.rest_as(0, &ada).post(&path, message).await.ok(201);
        let written =
            format!("UPDATE messages SET metadata = '{text}' WHERE client_msg_id = '{number}'");
        sql(&chat, &written).await;
    }
    let expected: Vec<Value> = old.iter().map(|(_, shown)| shown.clone()).collect();
    let all = |messages: &Value| -> Vec<Value> {
        let messages = messages.as_array().expect("a list").iter();
        messages
            .map(|message| message["metadata"].clone())
            .collect()
    };
    // Each page is parsed by a strict reader: serde_json refuses halves of surrogate pairs, 1e999 and deep nesting.
    // Once the edges' caches have expired.
    let messages = format!("/v1/rooms/{room}/messages");
    eventually("the repaired page", async || {
        let page = chat.rest_as(1, &ada).get(&messages).await.ok(200);
        (all(&page["items"]) == expected).then_some(())
    })
    .await;
    let socket = chat.connect(1, &ada).await;
    let joined = socket.join(room, Some(0)).await.expect("a member");
    assert_eq!(all(&joined["messages"]), expected);
    let changes = chat
        .rest_as(0, &ada)
        .get(&format!("/v1/rooms/{room}/changes?after=0"))
        .await
        .ok(200);
    assert!(changes.to_string().contains('\u{FFFD}'), "{changes}");
}

async fn the_longest_body_is_delivered_on_every_transport(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "private", &[&bob]).await;
    let mut reader = chat.connect(1, &bob).await;
    reader.join(room, None).await.expect("a member");
    let socket = chat.connect(0, &ada).await;
    let mut io = Raw::connected(&chat, &ada).await;
    let path = format!("/v1/rooms/{room}/messages");
    let rest = chat.rest_as(0, &ada);
    // In three bytes of UTF-8, and in six of escaped JSON, per character.
    let longest = "漢".repeat(5333) + "!";
    let escaped = "\\u00e9".repeat(8000);
    let letters = "é".repeat(8000);
    assert_eq!((longest.len(), letters.len()), (16_000, 16_000));

    socket.say(room, "over /ws", &longest).await;
    assert_eq!(reader.event("newMessage").await["body"], json!(longest));
    let data = format!(r#"{{"room":"{room}","clientMsgId":"escaped","body":"{escaped}"}}"#);
    io.say(&format!(r#"421["sendMessage",{data}]"#)).await;
    assert!(io.until("431[").await.contains("\"ok\":true"));
    assert_eq!(reader.event("newMessage").await["body"], json!(letters));
    let control = "\u{1}".repeat(10_000);
    rest.post(&path, json!({"body": control})).await.ok(202);
    assert_eq!(reader.event("newMessage").await["body"], json!(control));

    let long = json!({"room": room, "clientMsgId": "too long", "body": format!("{longest}!")});
    let refused = socket
        .call("sendMessage", long.clone())
        .await
        .expect_err("too long");
    assert_eq!(refused.code, "too_large");
    rest.post(&path, json!({"body": format!("{longest}!")}))
        .await
        .problem(413, "too_large");
    let page = chat.rest_as(1, &bob).get(&path).await.ok(200);
    assert_eq!(page["items"].as_array().map(Vec::len), Some(3));
    // The edges' pages hold them as well.
    let again = chat.connect(0, &bob).await;
    let joined = again.join(room, Some(0)).await.expect("a page");
    assert_eq!(joined["messages"][0]["body"], json!(longest));
}
