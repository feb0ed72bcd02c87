//! Invalid client input is answered with an error code and a message that says what to do. The connection stays open
//! unless the protocol itself is violated.

mod credentials;
mod http;
mod rest;
mod sockets;

use uuid::Uuid;

use crate::harness::{Chat, Socket, User, socket::WireError};

/// Ada with a room of her own, and a room that she is not in.
struct Scene {
    chat: Chat,
    ada: User,
    bob: User,
    room: Uuid,
    foreign: Uuid,
    socket: Socket,
}

async fn scene(chat: Chat) -> Scene {
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "public", &[]).await;
    let foreign = chat.room(&bob, "private", &[]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("joined");
    Scene {
        chat,
        ada,
        bob,
        room,
        foreign,
        socket,
    }
}

/// Asserts that the socket still sends and receives.
async fn still_works(socket: &mut Socket, room: Uuid) {
    let name = Uuid::new_v4().to_string();
    socket.say(room, &name, "still here").await;
    while socket.event("newMessage").await["clientMsgId"] != name.as_str() {}
}

#[track_caller]
fn assert_helpful(error: &WireError, code: &str, what: &str) {
    assert_eq!(error.code, code, "{what}: {error:?}");
    assert!(error.message.len() > 10, "{what}: {error:?}");
}
