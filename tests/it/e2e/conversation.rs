//! Basic messaging: send, edit, delete, react, read.

use serde_json::{Value, json};
use uuid::Uuid;

use super::people::{Pair, pair, seqs};
use crate::harness::{Chat, Kind, both_ways, deployment::uuid};

both_ways!(
    two_users_exchange_messages,
    messages_are_edited_deleted_and_reacted_to,
    read_positions_are_stored,
    a_repeated_send_stores_one_message,
    messages_are_sent_over_rest,
    a_send_refused_by_the_worker_is_reported_to_its_sender,
);

async fn two_users_exchange_messages(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;

    // Number 1 is Ada's join, number 2 is Bob's, which she receives.
    assert_eq!(adas.event("memberJoined").await["user"]["username"], "bob");

    let data = json!({
        "room": room, "body": "hello, Bob ✓", "clientMsgId": "first", "metadata": {"mood": [1, 2.50]},
    });
    let ack = adas
        .call("sendMessage", data.clone())
        .await
        .expect("it is accepted");
    assert_eq!(ack["status"], "accepted");
    assert_eq!(ack["clientMsgId"], "first");
    let id = uuid(&ack["id"]);
    assert_eq!(
        id.get_version_num(),
        8,
        "derived from room, sender and clientMsgId"
    );

    for socket in [&mut adas, &mut bobs] {
        let message = socket.event("newMessage").await;
        assert_eq!(message["id"], json!(id));
        assert_eq!(message["room"], json!(room));
        assert_eq!(message["seq"], 3);
        assert_eq!(message["changeSeq"], 3);
        assert_eq!(message["clientMsgId"], "first");
        assert_eq!(message["body"], "hello, Bob ✓");
        assert_eq!(
            message["sender"],
            json!({"id": ada.id, "username": "ada", "displayName": "Ada"})
        );
        assert_eq!(message["metadata"], json!({"mood": [1, 2.50]}));
        assert_eq!(message["reactions"], json!([]));
        let created = message["createdAt"].as_str().expect("a time");
        assert!(created.len() == 24 && created.ends_with('Z'), "{created}");
        assert!(message.get("editedAt").is_none() && message.get("deletedAt").is_none());
    }

    // Bob replies on his own edge.
    let data = json!({"room": room, "body": "hello, Ada", "clientMsgId": "first", "replyTo": id});
    let ack = bobs
        .call("sendMessage", data)
        .await
        .expect("it is accepted");
    assert_ne!(
        ack["id"],
        json!(id),
        "another sender's `first` is another message"
    );
    for socket in [&mut adas, &mut bobs] {
        let message = socket.event("newMessage").await;
        assert_eq!(
            (&message["seq"], &message["replyTo"]),
            (&json!(4), &json!(id))
        );
    }

    // Messages of one connection keep their order, however fast they are sent.
    let mut pending = Vec::new();
    for i in 0..100 {
        let data =
            json!({"room": room, "body": i.to_string(), "clientMsgId": format!("burst {i}")});
        pending.push(adas.send("sendMessage", data).await);
    }
    for pending in pending {
        pending.ack().await.expect("each is accepted");
    }
    for i in 0..100 {
        let message = bobs.event("newMessage").await;
        assert_eq!(
            (&message["body"], &message["seq"]),
            (&json!(i.to_string()), &json!(5 + i))
        );
    }
}

