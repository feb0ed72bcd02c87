//! Whatever a client gets wrong has its code and a sentence that says what to do, and the connection lives on unless
//! the protocol itself is broken.

mod credentials;
mod http;
mod rest;
mod sockets;

use uuid::Uuid;

use crate::harness::{Chat, Socket, User, socket::WireError};

/// Ada with a room of her own, and a room that is not hers.
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
    socket.join(room, None).await.expect("her own");
    Scene {
        chat,
        ada,
        bob,
        room,
        foreign,
        socket,
    }
}

/// That the socket does its work as before.
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
