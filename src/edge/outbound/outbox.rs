//! The queue of one socket: bounded in bytes, so that a slow reader affects only itself. The hub and the
//! session push items; the socket's own writer, once it has a permit, takes all of them and flushes once.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    event::OutboundEvent,
    flush::{FlushPermit, FlushScheduler, FlushWaiter},
};
use crate::{
    error::Result,
    protocol::{Close, WireError, raw},
    telemetry::metrics,
};

/// The id that the client gave its request; `None` if the client wants no answer.
pub type RequestId = Option<u64>;

/// Bytes that each queued item counts in addition to its data.
const ITEM_OVERHEAD: usize = 64;

/// One thing to write.
pub enum Item {
    Event(Arc<OutboundEvent>),
    /// The answer to the client's request `id`; `body` is the JSON of its data or, where not `ok`, of its error.
    Ack {
        id: RequestId,
        ok: bool,
        body: String,
    },
    /// A text of the transport itself, sent unchanged.
    Text(Utf8Bytes),
}

impl Item {
    /// The answer to a request.
    pub fn answer(id: RequestId, answer: Result<Option<Box<RawValue>>>) -> Item {
        let (ok, body) = match answer {
            Ok(data) => (true, data.map_or("{}".to_owned(), text)),
            Err(error) => (false, text(raw(&WireError::from(&error)))),
        };
        Item::Ack { id, ok, body }
    }

    fn bytes(&self) -> usize {
        ITEM_OVERHEAD
            + match self {
                Item::Event(event) => event.size(),
                Item::Ack { body, .. } => body.len(),
                Item::Text(text) => text.len(),
            }
    }
}

fn text(json: Box<RawValue>) -> String {
    Box::<str>::from(json).into()
}

/// Puts the answer to a request into the outbox. A request without an id gets errors only.
pub fn answer_to(outbox: &Outbox, id: RequestId, answer: Result<Option<Box<RawValue>>>) {
    if answer.is_ok() && id.is_none() {
        return;
    }
    if let Err(error) = &answer
        && error.code == crate::error::Code::Internal
    {
        tracing::error!(error = %error.chain(), "a request failed");
    }
    outbox.push(Item::answer(id, answer));
}

/// How a socket ends: the close code and reason to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub close: Close,
    pub reason: String,
}

impl Ending {
    fn is_slow(&self) -> bool {
        self.close == Close::Slow
    }
}

/// The outgoing queue of a socket.
pub struct Outbox {
    /// Maximum bytes in the queue.
    limit: usize,
    queue: Mutex<Queue>,
    /// Set when the writer has to check the queue.
    woken: AtomicBool,
    writer: AtomicWaker,
    scheduler: Arc<FlushScheduler>,
    this: Weak<Outbox>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    ending: Option<Ending>,
    /// Answers that will be sent when the message queue confirms.
    pending_acks: usize,
    flush: FlushState,
}

impl Queue {
    /// Discards the waiting items: they would not be read in time, and the client resumes from the store.
    fn close_slow(&mut self) {
        metrics().slow_readers_closed.inc();
        self.items = VecDeque::new();
        self.bytes = 0;
        self.ending = Some(Ending {
            close: Close::Slow,
            reason: Close::Slow.reason().to_owned(),
        });
    }

    fn is_slow(&self) -> bool {
        self.ending.as_ref().is_some_and(Ending::is_slow)
    }
}

/// Whether the writer may write.
#[derive(Default)]
enum FlushState {
    /// There is nothing to write.
    #[default]
    Idle,
    /// A permit was requested.
    Waiting,
    Granted(FlushPermit),
    /// A write is blocked because the peer does not read.
    Blocked,
}

impl Outbox {
    pub fn new(limit: usize, scheduler: Arc<FlushScheduler>) -> Arc<Self> {
        Arc::new_cyclic(|this| Outbox {
            limit,
            queue: Mutex::default(),
            woken: AtomicBool::new(false),
            writer: AtomicWaker::new(),
            scheduler,
            this: this.clone(),
        })
    }

    pub fn push(&self, item: Item) {
        self.extend(std::iter::once(item));
    }

    /// Pushes several events with one lock and one wake-up; the events are shared by all sockets of a room.
    pub fn push_events(&self, events: &[Arc<OutboundEvent>]) {
        self.extend(events.iter().map(|event| Item::Event(event.clone())));
    }

    fn extend(&self, items: impl Iterator<Item = Item>) {
        let mut queue = self.queue.lock();
        if queue.is_slow() {
            return;
        }
        let ends = queue.ending.is_some();
        for item in items {
            // The socket may have lost its right to events, and a busy room must not prolong its end.
            if ends && matches!(item, Item::Event(_)) {
                continue;
            }
            queue.bytes += item.bytes();
            queue.items.push_back(item);
        }
        if queue.bytes > self.limit {
            queue.close_slow();
            // Wakes a writer that is blocked by its peer: it waits for no permit.
            self.wake();
        }
        self.request_flush(&mut queue);
    }

