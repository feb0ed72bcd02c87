//! Measures, decides and keeps the history between two decisions.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    decide::{Decision, Sample, Thresholds, decide},
    parts::Parts,
    pool::Pool,
    report,
    signal::{Scope, Tracker},
};
use crate::{
    bus::Coordination,
    config::{Autoscale, WorkerRole},
    error::Result,
    queue::{Queue, TaskQueue},
    telemetry::{DOWN, UP, metrics},
};

/// How long a number of workers that fell behind is not tried again.
const MEMORY: Duration = Duration::from_secs(1800);
/// The share of the thresholds that must suffice before workers are stopped.
const HYSTERESIS: f64 = 0.7;
/// Shortest interval between two reads of the reports; edges report at the same interval.
const FLOW_EVERY: Duration = Duration::from_millis(500);

/// `waiting=120 oldest=0.5s arrival=80.0/s tasks=0 workers 1 -> 2: messages wait or arrive`
pub(super) fn summary(before: u32, sample: &Sample, decision: Decision) -> String {
    let unknown = || "unknown".to_owned();
    let waiting = sample.waiting.map_or_else(unknown, |n| n.to_string());
    let oldest = sample
        .oldest
        .map_or_else(unknown, |age| format!("{:.1}s", age.as_secs_f64()));
    let arrival = sample
        .arrival
        .map_or_else(unknown, |rate| format!("{rate:.1}/s"));
    let tasks = sample.tasks.map_or_else(unknown, |n| n.to_string());
    let Decision { target, reason } = decision;
    format!(
        "waiting={waiting} oldest={oldest} arrival={arrival} tasks={tasks} workers {before} -> {target}: {reason}"
    )
}

/// The settings in the form that [`decide`] takes.
pub fn rules(settings: &Autoscale, partitions: u32) -> Thresholds {
    Thresholds {
        min: settings.min,
        max: settings.max,
        partitions,
        jobs_per_worker: settings.jobs_per_worker,
        messages_per_worker: settings.messages_per_worker,
        messages_per_second: settings.messages_per_second.into(),
        target_age: settings.target_age,
        cooldown: settings.cooldown,
        // Time to start, to own partitions, and to have an effect.
        settle: (settings.interval * 3).max(Duration::from_secs(2)),
        step: settings.step,
        hysteresis: HYSTERESIS,
        memory: MEMORY,
    }
}

/// The state between two decisions.
pub(super) struct Scaler {
    settings: Autoscale,
    rules: Thresholds,
    queue: Arc<dyn Queue>,
    coordination: Arc<dyn Coordination>,
    start: Instant,
    tracker: Tracker,
    samples: Vec<Sample>,
    target: u32,
    flow_due: Instant,
    known: bool,
}

impl Scaler {
    pub fn new(parts: Parts) -> Scaler {
        metrics().show_autoscaler();
        let settings = parts.settings;
        let partitions = u32::from(parts.partitions);
        let does = |kind| parts.roles.contains(&kind);
        let mut tasks = Vec::new();
        if parts.notify && does(WorkerRole::Notify) {
            tasks.push(TaskQueue::Notify);
        }
        if parts.notify && does(WorkerRole::Deliver) {
            tasks.extend([TaskQueue::Email, TaskQueue::Sms]);
        }
        if settings.max > partitions && tasks.is_empty() {
            tracing::warn!(
                max = settings.max,
                partitions,
                "no more workers than queue.partitions can share the messages"
            );
        }
        let scope = Scope {
            messages: does(WorkerRole::Messages),
            tasks,
            soon: settings.cooldown,
        };
        let rules = rules(&settings, partitions);
        Scaler {
            settings,
            rules,
            queue: parts.queue,
            coordination: parts.coordination,
            start: Instant::now(),
            tracker: Tracker::new(scope),
            samples: Vec::new(),
            target: 0,
            flow_due: Instant::now(),
            known: true,
        }
    }

    pub fn interval(&self) -> Duration {
        self.settings.interval
    }