async fn messages_are_edited_deleted_and_reacted_to(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        bob,
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    let id = adas.say(room, "one", "helo").await;

    // Over the socket: the ack contains the changed message.
    let edit = json!({"room": room, "id": id, "body": "hello"});
    let edited = adas
        .call("editMessage", edit.clone())
        .await
        .expect("the author's own message");
    assert_eq!(
        (&edited["body"], &edited["seq"], &edited["changeSeq"]),
        (&json!("hello"), &json!(3), &json!(4))
    );
    assert!(edited["editedAt"].is_string());
    for socket in [&mut adas, &mut bobs] {
        let updated = socket.event("messageUpdated").await;
        assert_eq!(
            (&updated["id"], &updated["body"], &updated["changeSeq"]),
            (&json!(id), &json!("hello"), &json!(4))
        );
    }
    let refused = bobs.call("editMessage", edit).await.expect_err("not his");
    assert_eq!(refused.code, "forbidden");

    let react = |on: bool| json!({"room": room, "id": id, "emoji": "👍", "on": on});
    bobs.call("react", react(true))
        .await
        .expect("anyone reacts");
    let event = |seq: i64, on: bool, users: Value| {
        json!({
            "room": room, "id": id, "seq": 3, "changeSeq": seq, "emoji": "👍", "user": bob.id, "on": on,
            "count": i32::from(on), "users": users,
        })
    };
    let updated = adas.event("reactionUpdated").await;
    assert_eq!(updated, event(5, true, json!([bob.id])));
    let changed = bobs.call("react", react(false)).await;
    assert_eq!(changed.expect("and takes it back")["reactions"], json!([]));
    let updated = adas.event("reactionUpdated").await;
    assert_eq!(updated, event(6, false, json!([])));

    // Over REST.
    let rest = chat.rest_as(1, &bob);
    let path = format!("/v1/rooms/{room}/messages/{id}");
    let party = format!("{path}/reactions/%F0%9F%8E%89");
    assert_eq!(
        rest.put(&party, Value::Null).await.ok(200)["reactions"],
        json!([{"emoji": "🎉", "count": 1, "me": true, "users": [bob.id]}])
    );
    assert_eq!(adas.event("reactionUpdated").await["emoji"], "🎉");
    let shown = adas.join(room, None).await.expect("again");
    let shown = &shown["messages"][0]["reactions"];
    assert_eq!(
        (&shown[0]["me"], &shown[0]["count"]),
        (&json!(false), &json!(1))
    );
    rest.patch(&path, json!({"body": "mine now"}))
        .await
        .problem(403, "forbidden");
    rest.delete(&path).await.problem(403, "forbidden");

    let deleted = adas
        .call("deleteMessage", json!({"room": room, "id": id}))
        .await
        .expect("the author's own message");
    assert_eq!(deleted["body"], "");
    let seen = bobs.event("messageDeleted").await;
    assert_eq!(
        (&seen["id"], &seen["body"], &seen["reactions"]),
        (&json!(id), &json!(""), &json!([]))
    );
    assert!(seen["deletedAt"].is_string());
    let refused = adas
        .call(
            "editMessage",
            json!({"room": room, "id": id, "body": "back"}),
        )
        .await
        .expect_err("deleted");
    assert_eq!(refused.code, "conflict");
    let found = rest.get(&path).await.ok(200);
    assert_eq!((&found["body"], &found["seq"]), (&json!(""), &json!(3)));

    // Every number of the room belongs to one event, as a socket receives it.
    let changes = rest
        .get(&format!("/v1/rooms/{room}/changes?after=0"))
        .await
        .ok(200);
    let told: Vec<(i64, &str)> = changes["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| {
            (
                item["data"]["changeSeq"].as_i64().expect("a number"),
                item["event"].as_str().expect("a name"),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (1, "memberJoined"),
            (2, "memberJoined"),
            (3, "newMessage"),
            (4, "messageUpdated"),
            // The reactions of a deleted message are not shown.
            (5, "messageUpdated"),
            (6, "messageUpdated"),
            (7, "messageUpdated"),
            (8, "messageDeleted"),
        ]
    );
}

