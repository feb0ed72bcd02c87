//! A WebSocket on an upgraded HTTP connection: the answer to the handshake, and the socket once that answer is sent.

use poem::{
    OnUpgrade, Request, Response, Upgraded,
    http::{StatusCode, header},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    handshake::{self, Refused},
    websocket::{self, Broken, Received},
};
use crate::edge::server::Permit;

/// A WebSocket, with its permit of `edge.max_connections`.
pub struct WebSocket {
    pub(super) socket: websocket::WebSocket<Upgraded>,
    _permit: Option<Permit>,
}

/// An accepted upgrade whose stream is not ready yet.
pub struct Upgrading {
    stream: OnUpgrade,
    permit: Option<Permit>,
}

/// Answers the WebSocket handshake. poem's own WebSocket is not used because it copies every message for every
/// recipient.
///
/// # Errors
/// The rule of the handshake that the request violates.
pub fn accept(request: &Request) -> Result<(Response, Upgrading), Refused> {
    let key = handshake::key(request)?;
    let stream = request.take_upgrade().map_err(|_| {
        Refused::Malformed("this connection cannot be upgraded; connect over HTTP/1.1")
    })?;
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .finish();
    let permit = request.extensions().get::<Permit>().cloned();
    Ok((response, Upgrading { stream, permit }))
}

impl Upgrading {
    /// The WebSocket, once the response is sent; messages from the peer may have up to `max_message` bytes.
    pub async fn finish(self, max_message: usize) -> Option<WebSocket> {
        let stream = self.stream.await.ok()?;
        Some(WebSocket {
            socket: websocket::WebSocket::new(stream, max_message),
            _permit: self.permit,
        })
    }
}

impl WebSocket {
    /// Cancel-safe.
    pub async fn receive(&mut self) -> Result<Received, Broken> {
        self.socket.receive().await
    }

    /// Sends one text and flushes.
    pub async fn send(&mut self, text: &str) -> Result<(), Broken> {
        self.socket.send(text).await
    }
}