    pub fn idle_interval(&self) -> Duration {
        self.settings.idle_interval
    }

    pub fn target(&self) -> u32 {
        self.target
    }

    /// The pause until the next decision.
    pub fn pause(&self, led: bool) -> Duration {
        if led && self.target == 0 {
            self.settings.idle_interval
        } else {
            self.settings.interval
        }
    }

    /// Clears the history when another autoscaler leads: it does not apply to this one's workers.
    pub fn reset(&mut self) {
        self.samples.clear();
        self.target = 0;
    }

    /// One measurement, one decision, and the change that it requires. Nothing changes while something is unknown: a
    /// worker that cannot reach the servers would only end again.
    pub async fn step(&mut self, pool: &mut Pool, sure: bool) -> Result<()> {
        let before = self.target;
        let (sample, decision) = self.evaluate().await;
        tracing::debug!(sure, due_soon = ?sample.due_soon, "{}", summary(before, &sample, decision));
        if sample.waiting.is_none() || sample.tasks.is_none() || !sure {
            return Ok(());
        }
        self.follow(&sample, decision);
        if self.target != before {
            tracing::info!("{}", summary(before, &sample, decision));
        }
        pool.set(self.target as usize)
    }

    pub async fn evaluate(&mut self) -> (Sample, Decision) {
        let now = Instant::now();
        if now >= self.flow_due {
            self.flow_due = now + FLOW_EVERY.max(self.settings.interval);
            let flow = report::read(self.coordination.as_ref()).await;
            self.tracker.report(self.start.elapsed(), flow.ok());
            let held = report::held(self.coordination.as_ref()).await;
            self.tracker.hold(held.ok());
        }
        let load = match self.queue.load().await {
            Ok(load) => {
                if !std::mem::replace(&mut self.known, true) {
                    tracing::info!("the queue's figures are back");
                }
                Some(load)
            }
            Err(error) => {
                if std::mem::replace(&mut self.known, false) {
                    tracing::warn!(error = %error.chain(), "unknown what waits; the workers stay as they are");
                }
                None
            }
        };
        metrics()
            .autoscale_signal
            .set(if self.known { UP } else { DOWN });
        let at = self.start.elapsed();
        let measured = self.tracker.measure(at, load.as_ref());
        let sample = Sample {
            at,
            workers: self.target,
            waiting: measured.waiting,
            oldest: measured.oldest,
            arrival: measured.arrival,
            tasks: measured.tasks,
            due_soon: measured.due_soon,
        };
        self.record(sample);
        let decision = decide(at, &self.samples, &self.rules);
        (sample, decision)
    }

    pub fn follow(&mut self, sample: &Sample, decision: Decision) {
        self.target = decision.target;
        let metrics = metrics();
        metrics.autoscale_target.set(decision.target.into());
        if let Some(waiting) = sample.waiting {
            let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
            metrics.autoscale_waiting_messages.set(waiting);
        }
        for (gauge, tasks) in [
            (&metrics.autoscale_waiting_jobs, sample.tasks),
            (&metrics.autoscale_due_soon_jobs, sample.due_soon),
        ] {
            if let Some(tasks) = tasks {
                gauge.set(i64::try_from(tasks).unwrap_or(i64::MAX));
            }
        }
        if let Some(oldest) = sample.oldest {
            metrics.autoscale_oldest_seconds.set(oldest.as_secs_f64());
        }
    }

    /// Keeps one sample per interval, and always the newest.
    fn record(&mut self, sample: Sample) {
        if let [.., before, last] = self.samples.as_slice()
            && before.workers == sample.workers
            && last.workers == sample.workers
            && before.at + self.settings.interval > sample.at
        {
            self.samples.pop();
        }
        self.samples.push(sample);
        let oldest = sample
            .at
            .saturating_sub(MEMORY.max(self.settings.cooldown * 2));
        let gone = self.samples.partition_point(|s| s.at < oldest);
        // Rarely, since this moves every sample.
        if gone > 1000 {
            self.samples.drain(..gone);
        }
    }
}
