//! Whether a channel may be used just now: closed for a while after its provider refused our credentials or failed
//! many times in a row, and no faster, and with no more requests at once, than its provider allows: both are counted on
//! the bus, all workers together. Nothing here is kept: a new process tries for itself.

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

/// Failures in a row after which a provider is left alone.
const BREAK_AFTER: u32 = 10;
/// Longest pause of a channel, as a multiple of `notify.pause`.
const MAX_PAUSE: u32 = 32;

/// How long a job waits for a place before it makes room for the next one.
const PATIENCE: Duration = Duration::from_secs(2);

/// One of the requests that may be under way; `None` where the bus could not be asked. Not given back, it ends by
/// itself, so that a killed worker's places come back.
pub struct Place(Option<Uuid>);

pub struct Gate {
    channel: ChannelKind,
    per_second: u32,
    places: u32,
    /// Longer than a request can be under way.
    lease: Duration,
    pause: Duration,
    rest: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Locked out, or broken down, until then.
    until: Option<Instant>,
    locked: bool,
    /// Times in a row that the credentials were refused.
    refused: u32,
    failed: u32,
}

impl Gate {
    pub fn new(channel: ChannelKind, per_second: u32, settings: &Notify) -> Gate {
        Gate {
            channel,
            per_second,
            places: settings.concurrency.into(),
            lease: settings.timeout + super::deliver::BROKEN_OFF,
            pause: settings.pause,
            rest: settings.retry_initial,
            state: Mutex::default(),
        }
    }

    /// How long it is closed yet, with jitter so that not everyone comes at once, and whether for our credentials.
    pub fn closed(&self) -> Option<(Duration, bool)> {
        let state = self.state.lock();
        let left = state.until?.checked_duration_since(Instant::now())?;
        let jitter = rand::rng().random_range(0.0..0.5);
        Some((left + left.mul_f64(jitter), state.locked))
    }

    /// Lets one request through; `Err` says how long to wait where too many are under way.
    pub async fn enter(&self, bus: &dyn Coordination) -> Result<Place, Duration> {
        let place = self.occupy(bus).await?;
        match self.turn(bus).await {
            None => Ok(place),
            Some(wait) => {
                self.leave(bus, place).await;
                Err(wait)
            }
        }
    }

    /// The request is over.
    pub async fn leave(&self, bus: &dyn Coordination, place: Place) {
        if let Place(Some(holder)) = place
            && let Err(error) = bus.release_permit(&self.key(), holder).await
        {
            tracing::debug!(error = %error.chain(), "a place is not given back; it ends by itself");
        }
    }

    fn key(&self) -> String {
        format!("notify:{}", self.channel)
    }

    async fn occupy(&self, bus: &dyn Coordination) -> Result<Place, Duration> {
        let (key, holder) = (self.key(), Uuid::new_v4());
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match bus
                .acquire_permit(&key, holder, self.places, self.lease)
                .await
            {
                Ok(true) => return Ok(Place(Some(holder))),
                // Waiting here costs less than the way back through the queue.
                Ok(false) => {
                    let pause = rand::rng().random_range(20..100);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                // Without the bus each worker's own concurrency is the limit.
                Err(_) => return Ok(Place(None)),
            }
        }
        Err(Duration::from_millis(rand::rng().random_range(100..1000)))
    }

    /// Takes one of this second's requests; how long to wait where none is left.
    async fn turn(&self, bus: &dyn Coordination) -> Option<Duration> {
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
            tracing::info!(channel = %self.channel, "the provider takes our credentials again");
        }
        *state = State::default();
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
            tracing::warn!(channel = %self.channel, "the provider fails again and again; it is left alone for a while");
        }
    }

    /// The provider refuses our credentials.
    pub fn locked(&self) {
        let mut state = self.state.lock();
        let now = Instant::now();
        // Requests that were under way together are refused together: that counts once.
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
            "the provider refuses our credentials; nothing is sent over this channel until it takes them"
        );
    }
}
