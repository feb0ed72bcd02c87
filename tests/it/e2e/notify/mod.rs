//! Notifications through providers that work and providers that fail.

mod deleted;
mod edits;
mod judged;
mod limits;
mod load;
mod reset;
mod sms;
mod smtp;
mod threads;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use p256::{
    ecdsa::{Signature, SigningKey, signature::Signer},
    pkcs8::EncodePublicKey,
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    Chat, Kind, User, both_ways, eventually,
    provider::{Does, Provider},
    socket::Received,
};

both_ways!(
    an_absent_user_is_notified_once_and_delivery_reports_are_recorded,
    messages_read_before_the_delay_are_not_notified,
    a_connected_user_is_notified_only_when_inactive,
    a_failing_provider_accepts_each_notification_once,
    failed_notifications_are_dead_lettered_with_their_reason,
    unreachable_users_are_skipped_and_the_log_states_why,
);

fn key() -> SigningKey {
    SigningKey::from_slice(&[7; 32]).expect("a key")
}

fn public_key() -> String {
    let der = key()
        .verifying_key()
        .to_public_key_der()
        .expect("it has one");
    STANDARD.encode(der.as_bytes())
}

pub async fn start(kind: Kind, mail: &Provider, change: &[(&str, &str)]) -> Chat {
    let mut plan = Chat::plan(kind)
        .set("notify.delay", "300ms")
        .set("notify.digest_window", "300ms")
        .set("notify.away_after", "400ms")
        .set("notify.retry_initial", "100ms")
        .set("notify.timeout", "1s")
        .set("notify.email.provider", "sendgrid")
        .set("notify.email.from", "Chat <chat@example.com>")
        .set("notify.email.api_key", "SG.test")
        .set("notify.email.base_url", &mail.url)
        .set("notify.email.webhook_key", public_key())
        .set("notify.email.per_second", 10_000)
        .set("limits.messages_per_second", 100_000)
        .set("limits.burst", 100_000);
    for (key, value) in change {
        plan = plan.set(key, value);
    }
    plan.start().await
}

/// Verifies an address of a user, and clears the requests recorded by the provider.
pub async fn verify(chat: &Chat, user: &User, provider: &Provider, which: &str, address: &str) {
    prove(chat, user, provider, which, address).await;
    provider.clear();
}

/// Verifies an address, which must not have received a code before.
async fn prove(chat: &Chat, user: &User, provider: &Provider, which: &str, address: &str) {
    request_code(chat, user, which, address).await;
    let code = eventually("the code", async || {
        provider.find(address, |asked| {
            let text = match which {
                "email" => asked.text(),
                _ => asked.body.clone(),
            };
            let mut digits = text.split(|c: char| !c.is_ascii_digit());
            let code = digits.find(|digits| digits.len() == 6);
            code.map(str::to_owned)
        })
    })
    .await;
    confirm(chat, user, which, &code).await;
}

async fn request_code(chat: &Chat, user: &User, which: &str, address: &str) {
    let rest = chat.rest_as(0, user);
    let field = if which == "email" { "email" } else { "phone" };
    rest.patch("/v1/me", json!({ field: address }))
        .await
        .ok(200);
    rest.post(&format!("/v1/me/verify/{which}"), json!({}))
        .await
        .ok(204);
}

async fn confirm(chat: &Chat, user: &User, which: &str, code: &str) {
    let rest = chat.rest_as(0, user);
    let confirm = format!("/v1/me/verify/{which}/confirm");
    let wrong = if code == "000000" { "000001" } else { "000000" };
    rest.post(&confirm, json!({"code": wrong}))
        .await
        .problem(422, "invalid");
    rest.post(&confirm, json!({"code": code})).await.ok(204);
    // A code is valid once.
    rest.post(&confirm, json!({"code": code}))
        .await
        .problem(422, "invalid");
}

pub async fn say(chat: &Chat, user: &User, room: Uuid, body: &str) -> String {
    let path = format!("/v1/rooms/{room}/messages?wait=stored");
    let said = chat
        .rest_as(0, user)
        .post(&path, json!({"body": body}))
        .await
        .json();
    said["id"].as_str().expect("an id").to_owned()
}

