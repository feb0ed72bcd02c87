//! A `clientMsgId` that is sent again: with the same content it is the same message, with another one a conflict.

use serde_json::{Value, json};
use uuid::Uuid;

use super::people::{Pair, pair};
use crate::harness::{Chat, Kind, both_ways, deployment::uuid, engineio::Raw, eventually};

both_ways!(
    another_content_is_a_conflict_on_sockets,
    another_content_is_a_conflict_over_rest,
    the_first_of_two_contents_sent_at_once_counts,
    a_refused_content_does_not_count,
);

/// Sends that differ from the first one in each of the compared fields.
fn others(room: Uuid, reply: Uuid) -> [Value; 4] {
    let send = |body: &str| json!({"room": room, "body": body, "clientMsgId": "same"});
    let mut others = [send("other"), send("one"), send("one"), send("")];
    others[1]["replyTo"] = json!(reply);
    others[2]["metadata"] = json!({});
    others[3]["body"] = json!("one ");
    others
}

async fn another_content_is_a_conflict_on_sockets(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    let reply = adas.say(room, "first", "hello").await;
    let id = adas.say(room, "same", "one").await;
    bobs.event("newMessage").await;
    assert_eq!(bobs.event("newMessage").await["id"], json!(id));

    // On the same edge, the answer is the conflict, on both transports.
    let mut io = Raw::connected(&chat, &ada).await;
    io.say(&format!("420[\"joinRoom\",{}]", json!({"room": room})))
        .await;
    io.until("430[{\"ok\":true").await;
    for (i, other) in others(room, reply).into_iter().enumerate() {
        let refused = adas.call("sendMessage", other.clone()).await;
        let refused = refused.expect_err("another content");
        assert_eq!((refused.code.as_str(), refused.id), ("conflict", Some(id)));
        io.say(&format!("42{}[\"sendMessage\",{other}]", i + 1))
            .await;
        let ack = io.until(&format!("43{}[", i + 1)).await;
        assert!(
            ack.contains("\"conflict\"") && ack.contains(&id.to_string()),
            "{ack}"
        );
    }
    assert_eq!(adas.say(room, "same", "one").await, id);

    // An edge that does not have the first send accepts the second one, and the worker refuses it.
    let mut elsewhere = chat.connect(1, &ada).await;
    elsewhere.join(room, None).await.expect("a member");
    let other = others(room, reply)[0].clone();
    match elsewhere.call("sendMessage", other).await {
        Err(refused) => {
            assert_eq!((refused.code.as_str(), refused.id), ("conflict", Some(id)));
            assert_eq!(kind, Kind::Standalone);
        }
        Ok(ack) => {
            assert_eq!(ack["id"], json!(id));
            assert_eq!(kind, Kind::Cluster);
            let failed = elsewhere.event("sendFailed").await;
            assert_eq!(
                (
                    &failed["code"],
                    &failed["clientMsgId"],
                    &failed["id"],
                    &failed["room"]
                ),
                (&json!("conflict"), &json!("same"), &json!(id), &json!(room))
            );
        }
    }

    // The first content of an edited message is not kept, so any content is a repetition.
    let edit = json!({"room": room, "id": id, "body": "edited"});
    adas.call("editMessage", edit).await.expect("her own");
    let repeated = json!({"room": room, "body": "something else", "clientMsgId": "same"});
    let ack = adas.call("sendMessage", repeated).await.expect("a repeat");
    assert_eq!(ack["id"], json!(id));
    adas.say(room, "last", "end").await;
    let seqs: Vec<Value> = eventually_last(&mut bobs).await;
    assert_eq!(seqs, [json!("last")], "nothing else was stored");
    assert_eq!(
        elsewhere.events("sendFailed").len(),
        usize::from(kind == Kind::Cluster)
    );
    assert_eq!(adas.events("sendFailed"), [] as [Value; 0]);
}

/// The `clientMsgId`s of the new messages up to the last.
async fn eventually_last(socket: &mut crate::harness::Socket) -> Vec<Value> {
    let mut all = Vec::new();
    loop {
        let message = socket.event("newMessage").await;
        all.push(message["clientMsgId"].clone());
        if message["clientMsgId"] == "last" {
            return all;
        }
    }
}

