//! The wire below an open socket: a WebSocket, or an HTTP long-polling session until it is upgraded to one. Moves
//! texts in both directions and knows nothing of what they mean.

use std::collections::VecDeque;

use futures_util::{SinkExt, StreamExt};
use poem::{
    OnUpgrade, Request, Response, Upgraded,
    http::{HeaderValue, StatusCode, header},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message, Utf8Bytes,
        error::CapacityError,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use super::{
    outbox::{Ending, Item, Outbox},
    server::Permit,
    socketio::Polling,
};
use crate::error::{Error, Result};

/// Bytes gathered before they are written to the socket.
const WRITE_BUFFER: usize = 16 * 1024;

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every link is a WebSocket: a box would only add to it"
)]
pub(super) enum Link {
    WebSocket(WebSocket),
    Polling(Polling),
}

/// What the peer sent.
pub(super) enum Received {
    Text(Utf8Bytes),
    Binary,
    /// Something that needs nothing from us.
    Nothing,
}

/// Why there is nothing more to receive.
pub(super) enum Broken {
    /// There is nobody to tell any more.
    Gone,
    /// A message over the limit, in bytes.
    TooLong(usize),
    /// Not what the protocol allows.
    Malformed(&'static str),
}

impl Link {
    /// The next thing from the peer. Cancel-safe.
    pub async fn receive(&mut self) -> Result<Received, Broken> {
        match self {
            Link::WebSocket(socket) => socket.receive().await,
            Link::Polling(polling) => match polling.receive().await {
                Some(either) => Ok(either.unwrap_or_else(|socket| {
                    *self = Link::WebSocket(socket);
                    Received::Nothing
                })),
                None => Err(Broken::Gone),
            },
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

    /// Writes and flushes all the items.
    pub async fn write(
        &mut self,
        items: &mut VecDeque<Item>,
        render: fn(&Item) -> Utf8Bytes,
    ) -> Result<(), Broken> {
        match self {
            Link::WebSocket(socket) => {
                while let Some(item) = items.pop_front() {
                    socket.feed(Message::Text(render(&item))).await?;
                }
                socket.flush().await
            }
            Link::Polling(polling) => polling.write(items, render).ok_or(Broken::Gone),
        }
    }

    /// An RFC 6455 ping; long polling has none.
    pub async fn ping(&mut self) -> Result<(), Broken> {
        if let Link::WebSocket(socket) = self {
            socket.feed(Message::Ping(Vec::new().into())).await?;
            socket.flush().await?;
        }
        Ok(())
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
        let mut reason = ending.reason;
        reason.truncate(123);
        let frame = CloseFrame {
            code: ending.close.code().into(),
            reason: reason.into(),
        };
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    }
}

/// A WebSocket with small buffers. It holds its share of `edge.max_connections`.
pub(super) struct WebSocket {
    socket: WebSocketStream<Upgraded>,
    _permit: Option<Permit>,
}

/// An upgrade that was answered, and the stream to come.
pub(super) struct Upgrading {
    stream: OnUpgrade,
    permit: Option<Permit>,
}

/// Whether this is a WebSocket handshake.
///
/// # Errors
/// `malformed`, where it is not.
pub(super) fn check(request: &Request) -> Result<&HeaderValue> {
    request
        .headers()
        .get("sec-websocket-key")
        .filter(|_| request.header("sec-websocket-version") == Some("13"))
        .ok_or_else(|| {
            Error::malformed(
                "this is a WebSocket endpoint (version 13): connect with a WebSocket client",
            )
        })
}

/// Answers the WebSocket handshake itself: poem's own WebSocket copies every message for every recipient.
///
/// # Errors
/// `malformed`, where this is no handshake.
pub(super) fn accept(request: &Request) -> Result<(Response, Upgrading)> {
    let key = check(request)?;
    let stream = request.take_upgrade().map_err(|_| {
        Error::malformed(
            "this connection cannot be upgraded; send Connection: Upgrade over HTTP/1.1",
        )
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
        let config = WebSocketConfig::default()
            .read_buffer_size(1024)
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let stream = self.stream.await.ok()?;
        Some(WebSocket {
            socket: WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await,
            _permit: self.permit,
        })
    }
}

impl WebSocket {
    /// Cancel-safe.
    pub async fn receive(&mut self) -> Result<Received, Broken> {
        match self.socket.next().await {
            None | Some(Ok(Message::Close(_))) => Err(Broken::Gone),
            Some(Ok(Message::Text(text))) => Ok(Received::Text(text)),
            Some(Ok(Message::Binary(_))) => Ok(Received::Binary),
            Some(Ok(_)) => Ok(Received::Nothing),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// One text, at once.
    pub async fn send(&mut self, text: &'static str) -> Result<(), Broken> {
        self.feed(Message::Text(Utf8Bytes::from_static(text)))
            .await?;
        self.flush().await
    }

    async fn feed(&mut self, message: Message) -> Result<(), Broken> {
        Ok(self.socket.feed(message).await?)
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        Ok(self.socket.flush().await?)
    }
}

impl From<WsError> for Broken {
    fn from(error: WsError) -> Self {
        match error {
            WsError::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
                Broken::TooLong(max_size)
            }
            WsError::Utf8(_) => Broken::Malformed("text frames are UTF-8"),
            WsError::Protocol(_) => Broken::Malformed("not the WebSocket protocol"),
            _ => Broken::Gone,
        }
    }
}
