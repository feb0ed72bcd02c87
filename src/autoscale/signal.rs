//! Converts the queue's load and the reports to what the decision needs: messages (not payloads), an age, a rate. No
//! I/O. An unknown figure stays unknown.

use std::{collections::VecDeque, time::Duration};

use crate::queue::{Held, Load, TaskQueue};

/// How long reports are kept, to estimate the age of waiting messages.
const FLOW_MEMORY: Duration = Duration::from_secs(600);
/// The window of the arrival rate.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// The window of the average payload size.
const SIZE_WINDOW: Duration = Duration::from_secs(60);

/// Totals published by all edges. They only grow, unless Redis lost them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub payloads: u64,
    pub messages: u64,
}

/// One measurement; `None` is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measurement {
    pub waiting: Option<u64>,
    pub oldest: Option<Duration>,
    pub arrival: Option<f64>,
    pub tasks: Option<u64>,
    pub due_soon: Option<u64>,
}

/// The queues that a pool of workers consumes; the others belong to other pools.
#[derive(Debug, Clone)]
pub struct Scope {
    pub messages: bool,
    pub tasks: Vec<TaskQueue>,
    /// A task is due soon if it is due within this time.
    pub soon: Duration,
}

/// Keeps the history that a measurement needs.
pub struct Tracker {
    scope: Scope,
    flow: VecDeque<(Duration, Flow)>,
    /// Average number of messages in a payload.
    size: Option<f64>,
    /// The sum of the workers' reports; `None` if it could not be read.
    held: Option<Held>,
    /// Since when each partition has not been measured empty.
    waiting_since: Vec<Option<Duration>>,
}

impl Tracker {
    pub fn new(scope: Scope) -> Tracker {
        Tracker {
            scope,
            flow: VecDeque::new(),
            size: None,
            held: Some(Held::default()),
            waiting_since: Vec::new(),
        }
    }

    /// Adds the edges' totals at `at`; `None` if they could not be read.
    pub fn report(&mut self, at: Duration, flow: Option<Flow>) {
        let Some(flow) = flow else {
            self.flow.clear();
            return;
        };
        // Redis lost the counters, or the clock jumped.
        if let Some((then, last)) = self.flow.back()
            && (flow.payloads < last.payloads || flow.messages < last.messages || at < *then)
        {
            self.flow.clear();
        }
        self.flow.push_back((at, flow));
        while self
            .flow
            .front()
            .is_some_and(|(first, _)| *first + FLOW_MEMORY < at)
        {
            self.flow.pop_front();
        }
        self.size = self.recent_size(at, flow).or(self.size).or_else(|| {
            // Nothing is published now: the average over everything so far.
            (flow.payloads > 0).then(|| flow.messages as f64 / flow.payloads as f64)
        });
    }

    /// Sets the sum of the workers' reports; `None` if it could not be read.
    pub fn hold(&mut self, held: Option<Held>) {
        self.held = held;
    }

    /// Evaluates the queue's load at `at`; `None` if the queue did not answer.
    pub fn measure(&mut self, at: Duration, load: Option<&Load>) -> Measurement {
        let arrival = self.arrival(at);
        let tasks = load.map(|load| self.tasks(load));
        let due_soon = load.and_then(|load| self.due_soon(load));
        if !self.scope.messages {
            let known = load.is_some();
            return Measurement {
                waiting: known.then_some(0),
                oldest: known.then_some(Duration::ZERO),
                // No worker is stopped while it is unknown whether some hold tasks.
                arrival: self.held.map(|_| 0.0),
                tasks,
                due_soon,
            };
        }
        let Some(load) = load else {
            // Partitions may have been empty in between, but were not measured so: their age continues.
            return Measurement {
                arrival,
                ..Measurement::default()
            };
        };
        let waiting = self.waiting(load);
        let oldest = self.oldest(at, load, waiting);
        Measurement {
            waiting: Some(waiting),
            oldest,
            arrival,
            tasks,
            due_soon,
        }
    }

    /// Messages that no worker has acknowledged. Those that workers hold are counted by the broker's management API and
    /// by the workers; either may be missing or late, so the larger number counts.
    fn waiting(&self, load: &Load) -> u64 {
        let size = self.size.unwrap_or(1.0).max(1.0);
        let messages = |payloads: u64| (payloads as f64 * size).ceil() as u64;
        let (mut waiting, mut unacked, mut exact) = (0, 0, true);
        for partition in &load.partitions {
            match partition.messages {
                Some(counted) => waiting += counted,
                None => {
                    waiting += messages(partition.ready);
                    unacked += messages(partition.unacked.unwrap_or_default());
                    exact = false;
                }
            }
        }
        let held = self.held.filter(|_| !exact).unwrap_or_default();
        waiting + unacked.max(held.commands.saturating_add(messages(held.payloads)))
    }

