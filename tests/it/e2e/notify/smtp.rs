//! E-mail over SMTP: checked with an independent SMTP server and an independent mail parser.

use serde_json::{Value, json};

use super::{confirm, is, request_code, row, say, start};
use crate::harness::{Kind, both_ways, provider::Provider, smtp::MailServer};

both_ways!(smtp_replies_decide_delivery_retry_and_suppression);

async fn smtp_replies_decide_delivery_retry_and_suppression(kind: Kind) {
    let (mut server, nobody) = (MailServer::start().await, Provider::start().await);
    let url = format!("smtp://chat:p%40ss%3Aword@127.0.0.1:{}", server.port);
    let change = [
        ("notify.email.provider", "smtp"),
        ("notify.email.smtp_url", url.as_str()),
        ("edge.public_url", "https://chat.example.com"),
    ];
    let chat = start(kind, &nobody, &change).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);

    // Greylisting: the first attempt is deferred, and the code is delivered by a retry.
    let address = "bob@example.com";
    server.answer(address, &[451]).await;
    request_code(&chat, &bob, "email", address).await;
    let mail = server.mail().await;
    let text = mail["text"].as_str().expect("a text");
    let code = text.split(|c: char| !c.is_ascii_digit());
    let code = code.into_iter().find(|digits| digits.len() == 6);
    confirm(&chat, &bob, "email", code.expect("a code")).await;
    for name in ["list-unsubscribe", "references", "in-reply-to"] {
        assert!(mail["lines"][name].is_null(), "{name}: {mail}");
    }
    let automatic = "Auto-Submitted: auto-generated";
    assert_eq!(mail["lines"]["auto-submitted"], automatic);

    let room = chat.room(&ada, "direct", &[&bob]).await;
    server.answer(address, &[421, 451]).await;
    let message = say(&chat, &ada, room, "Grüße <b> an alle").await;
    let told = row(&chat, &ada, &message, is("sent")).await;
    let answers: Vec<&str> = told["attempts"]
        .as_array()
        .expect("attempts")
        .iter()
        .filter_map(|attempt| attempt["answer"].as_str())
        .collect();
    assert_eq!(
        answers,
        ["the server answered 421", "the server answered 451", "250"]
    );
    let mail = server.mail().await;
    assert_eq!(mail["from"], "chat@example.com");
    assert_eq!(mail["to"], json!([address]));
    assert_eq!(mail["subject"], "Ada wrote to you");
    assert!(
        mail["text"]
            .as_str()
            .expect("text")
            .contains("Grüße <b> an alle")
    );
    let html = mail["html"].as_str().expect("html");
    assert!(html.contains("Grüße &lt;b&gt; an alle"), "{html}");
    let line = |name: &str| {
        mail["lines"][name]
            .as_str()
            .unwrap_or_default()
            .replace("\r\n ", " ")
    };
    let delivery = told["delivery"].as_str().expect("an id");
    assert_eq!(
        line("message-id"),
        format!("Message-ID: <{delivery}@example.com>")
    );
    assert_eq!(line("auto-submitted"), automatic);
    let thread = line("references");
    assert!(thread.starts_with("References: <") && thread.ends_with("@example.com>"));
    assert_eq!(
        line("in-reply-to").strip_prefix("In-Reply-To"),
        thread.strip_prefix("References")
    );
    assert_eq!(line("from"), "From: Chat <chat@example.com>");
    assert!(line("content-type").starts_with("Content-Type: multipart/alternative"));
    assert_eq!(
        line("list-unsubscribe-post"),
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click"
    );
    let link = line("list-unsubscribe");
    let begin = format!("List-Unsubscribe: <https://chat.example.com/v1/unsubscribe/{delivery}/");
    assert!(link.starts_with(&begin) && link.ends_with('>'), "{link}");

    // A reply that arrives after the timeout is not taken for the reply to the next mail.
    server.answer(address, &[0]).await;
    let message = say(&chat, &ada, room, "are you there?").await;
    let told = row(&chat, &ada, &message, is("sent")).await;
    let answers = [
        &told["attempts"][0]["answer"],
        &told["attempts"][1]["answer"],
    ];
    assert_eq!(
        answers,
        ["the server did not answer in time", "250"],
        "{told}"
    );
    let mail = server.mail().await;
    let text = mail["text"].as_str().expect("text");
    assert!(text.contains("are you there?"), "{text}");
    // Another digest of the same room.
    let again = mail["lines"]["references"].as_str().unwrap_or_default();
    assert_eq!(again.replace("\r\n ", " "), thread);

    // A mailbox that the server rejects is tried once and never again.
    server.answer(address, &[550, 550]).await;
    let message = say(&chat, &ada, room, "again").await;
    let told = row(&chat, &ada, &message, is("failed")).await;
    let attempts: &Value = &told["attempts"];
    assert_eq!(attempts.as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(attempts[0]["answer"], "the server answered 550");
    let message = say(&chat, &ada, room, "still").await;
    let told = row(&chat, &ada, &message, is("suppressed")).await;
    let reason = told["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("the provider refuses the address"),
        "{reason}"
    );
}
