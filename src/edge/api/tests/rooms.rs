//! Rooms and messages.

use super::*;

#[tokio::test]
async fn a_private_room_is_not_found_by_strangers() {
    let world = world(done).await;
    let (owner, stranger) = (new_id(), new_id());
    let private = world.room(RoomKind::Private, owner, Role::Owner, false);
    let public = world.room(RoomKind::Public, owner, Role::Owner, false);
    for (path, in_public) in [
        ("", 200),
        ("/members", 403),
        ("/messages", 403),
        ("/changes", 403),
    ] {
        let (status, _) = world
            .call(
                stranger,
                Method::GET,
                &format!("/v1/rooms/{private}{path}"),
                Value::Null,
            )
            .await;
        assert_eq!(status, 404, "{path}");
        let (status, _) = world
            .call(
                stranger,
                Method::GET,
                &format!("/v1/rooms/{public}{path}"),
                Value::Null,
            )
            .await;
        assert_eq!(status, in_public, "{path}");
        let (status, _) = world
            .call(
                owner,
                Method::GET,
                &format!("/v1/rooms/{private}{path}"),
                Value::Null,
            )
            .await;
        assert_eq!(status, 200, "{path}");
    }
    for (method, path) in [
        (Method::POST, "/join"),
        (Method::POST, "/leave"),
        (Method::DELETE, ""),
        (Method::POST, "/messages"),
    ] {
        let body = json!({"body": "hello"});
        let (status, _) = world
            .call(
                stranger,
                method,
                &format!("/v1/rooms/{private}{path}"),
                body,
            )
            .await;
        assert_eq!(status, 404, "{path}");
    }
    assert!(
        world.queue.envelopes.lock().unwrap().is_empty(),
        "refused before the queue"
    );
}

#[tokio::test]
async fn parameters_are_checked() {
    let world = world(done).await;
    let user = new_id();
    let room = world.room(RoomKind::Public, user, Role::Member, false);
    for (path, status, code) in [
        ("/messages?limit=abc", 400, "malformed"),
        ("/messages?limit=201", 422, "invalid"),
        ("/messages?limit=0", 422, "invalid"),
        ("/messages?before=1&after=2", 400, "invalid"),
        ("/messages?after=121", 422, "invalid"),
        ("/changes?after=121", 409, "conflict"),
        ("/changes?after=-1", 422, "invalid"),
        ("/messages/not-an-id", 400, "malformed"),
    ] {
        let got = world
            .call(
                user,
                Method::GET,
                &format!("/v1/rooms/{room}{path}"),
                Value::Null,
            )
            .await;
        assert_eq!(
            (got.0, got.1["code"].as_str()),
            (status, Some(code)),
            "{path}"
        );
    }
    for (body, status) in [("", 422), (&*"x".repeat(16_001), 413), ("a\0b", 422)] {
        let path = format!("/v1/rooms/{room}/messages");
        let (got, problem) = world
            .call(user, Method::POST, &path, json!({"body": body}))
            .await;
        assert_eq!(
            (got, problem["errors"][0]["field"].as_str()),
            (status, Some("body"))
        );
    }
}

#[tokio::test]
async fn changes_go_on_from_a_number() {
    let world = world(done).await;
    let user = new_id();
    let room = world.room(RoomKind::Public, user, Role::Member, false);
    let get = async |query: &str| {
        let path = format!("/v1/rooms/{room}/changes{query}");
        world.call(user, Method::GET, &path, Value::Null).await.1
    };
    let page = get("?after=100&limit=15").await;
    assert_eq!(
        page["items"][0],
        json!({"event": "newMessage", "data": {"changeSeq": 101}})
    );
    assert_eq!(
        (&page["nextCursor"], &page["hasMore"]),
        (&json!(115), &json!(true))
    );
    let page = get("?after=115").await;
    assert_eq!(
        (&page["nextCursor"], &page["hasMore"]),
        (&json!(120), &json!(false))
    );
    let page = get("?after=120").await;
    assert_eq!(
        (&page["nextCursor"], &page["items"]),
        (&json!(120), &json!([]))
    );
}

fn stored(command: &Command) -> Option<Outcome> {
    let Command::Room(_, RoomCommand::Send(send)) = command else {
        return None;
    };
    if send.reply_to.is_some() {
        return Some(Outcome::Refused(Refusal::new(
            Code::Invalid,
            "replyTo: no such message",
        )));
    }
    let json = format!(
        "{{\"seq\": 7, \"metadata\": {}}}",
        send.metadata.as_ref().map_or("null", Metadata::as_json)
    );
    Some(Outcome::Done(Some(
        serde_json::value::RawValue::from_string(json).unwrap(),
    )))
}

