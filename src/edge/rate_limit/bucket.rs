//! Token buckets: a rate and a burst, for one user or for each of many keys.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    cost::{Budget, Cost},
    unread::Unread,
};
use crate::model::UserId;

/// The most keys that one [`Keyed`] tracks; all further keys share one bucket.
const MAX_KEYS: usize = 65_536;
/// Number of entries at which full buckets are first removed.
const FIRST_SWEEP: usize = 1024;
/// Minimum time between two removals, so that a flood of new keys does not cause one each.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Tokens per second, and the capacity of the bucket.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    per_second: f64,
    burst: f64,
}

impl Rate {
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Rate {
            per_second: if per_second == 0 {
                1.0
            } else {
                per_second as f64
            },
            burst: if burst == 0 { 1.0 } else { burst as f64 },
        }
    }
}

/// Tokens, and when they were last updated.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    counted: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Bucket {
            tokens: rate.burst,
            counted: now,
        }
    }

    fn at(self, rate: Rate, now: Instant) -> f64 {
        let earned = now.saturating_duration_since(self.counted).as_secs_f64() * rate.per_second;
        (self.tokens + earned).min(rate.burst)
    }

    /// Takes `cost` tokens, or returns the time until they are available. A cost above the burst is capped to it. A
    /// cost of 0 takes nothing but fails if less than one token is available.
    fn take(&mut self, rate: Rate, cost: f64, now: Instant) -> Result<(), Duration> {
        let (tokens, needed) = (self.at(rate, now), cost.clamp(1.0, rate.burst));
        let enough = tokens >= needed;
        *self = Bucket {
            tokens: if enough {
                tokens - cost.min(rate.burst)
            } else {
                tokens
            },
            counted: now,
        };
        if enough {
            Ok(())
        } else {
            Err(Duration::from_secs_f64((needed - tokens) / rate.per_second))
        }
    }
}

/// One bucket per recently used key.
pub struct Keyed<K> {
    rate: Rate,
    entries: Mutex<Entries<K>>,
}

struct Entries<K> {
    buckets: HashMap<K, Bucket>,
    /// The bucket shared by keys beyond [`MAX_KEYS`].
    overflow: Option<Bucket>,
    sweep_at: usize,
    sweep_after: Instant,
}

impl<K: Hash + Eq> Keyed<K> {
    pub fn new(rate: Rate) -> Self {
        Keyed {
            rate,
            entries: Mutex::new(Entries {
                buckets: HashMap::new(),
                overflow: None,
                sweep_at: FIRST_SWEEP,
                sweep_after: Instant::now(),
            }),
        }
    }

    /// Takes `cost` tokens, or returns the time until they are available.
    pub fn take(&self, key: K, cost: f64, now: Instant) -> Result<(), Duration> {
        let (mut entries, rate) = (self.entries.lock(), self.rate);
        if let Some(bucket) = entries.buckets.get_mut(&key) {
            return bucket.take(rate, cost, now);
        }
        if entries.buckets.len() >= entries.sweep_at && now >= entries.sweep_after {
            entries.buckets.retain(|_, b| b.at(rate, now) < rate.burst);
            entries.sweep_at = (entries.buckets.len() * 2).clamp(FIRST_SWEEP, MAX_KEYS);
            entries.sweep_after = now + SWEEP_EVERY;
        }
        let bucket = if entries.buckets.len() < MAX_KEYS {
            entries
                .buckets
                .entry(key)
                .or_insert(Bucket::full(rate, now))
        } else {
            entries.overflow.get_or_insert(Bucket::full(rate, now))
        };
        bucket.take(rate, cost, now)
    }
}

/// The budgets of one user on this edge.
pub struct Allowance {
    commands_rate: Rate,
    reads_rate: Rate,
    commands: Mutex<Bucket>,
    reads: Mutex<Bucket>,
    marks: Mutex<Bucket>,
    /// Responses that the user has not read yet.
    pub unread: Unread,
}

impl Allowance {
    fn full(commands: Rate, reads: Rate, now: Instant) -> Self {
        Allowance {
            commands_rate: commands,
            reads_rate: reads,
            commands: Mutex::new(Bucket::full(commands, now)),
            reads: Mutex::new(Bucket::full(reads, now)),
            marks: Mutex::new(Bucket::full(commands, now)),
            unread: Unread::default(),
        }
    }

