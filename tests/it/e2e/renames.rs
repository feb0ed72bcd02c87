//! New names of users, and changed rooms, on open sockets.

use serde_json::json;

use crate::{
    e2e::{
        people::{Pair, pair, write_rows},
        socketio::WEBSOCKET,
    },
    harness::{Chat, Kind, both_ways, deployment::uuid, node::Clients},
};

both_ways!(
    a_rename_reaches_open_sockets_once,
    a_changed_room_reaches_open_sockets,
    a_rename_of_a_user_with_many_rooms_arrives_once,
);

async fn a_rename_reaches_open_sockets_once(kind: Kind) {
    let (chat, clients) = (Chat::start(kind).await, Clients::start());
    let Pair {
        ada,
        bob,
        room,
        mut adas,
        mut bobs,
    } = pair(&chat).await;
    let eve = chat.register("eve").await;
    // A second room of both, and one of Bob and Eve.
    let second = chat.room(&ada, "private", &[&bob]).await;
    let other = chat.room(&eve, "public", &[]).await;
    for (socket, room) in [(&adas, second), (&bobs, second), (&bobs, other)] {
        socket.join(room, None).await.expect("joined");
    }
    let mut stock = clients
        .connect("bob", chat.edge(0).url(), &bob, WEBSOCKET)
        .await;
    stock.join(second, None).await;
    let (mut idle, eves, left) = (
        chat.connect(1, &ada).await,
        chat.connect(1, &eve).await,
        chat.connect(0, &bob).await,
    );
    eves.join(other, None).await.expect("joined");
    left.join(room, None).await.expect("joined");
    left.call("leaveRoom", json!({"room": room}))
        .await
        .expect("left");
    adas.say(room, "before", "hello").await;
    bobs.event("newMessage").await;

    let rest = chat.rest_as(1, &ada);
    rest.patch("/v1/me", json!({"displayName": "Countess"}))
        .await
        .ok(200);
    let user = json!({"id": ada.id, "username": "ada", "displayName": "Countess"});
    let updated = json!({ "user": user });
    for socket in [&mut adas, &mut bobs, &mut idle] {
        assert_eq!(socket.event("userUpdated").await, updated);
    }
    assert_eq!(stock.event("userUpdated").await, updated);
    // Messages carry the new name at once, also those from before.
    let joined = left.join(room, None).await.expect("joined");
    assert_eq!(joined["messages"][0]["sender"], user);

    // Other changes and the same name are not announced; the next name is.
    rest.patch("/v1/me", json!({"displayName": "Countess"}))
        .await
        .ok(200);
    rest.patch("/v1/me", json!({"email": "ada@example.org"}))
        .await
        .ok(200);
    // Fields that cannot be changed are refused, with their name.
    for field in ["password", "username"] {
        let refused = rest.patch("/v1/me", json!({ field: "another one" })).await;
        assert!([400, 422].contains(&refused.status), "{refused:?}");
        assert!(refused.text.contains(field), "{refused:?}");
    }
    rest.patch("/v1/me", json!({"displayName": "Lovelace"}))
        .await
        .ok(200);
    let next = json!({"id": ada.id, "username": "ada", "displayName": "Lovelace"});
    let expected = [updated, json!({ "user": next })];
    for socket in [&mut adas, &mut bobs, &mut idle] {
        socket.event("userUpdated").await;
        assert_eq!(socket.events("userUpdated"), expected);
    }
    stock.event("userUpdated").await;
    assert_eq!(stock.events("userUpdated"), expected);
    // Eve shares no room with Ada.
    eves.settle().await;
    assert!(eves.events("userUpdated").is_empty());
}

async fn a_changed_room_reaches_open_sockets(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    let rest = chat.rest_as(0, &ada);
    let path = format!("/v1/rooms/{room}");
    rest.patch(&path, json!({"name": "renamed"})).await.ok(200);
    for socket in [&mut adas, &mut bobs] {
        let updated = socket.event("roomUpdated").await;
        assert_eq!(
            (&updated["room"], &updated["name"], &updated["kind"]),
            (&json!(room), &json!("renamed"), &json!("public"))
        );
        assert_eq!(updated["deleted"], json!(null));
    }
    rest.delete(&path).await.ok(204);
    for socket in [&mut adas, &mut bobs] {
        assert_eq!(socket.event("roomUpdated").await["deleted"], true);
    }
}

/// More rooms than one notice has.
async fn a_rename_of_a_user_with_many_rooms_arrives_once(kind: Kind) {
    const ROOMS: u32 = 2500;
    let chat = Chat::start(kind).await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let (ids, id, now) = match kind {
        Kind::Cluster => ("gen_random_uuid()", "'", "now()"),
        Kind::Standalone => ("randomblob(16)", "", "1"),
    };
    let of = |user: &crate::harness::User| match kind {
        Kind::Cluster => format!("{id}{}{id}", user.id),
        Kind::Standalone => format!("x'{}'", user.id.simple()),
    };
    let (adas, bobs) = (of(&ada), of(&bob));
    write_rows(
        &chat,
        &[
            format!(
                "INSERT INTO rooms (id, kind, name, head, created_by, created_at) \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROOMS}) \
                 SELECT {ids}, 'private', 'r', 0, {adas}, {now} FROM n"
            ),
            format!(
                "INSERT INTO members (room, user_id, role, joined_at, read_seq) \
                 SELECT id, {adas}, 'owner', {now}, 0 FROM rooms"
            ),
            // In the first and the last notice.
            format!(
                "INSERT INTO members (room, user_id, role, joined_at, read_seq) \
                 SELECT id, {bobs}, 'member', {now}, 0 FROM rooms \
                 WHERE id IN (SELECT * FROM (SELECT id FROM rooms ORDER BY id LIMIT 1) AS a \
                     UNION ALL SELECT * FROM (SELECT id FROM rooms ORDER BY id DESC LIMIT 1) AS b)"
            ),
        ],
    )
    .await;
    let rooms = chat.rest_as(0, &bob).get("/v1/rooms").await.ok(200);
    let rooms: Vec<_> = rooms["items"].as_array().expect("a list").clone();
    assert_eq!(rooms.len(), 2);
    let (mut both, mut last) = (chat.connect(0, &bob).await, chat.connect(1, &bob).await);
    for room in &rooms {
        both.join(uuid(&room["id"]), None).await.expect("joined");
    }
    let end = rooms.iter().map(|room| uuid(&room["id"])).max();
    last.join(end.expect("a room"), None).await.expect("joined");
    for name in ["Countess", "Lovelace"] {
        let patch = json!({"displayName": name});
        chat.rest_as(0, &ada).patch("/v1/me", patch).await.ok(200);
        for socket in [&mut both, &mut last] {
            let updated = socket.event("userUpdated").await;
            assert_eq!(updated["user"]["displayName"], name);
        }
    }
    // The second change has arrived, so the first is complete.
    assert_eq!(last.events("userUpdated").len(), 2);
    assert_eq!(both.events("userUpdated").len(), 2);
}