async fn another_content_is_a_conflict_over_rest(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    let reply = adas.say(room, "first", "hello").await;
    let path = format!("/v1/rooms/{room}/messages");
    let rest = chat.rest_as(0, &ada);
    let body = json!({"body": "one", "clientMsgId": "same"});
    let first = rest
        .post(&format!("{path}?wait=stored"), body.clone())
        .await
        .ok(201);
    let id = first["id"].clone();
    for edge in 0..2 {
        let rest = chat.rest_as(edge, &ada);
        for mut other in others(room, reply) {
            other.as_object_mut().expect("an object").remove("room");
            let refused = rest
                .post(&format!("{path}?wait=stored"), other.clone())
                .await;
            assert_eq!(refused.problem(409, "conflict")["id"], id);
            if edge == 0 {
                let refused = rest.post(&path, other).await;
                assert_eq!(refused.problem(409, "conflict")["id"], id);
            }
        }
        let again = rest
            .post(&format!("{path}?wait=stored"), body.clone())
            .await
            .ok(201);
        assert_eq!((&again["id"], &again["seq"]), (&id, &first["seq"]));
        assert_eq!(rest.post(&path, body.clone()).await.ok(202)["id"], id);
    }
    // A message that was sent over a socket, and one that is deleted.
    let id = adas.say(room, "socket", "one").await;
    let other = json!({"body": "two", "clientMsgId": "socket"});
    let refused = chat
        .rest_as(1, &ada)
        .post(&format!("{path}?wait=stored"), other.clone())
        .await;
    assert_eq!(refused.problem(409, "conflict")["id"], json!(id));
    rest.delete(&format!("{path}/{id}")).await.ok(200);
    let again = rest
        .post(&format!("{path}?wait=stored"), other)
        .await
        .ok(201);
    assert_eq!((uuid(&again["id"]), &again["body"]), (id, &json!("")));

    adas.say(room, "last", "end").await;
    let all = eventually_last(&mut bobs).await;
    assert_eq!(all, ["first", "same", "socket", "last"].map(Value::from));
}

async fn the_first_of_two_contents_sent_at_once_counts(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    let other = chat.connect(1, &ada).await;
    other.join(room, None).await.expect("a member");
    for round in 0..10 {
        let name = format!("same {round}");
        let send = |body: &str| json!({"room": room, "body": body, "clientMsgId": name});
        // Both on one socket, and one on another edge.
        let (a, b) = (
            adas.send("sendMessage", send("a")).await,
            adas.send("sendMessage", send("b")).await,
        );
        let id = uuid(&a.ack().await.expect("the first")["id"]);
        let refused = b.ack().await.expect_err("the second");
        assert_eq!((refused.code.as_str(), refused.id), ("conflict", Some(id)));
        let third = other.call("sendMessage", send("c")).await;
        let stored = bobs.event("newMessage").await;
        assert_eq!(stored["id"], json!(id));
        if kind == Kind::Standalone {
            assert_eq!(third.expect_err("the third").code, "conflict");
            continue;
        }
        // Of the two that were accepted, one is stored and the other one refused.
        third.expect("the other edge does not have the first send");
        let loser = if stored["body"] == "a" { &other } else { &adas };
        loser
            .until("a refusal", |received| {
                let mut failed = received
                    .events
                    .iter()
                    .filter(|event| event.name == "sendFailed");
                failed
                    .any(|event| event.data()["clientMsgId"] == json!(name))
                    .then_some(())
            })
            .await;
    }
    let failed = adas.events("sendFailed").len() + other.events("sendFailed").len();
    assert_eq!(failed, if kind == Kind::Cluster { 10 } else { 0 });
}

/// An edge does not keep a send that the worker refuses: neither one whose `replyTo` is not in the room, nor one with
/// other content that it accepted because it did not have the first send.
async fn a_refused_content_does_not_count(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    let wrong =
        json!({"room": room, "body": "a", "clientMsgId": "wrong", "replyTo": Uuid::new_v4()});
    adas.call("sendMessage", wrong).await.expect("accepted");
    assert_eq!(adas.event("sendFailed").await["code"], "invalid");
    let id = adas.say(room, "wrong", "a").await;
    assert_eq!(bobs.event("newMessage").await["id"], json!(id));

    let first = adas.say(room, "first", "one").await;
    assert_eq!(bobs.event("newMessage").await["id"], json!(first));
    let (rest, path) = (chat.rest_as(1, &ada), format!("/v1/rooms/{room}/messages"));
    let other = json!({"body": "two", "clientMsgId": "first"});
    let answer = rest.post(&path, other).await;
    let expected = if kind == Kind::Standalone { 409 } else { 202 };
    assert_eq!(answer.status, expected, "{}", answer.text);
    let one = json!({"body": "one", "clientMsgId": "first"});
    eventually("the worker's refusal", || async {
        (rest.post(&path, one.clone()).await.status == 202).then_some(())
    })
    .await;
    adas.say(room, "last", "end").await;
    assert_eq!(eventually_last(&mut bobs).await, [json!("last")]);
}
