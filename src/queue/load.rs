//! The load of the queue, for operators and for the autoscaler.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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

/// The numbers of deliveries that workers have not acknowledged. Each worker reports them on the bus, since the broker's
/// passive declaration does not count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Held {
    /// Commands of the batches that are being stored.
    pub commands: u64,
    /// Payloads that wait until those are stored.
    pub payloads: u64,
    /// Tasks of each queue.
    pub notify: u64,
    pub email: u64,
    pub sms: u64,
}

impl Held {
    /// The key of the workers' reports on the bus, which are JSON.
    pub const KEY: &str = "held";

    pub fn tasks(&self, queue: TaskQueue) -> u64 {
        match queue {
            TaskQueue::Notify => self.notify,
            TaskQueue::Email => self.email,
            TaskQueue::Sms => self.sms,
        }
    }

    /// The sum of reports. A report of another version that cannot be parsed is ignored.
    pub fn sum(reports: &[String]) -> Held {
        let reports = reports
            .iter()
            .filter_map(|json| serde_json::from_str(json).ok());
        reports.fold(Held::default(), |sum, one: Held| Held {
            commands: sum.commands.saturating_add(one.commands),
            payloads: sum.payloads.saturating_add(one.payloads),
            notify: sum.notify.saturating_add(one.notify),
            email: sum.email.saturating_add(one.email),
            sms: sum.sms.saturating_add(one.sms),
        })
    }
}