/// The only row of a message in the delivery log, once `right` accepts it.
async fn row(chat: &Chat, user: &User, message: &str, right: impl Fn(&Value) -> bool) -> Value {
    let rest = chat.rest_as(0, user);
    let path = format!("/v1/messages/{message}/notifications");
    eventually("the row of the delivery log", async || {
        let page = rest.get(&path).await.ok(200);
        let row = page["items"].get(0)?.clone();
        right(&row).then_some(row)
    })
    .await
}

fn is(state: &'static str) -> impl Fn(&Value) -> bool {
    move |row| row["state"] == state
}

async fn an_absent_user_is_notified_once_and_delivery_reports_are_recorded(kind: Kind) {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &[]).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    let room = chat.room(&ada, "direct", &[&bob]).await;
    let first = say(&chat, &ada, room, "one <b>").await;
    let second = say(&chat, &ada, room, "two").await;
    for message in [&first, &second] {
        row(&chat, &ada, message, is("sent")).await;
    }
    let asked = mail.asked();
    assert_eq!(asked.len(), 1, "one digest: {asked:?}");
    let (sent, body) = (&asked[0], asked[0].json());
    assert_eq!(sent.path, "/v3/mail/send");
    assert!(
        sent.head
            .to_lowercase()
            .contains("authorization: bearer sg.test")
    );
    assert_eq!(
        body["personalizations"][0]["to"][0]["email"],
        "bob@example.com"
    );
    assert_eq!(body["subject"], "2 new messages");
    assert!(sent.text().contains("one <b>") && sent.text().contains("two"));
    let html = body["content"][1]["value"].as_str().expect("html");
    assert!(html.contains("one &lt;b&gt;") && !html.contains("one <b>"));

    // Delivery reports: a forged one, then valid ones, out of order and repeated.
    let event = |event: &str, id: &str| json!([{"event": event, "sg_event_id": id, "notification_id": sent.notification(), "type": "bounce"}]);
    report(&chat, &event("bounce", "x"), false).await;
    for (name, id) in [("delivered", "a"), ("processed", "b"), ("delivered", "a")] {
        report(&chat, &event(name, id), true).await;
    }
    let row_now = row(&chat, &ada, &first, is("delivered")).await;
    assert_eq!(
        row_now["attempts"].as_array().map(Vec::len),
        Some(1),
        "{row_now}"
    );

    // The unsubscribe link in the mail works without a login, and only with its secret.
    let link = body["headers"]["List-Unsubscribe"]
        .as_str()
        .expect("a link");
    let path = &link[link.find("/v1/").expect("our path")..link.len() - 1];
    let forged = format!(
        "{}/{}",
        &path[..path.rfind('/').expect("a secret")],
        Uuid::nil()
    );
    let rest = chat.rest(0);
    rest.send(Method::POST, &forged, None)
        .await
        .problem(404, "not_found");
    assert_eq!(rest.send(Method::GET, path, None).await.status, 200);
    assert_eq!(rest.send(Method::POST, path, None).await.status, 200);
    let third = say(&chat, &ada, room, "three").await;
    let told = row(&chat, &ada, &third, is("suppressed")).await;
    assert_eq!(told["reason"], "every channel is switched off");
    assert_eq!(mail.asked().len(), 1);

    let mine = chat
        .rest_as(0, &bob)
        .get("/v1/me/notifications/history?limit=2")
        .await
        .ok(200);
    assert_eq!(mine["items"].as_array().map(Vec::len), Some(2));
    let next = mine["nextCursor"].as_str().expect("there is more");
    let path = format!("/v1/me/notifications/history?cursor={next}");
    let rest = chat.rest_as(0, &bob).get(&path).await.ok(200);
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(1), "{rest}");
}

