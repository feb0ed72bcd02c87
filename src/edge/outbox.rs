//! What waits to be written to one socket: bounded in bytes, so that a slow reader hurts only itself. The hub and
//! the session put things in; the socket's own writer, when it is its turn, drains all of it and flushes once. Knows no
//! transport.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::waves::{Turn, Waves};
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
    /// There may be something to take; and who waits for that.
    woken: AtomicBool,
    writer: AtomicWaker,
    waves: Arc<Waves>,
    this: Weak<Outbox>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    ending: Option<Ending>,
    /// Answers that the queue's confirms will bring.
    owed: usize,
    turn: Place,
}

impl Queue {
    /// What waits will never be read in time; the client resumes from the truth.
    fn end_slow(&mut self) {
        metrics().slow_readers_closed.inc();
        self.items = VecDeque::new();
        self.bytes = 0;
        self.ending = Some(Ending {
            close: Close::Slow,
            reason: Close::Slow.reason().to_owned(),
        });
    }
}

/// Where the writer stands.
#[derive(Default)]
enum Place {
    /// It has nothing to do.
    #[default]
    Idle,
    /// In the line for a turn.
    Waiting,
    /// It may write.
    Turn(Turn),
    /// In the middle of a write that its reader does not take.
    Blocked,
}

impl Outbox {
    pub fn new(limit: usize, waves: Arc<Waves>) -> Arc<Self> {
        Arc::new_cyclic(|this| Outbox {
            limit,
            queue: Mutex::default(),
            woken: AtomicBool::new(false),
            writer: AtomicWaker::new(),
            waves,
            this: this.clone(),
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
        let mut queue = self.queue.lock();
        let slow = |ending: &Ending| ending.close == Close::Slow;
        if queue.ending.as_ref().is_some_and(slow) {
            return;
        }
        for item in items {
            queue.bytes += item.cost();
            queue.items.push_back(item);
        }
        if queue.bytes > self.limit {
            queue.end_slow();
            // Its writer may wait for the reader, and for no turn.
            self.wake();
        }
        self.ask(&mut queue);
    }

    /// Ends the socket as that of a slow reader, whatever waits: its writer has seen no progress for too long.
    pub fn end_slow(&self) {
        self.queue.lock().end_slow();
    }

    /// Asks for a turn, unless that is done already.
    fn ask(&self, queue: &mut Queue) {
        if !matches!(queue.turn, Place::Idle) {
            return;
        }
        queue.turn = match self.waves.ask(&self.this) {
            Some(turn) => {
                self.wake();
                Place::Turn(turn)
            }
            None => Place::Waiting,
        };
    }

    /// The turn that was asked for.
    pub(super) fn take_turn(&self, turn: Turn) {
        let mut queue = self.queue.lock();
        if matches!(queue.turn, Place::Waiting) {
            queue.turn = Place::Turn(turn);
            self.wake();
        }
    }

    /// The writer waits for its reader: it holds up nobody, and needs no turn to go on.
    pub fn block(&self) {
        // A turn ends outside the lock.
        let _turn = std::mem::replace(&mut self.queue.lock().turn, Place::Blocked);
    }

    /// Says that an answer will come later; a goodbye waits for it.
    pub fn owe(&self) {
        self.queue.lock().owed += 1;
    }

    /// An owed answer is here, or will not come.
    pub fn pay(&self) {
        let mut queue = self.queue.lock();
        queue.owed = queue.owed.saturating_sub(1);
        if queue.owed == 0 && queue.ending.is_some() {
            self.wake();
        }
    }

    pub fn owes(&self) -> bool {
        self.queue.lock().owed > 0
    }

    /// Ends the socket once what waits is written. The first ending counts.
    pub fn close(&self, close: Close) {
        self.close_with(close, close.reason().to_owned());
    }

    pub fn close_with(&self, close: Close, reason: String) {
        let mut queue = self.queue.lock();
        if queue.ending.is_none() {
            queue.ending = Some(Ending { close, reason });
        }
        self.ask(&mut queue);
    }

    /// Resolves when there may be something to take. For one writer at a time. Cancel-safe.
    pub async fn wait(&self) {
        poll_fn(|cx| self.poll_wait(cx)).await;
    }

    /// As [`Outbox::wait`]. Only `Pending` leaves the waker behind.
    pub fn poll_wait(&self, cx: &Context) -> Poll<()> {
        if !self.woken.load(Ordering::Acquire) {
            self.writer.register(cx.waker());
        }
        // Once more: what came while it was registered wakes nobody.
        if self.woken.swap(false, Ordering::AcqRel) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.writer.wake();
    }

    /// The writer's turn, if it has one; or that it may go on, or end, without.
    pub fn turn(&self) -> Option<Option<Turn>> {
        let mut queue = self.queue.lock();
        match std::mem::take(&mut queue.turn) {
            Place::Turn(turn) => Some(Some(turn)),
            Place::Blocked => Some(None),
            place => {
                queue.turn = place;
                let slow = |ending: &Ending| ending.close == Close::Slow;
                queue.ending.as_ref().is_some_and(slow).then_some(None)
            }
        }
    }

    /// Moves all that waits to the end of `into`, and says whether the socket should end after it.
    pub fn take(&self, into: &mut VecDeque<Item>) -> Option<Ending> {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        if into.is_empty() {
            // With its buffer: an idle socket keeps none.
            *into = std::mem::take(&mut queue.items);
        } else {
            into.append(&mut queue.items);
        }
        queue.ending.clone()
    }

    /// There is room to write what waits, if anything does.
    pub fn poke(&self) {
        self.ask(&mut self.queue.lock());
        self.wake();
    }

    pub fn is_empty(&self) -> bool {
        self.queue.lock().items.is_empty()
    }

    /// How the socket should end, where it should; what waits stays where it is.
    pub fn ending(&self) -> Option<Ending> {
        self.queue.lock().ending.clone()
    }

    /// Whether the reader was too slow: what is being written now will not be waited for.
    pub fn is_slow(&self) -> bool {
        self.queue
            .lock()
            .ending
            .as_ref()
            .is_some_and(|ending| ending.close == Close::Slow)
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
        let outbox = Outbox::new(1000, Arc::default());
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
