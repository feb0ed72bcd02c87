//! The headers of mails over SendGrid, and what they may contain.

use serde_json::{Value, json};

use super::{confirm, is, request_code, row, say, start, verify};
use crate::harness::{Kind, both_ways, eventually, provider::Provider};

both_ways!(digests_of_a_room_are_one_thread_per_recipient);

async fn digests_of_a_room_are_one_thread_per_recipient(kind: Kind) {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &[]).await;
    let ada = chat.register("ada").await;
    let (bob, eve) = (chat.register("bob").await, chat.register("eve").await);

    // The mail with a code belongs to no thread.
    request_code(&chat, &bob, "email", "bob@example.com").await;
    let code = eventually("the mail with the code", async || mail.asked().pop()).await;
    let headers = code.json()["headers"].clone();
    let id = format!("<{}@example.com>", code.notification());
    assert_eq!(
        headers,
        json!({"Auto-Submitted": "auto-generated", "Message-ID": id})
    );
    let text = code.text();
    let mut digits = text.split(|c: char| !c.is_ascii_digit());
    let digits = digits.find(|digits| digits.len() == 6).expect("a code");
    confirm(&chat, &bob, "email", digits).await;
    verify(&chat, &eve, &mail, "email", "eve@example.com").await;

    let one = chat.room(&ada, "public", &[&bob, &eve]).await;
    let two = chat.room(&ada, "public", &[&bob]).await;
    let mut digests = Vec::new();
    for (room, body) in [
        (one, "@bob first"),
        (one, "@bob second \u{202E}\u{7}x\u{2066}\u{200F}"),
        (one, "@eve third"),
        (two, "@bob fourth"),
    ] {
        let message = say(&chat, &ada, room, body).await;
        row(&chat, &ada, &message, is("sent")).await;
        let sent = mail.asked();
        assert_eq!(sent.len(), digests.len() + 1, "{body}");
        digests.push(sent[digests.len()].json());
    }
    let header = |digest: &Value, name: &str| digest["headers"][name].as_str().map(str::to_owned);
    let threads: Vec<_> = digests
        .iter()
        .map(|digest| header(digest, "References"))
        .collect();
    assert!(
        threads[0]
            .as_ref()
            .is_some_and(|root| root.ends_with("@example.com>"))
    );
    assert_eq!(threads[0], threads[1], "the same room and recipient");
    assert_ne!(threads[0], threads[2], "another recipient");
    assert_ne!(threads[0], threads[3], "another room");
    let ids: std::collections::BTreeSet<_> = digests
        .iter()
        .map(|digest| header(digest, "Message-ID"))
        .collect();
    assert_eq!(ids.len(), digests.len());
    for (digest, thread) in digests.iter().zip(&threads) {
        assert_eq!(header(digest, "In-Reply-To"), *thread);
        assert_eq!(
            header(digest, "Auto-Submitted").as_deref(),
            Some("auto-generated")
        );
        assert!(header(digest, "List-Unsubscribe").is_some());
    }
    for part in &digests[1]["content"].as_array().expect("parts")[..] {
        let text = part["value"].as_str().expect("text");
        let odd = |c: char| (c.is_control() && c != '\n') || "\u{202E}\u{2066}\u{200F}".contains(c);
        assert!(
            text.contains("second  x") && !text.contains(odd),
            "{text:?}"
        );
    }
}
