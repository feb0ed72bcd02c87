//! The durable queue between edges and workers. It carries batches of bytes and knows nothing of chat. RabbitMQ quorum
//! queues in a cluster, a table of the same SQLite file in one process; one contract suite for both.
//!
//! What it guarantees: a payload whose `publish` returned `Ok` is on disk and reaches a consumer at least once;
//! one partition's payloads arrive in the order they were published; one consumer holds a partition at a time.
//! What it does not: exactly once. Repeats are removed by the ids inside.

pub mod framing;
pub mod rabbit;
pub mod sqlite;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use framing::{BatchBuilder, EncodedBatch};

use crate::{error::Result, model::Timestamp};

/// A partition's number, below `queue.partitions`.
pub type Partition = u16;

/// Whether sends are taken right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Up,
    /// The broker is there but takes nothing (a memory or disk alarm).
    Blocked,
    Down,
}

#[async_trait]
pub trait Publisher: Send + Sync {
    /// Returns `Ok` when the queue holds the batch durably. While the connection is down it waits for it to come back, at
    /// most `queue.confirm_timeout` in all, then fails with `busy`: the batch may or may not be queued then.
    async fn publish(&self, partition: Partition, batch: EncodedBatch) -> Result<()>;

    /// How many commands wait in all partitions, to the best of this node's knowledge; never blocks.
    fn backlog(&self) -> u64;

    fn state(&self) -> State;
}

/// One payload, not yet acknowledged.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// For [`framing::decode`].
    pub payload: Bytes,
    /// Ascending within a consumer.
    pub tag: u64,
    /// Someone may have worked on it before.
    pub redelivered: bool,
}

/// One partition's payloads, in order. Dropping it, or `close`, puts what was not acknowledged back in front.
#[async_trait]
pub trait Consumer: Send {
    /// The next payload; `None` once the consumer is lost (connection gone, partition deleted): open another.
    /// Cancel-safe.
    async fn next(&mut self) -> Option<Delivery>;
    /// What is there without waiting.
    fn try_next(&mut self) -> Option<Delivery>;
    /// Acknowledges this delivery and every earlier one of this consumer.
    async fn ack_through(&mut self, tag: u64) -> Result<()>;
    async fn close(self: Box<Self>);
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Depth {
    pub queue: String,
    /// Payloads (batches) that wait.
    pub ready: u64,
    pub consumers: u64,
}

/// What waits, as far as the queue itself can tell. What it cannot tell is `None`, never zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Load {
    /// By partition.
    pub partitions: Vec<PartitionLoad>,
    /// Every queue for jobs.
    pub jobs: Vec<JobLoad>,
    /// Jobs that must not be taken yet, in the parts in which they are known; `None` where nobody looks at them.
    pub delayed: Option<Vec<Delayed>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionLoad {
    /// Payloads that no consumer has been given.
    pub ready: u64,
    /// Payloads that a consumer was given and has not acknowledged.
    pub unacked: Option<u64>,
    /// Commands in both.
    pub messages: Option<u64>,
    /// Consumers registered, waiting ones included.
    pub consumers: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLoad {
    pub queue: JobQueue,
    /// Jobs that are due and that no consumer has been given.
    pub ready: u64,
    /// Jobs that a consumer was given and has not acknowledged.
    pub unacked: Option<u64>,
    pub consumers: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delayed {
    pub queue: JobQueue,
    /// All of them are back in their queue, to be taken or to be moved on, after this long at the latest.
    pub within: Duration,
    pub jobs: u64,
}

#[async_trait]
pub trait Queue: Send + Sync {
    /// Resolves once this consumer is registered; payloads come when it is the partition's active one.
    async fn consume(&self, partition: Partition) -> Result<Box<dyn Consumer>>;
    async fn depths(&self) -> Result<Vec<Depth>>;
    /// What waits right now. Cheap enough to ask twenty times a second; what is delayed may be seconds old.
    async fn load(&self) -> Result<Load>;
    /// `Ok` when the queue answers.
    async fn ping(&self) -> Result<()>;
}

/// The queues beside the partitions: work without an order, which may have to wait, taken by whoever is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobQueue {
    /// Messages that were stored, to be looked at again.
    Notify,
    /// Deliveries, one queue a channel: a paused one holds up no other.
    Email,
    Sms,
}

impl JobQueue {
    pub const ALL: [JobQueue; 3] = [JobQueue::Notify, JobQueue::Email, JobQueue::Sms];

    pub fn as_str(self) -> &'static str {
        match self {
            JobQueue::Notify => "notify",
            JobQueue::Email => "email",
            JobQueue::Sms => "sms",
        }
    }
}

/// A job on its way.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub queue: JobQueue,
    pub payload: Bytes,
    /// It is taken no earlier than this from now, and about then if a worker is free.
    pub delay: Duration,
}

/// Says that a job is done. Dropped without, the job comes again, at the latest when its consumer ends.
#[async_trait]
pub trait Ack: Send + Sync {
    async fn ack(self: Box<Self>) -> Result<()>;
}

/// One job, not yet acknowledged.
pub struct TakenJob {
    pub payload: Bytes,
    pub ack: Box<dyn Ack>,
}

/// One queue's jobs, in any order. Dropping it puts back what was not acknowledged.
#[async_trait]
pub trait JobConsumer: Send {
    /// The next job that is due; `None` once the consumer is lost: open another. Cancel-safe.
    async fn next(&mut self) -> Option<TakenJob>;
}

/// Work that may wait. As durable as the partitions: what `push` returned `Ok` for reaches a consumer at least once.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// All of them are on disk when it returns `Ok`; some of them may be after an error.
    async fn push(&self, jobs: Vec<NewJob>) -> Result<()>;
    /// `at_once` jobs may be in a caller's hands unacknowledged, at least 1.
    async fn take(&self, queue: JobQueue, at_once: u16) -> Result<Box<dyn JobConsumer>>;
}

/// A command that cannot succeed, set aside with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    pub id: Uuid,
    pub at: Timestamp,
    pub reason: String,
    pub partition: Partition,
    /// The command as it came, or the whole payload where that could not be taken apart: text where it is UTF-8,
    /// otherwise lossy text (the original is kept beside it).
    pub payload: String,
}

/// Which dead letters an operation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    All,
    One(Uuid),
}

#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Durable when it returns `Ok`.
    async fn put(&self, letter: &DeadLetter, original: Bytes) -> Result<()>;
    /// The oldest first, without taking them away.
    async fn list(&self, limit: u32) -> Result<Vec<DeadLetter>>;
    /// Publishes the originals to their partition again ([`EncodedBatch::again`]), then forgets them. How many it was.
    async fn replay(&self, which: Selection) -> Result<u64>;
    /// Forgets them. How many it was.
    async fn purge(&self, which: Selection) -> Result<u64>;
}
