//! The port for tasks: delayed work without an order, taken by any worker.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;

/// The task queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskQueue {
    /// Stored messages whose recipients are to be evaluated.
    Notify,
    /// Deliveries, one queue per channel: a paused channel delays no other.
    Email,
    Sms,
}

impl TaskQueue {
    pub const ALL: [TaskQueue; 3] = [TaskQueue::Notify, TaskQueue::Email, TaskQueue::Sms];

    pub fn as_str(self) -> &'static str {
        match self {
            TaskQueue::Notify => "notify",
            TaskQueue::Email => "email",
            TaskQueue::Sms => "sms",
        }
    }
}

/// A task to be enqueued.
#[derive(Debug, Clone)]
pub struct NewTask {
    pub queue: TaskQueue,
    pub payload: Bytes,
    /// Earliest time from now at which a worker takes it.
    pub delay: Duration,
}

/// Acknowledges a task. If it is dropped instead, the task is redelivered, at the latest when its consumer ends.
#[async_trait]
pub trait Ack: Send + Sync {
    async fn ack(self: Box<Self>) -> Result<()>;
}

/// One task, not yet acknowledged.
pub struct TakenTask {
    pub payload: Bytes,
    pub ack: Box<dyn Ack>,
}

/// Consumes one queue's tasks, in any order. Dropping it requeues unacknowledged tasks.
#[async_trait]
pub trait TaskConsumer: Send {
    /// The next task that is due; `None` once the consumer is lost and another must be opened. Cancel-safe.
    async fn next(&mut self) -> Option<TakenTask>;
}

/// As durable as the partitions: a task for which `push` returned `Ok` reaches a consumer at least once.
#[async_trait]
pub trait Tasks: Send + Sync {
    /// All tasks are on disk when it returns `Ok`; after an error some of them may be.
    async fn push(&self, tasks: Vec<NewTask>) -> Result<()>;
    /// Opens a consumer that may hold up to `at_once` unacknowledged tasks, at least 1.
    async fn take(&self, queue: TaskQueue, at_once: u16) -> Result<Box<dyn TaskConsumer>>;
}
