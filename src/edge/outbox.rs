//! What waits to be written to one socket: bounded in bytes, so that a slow reader hurts only itself. The hub and
//! the session put things in; the socket's own writer drains all of it and flushes once. Knows no transport.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{model::FeedEvent, protocol::Close, telemetry::metrics};

/// An event on its way to sockets, rendered at most once for each transport whatever the number of sockets.
pub struct Frame {
    event: &'static str,
    data: String,
    ws: OnceLock<Utf8Bytes>,
    socketio: OnceLock<Utf8Bytes>,
}

impl Frame {
    pub fn new(event: &'static str, data: String) -> Arc<Self> {
        Arc::new(Frame {
            event,
            data,
            ws: OnceLock::new(),
            socketio: OnceLock::new(),
        })
    }

    pub fn feed(event: FeedEvent) -> Arc<Self> {
        Frame::new(event.kind.as_str(), event.data)
    }

    /// `{"event": …, "data": …}`, the same bytes for every plain WebSocket.
    pub fn ws(&self) -> Utf8Bytes {
        self.ws
            .get_or_init(|| {
                let mut text = String::with_capacity(self.event.len() + self.data.len() + 22);
                text.push_str("{\"event\":\"");
                text.push_str(self.event);
                text.push_str("\",\"data\":");
                text.push_str(&self.data);
                text.push('}');
                text.into()
            })
            .clone()
    }

    /// `42["event",data]`, the same bytes for every Socket.IO socket.
    pub fn socketio(&self) -> Utf8Bytes {
        self.socketio
            .get_or_init(|| format!("42[\"{}\",{}]", self.event, self.data).into())
            .clone()
    }

    fn cost(&self) -> usize {
        self.data.len() + FRAME_COST
    }
}

/// What a queued entry weighs beside its data.
const FRAME_COST: usize = 64;

/// One thing to write.
pub enum Item {
    Event(Arc<Frame>),
    /// The answer to the client's request `id`; `body` is the JSON of its data or, where not `ok`, of its error.
    Ack {
        id: Option<u64>,
        ok: bool,
        body: String,
    },
    /// A text of the transport itself, as it goes out.
    Text(Utf8Bytes),
}

impl Item {
    fn cost(&self) -> usize {
        match self {
            Item::Event(frame) => frame.cost(),
            Item::Ack { body, .. } => body.len() + FRAME_COST,
            Item::Text(text) => text.len() + FRAME_COST,
        }
    }
}

/// The end of a socket, as its writer should tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub close: Close,
    pub reason: String,
}

pub struct Outbox {
    /// Bytes that may wait.
    limit: usize,
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    ending: Option<Ending>,
    /// Answers that the queue's confirms will bring.
    owed: usize,
}

impl Outbox {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Outbox {
            limit,
            queue: Mutex::default(),
            wake: Notify::new(),
        })
    }

    pub fn push(&self, item: Item) {
        self.extend(std::iter::once(item));
    }

    /// The same frames for every socket of a room: one lock and one wake-up for all of them.
    pub fn push_frames(&self, frames: &[Arc<Frame>]) {
        self.extend(frames.iter().map(|frame| Item::Event(frame.clone())));
    }

    fn extend(&self, items: impl Iterator<Item = Item>) {
        let mut queue = self.lock();
        let slow = |ending: &Ending| ending.close == Close::Slow;
        if queue.ending.as_ref().is_some_and(slow) {
            return;
        }
        for item in items {
            queue.bytes += item.cost();
            queue.items.push_back(item);
        }
        if queue.bytes > self.limit {
            metrics().slow_readers_closed.inc();
            // What waits will never be read in time; the client resumes from the truth.
            queue.items = VecDeque::new();
            queue.bytes = 0;
            queue.ending = Some(Ending {
                close: Close::Slow,
                reason: Close::Slow.reason().to_owned(),
            });
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Says that an answer will come later; a goodbye waits for it.
    pub fn owe(&self) {
        self.lock().owed += 1;
    }

    /// An owed answer is here, or will not come.
    pub fn pay(&self) {
        let mut queue = self.lock();
        queue.owed = queue.owed.saturating_sub(1);
        if queue.owed == 0 && queue.ending.is_some() {
            self.wake.notify_one();
        }
    }

    pub fn owes(&self) -> bool {
        self.lock().owed > 0
    }

    /// Ends the socket once what waits is written. The first ending counts.
    pub fn close(&self, close: Close) {
        self.close_with(close, close.reason().to_owned());
    }

    pub fn close_with(&self, close: Close, reason: String) {
        let mut queue = self.lock();
        if queue.ending.is_none() {
            queue.ending = Some(Ending { close, reason });
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Resolves when there may be something to take. Cancel-safe.
    pub async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Moves all that waits to the end of `into`, and says whether the socket should end after it.
    pub fn take(&self, into: &mut VecDeque<Item>) -> Option<Ending> {
        let mut queue = self.lock();
        queue.bytes = 0;
        if into.is_empty() {
            // With its buffer: an idle socket keeps none.
            *into = std::mem::take(&mut queue.items);
        } else {
            into.append(&mut queue.items);
        }
        queue.ending.clone()
    }

    /// Wakes whoever waits, with nothing new: there is room to write.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    /// How the socket should end, where it should; what waits stays where it is.
    pub fn ending(&self) -> Option<Ending> {
        self.lock().ending.clone()
    }

    /// Whether the reader was too slow: what is being written now will not be waited for.
    pub fn is_slow(&self) -> bool {
        self.lock()
            .ending
            .as_ref()
            .is_some_and(|ending| ending.close == Close::Slow)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole between any two statements.
        self.queue.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(len: usize) -> Item {
        Item::Ack {
            id: Some(1),
            ok: true,
            body: "x".repeat(len),
        }
    }

    #[test]
    fn what_waits_beyond_the_limit_ends_the_socket_and_frees_it() {
        let outbox = Outbox::new(1000);
        outbox.push(ack(500));
        assert!(!outbox.is_slow());
        outbox.push(ack(500));
        assert!(outbox.is_slow());
        let mut items = VecDeque::new();
        let ending = outbox.take(&mut items).unwrap();
        assert_eq!(ending.close, Close::Slow);
        assert!(items.is_empty());
        outbox.push(ack(1));
        outbox.take(&mut items);
        assert!(items.is_empty(), "nothing follows the end");
    }

    #[test]
    fn a_frame_is_rendered_once() {
        let frame = Frame::new("newMessage", "{\"seq\":1}".into());
        let (a, b) = (frame.ws(), frame.ws());
        assert_eq!(
            a.as_str(),
            "{\"event\":\"newMessage\",\"data\":{\"seq\":1}}"
        );
        assert_eq!(a.as_str().as_ptr(), b.as_str().as_ptr());
        let (a, b) = (frame.socketio(), frame.socketio());
        assert_eq!(a.as_str(), "42[\"newMessage\",{\"seq\":1}]");
        assert_eq!(a.as_str().as_ptr(), b.as_str().as_ptr());
    }
}
