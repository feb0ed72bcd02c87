//! Mentions that are added by an edit.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{is, row, say, start, verify};
use crate::harness::{Chat, Kind, User, both_ways, eventually, provider::Provider};

both_ways!(a_mention_added_by_an_edit_notifies_once);

async fn edit(chat: &Chat, user: &User, room: Uuid, message: &str, body: &str) {
    let path = format!("/v1/rooms/{room}/messages/{message}");
    let rest = chat.rest_as(0, user);
    rest.patch(&path, json!({"body": body})).await.ok(200);
}

async fn log(chat: &Chat, user: &User, message: &str) -> Vec<Value> {
    let path = format!("/v1/messages/{message}/notifications");
    let page = chat.rest_as(0, user).get(&path).await.ok(200);
    page["items"].as_array().expect("items").clone()
}

async fn a_mention_added_by_an_edit_notifies_once(kind: Kind) {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &[]).await;
    let ada = chat.register("ada").await;
    let (bob, eve) = (chat.register("bob").await, chat.register("eve").await);
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    verify(&chat, &eve, &mail, "email", "eve@example.com").await;
    let room = chat.room(&ada, "public", &[&bob, &eve]).await;

    // `first` mentions nobody. The delivery of a later message shows that `notify.delay` has passed.
    let first = say(&chat, &ada, room, "the meeting is at ten").await;
    let clock = say(&chat, &ada, room, "@eve: hello").await;
    row(&chat, &ada, &clock, is("sent")).await;
    assert_eq!(log(&chat, &ada, &first).await, [] as [Value; 0]);
    assert_eq!(mail.count(), 1);

    edit(&chat, &ada, room, &first, "@bob, the meeting is at ten").await;
    let told = row(&chat, &ada, &first, is("sent")).await;
    assert_eq!(
        (&told["user"], &told["cause"]),
        (&json!(bob.id), &json!("mention"))
    );
    let text = mail.find("bob@example.com", |asked| Some(asked.text()));
    let text = text.expect("a mail to bob");
    assert!(text.contains("@bob, the meeting is at ten"), "{text}");

    // Other edits, and mentions of users who were notified, send no notification; of two mentions, the new one does.
    edit(&chat, &ada, room, &first, "the meeting is at nine").await;
    edit(&chat, &ada, room, &first, "@bob, the meeting is at nine").await;
    edit(
        &chat,
        &ada,
        room,
        &first,
        "@bob and @eve, the meeting is at nine",
    )
    .await;
    let both = eventually("both were notified", async || {
        let log = log(&chat, &ada, &first).await;
        let sent = log.iter().filter(|row| row["state"] == "sent").count();
        (sent == 2).then_some(log)
    });
    let both = both.await;
    assert_eq!(both.len(), 2, "{both:?}");
    // The delivery of a later message shows that the tasks of the edits are done.
    let clock = say(&chat, &ada, room, "@eve: bye").await;
    row(&chat, &ada, &clock, is("sent")).await;
    let to = |address: &str| {
        let asked = mail.asked();
        asked.iter().filter(|asked| asked.is_to(address)).count()
    };
    assert_eq!(to("bob@example.com"), 1);
    assert_eq!(log(&chat, &ada, &first).await.len(), 2);

    // A user who has read the message is not notified of its edit.
    let read = say(&chat, &ada, room, "one more").await;
    let seen = chat
        .rest_as(0, &bob)
        .get(&format!("/v1/rooms/{room}"))
        .await;
    let seq = seen.ok(200)["seq"].clone();
    let mark = format!("/v1/rooms/{room}/read");
    let marked = chat.rest_as(0, &bob).put(&mark, json!({"seq": seq})).await;
    marked.ok(200);
    edit(&chat, &ada, room, &read, "one more, @bob").await;
    let told = row(&chat, &ada, &read, is("cancelled")).await;
    assert_eq!(told["reason"], "read before the notification was due");
    assert_eq!(to("bob@example.com"), 1);
}
