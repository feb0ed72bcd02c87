//! Keeps as many workers as the queue needs: looks at it, decides ([`decide()`], a pure function), and starts or retires
//! `chat worker` processes on this machine ([`pool`]). It never takes anything out of the queue and never stores
//! anything; a deployment without it works as well, with as many workers as someone starts.

pub mod decide;
pub mod lead;
pub mod pool;
pub mod report;
pub mod signal;
pub mod simulate;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    decide::{Decision, Sample, Settings, decide},
    lead::Lead,
    pool::Pool,
    signal::{Scope, Tracker},
};
use crate::{
    bus::Coordination,
    config::{Autoscale, WorkerRole},
    error::Result,
    queue::{Partition, Queue, TaskQueue},
    telemetry::{DOWN, UP, metrics},
};

pub use self::pool::Recipe;

/// A number of workers that fell behind is not tried again for this long.
const MEMORY: Duration = Duration::from_secs(1800);
/// How much of the thresholds must suffice before workers go.
const HYSTERESIS: f64 = 0.7;
/// Between two readings of what edges reported, at least: they report as often.
const FLOW_EVERY: Duration = Duration::from_millis(500);

/// What an autoscaler is made of.
pub struct Parts {
    pub settings: Autoscale,
    /// What its workers do. Only what they do counts.
    pub roles: Vec<WorkerRole>,
    /// Whether there are notifications at all; without them nobody takes those tasks.
    pub notify: bool,
    /// No more workers than these can share the messages.
    pub partitions: Partition,
    pub queue: Arc<dyn Queue>,
    pub coordination: Arc<dyn Coordination>,
    pub worker: Recipe,
}

/// Runs workers until `shutdown`, then retires all of them.
///
/// # Errors
/// When workers end as soon as they are started, again and again. None is left then.
pub async fn run(parts: Parts, shutdown: CancellationToken) -> Result<()> {
    let mut pool = Pool::new(parts.worker.clone(), parts.settings.grace);
    let (sender, mut lead) = watch::channel(Lead::Unknown);
    let resign = CancellationToken::new();
    let leading = tokio::spawn(lead::keep(
        parts.coordination.clone(),
        lead::key(&parts.roles),
        sender,
        resign.clone(),
    ));
    let mut scaler = Scaler::new(parts);
    let mut due = Instant::now();
    let mut led = false;
    let result = loop {
        tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            event = pool.event() => {
                if let Err(error) = pool.handle(event) {
                    break Err(error);
                }
                // Whoever crashed is replaced at once, if it may be.
                due = due.min(Instant::now() + scaler.settings.idle_interval);
            }
            changed = lead.changed() => {
                if changed.is_err() {
                    // Its task never ends before it is told to.
                    break Ok(());
                }
                due = Instant::now();
            }
            () = sleep_until(due) => {
                let now = *lead.borrow_and_update();
                let outcome = match now {
                    Lead::Theirs => {
                        scaler.forget();
                        led = false;
                        pool.set(0)
                    }
                    Lead::Unknown if !led => Ok(()),
                    Lead::Ours | Lead::Unknown => {
                        led = true;
                        scaler.step(&mut pool, now == Lead::Ours).await
                    }
                };
                if let Err(error) = outcome {
                    break Err(error);
                }
                due = Instant::now() + scaler.pause(led);
            }
        }
        pool.kill_late();
        metrics().autoscale_workers.set(pool.active() as i64);
    };
    // The next leader may start its workers while ours finish.
    resign.cancel();
    pool.stop().await;
    metrics().autoscale_workers.set(0);
    let _ = leading.await;
    result
}

/// Looks and decides until `shutdown`, as if its decisions were followed; prints them and keeps the metrics.
pub async fn watch(parts: Parts, shutdown: CancellationToken) {
    let mut scaler = Scaler::new(parts);
    while !shutdown.is_cancelled() {
        let before = scaler.target;
        let (sample, decision) = scaler.look().await;
        scaler.follow(&sample, decision);
        println!("{}", line(before, &sample, decision));
        tokio::select! {
            () = tokio::time::sleep(scaler.settings.interval) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// `waiting=120 oldest=0.5s arrival=80.0/s tasks=0 workers 1 -> 2: messages wait or arrive`
fn line(before: u32, sample: &Sample, decision: Decision) -> String {
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
        "waiting={waiting} oldest={oldest} arrival={arrival} jobs={tasks} workers {before} -> {target}: {reason}"
    )
}

/// The settings as the decision wants them.
pub fn rules(settings: &Autoscale, partitions: u32) -> Settings {
    Settings {
        min: settings.min,
        max: settings.max,
        partitions,
        jobs_per_worker: settings.jobs_per_worker,
        messages_per_worker: settings.messages_per_worker,
        messages_per_second: settings.messages_per_second.into(),
        target_age: settings.target_age,
        cooldown: settings.cooldown,
        // Time to start, to be given partitions, and to show.
        settle: (settings.interval * 3).max(Duration::from_secs(2)),
        step: settings.step,
        hysteresis: HYSTERESIS,
        memory: MEMORY,
    }
}

/// What is remembered between two looks.
struct Scaler {
    settings: Autoscale,
    rules: Settings,
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
    fn new(parts: Parts) -> Scaler {
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

    /// Until the next look.
    fn pause(&self, led: bool) -> Duration {
        if led && self.target == 0 {
            self.settings.idle_interval
        } else {
            self.settings.interval
        }
    }

    /// Another one leads: what was seen is no longer about our workers.
    fn forget(&mut self) {
        self.samples.clear();
        self.target = 0;
    }

    /// One look, one decision, and the workers it takes. Nothing is started while something is unknown: a worker
    /// that cannot reach the servers would only end again.
    async fn step(&mut self, pool: &mut Pool, sure: bool) -> Result<()> {
        let before = self.target;
        let (sample, decision) = self.look().await;
        tracing::debug!(sure, due_soon = ?sample.due_soon, "{}", line(before, &sample, decision));
        if sample.waiting.is_none() || sample.tasks.is_none() || !sure {
            return Ok(());
        }
        self.follow(&sample, decision);
        if self.target != before {
            tracing::info!("{}", line(before, &sample, decision));
        }
        pool.set(self.target as usize)
    }

    async fn look(&mut self) -> (Sample, Decision) {
        let now = Instant::now();
        if now >= self.flow_due {
            self.flow_due = now + FLOW_EVERY.max(self.settings.interval);
            let flow = report::read(self.coordination.as_ref()).await;
            self.tracker.flowed(self.start.elapsed(), flow.ok());
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
        let seen = self.tracker.look(at, load.as_ref());
        let sample = Sample {
            at,
            workers: self.target,
            waiting: seen.waiting,
            oldest: seen.oldest,
            arrival: seen.arrival,
            tasks: seen.tasks,
            due_soon: seen.due_soon,
        };
        self.remember(sample);
        let decision = decide(at, &self.samples, &self.rules);
        (sample, decision)
    }

    fn follow(&mut self, sample: &Sample, decision: Decision) {
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

    /// Keeps one sample an interval, and always the newest.
    fn remember(&mut self, sample: Sample) {
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
        // All at once now and then: this moves every sample.
        if gone > 1000 {
            self.samples.drain(..gone);
        }
    }
}
