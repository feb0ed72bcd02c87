//! The durable queue between edges and workers. It carries bytes and knows nothing of chat. RabbitMQ quorum
//! queues in a cluster, a table of the same SQLite file in one process; one contract suite for both.
//!
//! What it guarantees: a payload whose `publish` returned `Ok` is on disk and reaches a consumer at least once;
//! one partition's payloads arrive in the order they were published; one consumer holds a partition at a time.
//! What it does not: exactly once. Repeats are removed by the ids inside.

pub mod rabbit;
pub mod sqlite;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
    /// Returns `Ok` when the queue holds `payload` durably. `messages` says how many commands are inside, for
    /// the backlog's sake. While the connection is down it waits for it to come back, at most
    /// `queue.confirm_timeout` in all, then fails with `busy`: the payload may or may not be queued then.
    async fn publish(&self, partition: Partition, payload: Bytes, messages: u32) -> Result<()>;

    /// How many commands wait in all partitions, to the best of this node's knowledge; never blocks.
    fn backlog(&self) -> u64;

    fn state(&self) -> State;
}

/// One payload, not yet acknowledged.
#[derive(Debug, Clone)]
pub struct Delivery {
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

#[async_trait]
pub trait Queue: Send + Sync {
    /// Resolves once this consumer is registered; payloads come when it is the partition's active one.
    async fn consume(&self, partition: Partition) -> Result<Box<dyn Consumer>>;
    async fn depths(&self) -> Result<Vec<Depth>>;
    /// What waits in the partitions right now. Cheap enough to ask twenty times a second.
    async fn load(&self) -> Result<Load>;
    /// `Ok` when the queue answers.
    async fn ping(&self) -> Result<()>;
}

/// A command that cannot succeed, set aside with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    pub id: Uuid,
    pub at: Timestamp,
    pub reason: String,
    pub partition: Partition,
    /// The command as it came: text where it is UTF-8, otherwise lossy text (the original is kept beside it).
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
    /// Publishes the original bytes to their partition again, then forgets them. How many it was.
    async fn replay(&self, which: Selection) -> Result<u64>;
    /// Forgets them. How many it was.
    async fn purge(&self, which: Selection) -> Result<u64>;
}