    /// Ends the socket as that of a slow reader and discards its items, because its writer made no progress for too
    /// long.
    pub fn close_slow(&self) {
        self.queue.lock().close_slow();
    }

    fn request_flush(&self, queue: &mut Queue) {
        if !matches!(queue.flush, FlushState::Idle) {
            return;
        }
        queue.flush = match self.scheduler.request(self.this.clone()) {
            Some(permit) => {
                self.wake();
                FlushState::Granted(permit)
            }
            None => FlushState::Waiting,
        };
    }

    /// Records that the writer waits for its peer. Its permit is released; it needs none to continue.
    pub fn block(&self) {
        // The permit is dropped outside the lock.
        let _permit = std::mem::replace(&mut self.queue.lock().flush, FlushState::Blocked);
    }

    /// Announces an answer that will be pushed later; the socket does not end before it.
    pub fn add_pending_ack(&self) {
        self.queue.lock().pending_acks += 1;
    }

    /// Withdraws an announcement: the answer was pushed, or there will be none.
    pub fn remove_pending_ack(&self) {
        let mut queue = self.queue.lock();
        queue.pending_acks = queue.pending_acks.saturating_sub(1);
        if queue.pending_acks == 0 && queue.ending.is_some() {
            self.wake();
        }
    }

    pub fn has_pending_acks(&self) -> bool {
        self.queue.lock().pending_acks > 0
    }

    /// Ends the socket once the waiting items are written. The first ending counts. Answers may still follow, events are
    /// discarded.
    pub fn close(&self, close: Close) {
        self.close_with(close, close.reason().to_owned());
    }

    pub fn close_with(&self, close: Close, reason: String) {
        let mut queue = self.queue.lock();
        if queue.ending.is_none() {
            queue.ending = Some(Ending { close, reason });
        }
        self.request_flush(&mut queue);
        // Wakes a writer that is blocked by its peer: it waits for no permit.
        self.wake();
    }

    /// Resolves when the writer has to check the queue. For one writer at a time. Cancel-safe.
    pub async fn wait(&self) {
        poll_fn(|cx| self.poll_wait(cx)).await;
    }

    /// As [`Outbox::wait`]. The waker is registered only if it returns `Pending`.
    pub fn poll_wait(&self, cx: &Context) -> Poll<()> {
        if !self.woken.load(Ordering::Acquire) {
            self.writer.register(cx.waker());
        }
        // Checked again: a wake-up during the registration wakes no task.
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

    /// Whether the writer may write now. `Some(None)`: without a permit, to continue a blocked write or to end.
    pub fn may_write(&self) -> Option<Option<FlushPermit>> {
        let mut queue = self.queue.lock();
        match std::mem::take(&mut queue.flush) {
            FlushState::Granted(permit) => Some(Some(permit)),
            FlushState::Blocked => Some(None),
            state => {
                queue.flush = state;
                queue.is_slow().then_some(None)
            }
        }
    }

    /// Moves the waiting items to the end of `into`. Returns how the socket should end after them, if it should.
    pub fn take(&self, into: &mut VecDeque<Item>) -> Option<Ending> {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        if into.is_empty() {
            // Moves the buffer as well: an idle socket keeps none.
            *into = std::mem::take(&mut queue.items);
        } else {
            into.append(&mut queue.items);
        }
        queue.ending.clone()
    }

    /// Tells the writer that the transport can take items again.
    pub fn notify_writable(&self) {
        self.request_flush(&mut self.queue.lock());
        self.wake();
    }

    pub fn is_empty(&self) -> bool {
        self.queue.lock().items.is_empty()
    }

    /// How the socket should end, if it should. Leaves the waiting items in the queue.
    pub fn ending(&self) -> Option<Ending> {
        self.queue.lock().ending.clone()
    }

    /// Whether the socket ends because its reader was too slow; then nothing more is written.
    pub fn is_slow(&self) -> bool {
        self.queue.lock().is_slow()
    }
}

impl FlushWaiter for Outbox {
    fn granted(&self, permit: FlushPermit) {
        let mut queue = self.queue.lock();
        if matches!(queue.flush, FlushState::Waiting) {
            queue.flush = FlushState::Granted(permit);
            self.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::EventName;

    fn ack(len: usize) -> Item {
        Item::Ack {
            id: Some(1),
            ok: true,
            body: "x".repeat(len),
        }
    }

    #[test]
    fn items_beyond_the_limit_end_the_socket_and_are_freed() {
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
    fn a_socket_that_ends_gets_its_answers_and_no_more_events() {
        let outbox = Outbox::new(10_000, Arc::default());
        let event = OutboundEvent::new(EventName::NewMessage, "{}".into());
        outbox.push_events(std::slice::from_ref(&event));
        outbox.close(Close::Unauthorized);
        outbox.push_events(&[event]);
        outbox.push(ack(1));
        let mut items = VecDeque::new();
        outbox.take(&mut items);
        assert!(matches!(
            Vec::from(items).as_slice(),
            [Item::Event(_), Item::Ack { .. }]
        ));
    }
}
