//! Whether a channel may be used just now: closed for a while after its provider refused our credentials or failed
//! many times in a row, and no faster than its provider allows. Nothing here is kept: a new process tries for itself.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rand::RngExt;

use crate::{
    bus::Bus,
    config::Notify,
    model::{Timestamp, notify::ChannelKind},
    telemetry::metrics,
};

/// Failures in a row after which a provider is left alone.
const BREAK_AFTER: u32 = 10;
/// Longest pause of a channel, as a multiple of `notify.pause`.
const MAX_PAUSE: u32 = 32;

pub struct Gate {
    channel: ChannelKind,
    per_second: u32,
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
            pause: settings.pause,
            rest: settings.retry_initial,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it is closed yet, with jitter so that not everyone comes at once, and whether for our credentials.
    pub fn closed(&self) -> Option<(Duration, bool)> {
        let state = self.state();
        let left = state.until?.checked_duration_since(Instant::now())?;
        let jitter = rand::rng().random_range(0.0..0.5);
        Some((left + left.mul_f64(jitter), state.locked))
    }

    /// Takes one of this second's places, all workers together; how long to wait where none is left.
    pub async fn place(&self, bus: &dyn Bus) -> Option<Duration> {
        let second = Timestamp::now().millis() / 1000;
        let key = format!("notify:{}:{second}", self.channel);
        match bus.hit(&key, Duration::from_secs(2)).await {
            Ok(count) if count > u64::from(self.per_second) => {
                Some(Duration::from_millis(rand::rng().random_range(250..1500)))
            }
            // Without the bus each worker's own concurrency is the limit.
            Ok(_) | Err(_) => None,
        }
    }

    pub fn worked(&self) {
        let mut state = self.state();
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
        let mut state = self.state();
        state.failed += 1;
        if state.failed >= BREAK_AFTER {
            state.failed = 0;
            state.until = Some(Instant::now() + self.rest);
            tracing::warn!(channel = %self.channel, "the provider fails again and again; it is left alone for a while");
        }
    }

    /// The provider refuses our credentials.
    pub fn locked(&self) {
        let mut state = self.state();
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
