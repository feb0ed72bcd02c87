//! Misleading names, addresses and reactions.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    e2e::notify::{report, say, start, verify},
    harness::{
        Chat, Kind, User, both_ways, deployment::SECRET, engineio::Raw, eventually,
        provider::Provider, server,
    },
};

both_ways!(
    misleading_names_are_refused,
    a_reaction_is_one_emoji_or_one_word,
    all_spellings_of_a_suppressed_address_are_suppressed,
    trace_logs_contain_no_secrets,
);

/// Bound of an honest client's message beside an attack, from its request until it is stored.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends a message and checks how long it takes until it is stored.
async fn honest(chat: &Chat, user: &User, room: Uuid) {
    let begun = Instant::now();
    say(chat, user, room, "as ever").await;
    let took = begun.elapsed();
    assert!(took < PATIENCE, "an honest message took {took:?}");
}

async fn misleading_names_are_refused(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("limits.messages_per_second", 100_000)
        .set("limits.burst", 100_000)
        .start()
        .await;
    let (ada, eve) = (
        chat.register("Moderator1").await,
        chat.register("eve").await,
    );
    let room = chat.room(&ada, "public", &[]).await;
    let rest = chat.rest_as(1, &eve);
    let theirs = chat.room(&eve, "public", &[&ada]).await;
    let zalgo = format!("x{}", "\u{0335}".repeat(9));
    let tower = format!("x{}", "\u{0301}".repeat(60));
    for name in [
        "\u{200B}",
        "\u{200B}\u{200B}\u{200B}",
        "\u{AD}",
        "\u{AD}\u{3164}\u{200B}",
        "\u{115F}",
        "\u{1160}",
        "\u{FFA0}",
        "\u{2800}",
        "\u{2800} \u{2800}",
        "\u{FE0F}",
        "\u{FE00}\u{E0100}",
        "\u{E0061}\u{E007F}",
        "\u{34F}",
        "\u{FFFC}",
        "\u{1D159}",
        "a\nb",
        "a\rb",
        "a\u{2029}b",
        "a\u{85}b",
        "a\u{B}b",
        &tower,
        "\u{202E}nimda",
        "\u{2066}x",
        "a\u{200B}b",
        "\u{200B}\u{200D}\u{2060}",
        "\u{3164}",
        "a\0b",
        "a\r\nBcc: x@example.com",
        "a\u{1B}[31m",
        "a\u{2028}b",
        "\u{E000}",
        "a\u{E0041}",
        " \u{A0}",
        &zalgo,
    ] {
        let new = json!({"username": "fresh", "password": "a long password", "displayName": name});
        for (field, refused) in [
            ("displayName", rest.post("/v1/auth/register", new).await),
            (
                "displayName",
                rest.patch("/v1/me", json!({"displayName": name})).await,
            ),
            (
                "name",
                rest.post("/v1/rooms", json!({"kind": "public", "name": name}))
                    .await,
            ),
            (
                "name",
                rest.patch(&format!("/v1/rooms/{theirs}"), json!({"name": name}))
                    .await,
            ),
        ] {
            let problem = refused.problem(422, "invalid");
            let error = &problem["errors"][0];
            assert_eq!(error["field"], field, "{name:?}: {problem}");
            let message = error["message"].as_str().expect("a text");
            assert!(message.starts_with("must "), "{name:?}: {problem}");
        }
    }
    honest(&chat, &ada, room).await;

    // Names are normalized to NFC, and joiners that scripts need are kept.
    let changed = rest.patch(
        "/v1/me",
        json!({"displayName": "A\u{30A}sa 👩‍🚒 می\u{200C}خواهم"}),
    );
    assert_eq!(
        changed.await.ok(200)["displayName"],
        "Åsa 👩‍🚒 می\u{200C}خواهم"
    );

    // User names that look like an existing one.
    for name in ["rnoderator1", "ModeratorI", "M0DERAT0RL", "moderator1"] {
        let new = json!({"username": name, "password": "a long password"});
        let refused = chat.rest(1).post("/v1/auth/register", new).await;
        refused.problem(409, "conflict");
    }
    chat.register("Moderator2").await;
    let gone = chat.rest_as(0, &ada).delete("/v1/me").await;
    gone.ok(204);
    chat.register("rnoderator1").await;

    // Times that RFC 3339 cannot represent.
    for what in ["mutes", "bans"] {
        let path = format!("/v1/rooms/{theirs}/{what}/{}", ada.id);
        for until in [
            "+10000-01-01T00:00:00Z",
            "9999-12-31T23:59:59-01:00",
            "+262142-01-01T00:00:00Z",
        ] {
            let refused = rest.put(&path, json!({"until": until})).await;
            let body = refused.problem(400, "malformed");
            assert_eq!(body["errors"][0]["field"], "until");
            assert!(body.to_string().contains("9999"), "{body}");
        }
    }
}

