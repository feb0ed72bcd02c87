//! The wire below an open socket: a WebSocket, or an HTTP long-polling session until it is upgraded to one. Moves texts
//! in both directions without interpreting them.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    polling::{CLOSE, Polling},
    socket::WebSocket,
    websocket::{Broken, Received},
};
use crate::edge::outbound::{Ending, Item, Outbox};

pub(super) enum Link {
    WebSocket(WebSocket),
    Polling(Polling),
}

impl Link {
    /// The next message from the peer.
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

    /// Whether the content of `outbox` can be written now. If not, the outbox is woken as soon as it can.
    pub fn is_writable(&mut self, outbox: &Outbox) -> bool {
        match self {
            Link::WebSocket(_) => true,
            Link::Polling(polling) => !outbox.is_empty() && polling.hold(),
        }
    }

    /// The same for items outside the outbox.
    pub fn hold(&mut self) -> bool {
        match self {
            Link::WebSocket(_) => true,
            Link::Polling(polling) => polling.hold(),
        }
    }

    /// Writes and flushes all items. On `Pending`, the rest stays in the items or in the link, and the next call
    /// continues from there.
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

    /// Sends an RFC 6455 ping with the next [`Link::poll_receive`]; does nothing for long polling.
    pub fn ping(&mut self) {
        if let Link::WebSocket(socket) = self {
            socket.socket.ping();
        }
    }

    /// Whether bytes wait for the peer to read, and the number of bytes written so far.
    pub fn unsent(&self) -> (bool, u64) {
        match self {
            Link::WebSocket(WebSocket { socket, .. }) => (socket.has_unsent(), socket.sent()),
            // The HTTP server writes the answers to polls.
            Link::Polling(_) => (false, 0),
        }
    }

    /// The link's own closing item, sent only if no other item is left: the stock client processes events slightly
    /// later than a close packet, and would lose events that arrive in the same payload.
    pub fn last_item(&self) -> Option<Item> {
        match self {
            Link::WebSocket(_) => None,
            Link::Polling(_) => Some(Item::Text(CLOSE)),
        }
    }

    /// Sends the close frame and waits for the peer's.
    pub async fn close(&mut self, ending: Ending) {
        let Link::WebSocket(WebSocket { socket, .. }) = self else {
            return;
        };
        socket.close(ending.close.code(), &ending.reason).await;
    }
}
