//! Notifications by text message.

use base64::{Engine, engine::general_purpose::STANDARD};
use chat::notify::segments::count;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha1::Sha1;
use uuid::Uuid;

use super::{is, row, say, start, verify};
use crate::harness::{
    Chat, Kind, User, both_ways,
    provider::{Asked, Does, Provider},
};

both_ways!(
    a_text_message_with_unknown_outcome_is_not_resent,
    a_number_that_replies_stop_is_suppressed_until_start,
    a_long_message_is_cut_to_three_segments_in_any_alphabet,
);

pub const SID: &str = "AC0123456789abcdef0123456789abcdef";
pub const NUMBER: &str = "+4915112345678";
const PUBLIC_URL: &str = "https://chat.example.com";

pub fn by_text_message(sms: &Provider) -> [(&str, &str); 8] {
    [
        ("notify.email.provider", ""),
        ("notify.sms.provider", "twilio"),
        ("notify.sms.base_url", &sms.url),
        ("notify.sms.account_sid", SID),
        ("notify.sms.auth_token", "token"),
        ("notify.sms.from", "+15550006789"),
        ("notify.sms.per_second", "1000"),
        ("edge.public_url", PUBLIC_URL),
    ]
}

/// A sender, and a recipient who prefers text messages.
struct Conversation {
    chat: Chat,
    ada: User,
    room: Uuid,
}

async fn conversation(kind: Kind, sms: &Provider) -> Conversation {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &by_text_message(sms)).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    sms.does(|_, _| Does::Answer(201, "", r#"{"sid":"SM1"}"#));
    verify(&chat, &bob, sms, "sms", NUMBER).await;
    prefer_text_messages(&chat, &bob).await;
    let room = chat.room(&ada, "direct", &[&bob]).await;
    Conversation { chat, ada, room }
}

pub async fn prefer_text_messages(chat: &Chat, user: &User) {
    let preferences = json!({"email": false, "sms": true});
    chat.rest_as(0, user)
        .put("/v1/me/notifications", preferences)
        .await
        .ok(200);
}

/// Posts an inbound message as Twilio does, signed as Twilio's page on security describes, or with a wrong signature.
async fn post_inbound_message(chat: &Chat, words: &str, signed: bool) {
    let path = "/v1/webhooks/twilio";
    let signature = {
        let mut mac = Hmac::<Sha1>::new_from_slice(b"token").expect("any key");
        let from = if signed {
            "+4915112345678"
        } else {
            "+4915112345679"
        };
        mac.update(format!("{PUBLIC_URL}{path}Body{words}From{from}").as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    };
    let answer = chat
        .http
        .post(format!("{}{path}", chat.edge(0).url()))
        .header("X-Twilio-Signature", signature)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("From=%2B4915112345678&Body={words}"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status().as_u16(), if signed { 204 } else { 403 });
}

async fn a_number_that_replies_stop_is_suppressed_until_start(kind: Kind) {
    let sms = Provider::start().await;
    let Conversation { chat, ada, room } = conversation(kind, &sms).await;
    post_inbound_message(&chat, "STOP", false).await;
    let message = say(&chat, &ada, room, "before").await;
    row(&chat, &ada, &message, is("sent")).await;
    post_inbound_message(&chat, "Stop", true).await;
    let message = say(&chat, &ada, room, "between").await;
    let told = row(&chat, &ada, &message, is("suppressed")).await;
    assert_eq!(told["reason"], "the recipient answered STOP");
    post_inbound_message(&chat, "thanks", true).await;
    post_inbound_message(&chat, "START", true).await;
    let message = say(&chat, &ada, room, "after").await;
    row(&chat, &ada, &message, is("sent")).await;
    assert_eq!(sms.asked().len(), 2);
    // A number that the provider rejects is not tried again.
    sms.does(|_, _| Does::Answer(400, "", r#"{"code":21211,"message":"Invalid 'To'"}"#));
    let message = say(&chat, &ada, room, "wrong").await;
    let told = row(&chat, &ada, &message, is("failed")).await;
    assert_eq!(
        told["attempts"][0]["answer"],
        "400 Bad Request: error 21211"
    );
    let message = say(&chat, &ada, room, "again").await;
    let told = row(&chat, &ada, &message, is("suppressed")).await;
    let reason = told["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("the provider refuses the address"),
        "{reason}"
    );
    // START does not lift this suppression.
    post_inbound_message(&chat, "START", true).await;
    let message = say(&chat, &ada, room, "still").await;
    row(&chat, &ada, &message, is("suppressed")).await;
    assert_eq!(sms.asked().len(), 3);
}

async fn a_long_message_is_cut_to_three_segments_in_any_alphabet(kind: Kind) {
    let sms = Provider::start().await;
    let Conversation { chat, ada, room } = conversation(kind, &sms).await;
    for (letter, units) in [("a", 459), ("я", 201), ("👩‍👩‍👧‍👦", 199), ("[", 458)]
    {
        sms.clear();
        let message = say(
            &chat,
            &ada,
            room,
            &letter.repeat(600.min(7500 / letter.len())),
        )
        .await;
        row(&chat, &ada, &message, is("sent")).await;
        let sent = sms.asked().pop().expect("a request").body;
        let form = format!("http://localhost/?{sent}");
        let form = reqwest::Url::parse(&form).expect("a form");
        let body = form.query_pairs().find(|(name, _)| name == "Body");
        let body = body.expect("a body").1.into_owned();
        assert_eq!(count(&body), 3, "{body}");
        let end = format!("{letter}... {PUBLIC_URL}");
        assert!(body.starts_with("Ada: ") && body.ends_with(&end), "{body}");
        let used = match letter {
            "[" => body.len() + body.matches('[').count(),
            "a" => body.len(),
            _ => body.encode_utf16().count(),
        };
        assert!((units - 2..=units + 2).contains(&used), "{letter}: {used}");
    }
}

async fn a_text_message_with_unknown_outcome_is_not_resent(kind: Kind) {
    let sms = Provider::start().await;
    let Conversation { chat, ada, room } = conversation(kind, &sms).await;
    sms.does(|before, _| match before {
        0 => Does::Answer(429, "", r#"{"code":20429}"#),
        _ => Does::Answer(500, "", "{}"),
    });
    let message = say(&chat, &ada, room, "hello").await;
    let told = row(&chat, &ada, &message, is("failed")).await;
    assert!(
        told["reason"]
            .as_str()
            .is_some_and(|r| r.starts_with("it may have been sent"))
    );
    let asked: Vec<Asked> = sms.asked();
    assert_eq!(
        asked.len(),
        2,
        "429 was certainly not sent, 500 may have been"
    );
    assert_eq!(
        asked[0].path,
        "/2010-04-01/Accounts/AC0123456789abcdef0123456789abcdef/Messages.json"
    );
    assert!(
        asked[0]
            .body
            .starts_with("To=%2B4915112345678&From=%2B15550006789&Body=Ada%3A+hello+")
    );
    assert!(asked[0].head.contains(&format!(
        "Basic {}",
        STANDARD.encode(format!("{SID}:token"))
    )));
}
