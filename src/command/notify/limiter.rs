//! Circuit breaker and rate limiter of a notification channel. The breaker opens after the provider has rejected the
//! credentials or failed many times in a row; its state is local to the process. Request rate and concurrency are
//! limited across all workers through the bus.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt;
use uuid::Uuid;

use crate::{
    bus::Coordination,
    config::Notify,
    model::{Timestamp, notify::ChannelKind},
    telemetry::metrics,
};

/// Consecutive failures that open the breaker.
const BREAK_AFTER: u32 = 10;
/// Maximum pause of a channel, as a multiple of `notify.pause`.
const MAX_PAUSE: u32 = 32;

/// How long a task waits for a permit before it is requeued.
const PATIENCE: Duration = Duration::from_secs(2);

/// A permit for one concurrent request; `None` if the bus was unavailable. It expires by itself if it is not released,
/// for example when a worker is killed.
pub struct Permit(Option<Uuid>);

pub struct ProviderLimiter {
    channel: ChannelKind,
    per_second: u32,
    max_concurrent: u32,
    /// Longer than a request can take.
    lease: Duration,
    pause: Duration,
    rest: Duration,
    state: Mutex<BreakerState>,
}

#[derive(Default)]
struct BreakerState {
    /// The breaker is open until then.
    until: Option<Instant>,
    locked: bool,
    /// Consecutive rejections of the credentials.
    refused: u32,
    failed: u32,
}

impl ProviderLimiter {
    pub fn new(channel: ChannelKind, per_second: u32, settings: &Notify) -> ProviderLimiter {
        ProviderLimiter {
            channel,
            per_second,
            max_concurrent: settings.concurrency.into(),
            lease: settings.timeout + super::deliver::INTERRUPTED_AFTER,
            pause: settings.pause,
            rest: settings.retry_initial,
            state: Mutex::default(),
        }
    }

    /// The remaining time while the breaker is open, with jitter so that tasks do not return at once; `true` if it is
    /// open because of the credentials.
    pub fn closed(&self) -> Option<(Duration, bool)> {
        let state = self.state.lock();
        let left = state.until?.checked_duration_since(Instant::now())?;
        let jitter = rand::rng().random_range(0.0..0.5);
        Some((left + left.mul_f64(jitter), state.locked))
    }

    /// Acquires a permit for one request; `Err` is the delay after which to try again.
    pub async fn acquire(&self, bus: &dyn Coordination) -> Result<Permit, Duration> {
        let permit = self.acquire_permit(bus).await?;
        match self.count_request(bus).await {
            None => Ok(permit),
            Some(wait) => {
                self.release(bus, permit).await;
                Err(wait)
            }
        }
    }

    /// Releases the permit after the request.
    pub async fn release(&self, bus: &dyn Coordination, permit: Permit) {
        if let Permit(Some(holder)) = permit
            && let Err(error) = bus.release_permit(&self.key(), holder).await
        {
            tracing::debug!(error = %error.chain(), "failed to release a permit; it will expire");
        }
    }

    fn key(&self) -> String {
        format!("notify:{}", self.channel)
    }

    async fn acquire_permit(&self, bus: &dyn Coordination) -> Result<Permit, Duration> {
        let (key, holder) = (self.key(), Uuid::new_v4());
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match bus
                .acquire_permit(&key, holder, self.max_concurrent, self.lease)
                .await
            {
                Ok(true) => return Ok(Permit(Some(holder))),
                // Waiting here costs less than requeueing the task.
                Ok(false) => {
                    let pause = rand::rng().random_range(20..100);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                // Without the bus, each worker's own concurrency is the limit.
                Err(_) => return Ok(Permit(None)),
            }
        }
        Err(Duration::from_millis(rand::rng().random_range(100..1000)))
    }

    /// Counts one request of this second; returns a delay if none is left.
    async fn count_request(&self, bus: &dyn Coordination) -> Option<Duration> {
        let second = Timestamp::now().millis() / 1000;
        let key = format!("notify:{}:{second}", self.channel);
        match bus.increment(&key, Duration::from_secs(2)).await {
            Ok(count) if count > u64::from(self.per_second) => {
                Some(Duration::from_millis(rand::rng().random_range(250..1500)))
            }
            Ok(_) | Err(_) => None,
        }
    }

    pub fn worked(&self) {
        let mut state = self.state.lock();
        if state.locked {
            tracing::info!(channel = %self.channel, "the provider accepts the credentials again");
        }
        *state = BreakerState::default();
        metrics()
            .notify_paused
            .with_label_values(&[self.channel.as_str()])
            .set(0);
    }

    pub fn failed(&self) {
        let mut state = self.state.lock();
        state.failed += 1;
        if state.failed >= BREAK_AFTER {
            state.failed = 0;
            state.until = Some(Instant::now() + self.rest);
            tracing::warn!(channel = %self.channel, "circuit breaker opened: the provider failed repeatedly");
        }
    }

    /// The provider rejected the credentials: pauses the channel.
    pub fn locked(&self) {
        let mut state = self.state.lock();
        let now = Instant::now();
        // Concurrent requests are rejected together: count them once.
        if state.locked && state.until.is_some_and(|until| until > now) {
            return;
        }
        let times = (1_u32 << state.refused.min(5)).min(MAX_PAUSE);
        state.refused += 1;
        state.locked = true;
        let pause = self.pause * times;
        state.until = Some(now + pause);
        metrics()
            .notify_paused
            .with_label_values(&[self.channel.as_str()])
            .set(1);
        tracing::error!(
            channel = %self.channel,
            pause_s = pause.as_secs_f64(),
            "the provider rejects the credentials; the channel is paused"
        );
    }
}
