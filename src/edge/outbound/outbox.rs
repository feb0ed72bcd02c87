//! The queue of one socket: bounded in bytes, so that a slow reader hurts only itself. The hub and the
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

/// A request's number in the client's counting; `None` where it wants no answer.
pub type RequestId = Option<u64>;

/// Bytes that a queued item counts beside its data.
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
    /// A text of the transport itself, as it goes out.
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

/// How a socket ends, as its writer should say it.
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

/// See the module.
pub struct Outbox {
    /// Bytes that may wait.
    limit: usize,
    queue: Mutex<Queue>,
    /// There may be something to take.
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
    /// Answers that the queue's confirms will bring.
    pending_acks: usize,
    flush: FlushState,
}

impl Queue {
    /// Drops what waits: it will not be read in time, and the client resumes from the store.
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
    /// It has nothing to do.
    #[default]
    Idle,
    /// It has requested a permit.
    Waiting,
    Granted(FlushPermit),
    /// It is in the middle of a write that its peer does not take.
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

    /// The same events for every socket of a room: one lock and one wake-up for all of them.
    pub fn push_events(&self, events: &[Arc<OutboundEvent>]) {
        self.extend(events.iter().map(|event| Item::Event(event.clone())));
    }

    fn extend(&self, items: impl Iterator<Item = Item>) {
        let mut queue = self.queue.lock();
        if queue.is_slow() {
            return;
        }
        for item in items {
            queue.bytes += item.bytes();
            queue.items.push_back(item);
        }
        if queue.bytes > self.limit {
            queue.close_slow();
            // Its writer may wait for its peer, and for no permit.
            self.wake();
        }
        self.request_flush(&mut queue);
    }

    /// Ends the socket as that of a slow reader, whatever waits: its writer has made no progress for too long.
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

    /// The writer waits for its peer: it gives its permit back, and needs none to go on.
    pub fn block(&self) {
        // The permit is dropped outside the lock.
        let _permit = std::mem::replace(&mut self.queue.lock().flush, FlushState::Blocked);
    }

    /// Announces an answer that comes later; the end of the socket waits for it.
    pub fn add_pending_ack(&self) {
        self.queue.lock().pending_acks += 1;
    }

    /// An announced answer is here, or will not come.
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

    /// Ends the socket once what waits is written. The first ending counts.
    pub fn close(&self, close: Close) {
        self.close_with(close, close.reason().to_owned());
    }

    pub fn close_with(&self, close: Close, reason: String) {
        let mut queue = self.queue.lock();
        if queue.ending.is_none() {
            queue.ending = Some(Ending { close, reason });
        }
        self.request_flush(&mut queue);
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

    /// Whether the writer may write now. `Some(None)`: without a permit, since it goes on with a blocked write or ends.
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

    /// The transport can take what waits, if anything does.
    pub fn notify_writable(&self) {
        self.request_flush(&mut self.queue.lock());
        self.wake();
    }

    pub fn is_empty(&self) -> bool {
        self.queue.lock().items.is_empty()
    }

    /// How the socket should end, where it should; what waits stays where it is.
    pub fn ending(&self) -> Option<Ending> {
        self.queue.lock().ending.clone()
    }

    /// Whether the reader was too slow: then nothing more is written.
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
}
