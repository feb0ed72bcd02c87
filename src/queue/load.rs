//! The load of the queue, for operators and for the autoscaler.

use std::time::Duration;

use serde::Serialize;

use super::tasks::TaskQueue;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Depth {
    pub queue: String,
    /// Payloads (batches) or tasks that wait.
    pub ready: u64,
    pub consumers: u64,
}

/// The waiting payloads and tasks, as far as the queue knows. An unknown figure is `None`, never zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Load {
    /// By partition.
    pub partitions: Vec<PartitionLoad>,
    /// Every task queue.
    pub tasks: Vec<TaskLoad>,
    /// Tasks that are not due yet, grouped by the time within which they return to their queue; `None` if they are not
    /// measured.
    pub delayed: Option<Vec<Delayed>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionLoad {
    /// Payloads not delivered to any consumer.
    pub ready: u64,
    /// Payloads delivered and not acknowledged.
    pub unacked: Option<u64>,
    /// Commands in both.
    pub messages: Option<u64>,
    /// Registered consumers, including inactive ones.
    pub consumers: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskLoad {
    pub queue: TaskQueue,
    /// Tasks that are due and not delivered to any consumer.
    pub ready: u64,
    /// Tasks delivered and not acknowledged.
    pub unacked: Option<u64>,
    pub consumers: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delayed {
    pub queue: TaskQueue,
    /// After this long at the latest all of them are back in their task queue, due or with a remaining delay.
    pub within: Duration,
    pub tasks: u64,
}
