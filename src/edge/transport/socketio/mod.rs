//! The Socket.IO transport at `/socket.io/` (Engine.IO 4, Socket.IO 5) for the stock client: HTTP long-polling,
//! WebSocket, and the upgrade from one to the other. Session, outbox, connection loop and WebSocket are shared with the
//! plain transport; codec, handshake and polling are its own. docs/socketio.md explains why no library is used.

mod codec;
mod engine;
pub(in crate::edge) mod packet;
mod polling;
mod refused;
mod routes;
mod upgrade;

pub use engine::Engine;
