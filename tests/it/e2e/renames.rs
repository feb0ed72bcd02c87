//! New names of users, and changed rooms, on open sockets.

use serde_json::json;

use crate::{
    e2e::{
        people::{Pair, pair},
        socketio::WEBSOCKET,
    },
    harness::{Chat, Kind, both_ways, node::Clients},
};

both_ways!(
    a_rename_reaches_open_sockets_once,
    a_changed_room_reaches_open_sockets
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

    // Other changes are not announced; a cleared name is.
    rest.patch("/v1/me", json!({"email": "ada@example.org"}))
        .await
        .ok(200);
    rest.patch("/v1/me", json!({"displayName": ""}))
        .await
        .ok(200);
    let cleared = json!({"id": ada.id, "username": "ada", "displayName": "ada"});
    let expected = [updated, json!({ "user": cleared })];
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
