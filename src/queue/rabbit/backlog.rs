//! How many commands wait in the partitions, as far as one node can know: the broker counts payloads, and only
//! who published them knows how many commands are inside. No I/O.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::{Mutex, MutexGuard};

use crate::queue::Partition;

/// Sizes of own payloads remembered a partition. What waits beyond them is taken to be like them.
const REMEMBERED: usize = 1024;

#[derive(Default)]
struct Sizes {
    /// Commands in each of the newest own payloads, the newest last.
    recent: VecDeque<u32>,
    sum: u64,
    /// What the broker's last answer comes to.
    waiting: u64,
    /// Published since that answer.
    since: u64,
}

impl Sizes {
    fn push(&mut self, messages: u32) {
        if self.recent.len() == REMEMBERED
            && let Some(oldest) = self.recent.pop_front()
        {
            self.sum -= u64::from(oldest);
        }
        self.recent.push_back(messages);
        self.sum += u64::from(messages);
        self.since += u64::from(messages);
    }

    fn commands_in(&self, ready: u64, otherwise: f64) -> u64 {
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
            _ => (otherwise * ready as f64) as u64,
        }
    }
}

/// The estimate. Reading it costs one atomic load.
pub(super) struct Backlog {
    partitions: Mutex<Vec<Sizes>>,
    total: AtomicU64,
}

/// What had been published when a poll began.
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
        let mut partitions = self.lock();
        if let Some(sizes) = partitions.get_mut(usize::from(partition)) {
            sizes.push(messages);
            self.total.fetch_add(u64::from(messages), Ordering::Relaxed);
        }
    }

    pub fn mark(&self) -> Mark {
        Mark(self.lock().iter().map(|sizes| sizes.since).collect())
    }

    /// The broker's answer to a poll that began at `mark`: ready payloads, partition by partition. What was
    /// published in between may be counted twice, until the next poll.
    pub fn polled(&self, mark: Mark, ready: &[u64]) {
        let mut partitions = self.lock();
        let (sum, known) = partitions.iter().fold((0, 0), |(sum, known), sizes| {
            (sum + sizes.sum, known + sizes.recent.len())
        });
        // A partition this node never published to: its payloads are taken to be like those of the others.
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

    fn lock(&self) -> MutexGuard<'_, Vec<Sizes>> {
        self.partitions.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_payloads_are_those_that_wait() {
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
    fn others_payloads_are_taken_to_be_like_ours() {
        let backlog = Backlog::new(2);
        backlog.polled(backlog.mark(), &[3, 0]);
        assert_eq!(backlog.total(), 3);
        backlog.published(0, 10);
        backlog.published(0, 30);
        backlog.polled(backlog.mark(), &[5, 2]);
        assert_eq!(backlog.total(), 100 + 40);
    }

    #[test]
    fn what_is_published_during_a_poll_is_not_forgotten() {
        let backlog = Backlog::new(1);
        backlog.published(0, 5);
        let mark = backlog.mark();
        backlog.published(0, 8);
        backlog.polled(mark, &[1]);
        assert_eq!(backlog.total(), 8 + 8);
    }
}
