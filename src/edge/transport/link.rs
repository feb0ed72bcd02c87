//! The wire below an open socket: a WebSocket, or an HTTP long-polling session until it is upgraded to one. Moves
//! texts in both directions and knows nothing of what they mean.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use poem::{
    OnUpgrade, Request, Response, Upgraded,
    http::{StatusCode, header},
};
use tokio_tungstenite::tungstenite::{Utf8Bytes, handshake::derive_accept_key};

pub(super) use super::websocket::{Broken, Received};
use super::{
    handshake::{self, Refused},
    socketio::Polling,
    websocket,
};
use crate::edge::{
    outbound::{Ending, Item, Outbox},
    server::Permit,
};

pub(super) enum Link {
    WebSocket(WebSocket),
    Polling(Polling),
}

impl Link {
    /// The next thing from the peer.
    pub fn poll_receive(&mut self, cx: &mut Context) -> Poll<Result<Received, Broken>> {
        match self {
            Link::WebSocket(socket) => socket.socket.poll_receive(cx),
            Link::Polling(polling) => Poll::Ready(match ready!(polling.poll_receive(cx)) {
                Some(Ok(received)) => Ok(received),
                Some(Err(socket)) => {
                    *self = Link::WebSocket(socket);
                    Ok(Received::Nothing)
                }
                None => Err(Broken::Gone),
            }),
        }
    }

    /// Whether what is in `outbox` can be written now. If not, whoever makes it possible wakes the outbox.
    pub fn is_writable(&mut self, outbox: &Outbox) -> bool {
        match self {
            Link::WebSocket(_) => true,
            Link::Polling(polling) => !outbox.is_empty() && polling.hold(),
        }
    }

    /// The same for something that is not in the outbox.
    pub fn hold(&mut self) -> bool {
        match self {
            Link::WebSocket(_) => true,
            Link::Polling(polling) => polling.hold(),
        }
    }

    /// Writes and flushes all the items. While `Pending`, what is left stays in the items or in the link, and the next
    /// call goes on from there.
    pub fn poll_write(
        &mut self,
        cx: &mut Context,
        items: &mut VecDeque<Item>,
        render: fn(&Item) -> Utf8Bytes,
    ) -> Poll<Result<(), Broken>> {
        match self {
            Link::WebSocket(socket) => socket.socket.poll_write(cx, items, render),
            Link::Polling(polling) => polling.write(items, render).ok_or(Broken::Gone).into(),
        }
    }

    /// An RFC 6455 ping, sent by the next [`Link::poll_receive`]; long polling has none.
    pub fn ping(&mut self) {
        if let Link::WebSocket(socket) = self {
            socket.socket.ping();
        }
    }

    /// Whether bytes wait for the peer to read; and how many it has taken so far.
    pub fn unsent(&self) -> (bool, u64) {
        match self {
            Link::WebSocket(WebSocket { socket, .. }) => (socket.has_unsent(), socket.sent()),
            // Each answer to a poll is the HTTP server's to write.
            Link::Polling(_) => (false, 0),
        }
    }

    /// What the link itself says at the end, where nothing else is said. The stock client hands events on a moment
    /// later than it takes an end, and would lose those that come with one.
    pub fn last_item(&self) -> Option<Item> {
        match self {
            Link::WebSocket(_) => None,
            Link::Polling(_) => Some(Polling::close_item()),
        }
    }

    /// Tells the peer that this is the end, and waits for its answer.
    pub async fn close(&mut self, ending: Ending) {
        let Link::WebSocket(WebSocket { socket, .. }) = self else {
            return;
        };
        socket.close(ending.close.code(), &ending.reason).await;
    }
}

/// A WebSocket. It holds its share of `edge.max_connections`.
pub(super) struct WebSocket {
    socket: websocket::WebSocket<Upgraded>,
    _permit: Option<Permit>,
}

/// An upgrade that was answered, and the stream to come.
pub(super) struct Upgrading {
    stream: OnUpgrade,
    permit: Option<Permit>,
}

/// Answers the WebSocket handshake itself: poem's own WebSocket copies every message for every recipient.
///
/// # Errors
/// The rule of the handshake that the request does not keep.
pub(super) fn accept(request: &Request) -> Result<(Response, Upgrading), Refused> {
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
    /// The WebSocket, once the answer is out; messages from the peer may have `max_message` bytes.
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

    /// One text, at once.
    pub async fn send(&mut self, text: &str) -> Result<(), Broken> {
        self.socket.send(text).await
    }
}
