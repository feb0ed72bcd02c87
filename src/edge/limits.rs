//! How fast one user may send: a token bucket for each user on this edge, shared by all their sockets and requests.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    error::{Code, Error, Result},
    model::UserId,
};

pub struct Rates {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<UserId, Arc<Bucket>>>,
}

impl Rates {
    pub fn new(per_second: u32, burst: u32) -> Self {
        Rates {
            per_second: f64::from(per_second),
            burst: f64::from(burst.max(1)),
            buckets: Mutex::default(),
        }
    }

    /// The user's bucket. It is forgotten when nobody holds it and it is full again.
    pub fn of(&self, user: UserId) -> Arc<Bucket> {
        let mut buckets = self.buckets.lock();
        // Once in a while, so that users who left do not pile up.
        if buckets.len() == buckets.capacity() {
            let now = Instant::now();
            buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_full_at(now));
        }
        let new = || {
            Arc::new(Bucket {
                per_second: self.per_second,
                burst: self.burst,
                state: Mutex::new((self.burst, Instant::now())),
            })
        };
        buckets.entry(user).or_insert_with(new).clone()
    }
}

pub struct Bucket {
    per_second: f64,
    burst: f64,
    /// Tokens, and when they were counted.
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// One send.
    ///
    /// # Errors
    /// `rate_limited`, with the time until the next one is allowed.
    pub fn take(&self) -> Result<()> {
        self.take_at(Instant::now())
    }

    fn tokens_at(&self, (tokens, counted): (f64, Instant), now: Instant) -> f64 {
        let earned = now.saturating_duration_since(counted).as_secs_f64() * self.per_second;
        (tokens + earned).min(self.burst)
    }

    fn is_full_at(&self, now: Instant) -> bool {
        self.tokens_at(*self.state.lock(), now) >= self.burst
    }

    fn take_at(&self, now: Instant) -> Result<()> {
        let mut state = self.state.lock();
        let tokens = self.tokens_at(*state, now);
        if tokens >= 1.0 {
            *state = (tokens - 1.0, now);
            return Ok(());
        }
        *state = (tokens, now);
        let wait = Duration::from_secs_f64((1.0 - tokens) / self.per_second);
        Err(Error {
            retry_after: Some(wait.max(Duration::from_millis(1))),
            ..Error::new(
                Code::RateLimited,
                "you send faster than allowed; wait and send it again",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_at_once_and_then_the_rate_counts() {
        let rates = Rates::new(10, 3);
        let bucket = rates.of(UserId::nil());
        let start = Instant::now();
        for _ in 0..3 {
            bucket.take_at(start).unwrap();
        }
        let refused = bucket.take_at(start).unwrap_err();
        assert_eq!(refused.code, Code::RateLimited);
        assert_eq!(refused.retry_after_ms(), Some(100));
        bucket.take_at(start + Duration::from_millis(101)).unwrap();
        assert!(
            Arc::ptr_eq(&bucket, &rates.of(UserId::nil())),
            "one bucket a user"
        );
    }

    #[test]
    fn a_bucket_nobody_holds_is_kept_until_it_is_full() {
        let rates = Rates::new(1, 3);
        rates.of(UserId::nil()).take().unwrap();
        for n in 1..1000 {
            rates.of(UserId::from_u128(n));
        }
        let state = *rates.of(UserId::nil()).state.lock();
        assert!(state.0 < 3.0, "a user cannot get a new one by coming again");
        assert!(
            rates.buckets.lock().len() < 1000,
            "those of others are forgotten"
        );
    }
}
