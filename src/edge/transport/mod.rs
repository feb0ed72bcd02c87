//! The transports of client sockets: plain WebSocket ([`plain`]) and Socket.IO ([`socketio`]). Both run the same
//! [`connection`] with a codec of their own, over a [`link`] that moves texts.

pub mod connection;
pub mod handshake;
pub mod link;
pub mod plain;
pub mod polling;
mod socket;
pub mod socketio;
pub mod websocket;