async fn a_reaction_is_one_emoji_or_one_word(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, eve) = (chat.register("ada").await, chat.register("eve").await);
    let room = chat.room(&ada, "public", &[&eve]).await;
    let message = say(&chat, &ada, room, "hello").await;
    let rest = chat.rest_as(1, &eve);
    let socket = chat.connect(0, &eve).await;
    socket.join(room, None).await.expect("a member");
    let mut io = Raw::connected(&chat, &eve).await;
    let path = format!("/v1/rooms/{room}/messages/{message}/reactions");
    let escaped =
        |emoji: &str| -> String { emoji.bytes().map(|byte| format!("%{byte:02X}")).collect() };

    let mut acked = 0;
    for emoji in [
        "👍👍",
        "a word",
        ":+1:",
        "ABC",
        "漢",
        "<b>",
        "\u{202E}",
        "\u{200B}",
        "👍\u{E0041}",
        "🇩",
    ] {
        let data = json!({"room": room, "id": message, "emoji": emoji});
        let one = rest
            .put(&format!("{path}/{}", escaped(emoji)), Value::Null)
            .await;
        one.problem(422, "invalid");
        let error = socket.call("react", data.clone()).await.expect_err(emoji);
        assert_eq!(error.code, "invalid", "{emoji}");
        acked += 1;
        io.say(&format!("42{acked}{}", json!(["react", data])))
            .await;
        let ack = io.until(&format!("43{acked}[")).await;
        assert!(ack.contains("\"invalid\""), "{emoji}: {ack}");
        // An invalid reaction, stored before the rule existed, can still be removed.
        let two = rest.delete(&format!("{path}/{}", escaped(emoji))).await;
        two.ok(200);
    }
    honest(&chat, &ada, room).await;

    // Fully-qualified, however they were sent: the third is the second once more.
    let good = [
        "👍🏽",
        "❤",
        "❤️",
        "👩‍❤️‍💋‍👨",
        "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "🇩🇪",
        "1\u{20E3}",
        "thumbsup",
        "+1",
    ];
    let shown = ["👍🏽", "❤️", "👩‍❤️‍💋‍👨", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🇩🇪", "1️⃣", "thumbsup", "+1"];
    for (i, emoji) in good.iter().enumerate() {
        let data = json!({"room": room, "id": message, "emoji": emoji});
        match i % 3 {
            0 => drop(
                rest.put(&format!("{path}/{}", escaped(emoji)), Value::Null)
                    .await
                    .ok(200),
            ),
            1 => drop(socket.call("react", data).await.expect(emoji)),
            _ => {
                acked += 1;
                io.say(&format!("42{acked}{}", json!(["react", data])))
                    .await;
                let ack = io.until(&format!("43{acked}[")).await;
                assert!(ack.contains("\"ok\":true"), "{emoji}: {ack}");
            }
        }
    }
    let kept = rest
        .get(&format!("/v1/rooms/{room}/messages?limit=5"))
        .await
        .ok(200);
    let all = kept["items"].as_array().expect("a page");
    let ours = all
        .iter()
        .find(|item| item["id"] == message.as_str())
        .expect("the message");
    let kept: Vec<_> = ours["reactions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| r["emoji"].clone())
        .collect();
    assert_eq!(kept, shown.map(Value::from));
}

async fn all_spellings_of_a_suppressed_address_are_suppressed(kind: Kind) {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &[]).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    let eve = chat.register("eve").await;
    verify(&chat, &bob, &mail, "email", "gone@example.com").await;
    verify(&chat, &ada, &mail, "email", "ada@example.com").await;
    let room = chat.room(&ada, "direct", &[&bob]).await;
    say(&chat, &ada, room, "hello").await;
    let sent = eventually("a mail", async || mail.asked().first().cloned()).await;
    let bounce = json!([{"event": "bounce", "sg_event_id": "x", "notification_id": sent.notification(), "type": "bounce"}]);
    report(&chat, &bounce, true).await;
    let row = chat.rest_as(0, &bob);
    eventually("the bounce counts", async || {
        let page = row.get("/v1/me/notifications/history").await.ok(200);
        (page["items"][0]["state"] == "bounced").then_some(())
    })
    .await;
    mail.clear();

    let rest = chat.rest_as(0, &eve);
    for address in [
        "x<gone@example.com>",
        "Gone <gone@example.com>",
        "<gone@example.com>",
        "\"gone\"@example.com",
        "gone(x)@example.com",
        "gone@example.com,eve@example.com",
        "eve@example.com\r\nBcc: gone@example.com",
        "gone@example.com.",
        "gone@[127.0.0.1]",
        " gone@example.com",
    ] {
        let new = json!({"username": "fresh", "password": "a long password", "email": address});
        rest.post("/v1/auth/register", new)
            .await
            .problem(422, "invalid");
        rest.patch("/v1/me", json!({"email": address}))
            .await
            .problem(422, "invalid");
    }
    for address in ["gone@example.com", "GONE@Example.COM"] {
        let me = rest
            .patch("/v1/me", json!({"email": address}))
            .await
            .ok(200);
        let kept = me["email"].as_str().expect("it is set");
        assert!(kept.ends_with("@example.com"), "{kept}");
        rest.post("/v1/me/verify/email", json!({})).await.ok(204);
    }
    let answered = rest.send(Method::POST, "/v1/me/verify/email", None).await;
    assert!(answered.status < 500, "{answered:?}");

    // Honest users still receive mails; by then any mail to the suppressed address would have been sent as well.
    let back = chat.room(&bob, "direct", &[&ada]).await;
    for text in ["one", "two"] {
        honest(&chat, &bob, back).await;
        say(&chat, &bob, back, text).await;
        eventually("a mail with it", async || {
            mail.find("ada@example.com", |asked| {
                asked.text().contains(text).then_some(())
            })
        })
        .await;
    }
    for asked in mail.asked() {
        assert!(!asked.body.to_lowercase().contains("gone"), "{asked:?}");
    }
}

