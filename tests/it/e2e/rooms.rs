//! Membership: joining, leaving, roles, and which events members and others receive.

use std::time::Duration;

use serde_json::{Value, json};

use super::people::{Pair, pair, seqs};
use crate::harness::{Chat, Kind, both_ways};

both_ways!(
    a_member_who_leaves_receives_no_more_events,
    members_join_leave_and_change_roles,
    a_private_room_is_hidden_from_non_members,
    a_removed_member_receives_no_events_after_one_second,
    a_direct_room_exists_once_per_pair,
);

async fn a_member_who_leaves_receives_no_more_events(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    adas.say(room, "1", "one").await;
    bobs.event("newMessage").await;
    let left = bobs
        .call("leaveRoom", json!({"room": room}))
        .await
        .expect("leaving is easy");
    assert_eq!(left["room"], json!(room));
    adas.say(room, "2", "two").await;
    adas.event("newMessage").await;
    adas.event("newMessage").await;
    // He is still a member: a join recovers what he missed, and nothing was delivered before it.
    let joined = bobs.join(room, Some(3)).await.expect("back");
    assert_eq!(seqs(&joined["messages"]), [4]);
    assert_eq!(bobs.events("newMessage").len(), 1);
}

async fn members_join_leave_and_change_roles(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        bob,
        room,
        mut adas,
        ..
    } = pair(&chat).await;
    let bobs = chat.rest_as(1, &bob);
    let path = format!("/v1/rooms/{room}");
    assert_eq!(
        adas.event("memberJoined").await["user"]["id"],
        json!(bob.id)
    );

    bobs.post(&format!("{path}/leave"), json!({})).await.ok(204);
    let left = adas.event("memberLeft").await;
    assert_eq!(
        (
            &left["user"]["id"],
            &left["reason"],
            &left["by"],
            &left["changeSeq"]
        ),
        (&json!(bob.id), &json!("left"), &json!(bob.id), &json!(3))
    );
    bobs.get(&format!("{path}/messages"))
        .await
        .problem(403, "forbidden");

    let member = bobs.post(&format!("{path}/join"), json!({})).await.ok(200);
    assert_eq!(member["role"], "member");
    assert_eq!(adas.event("memberJoined").await["changeSeq"], 4);

    // Roles and room settings.
    let owner = chat.rest_as(0, &ada);
    let admin = owner
        .put(
            &format!("{path}/members/{}", bob.id),
            json!({"role": "admin"}),
        )
        .await
        .ok(200);
    assert_eq!(admin["role"], "admin");
    let updated = adas.event("roomUpdated").await;
    assert_eq!(
        (&updated["member"]["user"]["id"], &updated["member"]["role"]),
        (&json!(bob.id), &json!("admin"))
    );
    bobs.patch(&path, json!({"name": "renamed"})).await.ok(200);
    assert_eq!(adas.event("roomUpdated").await["name"], "renamed");
    bobs.delete(&path).await.problem(403, "forbidden");

    let members = owner.get(&format!("{path}/members")).await.ok(200);
    let mut names: Vec<&str> = members["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|member| member["user"]["username"].as_str().expect("a name"))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["ada", "bob"]);

    owner.delete(&path).await.ok(204);
    assert_eq!(adas.event("roomUpdated").await["deleted"], true);
    bobs.get(&path).await.problem(404, "not_found");
}

async fn a_private_room_is_hidden_from_non_members(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, bob, eve) = tokio::join!(
        chat.register("ada"),
        chat.register("bob"),
        chat.register("eve")
    );
    let room = chat.room(&ada, "private", &[&bob]).await;
    let bobs = chat.connect(1, &bob).await;
    bobs.join(room, None).await.expect("he was made a member");
    let id = bobs.say(room, "1", "between us").await;

    // To a stranger the room does not exist, over REST and over sockets.
    let rest = chat.rest_as(0, &eve);
    let path = format!("/v1/rooms/{room}");
    for at in [
        "",
        "/members",
        "/messages",
        "/changes",
        &format!("/messages/{id}"),
    ] {
        rest.get(&format!("{path}{at}"))
            .await
            .problem(404, "not_found");
    }
    rest.post(&format!("{path}/join"), json!({}))
        .await
        .problem(404, "not_found");
    rest.post(&format!("{path}/messages"), json!({"body": "let me in"}))
        .await
        .problem(404, "not_found");
    rest.put(
        &format!("{path}/members/{}", eve.id),
        json!({"role": "admin"}),
    )
    .await
    .problem(404, "not_found");
    rest.patch(&format!("{path}/messages/{id}"), json!({"body": "x"}))
        .await
        .problem(404, "not_found");
    rest.put(&format!("{path}/messages/{id}/reactions/x"), Value::Null)
        .await
        .problem(404, "not_found");
    rest.put(&format!("{path}/read"), json!({"seq": 1}))
        .await
        .problem(404, "not_found");
    rest.delete(&path).await.problem(404, "not_found");

    let eves = chat.connect(0, &eve).await;
    for (event, data) in [
        ("joinRoom", json!({"room": room})),
        (
            "sendMessage",
            json!({"room": room, "body": "x", "clientMsgId": "1"}),
        ),
        ("editMessage", json!({"room": room, "id": id, "body": "x"})),
        ("deleteMessage", json!({"room": room, "id": id})),
        ("react", json!({"room": room, "id": id, "emoji": "x"})),
        ("markRead", json!({"room": room, "seq": 1})),
    ] {
        let refused = eves.call(event, data).await.expect_err(event);
        assert_eq!(refused.code, "not_found", "{event}");
    }
    let mine = rest.get("/v1/rooms").await.ok(200);
    assert_eq!(mine["items"], json!([]));
    let public = rest.get("/v1/rooms?public=true").await.ok(200);
    assert_eq!(public["items"], json!([]));
}