    fn tasks(&self, load: &Load) -> u64 {
        let held = self.held.unwrap_or_default();
        let ours = |queue| self.scope.tasks.contains(queue);
        let tasks = load.tasks.iter().filter(|tasks| ours(&tasks.queue));
        tasks
            .map(|tasks| {
                let unacked = tasks.unacked.unwrap_or_default();
                tasks.ready + unacked.max(held.tasks(tasks.queue))
            })
            .sum()
    }

    fn due_soon(&self, load: &Load) -> Option<u64> {
        if self.scope.tasks.is_empty() {
            return Some(0);
        }
        let delayed = load.delayed.as_ref()?.iter();
        let soon = delayed.filter(|tasks| {
            self.scope.tasks.contains(&tasks.queue) && tasks.within <= self.scope.soon
        });
        Some(soon.map(|tasks| tasks.tasks).sum())
    }

    fn oldest(&mut self, at: Duration, load: &Load, waiting: u64) -> Option<Duration> {
        self.waiting_since.resize(load.partitions.len(), None);
        let mut longest = Duration::ZERO;
        let mut served = true;
        for (since, partition) in self.waiting_since.iter_mut().zip(&load.partitions) {
            if partition.ready == 0 {
                *since = None;
                continue;
            }
            let since = *since.get_or_insert(at);
            longest = longest.max(at.saturating_sub(since));
            served &= partition.consumers > 0;
        }
        // Without a consumer this is the age of the oldest message. With one it is an upper bound: all waiting messages
        // may have arrived later.
        if served && let Some(bound) = self.age_in_line(at, waiting) {
            longest = longest.min(bound);
        }
        Some(longest)
    }

    /// How long ago the message with `waiting` messages after it was accepted.
    fn age_in_line(&self, at: Duration, waiting: u64) -> Option<Duration> {
        let (_, last) = self.flow.back()?;
        let place = last.messages.checked_sub(waiting)?;
        self.flow
            .iter()
            .rev()
            .find(|(_, flow)| flow.messages <= place)
            .map(|(then, _)| at.saturating_sub(*then))
    }

    fn arrival(&self, at: Duration) -> Option<f64> {
        let (last_at, last) = self.flow.back()?;
        let (first_at, first) = self.since(at, RATE_WINDOW)?;
        let span = last_at.saturating_sub(*first_at).as_secs_f64();
        (span > 0.0).then(|| (last.messages - first.messages) as f64 / span)
    }

    fn recent_size(&self, at: Duration, last: Flow) -> Option<f64> {
        let (_, first) = self.since(at, SIZE_WINDOW)?;
        let payloads = last.payloads - first.payloads;
        (payloads > 0).then(|| (last.messages - first.messages) as f64 / payloads as f64)
    }