    pub(super) fn take_at(&self, cost: Cost, now: Instant) -> Result<(), Duration> {
        let (bucket, rate) = match cost.budget {
            Budget::Commands => (&self.commands, self.commands_rate),
            Budget::Reads => (&self.reads, self.reads_rate),
            Budget::Marks => (&self.marks, self.commands_rate),
            Budget::Address | Budget::Pages | Budget::Refused | Budget::Free => return Ok(()),
        };
        bucket.lock().take(rate, f64::from(cost.tokens), now)
    }

    fn is_full_at(&self, now: Instant) -> bool {
        [
            (&self.commands, self.commands_rate),
            (&self.reads, self.reads_rate),
            (&self.marks, self.commands_rate),
        ]
        .iter()
        .all(|(bucket, rate)| bucket.lock().at(*rate, now) >= rate.burst)
    }
}

/// Every user's [`Allowance`].
pub struct Users {
    commands: Rate,
    reads: Rate,
    known: Mutex<HashMap<UserId, Arc<Allowance>>>,
}

impl Users {
    pub fn new(commands: Rate, reads: Rate) -> Self {
        Users {
            commands,
            reads,
            known: Mutex::default(),
        }
    }

    /// The user's allowance. It is dropped once it is unused and full again.
    pub fn of(&self, user: UserId) -> Arc<Allowance> {
        let mut known = self.known.lock();
        if let Some(allowance) = known.get(&user) {
            return allowance.clone();
        }
        let now = Instant::now();
        // Removes unused allowances before the map would grow.
        if known.len() == known.capacity() {
            known.retain(|_, allowance| {
                Arc::strong_count(allowance) > 1
                    || !allowance.unread.is_empty()
                    || !allowance.is_full_at(now)
            });
        }
        let new = || Arc::new(Allowance::full(self.commands, self.reads, now));
        known.entry(user).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: Cost = Cost {
        budget: Budget::Commands,
        tokens: 1,
    };

    #[test]
    fn a_burst_is_taken_at_once_and_then_the_rate_counts() {
        let users = Users::new(Rate::new(10, 3), Rate::new(1, 1));
        let allowance = users.of(UserId::nil());
        let start = Instant::now();
        for _ in 0..3 {
            allowance.take_at(SEND, start).unwrap();
        }
        let wait = allowance.take_at(SEND, start).unwrap_err();
        assert!(
            wait > Duration::from_millis(90) && wait <= Duration::from_millis(100),
            "{wait:?}"
        );
        let later = start + Duration::from_millis(101);
        allowance.take_at(SEND, later).unwrap();
        assert!(
            Arc::ptr_eq(&allowance, &users.of(UserId::nil())),
            "one a user"
        );
    }

    #[test]
    fn a_cost_is_taken_whole_and_can_always_be_met() {
        let (rate, now) = (Rate::new(1, 10), Instant::now());
        let keyed = Keyed::new(rate);
        keyed.take("a", 4.0, now).unwrap();
        keyed.take("a", 6.0, now).unwrap();
        assert_eq!(keyed.take("a", 3.0, now), Err(Duration::from_secs(3)));
        assert_eq!(keyed.take("a", 0.0, now), Err(Duration::from_secs(1)));
        keyed.take("b", 1000.0, now).unwrap();
        keyed.take("b", 0.0, now).unwrap_err();
        keyed.take("b", 0.0, now + Duration::from_secs(1)).unwrap();
        keyed.take("b", 1.0, now + Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn keys_without_end_take_no_memory_without_end() {
        let (keyed, now) = (Keyed::new(Rate::new(1, 1)), Instant::now());
        let mut refused = 0;
        for key in 0..2 * MAX_KEYS {
            refused += usize::from(keyed.take(key, 1.0, now).is_err());
        }
        assert_eq!(keyed.entries.lock().buckets.len(), MAX_KEYS);
        assert_eq!(refused, MAX_KEYS - 1, "those without a place share one");
        // Buckets that are full again are removed to make room.
        let later = now + Duration::from_secs(1);
        for key in 0..10 {
            keyed.take(usize::MAX - key, 1.0, later).unwrap();
        }
        assert!(keyed.entries.lock().buckets.len() <= 10);
    }

    #[test]
    fn an_allowance_nothing_holds_is_kept_until_it_is_full() {
        let users = Users::new(Rate::new(1, 3), Rate::new(1, 3));
        let taken = users.of(UserId::nil()).take_at(SEND, Instant::now());
        taken.unwrap();
        for n in 1..1000 {
            users.of(UserId::from_u128(n));
        }
        let tokens = users.of(UserId::nil()).commands.lock().tokens;
        assert!(tokens < 3.0, "a user cannot get a new one by coming again");
        assert!(
            users.known.lock().len() < 1000,
            "those of others are removed"
        );
    }
}
