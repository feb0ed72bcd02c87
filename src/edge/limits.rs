//! How fast one user may send: a token bucket for each user on this edge, shared by all their sockets and requests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use crate::{
    error::{Code, Error, Result},
    model::UserId,
};

pub struct Rates {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<UserId, Weak<Bucket>>>,
}

impl Rates {
    pub fn new(per_second: u32, burst: u32) -> Self {
        Rates {
            per_second: f64::from(per_second),
            burst: f64::from(burst.max(1)),
            buckets: Mutex::default(),
        }
    }

    /// The user's bucket. It is forgotten with its last holder, unless it is not full yet.
    pub fn of(&self, user: UserId) -> Arc<Bucket> {
        let mut buckets = lock(&self.buckets);
        if let Some(bucket) = buckets.get(&user).and_then(Weak::upgrade) {
            return bucket;
        }
        // Once in a while, so that users who left do not pile up.
        if buckets.len() == buckets.capacity() {
            buckets.retain(|_, bucket| bucket.strong_count() > 0);
        }
        let bucket = Arc::new(Bucket {
            per_second: self.per_second,
            burst: self.burst,
            state: Mutex::new((self.burst, Instant::now())),
        });
        buckets.insert(user, Arc::downgrade(&bucket));
        bucket
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

    fn take_at(&self, now: Instant) -> Result<()> {
        let mut state = lock(&self.state);
        let (tokens, counted) = *state;
        let earned = now.saturating_duration_since(counted).as_secs_f64() * self.per_second;
        let tokens = (tokens + earned).min(self.burst);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
}
