//! The session's side of HTTP long-polling (Engine.IO 4): packets arrive in posts, and a waiting poll is answered with
//! the items that are written, until a WebSocket replaces polling.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{socket::WebSocket, websocket::Received};
use crate::edge::outbound::Item;

/// The packet that ends a session.
pub const CLOSE: Utf8Bytes = Utf8Bytes::from_static("1");
/// The packet that ends a poll without data.
pub const NOOP: &str = "6";
/// Separates the packets of a payload.
pub const SEPARATOR: char = '\u{1e}';

/// Input of a session's task from HTTP requests.
pub enum Incoming {
    Packets(VecDeque<Utf8Bytes>),
    /// The WebSocket that replaces polling.
    WebSocket(Box<WebSocket>),
}

/// The open poll, if any.
#[derive(Default)]
pub struct WaitingPoll(pub(super) Mutex<Option<oneshot::Sender<String>>>);

impl WaitingPoll {
    /// Answers the open poll, if any.
    pub fn answer(&self, text: &str) {
        if let Some(waiting) = self.0.lock().take() {
            let _ = waiting.send(text.to_owned());
        }
    }
}

/// The session task's side of polling.
pub struct Polling {
    incoming: mpsc::Receiver<Incoming>,
    /// Posted, not yet received by the connection.
    packets: VecDeque<Utf8Bytes>,
    poll: Arc<WaitingPoll>,
    /// The poll that the next write answers.
    held: Option<oneshot::Sender<String>>,
    /// Removes the session, so that no request finds it any more.
    remove: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Polling {
    /// `remove` is called when polling ends.
    pub fn new(
        remove: impl FnOnce() + Send + Sync + 'static,
        incoming: mpsc::Receiver<Incoming>,
        poll: Arc<WaitingPoll>,
    ) -> Self {
        Polling {
            remove: Some(Box::new(remove)),
            incoming,
            packets: VecDeque::new(),
            poll,
            held: None,
        }
    }

    /// The next packet, or the WebSocket that replaces polling; `None` once the session was removed.
    pub fn poll_receive(&mut self, cx: &mut Context) -> Poll<Option<Result<Received, WebSocket>>> {
        loop {
            if let Some(packet) = self.packets.pop_front() {
                return Poll::Ready(Some(Ok(Received::Text(packet))));
            }
            match ready!(self.incoming.poll_recv(cx)) {
                Some(Incoming::Packets(packets)) => self.packets = packets,
                Some(Incoming::WebSocket(socket)) => return Poll::Ready(Some(Err(*socket))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Takes the open poll for the next write; `false` if there is none.
    pub fn hold(&mut self) -> bool {
        if self.held.is_none() {
            self.held = self.poll.0.lock().take();
        }
        self.held.is_some()
    }

    /// Answers the held poll with all items; `None` if its client has disconnected.
    pub fn write(
        &mut self,
        items: &mut VecDeque<Item>,
        render: fn(&Item) -> Utf8Bytes,
    ) -> Option<()> {
        let mut text = String::new();
        for item in items.drain(..) {
            if !text.is_empty() {
                text.push(SEPARATOR);
            }
            text.push_str(&render(&item));
        }
        self.held.take()?.send(text).ok()
    }
}

impl Drop for Polling {
    /// The task has ended, or a WebSocket has replaced polling.
    fn drop(&mut self) {
        if let Some(remove) = self.remove.take() {
            remove();
        }
        self.poll.answer(NOOP);
    }
}
