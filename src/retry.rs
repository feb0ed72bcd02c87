//! Retry delays: exponential, with jitter, capped. The only user of the crate `backoff` (unmaintained,
//! RUSTSEC-2025-0012), so that replacing it touches one file. The decision whether to retry is not made here: it
//! belongs to the caller and the error.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};

/// Each delay is twice the previous one, ± 50 %.
const MULTIPLIER: f64 = 2.0;
const JITTER: f64 = 0.5;

/// A retry schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The first delay, before jitter.
    pub initial: Duration,
    /// Maximum delay, jitter included.
    pub max: Duration,
    /// No delay ends later than this after the first attempt; `None` retries forever.
    pub deadline: Option<Duration>,
}

impl Policy {
    /// For connections that are retried forever: 0.1 s to 5 s.
    pub const RECONNECT: Policy = Policy {
        initial: Duration::from_millis(100),
        max: Duration::from_secs(5),
        deadline: None,
    };

    /// The delay after the `failed`-th failure in a row (starting at 1), with jitter. For callers that keep the count
    /// elsewhere, such as in a task; they also apply the deadline.
    pub fn delay_after(&self, failed: u32) -> Duration {
        let doublings = failed.saturating_sub(1).min(30);
        let grown = self.initial.saturating_mul(1 << doublings).min(self.max);
        Policy {
            initial: grown,
            deadline: None,
            ..*self
        }
        .start()
        .next_delay()
        .unwrap_or(self.max)
    }

    pub fn start(self) -> Retry {
        Retry {
            backoff: ExponentialBackoffBuilder::new()
                .with_initial_interval(self.initial)
                .with_max_interval(self.max)
                .with_multiplier(MULTIPLIER)
                .with_randomization_factor(JITTER)
                .with_max_elapsed_time(None)
                .build(),
            policy: self,
            since: Instant::now(),
        }
    }
}

/// One series of attempts under a [`Policy`].
pub struct Retry {
    backoff: ExponentialBackoff,
    policy: Policy,
    since: Instant,
}

impl Retry {
    /// The next delay; `None` if it would end after the deadline.
    pub fn next_delay(&mut self) -> Option<Duration> {
        let delay = self.backoff.next_backoff()?.min(self.policy.max);
        match self.policy.deadline {
            Some(deadline) if self.since.elapsed() + delay > deadline => None,
            _ => Some(delay),
        }
    }

    /// Sleeps until the next attempt; `false` after the deadline.
    pub async fn pause(&mut self) -> bool {
        match self.next_delay() {
            Some(delay) => {
                tokio::time::sleep(delay).await;
                true
            }
            None => false,
        }
    }

    /// Restarts the schedule after a success.
    pub fn reset(&mut self) {
        self.backoff.reset();
        self.since = Instant::now();
    }
}

/// Repeats `what` until it succeeds, fails with an error that is not retryable (see [`Error::is_retryable`]), or
/// `patience` has passed; a running attempt is then cancelled. Returns the last error.
pub async fn until<T, F>(patience: Duration, mut what: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let end = tokio::time::Instant::now() + patience;
    let mut retry = Policy {
        deadline: Some(patience),
        ..Policy::RECONNECT
    }
    .start();
    let mut last = None;
    loop {
        match tokio::time::timeout_at(end, what()).await {
            Ok(Err(error)) if error.is_retryable() => {
                if !retry.pause().await {
                    return Err(error);
                }
                last = Some(error);
            }
            Ok(result) => return result,
            Err(_) => {
                let none =
                    || Error::unavailable("server", format!("no answer within {patience:?}"));
                return Err(last.unwrap_or_else(none));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_retryable_errors_are_retried_until_the_deadline() {
        let mut tries = 0;
        let result = until(Duration::from_secs(20), || {
            tries += 1;
            let result = match tries {
                3 => Ok(tries),
                _ => Err(Error::unavailable("thing", "not yet")),
            };
            async { result }
        });
        assert_eq!(result.await.unwrap(), 3);

        let mut tries = 0;
        let result = until(Duration::from_secs(20), || {
            tries += 1;
            async { Result::<()>::Err(Error::conflict("never")) }
        });
        assert_eq!(result.await.unwrap_err().message, "never");
        assert_eq!(tries, 1);

        let result = until(Duration::from_millis(20), async || {
            Result::<()>::Err(Error::unavailable("thing", "not yet"))
        });
        assert!(result.await.unwrap_err().chain().ends_with("not yet"));
        let stuck = until(Duration::from_millis(20), async || {
            std::future::pending::<Result<()>>().await
        });
        assert!(stuck.await.is_err());
    }

    const POLICY: Policy = Policy {
        initial: Duration::from_millis(100),
        max: Duration::from_secs(1),
        deadline: None,
    };

    #[test]
    fn delays_grow_to_the_cap_and_start_over() {
        let mut retry = POLICY.start();
        let delays: Vec<_> = (0..20).filter_map(|_| retry.next_delay()).collect();
        assert_eq!(delays.len(), 20);
        assert!(delays[0] >= Duration::from_millis(50) && delays[0] <= Duration::from_millis(151));
        assert!(delays.iter().all(|d| *d <= POLICY.max));
        assert!(
            delays[10..]
                .iter()
                .all(|d| *d >= Duration::from_millis(500))
        );
        retry.reset();
        assert!(
            retry
                .next_delay()
                .is_some_and(|d| d <= Duration::from_millis(151))
        );
    }

    #[test]
    fn it_gives_up_rather_than_wait_past_the_deadline() {
        let mut retry = Policy {
            deadline: Some(Duration::from_millis(10)),
            ..POLICY
        }
        .start();
        assert_eq!(retry.next_delay(), None);
    }

    #[test]
    fn a_counted_failure_waits_as_long_as_one_in_a_row() {
        for failed in [1, 2, 3, 10, u32::MAX] {
            let expected = (0.1 * 2f64.powi(failed.min(20) as i32 - 1)).min(1.0);
            let delay = POLICY.delay_after(failed).as_secs_f64();
            assert!(
                delay >= expected * 0.49 && delay <= (expected * 1.51).min(1.0),
                "{failed}: {delay}"
            );
        }
    }
}
