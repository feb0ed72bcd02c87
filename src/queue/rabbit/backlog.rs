//! Estimates how many commands wait in the partitions: the broker counts payloads, and only their publisher knows how many
//! commands are in each. No I/O.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::queue::Partition;

/// Sizes kept per partition. Payloads beyond them are assumed to have the average size.
const KEPT: usize = 1024;

#[derive(Default)]
struct Sizes {
    /// Commands in each of the payloads that this node published last, the newest at the end.
    recent: VecDeque<u32>,
    sum: u64,
    /// Commands waiting according to the broker's last answer.
    waiting: u64,
    /// Commands published since that answer.
    since: u64,
}

impl Sizes {
    fn push(&mut self, messages: u32) {
        if self.recent.len() == KEPT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.sum -= u64::from(oldest);
        }
        self.recent.push_back(messages);
        self.sum += u64::from(messages);
        self.since += u64::from(messages);
    }

    fn commands_in(&self, ready: u64, default_size: f64) -> u64 {
        let known = self.recent.len();
        match usize::try_from(ready) {
            Ok(ready) if ready <= known => self
                .recent
                .iter()
                .rev()
                .take(ready)
                .map(|n| u64::from(*n))
                .sum(),
            _ if known > 0 => (self.sum as f64 / known as f64 * ready as f64) as u64,
            _ => (default_size * ready as f64) as u64,
        }
    }
}

/// The estimate. Reading it costs one atomic load.
pub(super) struct Backlog {
    partitions: Mutex<Vec<Sizes>>,
    total: AtomicU64,
}

/// The published commands when a poll began.
pub(super) struct Mark(Vec<u64>);

impl Backlog {
    pub fn new(partitions: Partition) -> Backlog {
        Backlog {
            partitions: Mutex::new((0..partitions).map(|_| Sizes::default()).collect()),
            total: AtomicU64::new(0),
        }
    }

    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub fn published(&self, partition: Partition, messages: u32) {
        let mut partitions = self.partitions.lock();
        if let Some(sizes) = partitions.get_mut(usize::from(partition)) {
            sizes.push(messages);
            self.total.fetch_add(u64::from(messages), Ordering::Relaxed);
        }
    }

    pub fn mark(&self) -> Mark {
        Mark(
            self.partitions
                .lock()
                .iter()
                .map(|sizes| sizes.since)
                .collect(),
        )
    }

    /// Applies the broker's answer to a poll that began at `mark`: ready payloads, by partition. Commands published during
    /// the poll may be counted twice until the next one.
    pub fn polled(&self, mark: Mark, ready: &[u64]) {
        let mut partitions = self.partitions.lock();
        let (sum, known) = partitions.iter().fold((0, 0), |(sum, known), sizes| {
            (sum + sizes.sum, known + sizes.recent.len())
        });
        // For partitions to which this node never published: the average size over the others.
        let average = if known > 0 {
            sum as f64 / known as f64
        } else {
            1.0
        };
        let mut total = 0;
        for ((sizes, since), ready) in partitions.iter_mut().zip(mark.0).zip(ready) {
            sizes.since -= since;
            sizes.waiting = sizes.commands_in(*ready, average);
            total += sizes.waiting + sizes.since;
        }
        self.total.store(total, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_payloads_are_assumed_to_wait() {
        let backlog = Backlog::new(2);
        for messages in [10, 20, 30] {
            backlog.published(0, messages);
        }
        assert_eq!(backlog.total(), 60);
        backlog.polled(backlog.mark(), &[2, 0]);
        assert_eq!(backlog.total(), 50);
        backlog.published(1, 7);
        assert_eq!(backlog.total(), 57);
        backlog.polled(backlog.mark(), &[0, 1]);
        assert_eq!(backlog.total(), 7);
    }

    #[test]
    fn payloads_of_other_nodes_are_assumed_to_have_the_average_size() {
        let backlog = Backlog::new(2);
        backlog.polled(backlog.mark(), &[3, 0]);
        assert_eq!(backlog.total(), 3);
        backlog.published(0, 10);
        backlog.published(0, 30);
        backlog.polled(backlog.mark(), &[5, 2]);
        assert_eq!(backlog.total(), 100 + 40);
    }

    #[test]
    fn commands_published_during_a_poll_are_counted() {
        let backlog = Backlog::new(1);
        backlog.published(0, 5);
        let mark = backlog.mark();
        backlog.published(0, 8);
        backlog.polled(mark, &[1]);
        assert_eq!(backlog.total(), 8 + 8);
    }
}
