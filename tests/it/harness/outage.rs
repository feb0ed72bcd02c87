//! The time without service that the clients of a [`super::load::Load`] notice.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// The longest times without service, from [`super::load::Load::watch`] on.
#[derive(Debug, Default, Clone, Copy)]
pub struct Outage {
    /// The longest time in which no send of any client was acknowledged.
    pub without_ack: Duration,
    /// The longest time in which no message was delivered to any client.
    pub without_delivery: Duration,
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} s without an acknowledged send, {:.1} s without a delivery",
            self.without_ack.as_secs_f64(),
            self.without_delivery.as_secs_f64()
        )
    }
}

/// Records when things happen.
#[derive(Debug, Default)]
pub struct Watch {
    acks: Pauses,
    deliveries: Pauses,
    /// Deliveries so far, also while nothing is watched.
    pub delivered: u64,
}

impl Watch {
    /// Begins anew.
    pub fn begin(&mut self) {
        let now = Some(Instant::now());
        for pauses in [&mut self.acks, &mut self.deliveries] {
            (pauses.last, pauses.longest) = (now, Duration::ZERO);
        }
    }

    /// The outage so far; the watch ends.
    pub fn end(&mut self) -> Outage {
        self.acks.happened();
        self.deliveries.happened();
        (self.acks.last, self.deliveries.last) = (None, None);
        Outage {
            without_ack: self.acks.longest,
            without_delivery: self.deliveries.longest,
        }
    }

    pub fn acked(&mut self) {
        self.acks.happened();
    }

    pub fn delivered(&mut self) {
        self.delivered += 1;
        self.deliveries.happened();
    }
}

#[derive(Debug, Default)]
struct Pauses {
    /// `None` while nothing is watched.
    last: Option<Instant>,
    longest: Duration,
}

impl Pauses {
    fn happened(&mut self) {
        if let Some(last) = &mut self.last {
            let now = Instant::now();
            self.longest = self.longest.max(now - *last);
            *last = now;
        }
    }
}
