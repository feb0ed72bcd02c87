//! Counts what this worker holds unacknowledged, and reports it to the autoscaler: the broker's declaration counts only
//! payloads that are not delivered. Without the report, a worker that waits for the database would look idle and be
//! stopped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Coordination, WorkerId},
    queue::{Held, TaskQueue},
};

/// The counters of one worker.
#[derive(Default)]
pub(super) struct HeldCounts {
    commands: AtomicU64,
    payloads: AtomicU64,
    notify: AtomicU64,
    email: AtomicU64,
    sms: AtomicU64,
}

/// The number that one owner holds; counted until it is dropped.
pub(super) struct Holding {
    counts: Arc<HeldCounts>,
    of: fn(&HeldCounts) -> &AtomicU64,
    number: u64,
}

impl Holding {
    /// Replaces the number.
    pub fn set(&mut self, number: u64) {
        let counter = (self.of)(&self.counts);
        counter.fetch_add(number.wrapping_sub(self.number), Relaxed);
        self.number = number;
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl HeldCounts {
    /// Commands of a lane's batch.
    pub fn commands(self: &Arc<Self>) -> Holding {
        self.holding(|counts| &counts.commands, 0)
    }

    /// Payloads that wait for a lane's batch.
    pub fn payloads(self: &Arc<Self>) -> Holding {
        self.holding(|counts| &counts.payloads, 0)
    }

    /// One task.
    pub fn task(self: &Arc<Self>, queue: TaskQueue) -> Holding {
        let of: fn(&HeldCounts) -> &AtomicU64 = match queue {
            TaskQueue::Notify => |counts| &counts.notify,
            TaskQueue::Email => |counts| &counts.email,
            TaskQueue::Sms => |counts| &counts.sms,
        };
        self.holding(of, 1)
    }

    fn holding(self: &Arc<Self>, of: fn(&HeldCounts) -> &AtomicU64, number: u64) -> Holding {
        let mut holding = Holding {
            counts: self.clone(),
            of,
            number: 0,
        };
        holding.set(number);
        holding
    }

    fn held(&self) -> Held {
        Held {
            commands: self.commands.load(Relaxed),
            payloads: self.payloads.load(Relaxed),
            notify: self.notify.load(Relaxed),
            email: self.email.load(Relaxed),
            sms: self.sms.load(Relaxed),
        }
    }
}

/// Reports every `interval` until `done`, and then that nothing is held. An idle worker reports nothing.
pub(super) async fn report(
    counts: Arc<HeldCounts>,
    coordination: Arc<dyn Coordination>,
    id: WorkerId,
    (interval, ttl): (Duration, Duration),
    done: CancellationToken,
) {
    let mut reported = Held::default();
    loop {
        let ended = done.is_cancelled();
        let held = if ended {
            Held::default()
        } else {
            counts.held()
        };
        // A report expires, so it is repeated while anything is held.
        if held != Held::default() || held != reported {
            let json = serde_json::to_string(&held).unwrap_or_default();
            match coordination.report(Held::KEY, id, &json, ttl).await {
                Ok(()) => reported = held,
                Err(error) => tracing::debug!(error = %error.chain(), "held batches not reported"),
            }
        }
        if ended {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = done.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::memory::{MemoryBus, MemoryBusSettings};

    #[test]
    fn each_holding_counts_until_it_is_dropped() {
        let counts = Arc::new(HeldCounts::default());
        let (mut one, mut two) = (counts.commands(), counts.commands());
        one.set(5);
        two.set(3);
        one.set(2);
        let task = counts.task(TaskQueue::Email);
        let mut waiting = counts.payloads();
        waiting.set(9);
        let held = Held {
            commands: 5,
            payloads: 9,
            email: 1,
            ..Held::default()
        };
        assert_eq!(counts.held(), held);
        drop((one, two, task, waiting));
        assert_eq!(counts.held(), Held::default());
    }

    /// Reads until the reports have this sum.
    async fn until(bus: &dyn Coordination, commands: u64) {
        let reading = async {
            loop {
                let reports = bus.reports(Held::KEY).await.expect("the bus");
                if Held::sum(&reports).commands == commands {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(10), reading);
        within.await.expect("the report");
    }

    #[tokio::test]
    async fn held_batches_are_reported_until_the_worker_ends() {
        let bus: Arc<dyn Coordination> = Arc::new(MemoryBus::new(MemoryBusSettings::default()));
        let (counts, done) = (Arc::new(HeldCounts::default()), CancellationToken::new());
        let (interval, ttl) = (Duration::from_millis(5), Duration::from_secs(60));
        let id = WorkerId::from_u128(1);
        let times = (interval, ttl);
        let reporting = report(counts.clone(), bus.clone(), id, times, done.clone());
        let reporting = tokio::spawn(reporting);
        let mut lane = counts.commands();
        lane.set(4);
        until(bus.as_ref(), 4).await;
        lane.set(0);
        until(bus.as_ref(), 0).await;
        lane.set(7);
        until(bus.as_ref(), 7).await;
        done.cancel();
        reporting.await.expect("no panic");
        until(bus.as_ref(), 0).await;
    }

    #[tokio::test]
    async fn an_idle_worker_reports_nothing() {
        let bus: Arc<dyn Coordination> = Arc::new(MemoryBus::new(MemoryBusSettings::default()));
        let (counts, done) = (Arc::new(HeldCounts::default()), CancellationToken::new());
        let times = (Duration::from_millis(5), Duration::from_secs(60));
        done.cancel();
        report(counts, bus.clone(), WorkerId::from_u128(1), times, done).await;
        assert!(bus.reports(Held::KEY).await.expect("the bus").is_empty());
    }
}