async fn read_positions_are_stored(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        bob,
        room,
        adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    for i in 0..3 {
        adas.say(room, &format!("{i}"), "x").await;
    }
    for _ in 0..3 {
        bobs.event("newMessage").await;
    }
    let joined = bobs.join(room, None).await.expect("again");
    assert_eq!((&joined["unread"], &joined["seq"]), (&json!(3), &json!(5)));
    bobs.call("markRead", json!({"room": room, "seq": 4}))
        .await
        .expect("a number he has seen");
    assert_eq!(bobs.join(room, None).await.expect("again")["unread"], 1);
    // A read position never moves back.
    bobs.call("markRead", json!({"room": room, "seq": 3}))
        .await
        .expect("no harm");
    let rest = chat.rest_as(0, &bob);
    let path = format!("/v1/rooms/{room}");
    assert_eq!(rest.get(&path).await.ok(200)["unread"], 1);
    let member = rest
        .put(&format!("{path}/read"), json!({"seq": 5}))
        .await
        .ok(200);
    assert_eq!(member["readSeq"], 5);
    assert_eq!(rest.get(&path).await.ok(200)["unread"], 0);
    let refused = bobs
        .call("markRead", json!({"room": room, "seq": 6}))
        .await
        .expect_err("the future");
    assert_eq!(refused.code, "invalid");
}

async fn a_repeated_send_stores_one_message(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    // On both edges at once, and over REST.
    let other = chat.connect(1, &ada).await;
    let rest = chat.rest_as(1, &ada);
    let body = json!({"body": "once", "clientMsgId": "same"});
    let path = format!("/v1/rooms/{room}/messages");
    let (first, second, third) = tokio::join!(
        adas.say(room, "same", "once"),
        other.say(room, "same", "once"),
        rest.post(&path, body.clone()),
    );
    let third = third.ok(202);
    assert_eq!(first, second);
    assert_eq!(json!(first), third["id"]);
    // A later repetition returns the first message.
    let stored = rest
        .post(&format!("{path}?wait=stored"), body)
        .await
        .ok(201);
    assert_eq!(
        (&stored["id"], &stored["seq"], &stored["body"]),
        (&json!(first), &json!(3), &json!("once"))
    );

    adas.say(room, "next", "the next one").await;
    for socket in [&mut adas, &mut bobs] {
        assert_eq!(socket.event("newMessage").await["seq"], 3);
        let next = socket.event("newMessage").await;
        assert_eq!(
            (&next["body"], &next["seq"]),
            (&json!("the next one"), &json!(4))
        );
        assert_eq!(socket.events("newMessage").len(), 2);
    }
    let history = rest.get(&path).await.ok(200);
    assert_eq!(seqs(&history["items"]), [3, 4]);
}

async fn messages_are_sent_over_rest(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        mut bobs,
        ..
    } = pair(&chat).await;
    let rest = chat.rest_as(0, &ada);
    let path = format!("/v1/rooms/{room}/messages");

    let accepted = rest.post(&path, json!({"body": "accepted"})).await.ok(202);
    assert_eq!(accepted["status"], "accepted");
    assert!(
        !accepted["clientMsgId"]
            .as_str()
            .expect("one is made up")
            .is_empty()
    );
    let told = bobs.event("newMessage").await;
    assert_eq!(
        (&told["id"], &told["clientMsgId"]),
        (&accepted["id"], &accepted["clientMsgId"])
    );

    let stored = rest
        .post(&format!("{path}?wait=stored"), json!({"body": "stored"}))
        .await
        .ok(201);
    assert_eq!(
        (&stored["seq"], &stored["body"]),
        (&json!(4), &json!("stored"))
    );
    assert_eq!(stored["sender"]["username"], "ada");
    assert_eq!(bobs.event("newMessage").await["id"], stored["id"]);
}

async fn a_send_refused_by_the_worker_is_reported_to_its_sender(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    // Only the worker can detect that the replied-to message does not exist.
    let data =
        json!({"room": room, "body": "what?", "clientMsgId": "answer", "replyTo": Uuid::nil()});
    adas.call("sendMessage", data)
        .await
        .expect("the queue holds it");
    let failed = adas.event("sendFailed").await;
    assert_eq!(
        (&failed["clientMsgId"], &failed["code"], &failed["room"]),
        (&json!("answer"), &json!("invalid"), &json!(room))
    );
    assert!(!failed["message"].as_str().unwrap_or_default().is_empty());
    adas.say(room, "next", "next").await;
    assert_eq!(
        bobs.event("newMessage").await["seq"],
        3,
        "a refused send takes no number"
    );
}