pub async fn report(chat: &Chat, events: &Value, signed: bool) {
    let body = events.to_string();
    let timestamp = chrono::Utc::now().timestamp().to_string();
    let signature: Signature = key().sign(format!("{timestamp}{body}").as_bytes());
    let mut signature = signature.to_der().as_bytes().to_vec();
    if !signed {
        *signature.last_mut().expect("it is not empty") ^= 1;
    }
    let answer = chat
        .http
        .post(format!("{}/v1/webhooks/sendgrid", chat.edge(0).url()))
        .header("X-Twilio-Email-Event-Webhook-Timestamp", timestamp)
        .header(
            "X-Twilio-Email-Event-Webhook-Signature",
            STANDARD.encode(signature),
        )
        .body(body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status().as_u16(), if signed { 204 } else { 403 });
}

async fn messages_read_before_the_delay_are_not_notified(kind: Kind) {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &[("notify.digest_window", "3s")]).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    let room = chat.room(&ada, "public", &[&bob]).await;

    // A message without a mention, a mention that is read, and a mention while the user is connected.
    let plain = say(&chat, &ada, room, "hello").await;
    let named = say(&chat, &ada, room, "@bob?").await;
    row(&chat, &ada, &named, is("queued")).await;
    let socket = chat.connect(1, &bob).await;
    socket.join(room, None).await.expect("a member");
    let reader = chat.connect(0, &ada).await;
    reader.join(room, None).await.expect("a member");
    let read = chat
        .rest_as(0, &bob)
        .get(&format!("/v1/rooms/{room}"))
        .await
        .ok(200);
    let seq = read["seq"].as_i64().expect("a number");
    socket
        .call("markRead", json!({"room": room, "seq": seq}))
        .await
        .expect("read");
    let told = |received: &Received| {
        let mut events = received.events.iter();
        let event = events.find(|event| event.name == "readUpdated")?;
        serde_json::from_str::<Value>(&event.text)
            .ok()?
            .get("data")
            .cloned()
    };
    let told = reader.until("readUpdated", told).await;
    assert_eq!(told, json!({"room": room, "user": bob.id, "seq": seq}));
    let told = row(&chat, &ada, &named, is("cancelled")).await;
    assert_eq!(told["reason"], "read before it was sent");
    let rest = chat.rest_as(0, &ada);
    let nobody = rest
        .get(&format!("/v1/messages/{plain}/notifications"))
        .await
        .ok(200);
    assert_eq!(nobody["items"], json!([]));

    // The room is muted.
    let preferences =
        json!({"rooms": [{"room": room, "mode": "none"}], "timeZone": "Europe/Berlin"});
    chat.rest_as(0, &bob)
        .put("/v1/me/notifications", preferences)
        .await
        .ok(200);
    drop(socket);
    let muted = say(&chat, &ada, room, "@bob!").await;
    let told = row(&chat, &ada, &muted, is("suppressed")).await;
    assert_eq!(told["reason"], "the room is muted");
    assert!(mail.asked().is_empty(), "{:?}", mail.asked());
}

async fn a_connected_user_is_notified_only_when_inactive(kind: Kind) {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &[("notify.away_after", "2s")]).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    let room = chat.room(&ada, "direct", &[&bob]).await;
    let socket = chat.connect(1, &bob).await;
    socket.join(room, None).await.expect("his own");
    let message = say(&chat, &ada, room, "hello").await;
    let told = row(&chat, &ada, &message, is("sent")).await;
    let received = socket.until("newMessage", |received| {
        let mut events = received.events.iter();
        let event = events.find(|event| event.name == "newMessage")?;
        serde_json::from_str::<Value>(&event.text).ok()
    });
    let sent = received.await["data"]["createdAt"].clone();
    let time = |value: &Value| {
        let text = value.as_str().expect("a time");
        chrono::DateTime::parse_from_rfc3339(text).expect("RFC 3339")
    };
    let waited = time(&told["at"]) - time(&sent);
    assert!(waited.num_milliseconds() >= 2000, "notified after {waited}");
}

