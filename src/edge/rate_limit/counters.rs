//! Counters that all edges share through the bus, each over a sliding window: the previous fixed window counts by the
//! share of it that still lies within the sliding one. While the bus is unavailable each edge counts locally, so that a
//! limit applies per edge instead of to all edges together.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{bus::Coordination, model::Timestamp};

/// How long the bus may take before this edge counts locally.
const WITHIN: Duration = Duration::from_millis(500);
/// How long this edge then counts locally before it uses the bus again.
const AWAY: Duration = Duration::from_secs(5);
/// The most local counters of an edge.
const MAX_LOCAL: usize = 65_536;

/// An increment (0 only reads the total) of a counter, and the counter's window.
#[derive(Debug, Clone)]
pub struct Count {
    pub key: String,
    pub add: u64,
    pub window: Duration,
}

#[derive(Default)]
pub struct Counters {
    local: Mutex<HashMap<String, (u64, Instant)>>,
    away_until: Mutex<Option<Instant>>,
}

impl Counters {
    /// Adds to each counter and returns the totals within their windows, rounded up. One round trip, at most 500 ms.
    pub async fn add(&self, bus: &dyn Coordination, counts: &[Count]) -> Vec<u64> {
        let now = Timestamp::now().millis().unsigned_abs();
        let windows: Vec<Window> = counts.iter().map(|count| Window::of(count, now)).collect();
        let additions: Vec<(&str, u64)> = windows
            .iter()
            .zip(counts)
            .flat_map(|(window, count)| {
                [
                    (window.this.as_str(), count.add),
                    (window.before.as_str(), 0),
                ]
            })
            .collect();
        let longest = counts.iter().map(|count| count.window).max();
        let totals = self.count(bus, &additions, longest.unwrap_or_default() * 2);
        let totals = totals.await;
        windows
            .iter()
            .zip(totals.chunks_exact(2))
            .map(|(window, totals)| window.sum(totals[0], totals[1]))
            .collect()
    }

    /// Sets a flag for `ttl`, locally and for all edges.
    pub async fn set_flag(&self, bus: &dyn Coordination, key: &str, ttl: Duration) {
        self.count_local(&[(key, 1)], ttl);
        self.count(bus, &[(key, 1)], ttl).await;
    }

    /// Whether the flag is set.
    pub async fn flag(&self, bus: &dyn Coordination, key: &str) -> bool {
        let asked = [(key, 0)];
        self.count_local(&asked, Duration::ZERO) != [0]
            || self.count(bus, &asked, Duration::ZERO).await != [0]
    }

    async fn count(
        &self,
        bus: &dyn Coordination,
        additions: &[(&str, u64)],
        ttl: Duration,
    ) -> Vec<u64> {
        if self.away_until.lock().is_some_and(|at| Instant::now() < at) {
            return self.count_local(additions, ttl);
        }
        let asked = tokio::time::timeout(WITHIN, bus.add(additions, ttl)).await;
        let failure = match asked {
            Ok(Ok(totals)) if totals.len() == additions.len() => return totals,
            Ok(Ok(_)) => "incomplete reply from the bus".to_owned(),
            Ok(Err(error)) => error.chain(),
            Err(_) => "the bus did not answer in time".to_owned(),
        };
        tracing::warn!(error = %failure, "bus unavailable; counting attempts on this edge only");
        *self.away_until.lock() = Some(Instant::now() + AWAY);
        self.count_local(additions, ttl)
    }

    fn count_local(&self, additions: &[(&str, u64)], ttl: Duration) -> Vec<u64> {
        let (mut local, now) = (self.local.lock(), Instant::now());
        if local.len() + additions.len() > MAX_LOCAL {
            local.retain(|_, (_, end)| *end > now);
            if local.len() + additions.len() > MAX_LOCAL {
                // Drops an arbitrary half: this many keys within minutes are an attack on the counters themselves.
                let mut keep = false;
                local.retain(|_, _| {
                    keep = !keep;
                    keep
                });
            }
        }
        let totals = additions.iter().map(|(key, add)| {
            let known = local.get(*key).filter(|(_, end)| *end > now);
            let total = known.map_or(0, |(total, _)| *total) + add;
            if *add > 0 {
                local.insert((*key).to_owned(), (total, now + ttl));
            }
            total
        });
        totals.collect()
    }
}

/// The time until a counter over `window` is certainly lower, if nothing more is added.
pub fn wait(window: Duration) -> Duration {
    let (now, length) = (Timestamp::now().millis().unsigned_abs(), millis(window));
    Duration::from_millis(length - now % length)
}

/// The keys of the current and the previous window, and the share of the previous one that still counts.
struct Window {
    this: String,
    before: String,
    share: f64,
}

impl Window {
    fn of(count: &Count, now: u64) -> Window {
        let length = millis(count.window);
        let (number, elapsed) = (now / length, now % length);
        Window {
            this: format!("{}:{number}", count.key),
            before: format!("{}:{}", count.key, number.saturating_sub(1)),
            share: 1.0 - elapsed as f64 / length as f64,
        }
    }

    fn sum(&self, this: u64, before: u64) -> u64 {
        this + (before as f64 * self.share).ceil() as u64
    }
}

fn millis(window: Duration) -> u64 {
    u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::memory::{MemoryBus, MemoryBusSettings};

    fn count(add: u64) -> [Count; 1] {
        [Count {
            key: "k".to_owned(),
            add,
            window: Duration::from_secs(3600),
        }]
    }

    #[test]
    fn the_previous_window_counts_by_its_remaining_share() {
        let of = |now| Window::of(&count(0)[0], now);
        assert_eq!(of(3_600_000).this, "k:1");
        assert_eq!(of(3_600_000).before, "k:0");
        assert_eq!(of(3_599_999).this, "k:0");
        assert_eq!(of(0).before, "k:0");
        assert_eq!(of(3_600_000).sum(2, 10), 12);
        assert_eq!(of(3_600_000 + 1_800_000).sum(2, 10), 7);
        assert_eq!(of(7_199_999).sum(2, 10), 3, "rounded up");
        assert_eq!(of(7_199_999).sum(2, 0), 2);
    }

    #[tokio::test]
    async fn edges_share_their_counts() {
        let bus = MemoryBus::new(MemoryBusSettings::default());
        let (one, other) = (Counters::default(), Counters::default());
        assert_eq!(one.add(&bus, &count(2)).await, [2]);
        assert_eq!(other.add(&bus, &count(1)).await, [3]);
        assert_eq!(one.add(&bus, &count(0)).await, [3]);
        assert!(!one.flag(&bus, "pair").await);
        other.set_flag(&bus, "pair", Duration::from_secs(60)).await;
        assert!(one.flag(&bus, "pair").await);
    }

    #[test]
    fn an_edge_keeps_only_so_many_counts_of_its_own() {
        let counters = Counters::default();
        for key in 0..MAX_LOCAL + 10 {
            counters.count_local(&[(&key.to_string(), 1)], Duration::from_secs(60));
        }
        assert!(counters.local.lock().len() <= MAX_LOCAL);
        assert_eq!(
            counters.count_local(&[("x", 1), ("x", 1), ("y", 0)], Duration::from_secs(60)),
            [1, 2, 0]
        );
        let local = counters.local.lock();
        assert!(!local.contains_key("y"), "asking keeps nothing");
    }
}
