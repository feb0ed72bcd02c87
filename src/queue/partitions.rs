//! The ports for the partitions: publishing batches, and consuming them in order.

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    framing::EncodedBatch,
    load::{Depth, Load},
};
use crate::error::Result;

/// A partition's number, below `queue.partitions`.
pub type Partition = u16;

/// Whether the queue accepts publishes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueState {
    Up,
    /// The broker is connected but blocks publishers (a memory or disk alarm).
    Blocked,
    Down,
}

#[async_trait]
pub trait Publisher: Send + Sync {
    /// Returns `Ok` when the queue holds the batch durably. A publish whose connection breaks waits for the next one, for at
    /// most `queue.confirm_timeout` in all, then fails with `busy`: the batch may or may not be queued then.
    async fn publish(&self, partition: Partition, batch: EncodedBatch) -> Result<()>;

    /// This node's estimate of the commands that wait in all partitions; never blocks.
    fn backlog(&self) -> u64;

    fn state(&self) -> QueueState;
}

/// One payload, not yet acknowledged.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Decoded by [`framing::decode`](super::framing::decode).
    pub payload: Bytes,
    /// Ascending within a consumer.
    pub tag: u64,
    /// An earlier consumer may have processed it.
    pub redelivered: bool,
}

/// Consumes one partition's payloads, in order. Dropping it, or `close`, requeues unacknowledged payloads at the front.
#[async_trait]
pub trait Consumer: Send {
    /// The next payload; `None` once the consumer is lost (connection gone, partition deleted) and another must be opened.
    /// Cancel-safe.
    async fn next(&mut self) -> Option<Delivery>;
    /// The next payload if it has arrived already.
    fn try_next(&mut self) -> Option<Delivery>;
    /// Acknowledges this delivery and every earlier one of this consumer.
    async fn ack_through(&mut self, tag: u64) -> Result<()>;
    async fn close(self: Box<Self>);
}

#[async_trait]
pub trait Queue: Send + Sync {
    /// Resolves once this consumer is registered; it receives payloads when it is the partition's active one.
    async fn consume(&self, partition: Partition) -> Result<Box<dyn Consumer>>;
    /// All queues with their depths, for operators.
    async fn depths(&self) -> Result<Vec<Depth>>;
    /// The current load. Cheap enough to call twenty times a second; figures of delayed tasks may be seconds old.
    async fn load(&self) -> Result<Load>;
    /// Checks that the queue answers.
    async fn ping(&self) -> Result<()>;
}