#[tokio::test]
async fn a_message_is_accepted_or_stored() {
    let world = world(stored).await;
    let user = new_id();
    let path = format!(
        "/v1/rooms/{}/messages",
        world.room(RoomKind::Public, user, Role::Member, false)
    );
    let hello = json!({"body": "hello", "clientMsgId": "c1"});
    let (status, body) = world.call(user, Method::POST, &path, hello.clone()).await;
    assert_eq!(
        (status, &body["status"], &body["clientMsgId"]),
        (202, &json!("accepted"), &json!("c1"))
    );
    let again = world.call(user, Method::POST, &path, hello.clone()).await;
    assert_eq!(again.1["id"], body["id"]);
    let waited = format!("{path}?wait=stored");
    let (status, body) = world.call(user, Method::POST, &waited, hello).await;
    assert_eq!((status, &body["seq"]), (201, &json!(7)));
    // A refusal is returned even without `wait`.
    let reply = json!({"body": "hello", "replyTo": new_id()});
    assert_eq!(world.call(user, Method::POST, &path, reply).await.0, 422);

    // The key replaces the id, and metadata is passed on without its whitespace.
    let request = Request::builder()
        .method(Method::POST)
        .uri_str(&waited)
        .header("authorization", format!("Bearer {}", world.token(user)))
        .header("idempotency-key", "c2")
        .content_type("application/json")
        .body(r#"{"body":"hello","metadata":{"b": 1.0, "a": 1}}"#);
    let mut response = routes(world.edge.clone(), true)
        .call(request)
        .await
        .unwrap();
    let text = response.take_body().into_string().await.unwrap();
    assert_eq!(text, r#"{"seq": 7, "metadata": {"b":1.0,"a":1}}"#);
    let envelopes = world.queue.envelopes.lock().unwrap();
    let Command::Room(_, RoomCommand::Send(send)) = &envelopes.last().unwrap().command else {
        panic!("{envelopes:?}");
    };
    assert_eq!(send.client_msg_id, "c2");
}

#[tokio::test]
async fn a_muted_member_is_refused_early() {
    let world = world(stored).await;
    let user = new_id();
    let room = world.room(RoomKind::Public, user, Role::Member, true);
    let body = json!({"body": "hello"});
    let (status, _) = world
        .call(
            user,
            Method::POST,
            &format!("/v1/rooms/{room}/messages"),
            body,
        )
        .await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn sends_outlive_the_store() {
    let world = world(silent).await;
    let path = format!("/v1/rooms/{}/messages", new_id());
    let (status, body) = world
        .call(new_id(), Method::POST, &path, json!({"body": "hello"}))
        .await;
    assert_eq!((status, &body["status"]), (202, &json!("accepted")));
    assert_eq!(world.queue.envelopes.lock().unwrap().len(), 1);
    let (status, body) = world.call(new_id(), Method::GET, &path, Value::Null).await;
    assert_eq!((status, &body["code"]), (503, &json!("busy")));
}

#[tokio::test]
async fn a_repeated_room_is_the_same_room() {
    let world = world(silent).await;
    let (user, other) = (new_id(), new_id());
    let make = async |who: UserId, key: Option<&str>, body: Value| {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri_str("/v1/rooms")
            .header("authorization", format!("Bearer {}", world.token(who)))
            .content_type("application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let (response, body) = world.send(request.body(body.to_string())).await;
        (
            response.status().as_u16(),
            body["id"].as_str().map(str::to_owned),
        )
    };
    let public = || json!({"name": "town", "kind": "public"});
    let first = make(user, Some("k"), public()).await;
    assert_eq!(first.0, 202);
    assert_eq!(make(user, Some("k"), public()).await, first);
    assert_ne!(make(user, None, public()).await, first);
    assert_ne!(make(other, Some("k"), public()).await, first);

    let direct = |with: &[UserId]| json!({"kind": "direct", "members": with});
    let between = make(user, None, direct(&[other])).await;
    assert_eq!(make(other, None, direct(&[user])).await, between);
    for bad in [direct(&[]), direct(&[user]), direct(&[other, new_id()])] {
        assert_eq!(make(user, None, bad).await.0, 422);
    }
    assert_eq!(
        make(user, None, json!({"kind": "private"})).await.0,
        422,
        "a name is missing"
    );
    assert_eq!(
        make(user, None, json!({"kind": "secret", "name": "x"}))
            .await
            .0,
        400
    );
}