async fn a_failing_provider_accepts_each_notification_once(kind: Kind) {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &[("notify.pause", "200ms")]).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    let room = chat.room(&ada, "direct", &[&bob]).await;
    mail.does(|before, _| match before {
        0 => Does::fail(),
        1 => Does::Answer(429, "Retry-After: 1\r\n", "{}"),
        2 => Does::Reset,
        3 => Does::Answer(401, "", "{}"),
        4 => Does::Nothing(Duration::from_secs(5)),
        // A response from an intermediary, not from the provider.
        5 => Does::Answer(200, "Content-Type: text/html\r\n", "<h1>Please log in</h1>"),
        _ => Does::take(),
    });
    let message = say(&chat, &ada, room, "hello").await;
    let told = row(&chat, &ada, &message, is("sent")).await;
    let asked = mail.asked();
    assert_eq!(asked.len(), 7);
    // A rejected API key does not count as an attempt.
    let attempts = told["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 6, "{told}");
    assert_eq!(attempts[4]["answer"], "200 OK: <h1>Please log in</h1>");
    assert_eq!(
        attempts[0]["answer"],
        "503 Service Unavailable: <html>Service Unavailable</html>"
    );
    let time = |attempt: &Value, name: &str| {
        let text = attempt[name].as_str().expect("a time");
        chrono::DateTime::parse_from_rfc3339(text).expect("RFC 3339")
    };
    let pause = time(&attempts[2], "startedAt") - time(&attempts[1], "endedAt");
    assert!(
        pause.num_milliseconds() >= 990,
        "Retry-After counts: {pause}"
    );
}

async fn failed_notifications_are_dead_lettered_with_their_reason(kind: Kind) {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &[("notify.max_attempts", "2")]).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    let room = chat.room(&ada, "direct", &[&bob]).await;
    mail.does(|_, _| Does::fail());
    let message = say(&chat, &ada, room, "hello").await;
    let told = row(&chat, &ada, &message, is("dead")).await;
    assert_eq!(told["reason"], "given up after 2 attempts");
    assert_eq!(mail.asked().len(), 2);
    // The notification is in the dead letters and can be replayed.
    mail.does(|_, _| Does::take());
    let data = chat.dir().join("data").to_string_lossy().into_owned();
    let mut args = vec!["queue", "dead", "replay", "--all"];
    if kind == Kind::Standalone {
        args.extend(["--data", &data]);
    }
    let replayed = chat.program("replay", &args).run().await;
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    let told = row(&chat, &ada, &message, is("sent")).await;
    assert_eq!(told["attempts"].as_array().map(Vec::len), Some(3), "{told}");

    mail.clear();
    mail.does(|_, _| {
        Does::Answer(
            400,
            "",
            r#"{"errors":[{"message":"Does not contain a valid address."}]}"#,
        )
    });
    let message = say(&chat, &ada, room, "again").await;
    let told = row(&chat, &ada, &message, is("failed")).await;
    let answer = &told["attempts"][0]["answer"];
    assert_eq!(answer, "400 Bad Request: Does not contain a valid address.");
    assert_eq!(mail.asked().len(), 1);
}

/// Between the decision and the delivery, one recipient leaves the room and one changes their address.
async fn unreachable_users_are_skipped_and_the_log_states_why(kind: Kind) {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &[("notify.digest_window", "2s")]).await;
    let ada = chat.register("ada").await;
    let (bob, eve) = (chat.register("bob").await, chat.register("eve").await);
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    verify(&chat, &eve, &mail, "email", "eve@example.com").await;
    let room = chat.room(&ada, "public", &[&bob, &eve]).await;
    let to_bob = say(&chat, &ada, room, "@bob?").await;
    let to_eve = say(&chat, &ada, room, "@eve?").await;
    for message in [&to_bob, &to_eve] {
        row(&chat, &ada, message, is("queued")).await;
    }
    let leave = format!("/v1/rooms/{room}/leave");
    let left = chat.rest_as(0, &bob).post(&leave, json!({})).await;
    assert!(left.status < 300, "{left:?}");
    chat.rest_as(0, &eve)
        .patch("/v1/me", json!({"email": "other@example.com"}))
        .await
        .ok(200);
    let told = row(&chat, &ada, &to_bob, is("cancelled")).await;
    assert_eq!(told["reason"], "no member of the room any more");
    let told = row(&chat, &ada, &to_eve, is("suppressed")).await;
    assert_eq!(told["reason"], "the address is not verified any more");
    assert!(mail.asked().is_empty(), "{:?}", mail.asked());
}
