//! The settings of the queue.

use std::time::Duration;

use crate::queue::Partition;

#[derive(Debug, Clone)]
pub struct SqliteQueueSettings {
    /// At least 1.
    pub partitions: Partition,
    /// Deadline of a publish.
    pub confirm_timeout: Duration,
    /// Payloads that a consumer reads from the file at once, at least 1.
    pub prefetch: u16,
}