/// Every kind of secret passes through every process while all of them log at `trace`.
async fn trace_logs_contain_no_secrets(kind: Kind) {
    let mail = Provider::start().await;
    let change = [
        ("log.filter", "trace"),
        ("notify.email.api_key", "SG.api-key-of-the-test"),
        ("edge.public_url", "https://chat.example.com"),
    ];
    let chat = start(kind, &mail, &change).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    verify(&chat, &bob, &mail, "email", "bob.secret@example.com").await;
    let rest = chat.rest_as(1, &bob);
    let me = json!({"displayName": "Bob the Unlogged", "phone": "+4915112345678"});
    rest.patch("/v1/me", me).await.ok(200);
    rest.post("/v1/me/verify/email", json!({})).await.ok(204);
    let code = eventually("the code", async || {
        mail.find("bob.secret@example.com", |asked| {
            let text = asked.text();
            let mut digits = text.split(|c: char| !c.is_ascii_digit());
            digits.find(|digits| digits.len() == 6).map(str::to_owned)
        })
    })
    .await;
    mail.clear();
    let room = chat.room(&ada, "direct", &[&bob]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("a member");
    let words = json!({"room": room, "body": "unlogged words", "clientMsgId": "c1", "metadata": {"k": "unlogged metadata"}});
    socket.call("sendMessage", words).await.expect("accepted");
    let message = say(&chat, &ada, room, "more unlogged words").await;
    let path = format!("/v1/rooms/{room}/messages/{message}");
    let edited = chat
        .rest_as(0, &ada)
        .patch(&path, json!({"body": "unlogged edit"}))
        .await;
    edited.ok(200);
    let sent = eventually("a mail", async || mail.asked().first().cloned()).await;
    let link = sent.json()["headers"]["List-Unsubscribe"].clone();
    let link = link.as_str().expect("a link to stop them");
    let path = link
        .trim_matches(['<', '>'])
        .replace("https://chat.example.com", "");
    let secret = path.rsplit('/').next().expect("a secret").to_owned();
    assert_eq!(
        chat.rest(0).send(Method::POST, &path, None).await.status,
        200
    );
    let ticket = rest.post("/v1/auth/ticket", json!({})).await;
    let ticket = ticket.json()["ticket"]
        .as_str()
        .expect("a ticket")
        .to_owned();
    chat.dial(1)
        .ticket(&ticket)
        .connect()
        .await
        .expect("a socket");
    let renewed = json!({"refreshToken": bob.refresh});
    let renewed = chat.rest(0).post("/v1/auth/refresh", renewed).await.ok(200);
    let login = json!({"username": "bob", "password": "a wrong password"});
    chat.rest(1)
        .post("/v1/auth/login", login)
        .await
        .problem(401, "unauthorized");

    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut secrets = vec![
        ("a password", ada.password.clone()),
        ("a wrong password", "a wrong password".to_owned()),
        ("an access token", ada.access.clone()),
        ("a refresh token", bob.refresh.clone()),
        ("the next token", text(&renewed["accessToken"])),
        ("the next refresh token", text(&renewed["refreshToken"])),
        ("a ticket", ticket),
        ("a code", code),
        ("the link's secret", secret),
        ("an API key", "SG.api-key-of-the-test".to_owned()),
        ("the token secret", SECRET.to_owned()),
        ("an address", "bob.secret@example.com".to_owned()),
        ("a number", "15112345678".to_owned()),
        ("a display name", "Bob the Unlogged".to_owned()),
        ("a message", "unlogged".to_owned()),
    ];
    if kind == Kind::Cluster {
        for url in [
            chat.database_url(),
            &server("AMQP_URL"),
            &server("REDIS_URL"),
        ] {
            let user = url
                .split_once("://")
                .and_then(|(_, rest)| rest.rsplit_once('@'));
            let password = user.and_then(|(user, _)| user.split_once(':'));
            // RabbitMQ's password is `guest`, which is also its user name.
            secrets.extend(
                password
                    .filter(|(_, p)| p.len() > 5)
                    .map(|(_, p)| ("a server's password", p.to_owned())),
            );
        }
    }
    // `Debug` output of a byte string.
    let bytes = |text: &str| {
        text.bytes()
            .map(|byte| byte.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut verbose = false;
    for process in chat.edges.iter().chain(&chat.workers) {
        let log = process.log();
        verbose |= log.contains("DEBUG chat");
        for (what, secret) in &secrets {
            let bytes = bytes(secret);
            let line = log
                .lines()
                .find(|line| line.contains(secret.as_str()) || line.contains(&bytes));
            assert!(
                line.is_none(),
                "{what} is in the log of {}: {line:?}",
                process.name()
            );
        }
    }
    assert!(verbose, "the filter has no effect");
}
