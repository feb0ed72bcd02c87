//! Counts the observations of the sockets, and passes them on to the judge.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{
    observations::Observation,
    plan::{MessageNo, Plan},
    report::{Report, Second},
};
use crate::{
    error::Result,
    judge::{ConnectionNo, Judge, Key, RoomNo, Verdict},
    measure::{Latency, histogram},
};

pub(super) struct Tally<'a> {
    plan: &'a Plan,
    judge: Judge,
    rooms: Vec<RoomNo>,
    /// One for each user.
    connections: Vec<ConnectionNo>,
    /// One for each message that was sent.
    keys: Vec<Option<Key>>,
    pub answered: u64,
    pub accepted: u64,
    pub delivered: u64,
    pub expected: u64,
    errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    accept: Histogram<u64>,
    seconds: Vec<Bucket>,
    /// The last delivery.
    last: Instant,
}

/// The counts of one second.
struct Bucket {
    accepted: u64,
    delivered: u64,
    latency: Histogram<u64>,
}

impl<'a> Tally<'a> {
    pub fn new(
        plan: &'a Plan,
        judge: Judge,
        rooms: Vec<RoomNo>,
        connections: Vec<ConnectionNo>,
    ) -> Self {
        Tally {
            plan,
            judge,
            rooms,
            connections,
            keys: vec![None; plan.script.messages as usize],
            answered: 0,
            accepted: 0,
            delivered: 0,
            expected: 0,
            errors: BTreeMap::new(),
            latency: histogram(3),
            accept: histogram(3),
            seconds: Vec::new(),
            last: plan.started,
        }
    }

    /// # Errors
    /// A socket that ended.
    pub fn add(&mut self, observed: Vec<Observation>) -> Result<()> {
        for observation in observed {
            match observation {
                Observation::Sent(message) => self.sent(message),
                Observation::Answered {
                    message,
                    after,
                    refused,
                } => self.answered(message, after, refused),
                Observation::Delivered {
                    subscription,
                    seq,
                    change_seq,
                    message,
                    after,
                } => {
                    let Some(key) = self.keys.get(message as usize).copied().flatten() else {
                        continue;
                    };
                    self.delivered += 1;
                    let micros = after.as_micros() as u64;
                    self.latency.saturating_record(micros);
                    let second = self.second(message, after);
                    second.delivered += 1;
                    second.latency.saturating_record(micros);
                    self.last = self.last.max(self.plan.intended(message) + after);
                    self.judge.delivered(subscription, seq, change_seq, key);
                }
                Observation::Other {
                    subscription,
                    change_seq,
                } => self.judge.event(subscription, change_seq),
                Observation::Ended(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sent(&mut self, message: MessageNo) {
        let Some(room) = self.plan.room(message) else {
            return;
        };
        let sender = self.plan.sender(message);
        self.keys[message as usize] = Some(self.judge.sent(
            self.connections[sender],
            self.rooms[room],
            self.plan.users[sender].id,
            &message.to_string(),
        ));
    }

    fn answered(&mut self, message: MessageNo, after: Duration, refused: Option<String>) {
        self.answered += 1;
        if let Some(code) = refused {
            *self.errors.entry(code).or_default() += 1;
            return;
        }
        let Some(key) = self.keys.get(message as usize).copied().flatten() else {
            return;
        };
        self.accepted += 1;
        self.accept.saturating_record(after.as_micros() as u64);
        self.second(message, after).accepted += 1;
        self.judge.accepted(key);
        if let Some(room) = self.plan.room(message) {
            self.expected += self.plan.script.members(room);
        }
    }

    /// The second in which something happened so long after the intended send.
    fn second(&mut self, message: MessageNo, after: Duration) -> &mut Bucket {
        let second = (self.plan.offset(message) + after).as_secs() as usize;
        while self.seconds.len() <= second {
            self.seconds.push(Bucket {
                accepted: 0,
                delivered: 0,
                latency: histogram(2),
            });
        }
        &mut self.seconds[second]
    }

    /// Messages that were not delivered by now are not expected any more.
    pub fn unsubscribe_all(&mut self) {
        for subscription in self.judge.subscriptions() {
            self.judge.unsubscribe(subscription, None);
        }
    }

    pub fn report(self, cpu_us_per_message: BTreeMap<String, f64>) -> Report {
        let Verdict {
            sent,
            accepted,
            stored,
            delivered,
            expected,
            lost,
            duplicated,
            reordered,
            examples,
            ..
        } = self.judge.verdict();
        let sending = self.plan.script.duration();
        let receiving = self.last.saturating_duration_since(self.plan.started);
        let per_second = |count: u64, time: Duration| {
            (count as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)).round()
        };
        let quantiles = [0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1.0];
        Report {
            sent,
            accepted,
            stored,
            delivered,
            expected,
            lost,
            duplicated,
            reordered,
            accepted_per_s: per_second(accepted, sending),
            delivered_per_s: per_second(delivered, receiving.max(sending)),
            behind_ms: receiving.saturating_sub(sending).as_secs_f64() * 1000.0,
            latency_ms: Latency::of(&self.latency),
            accept_ms: Latency::of(&self.accept),
            errors: self.errors,
            cpu_us_per_message,
            examples,
            started: self.plan.started,
            distribution: quantiles
                .map(|q| (q, self.latency.value_at_quantile(q) as f64 / 1000.0))
                .to_vec(),
            seconds: self
                .seconds
                .iter()
                .map(|second| Second {
                    accepted: second.accepted,
                    delivered: second.delivered,
                    p50_ms: second.latency.value_at_quantile(0.5) as f64 / 1000.0,
                    p99_ms: second.latency.value_at_quantile(0.99) as f64 / 1000.0,
                })
                .collect(),
        }
    }
}