    /// The oldest report within `window`, or the one before the last if the window holds only the last.
    fn since(&self, at: Duration, window: Duration) -> Option<&(Duration, Flow)> {
        let start = at.saturating_sub(window);
        let within = self.flow.iter().position(|(then, _)| *then >= start);
        let index = within.unwrap_or(self.flow.len());
        let last = self.flow.len().checked_sub(2)?;
        self.flow.get(index.min(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Delayed, PartitionLoad, TaskLoad};

    fn load(ready: &[u64], consumers: u64) -> Load {
        let partitions = ready.iter().map(|ready| PartitionLoad {
            ready: *ready,
            consumers,
            unacked: None,
            messages: None,
        });
        Load {
            partitions: partitions.collect(),
            ..Load::default()
        }
    }

    fn tracker() -> Tracker {
        Tracker::new(Scope {
            messages: true,
            tasks: Vec::new(),
            soon: s(30),
        })
    }

    fn flow(payloads: u64, messages: u64) -> Option<Flow> {
        Some(Flow { payloads, messages })
    }

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn payloads_are_counted_as_messages() {
        let mut tracker = tracker();
        assert_eq!(
            tracker.measure(s(0), Some(&load(&[2, 0], 0))).waiting,
            Some(2)
        );
        tracker.report(s(1), flow(10, 1000));
        assert_eq!(
            tracker.measure(s(1), Some(&load(&[2, 1], 0))).waiting,
            Some(300)
        );
        // Recent payloads count, not the average over everything.
        tracker.report(s(2), flow(20, 1030));
        assert_eq!(
            tracker.measure(s(2), Some(&load(&[10, 0], 0))).waiting,
            Some(30)
        );
        let mut held = load(&[0, 0], 1);
        held.partitions[1].unacked = Some(5);
        assert_eq!(tracker.measure(s(3), Some(&held)).waiting, Some(15));
        held.partitions[0].messages = Some(7);
        assert_eq!(tracker.measure(s(3), Some(&held)).waiting, Some(22));
    }

    #[test]
    fn unknown_is_not_zero() {
        let mut tracker = tracker();
        assert_eq!(tracker.measure(s(0), None), Measurement::default());
        tracker.report(s(0), flow(5, 50));
        assert_eq!(tracker.measure(s(0), Some(&load(&[0], 1))).arrival, None);
        tracker.report(s(1), flow(5, 50));
        assert_eq!(
            tracker.measure(s(1), Some(&load(&[0], 1))).arrival,
            Some(0.0)
        );
        tracker.report(s(2), None);
        assert_eq!(tracker.measure(s(2), Some(&load(&[0], 1))).arrival, None);
        // Counters that were reset do not give a negative rate.
        tracker.report(s(3), flow(5, 50));
        tracker.report(s(4), flow(1, 1));
        assert_eq!(tracker.measure(s(4), Some(&load(&[1], 1))).arrival, None);
    }

    #[test]
    fn missing_statistics_hide_no_waiting_payload() {
        let mut tracker = tracker();
        tracker.report(s(0), flow(10, 100));
        let mut known = load(&[2, 1], 1);
        known.partitions[0].unacked = Some(4);
        assert_eq!(tracker.measure(s(0), Some(&known)).waiting, Some(70));
        // Unacknowledged payloads are unknown; a consumer that ends requeues them.
        let unknown = load(&[2, 1], 1);
        assert_eq!(tracker.measure(s(1), Some(&unknown)).waiting, Some(30));
        // The broker reports none.
        known.partitions[0].unacked = Some(0);
        assert_eq!(tracker.measure(s(2), Some(&known)).waiting, Some(30));
        // No answer is not zero, and the age continues.
        assert_eq!(tracker.measure(s(60), None).waiting, None);
        let unserved = load(&[2, 1], 0);
        assert_eq!(tracker.measure(s(61), Some(&unserved)).oldest, Some(s(61)));
    }

    #[test]
    fn batches_held_by_workers_are_counted_once() {
        let mut tracker = tracker();
        tracker.report(s(0), flow(10, 100));
        let held = Held {
            commands: 7,
            payloads: 2,
            ..Held::default()
        };
        let idle = load(&[0, 0], 1);
        let waiting =
            |tracker: &mut Tracker, load: &Load| tracker.measure(s(1), Some(load)).waiting;
        assert_eq!(waiting(&mut tracker, &idle), Some(0));
        tracker.hold(Some(held));
        assert_eq!(waiting(&mut tracker, &idle), Some(27));
        assert_eq!(waiting(&mut tracker, &load(&[1, 2], 1)), Some(57));
        // The management API counts the same batches, a few seconds late.
        let mut both = idle.clone();
        both.partitions[0].unacked = Some(2);
        assert_eq!(waiting(&mut tracker, &both), Some(27));
        both.partitions[1].unacked = Some(4);
        assert_eq!(waiting(&mut tracker, &both), Some(60));
        // A queue that counts commands itself includes them.
        let mut exact = idle.clone();
        for partition in &mut exact.partitions {
            partition.messages = Some(5);
        }
        assert_eq!(waiting(&mut tracker, &exact), Some(10));
        // An unreadable bus: workers of an earlier version do not report either. The rate is unknown as well, so that
        // no worker is stopped.
        tracker.hold(None);
        tracker.report(s(1), None);
        let unknown = tracker.measure(s(1), Some(&idle));
        assert_eq!((unknown.waiting, unknown.arrival), (Some(0), None));
    }

    #[test]
    fn a_clock_that_jumps_is_a_wrong_age_at_most() {
        const HOUR: u64 = 3600;
        for then in [2 * HOUR, 0] {
            let mut tracker = tracker();
            for second in HOUR..HOUR + 60 {
                let n = second - HOUR + 1;
                tracker.report(s(second), flow(n * 10, n * 100));
                tracker.measure(s(second), Some(&load(&[15], 1)));
            }
            tracker.report(s(then), flow(610, 6100));
            let measured = tracker.measure(s(then), Some(&load(&[15], 1)));
            assert_eq!(measured.waiting, Some(150), "{then}");
            // A rate over a zero or negative time is unknown; over an hour it is small.
            assert!(
                measured.arrival.is_none_or(|rate| rate <= 100.0),
                "{measured:?}"
            );
            let empty = tracker.measure(s(then), Some(&load(&[0], 1)));
            assert_eq!((empty.waiting, empty.oldest), (Some(0), Some(s(0))));
            // After the jump it is correct again.
            for second in 1..60 {
                tracker.report(
                    s(then + second),
                    flow(610 + second * 10, 6100 + second * 100),
                );
                let measured = tracker.measure(s(then + second), Some(&load(&[15], 1)));
                if second > 5 {
                    assert_eq!(
                        (measured.oldest, measured.arrival),
                        (Some(s(2)), Some(100.0)),
                        "{then}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_age_grows_without_consumers() {
        let mut tracker = tracker();
        for (second, ready, age) in [(0, 0, 0), (1, 3, 0), (2, 3, 1), (9, 1, 8), (10, 0, 0)] {
            let measured = tracker.measure(s(second), Some(&load(&[ready, 0], 0)));
            assert_eq!(measured.oldest, Some(s(age)), "second {second}");
        }
    }

    #[test]
    fn a_moving_queue_is_as_old_as_its_position() {
        let mut tracker = tracker();
        // 100 messages per second, of which 150 wait at any time: they arrived within the last two seconds.
        for second in 0..60 {
            tracker.report(s(second), flow(second * 10, second * 100));
            let measured = tracker.measure(s(second), Some(&load(&[15, 0], 1)));
            if second > 5 {
                assert_eq!(measured.oldest, Some(s(2)));
                assert_eq!(measured.arrival, Some(100.0));
            }
        }
        // Without a consumer their age grows.
        let measured = tracker.measure(s(60), Some(&load(&[15, 0], 0)));
        assert_eq!(measured.oldest, Some(s(60)));
    }

    #[test]
    fn tasks_count_if_the_pool_consumes_them_and_they_are_due() {
        let mut load = load(&[5], 1);
        let task = |queue, ready, unacked| TaskLoad {
            queue,
            ready,
            unacked,
            consumers: 0,
        };
        load.tasks = vec![
            task(TaskQueue::Notify, 100, None),
            task(TaskQueue::Email, 3, Some(4)),
            task(TaskQueue::Sms, 0, Some(0)),
        ];
        let delayed = |queue, within, tasks| Delayed {
            queue,
            within: s(within),
            tasks,
        };
        load.delayed = Some(vec![
            delayed(TaskQueue::Notify, 1, 1000),
            delayed(TaskQueue::Email, 16, 2),
            delayed(TaskQueue::Sms, 30, 1),
            delayed(TaskQueue::Sms, 64, 9),
        ]);
        let mut deliveries = Tracker::new(Scope {
            messages: false,
            tasks: vec![TaskQueue::Email, TaskQueue::Sms],
            soon: s(30),
        });
        let measured = deliveries.measure(s(0), Some(&load));
        assert_eq!((measured.tasks, measured.due_soon), (Some(7), Some(3)));
        // Messages belong to another pool.
        assert_eq!((measured.waiting, measured.arrival), (Some(0), Some(0.0)));
        assert_eq!(deliveries.measure(s(0), None).tasks, None);
        // The broker reports four unacknowledged e-mails, the workers two: the larger number counts.
        deliveries.hold(Some(Held {
            notify: 50,
            email: 2,
            sms: 5,
            ..Held::default()
        }));
        assert_eq!(deliveries.measure(s(0), Some(&load)).tasks, Some(12));
        deliveries.hold(None);
        let unknown = deliveries.measure(s(0), Some(&load));
        assert_eq!((unknown.tasks, unknown.arrival), (Some(7), None));
        load.delayed = None;
        assert_eq!(deliveries.measure(s(0), Some(&load)).due_soon, None);
        // A pool without tasks ignores them.
        let measured = tracker().measure(s(0), Some(&load));
        assert_eq!((measured.tasks, measured.due_soon), (Some(0), Some(0)));
        assert_eq!(measured.waiting, Some(5));
    }
}