async fn a_removed_member_receives_no_events_after_one_second(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        bob,
        room,
        mut adas,
        mut bobs,
    } = pair(&chat).await;
    // Bob has a socket on each edge.
    let mut other = chat.connect(0, &bob).await;
    other.join(room, None).await.expect("a member");

    let path = format!("/v1/rooms/{room}/members/{}", bob.id);
    let removed = tokio::time::Instant::now();
    chat.rest_as(0, &ada).delete(&path).await.ok(204);
    for socket in [&mut bobs, &mut other] {
        let left = socket.event("memberLeft").await;
        assert_eq!(
            (&left["user"]["id"], &left["reason"]),
            (&json!(bob.id), &json!("removed"))
        );
    }
    // The deadline includes the request, so that a slow machine makes the test stricter.
    assert!(
        removed.elapsed() < Duration::from_secs(1),
        "it took {:?}",
        removed.elapsed()
    );

    adas.say(room, "1", "without Bob").await;
    adas.event("newMessage").await;
    for socket in [&bobs, &other] {
        let data = json!({"room": room, "body": "still here?", "clientMsgId": "1"});
        assert_eq!(
            socket
                .call("sendMessage", data)
                .await
                .expect_err("removed")
                .code,
            "forbidden"
        );
        assert!(socket.events("newMessage").is_empty());
    }
    // A banned user cannot rejoin, not even a public room.
    let ban = format!("/v1/rooms/{room}/bans/{}", bob.id);
    chat.rest_as(1, &ada).put(&ban, json!({})).await.ok(204);
    assert_eq!(
        bobs.join(room, None).await.expect_err("banned").code,
        "forbidden"
    );
    chat.rest_as(1, &ada).delete(&ban).await.ok(204);
    bobs.join(room, None).await.expect("the ban is lifted");
}

async fn a_direct_room_exists_once_per_pair(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let (with_bob, with_ada) = ([&bob], [&ada]);
    let (hers, his) = tokio::join!(
        chat.room(&ada, "direct", &with_bob),
        chat.room(&bob, "direct", &with_ada)
    );
    assert_eq!(hers, his);
    let again = chat.room(&bob, "direct", &[&ada]).await;
    assert_eq!(hers, again);
    let members = chat
        .rest_as(1, &bob)
        .get(&format!("/v1/rooms/{his}/members"))
        .await
        .ok(200);
    assert_eq!(members["items"].as_array().map(Vec::len), Some(2));

    let (adas, mut bobs) = (chat.connect(0, &ada).await, chat.connect(1, &bob).await);
    adas.join(hers, None).await.expect("hers");
    bobs.join(his, None).await.expect("his");
    adas.say(hers, "1", "psst").await;
    assert_eq!(bobs.event("newMessage").await["seq"], 3);
    // She leaves and receives no more events; she is a member again as soon as one of the two requests the room.
    let (leave, her) = (format!("/v1/rooms/{hers}/leave"), chat.rest_as(0, &ada));
    for asks in [&ada, &bob] {
        her.post(&leave, json!({})).await.ok(204);
        her.get(&format!("/v1/rooms/{hers}/messages"))
            .await
            .problem(404, "not_found");
        let other = if asks.id == ada.id { &bob } else { &ada };
        assert_eq!(chat.room(asks, "direct", &[other]).await, hers);
        her.get(&format!("/v1/rooms/{hers}/messages")).await.ok(200);
    }
}
