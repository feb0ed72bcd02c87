//! Decides how many workers there should be. A pure function of the samples: no clock, no I/O, no state.
//!
//! It adds workers at once and removes them slowly. A missing statistic is unknown: it may keep workers, it never removes
//! one. A number of workers that fell behind is not tried again while as much arrives, so that a steady load leads to a
//! steady number.

use std::{cmp::Ordering, time::Duration};

/// Arrival rates that differ by less than this factor count as the same load.
const SAME_ARRIVAL: f64 = 1.1;

/// The thresholds of the decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Fewest workers; 0 is allowed.
    pub min: u32,
    /// Most workers; at least 1 and at least `min`.
    pub max: u32,
    /// The number of partitions: at most this many workers can share the messages. Tasks have no such limit.
    pub partitions: u32,
    /// Messages that may wait for each worker, at least 1.
    pub messages_per_worker: u64,
    /// Messages per second that a worker is assumed to store, above 0.
    pub messages_per_second: f64,
    /// Tasks (notifications) that may wait for each worker, at least 1.
    pub jobs_per_worker: u64,
    /// If a message waits longer than this, one more worker is started.
    pub target_age: Duration,
    /// Workers are stopped only after the need was lower for this long, and this long after the last change.
    pub cooldown: Duration,
    /// How long a change of the number of workers takes to show in the age.
    pub settle: Duration,
    /// Workers added in one step, at least 1; with more workers than that a step doubles them.
    pub step: u32,
    /// Workers are stopped only if this share of the thresholds suffices, in 0..=1.
    pub hysteresis: f64,
    /// How long a number of workers that fell behind is not tried again.
    pub memory: Duration,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Since any fixed moment, by a monotonic clock.
    pub at: Duration,
    /// The target number of workers at that time.
    pub workers: u32,
    /// Waiting messages, including unacknowledged ones where they are known.
    pub waiting: Option<u64>,
    /// Upper bound of the age of the oldest of them.
    pub oldest: Option<Duration>,
    /// Messages accepted per second.
    pub arrival: Option<f64>,
    /// Tasks that are due, including unacknowledged ones where they are known.
    pub tasks: Option<u64>,
    /// Tasks that fall due within the cool-down.
    pub due_soon: Option<u64>,
}

/// The target number of workers, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub target: u32,
    pub reason: &'static str,
}

/// `samples` ascend in time; the last one is the present. Those older than `memory` are ignored. A clock that jumps never
/// removes workers.
pub fn decide(now: Duration, samples: &[Sample], settings: &Thresholds) -> Decision {
    let to = |target, reason| Decision { target, reason };
    let Some(last) = samples.last() else {
        return to(settings.min, "nothing is known yet");
    };
    let current = last.workers;
    if current < settings.min {
        return to(settings.min, "fewer than autoscale.min");
    }
    if current > settings.max {
        return to(settings.max, "more than autoscale.max");
    }
    let (Some(waiting), Some(_)) = (last.waiting, last.tasks) else {
        return to(current, "unknown what waits");
    };

    let since_change = now.saturating_sub(level_since(samples));
    let for_messages = last.for_messages(settings, 1.0).min(settings.partitions);
    let mut need = last.need(settings, 1.0);
    let mut reason = if need > for_messages {
        "tasks wait"
    } else {
        "messages wait or arrive"
    };
    let old = waiting > 0 && last.oldest.is_some_and(|age| age > settings.target_age);
    if old && need <= current && since_change >= settings.settle {
        if current >= settings.partitions {
            return to(
                current,
                "more would help, but every partition has its worker",
            );
        }
        need = current + 1;
        reason = "messages wait too long";
    }
    if need > current {
        let most = current.saturating_add(current.max(settings.step));
        let target = need.min(most).min(settings.max);
        return if target > current {
            to(target, reason)
        } else {
            to(current, "more would help, but autoscale.max is reached")
        };
    }

    if current == settings.min {
        return to(current, "no change needed");
    }
    if since_change < settings.cooldown {
        return to(current, "cooling down");
    }
    let Some(less) = fewest(now, samples, settings) else {
        return to(current, "unknown whether fewer suffice");
    };
    let least = (current / 2).min(current.saturating_sub(1));
    let enough = fell_behind(now, samples, settings).map_or(0, |level| level + 1);
    let target = less.max(least).max(settings.min).max(enough);
    if target >= current {
        return to(current, "no change needed");
    }
    // Tasks that are due within the cool-down would start a worker again at once. Later ones count when they are due.
    if target == 0 && last.due_soon != Some(0) {
        return to(1, "delayed tasks fall due soon");
    }
    to(target, "fewer suffice")
}

impl Sample {
    /// The workers that this sample requires if each may use only `share` of its thresholds. At most a million.
    fn need(&self, settings: &Thresholds, share: f64) -> u32 {
        let tasks = self.tasks.unwrap_or_default() as f64;
        let for_tasks = tasks / (settings.jobs_per_worker.max(1) as f64 * share);
        let for_tasks = for_tasks.ceil().clamp(0.0, 1e6) as u32;
        let for_messages = self.for_messages(settings, share);
        for_messages.min(settings.partitions).max(for_tasks)
    }

    /// The same for messages alone, without the limit of the partitions.
    fn for_messages(&self, settings: &Thresholds, share: f64) -> u32 {
        let waiting = self.waiting.unwrap_or_default() as f64;
        let arrival = self.arrival.unwrap_or_default();
        let by_backlog = waiting / (settings.messages_per_worker.max(1) as f64 * share);
        let by_arrival = arrival / (settings.messages_per_second * share);
        by_backlog.max(by_arrival).ceil().clamp(0.0, 1e6) as u32
    }
}

/// The time of the first sample with the current number of workers. Samples before a backward jump of the clock do not
/// count.
fn level_since(samples: &[Sample]) -> Duration {
    let mut since = samples.last().map_or(Duration::ZERO, |last| last.at);
    let level = samples.last().map(|last| last.workers);
    for sample in samples.iter().rev() {
        if Some(sample.workers) != level || sample.at > since {
            break;
        }
        since = sample.at;
    }
    since
}

/// The fewest workers that would have sufficed during the whole cool-down; `None` if unknown, as after a gap between
/// samples: the queue did not answer, or the clock jumped.
fn fewest(now: Duration, samples: &[Sample], settings: &Thresholds) -> Option<u32> {
    let start = now.saturating_sub(settings.cooldown);
    let longest = settings.cooldown.max(settings.settle);
    let mut most = 0;
    let mut next = now;
    for sample in samples.iter().rev() {
        // The last sample before the cool-down holds until the next one.
        sample.waiting?;
        sample.arrival?;
        sample.tasks?;
        if sample.at > next || sample.at + longest < next {
            return None;
        }
        if sample.at < start {
            break;
        }
        most = most.max(sample.need(settings, settings.hysteresis));
        next = sample.at;
    }
    Some(most)
}

/// The largest number of workers that fell behind a load no larger than the current one although it had time to settle.
fn fell_behind(now: Duration, samples: &[Sample], settings: &Thresholds) -> Option<u32> {
    let arrival = samples.last()?.arrival?;
    let oldest = now.saturating_sub(settings.memory);
    let from = samples.partition_point(|sample| sample.at < oldest);
    let samples = &samples[from..];
    let mut worst = None;
    let mut level_start = 0;
    let mut from_above = false;
    for (i, sample) in samples.iter().enumerate() {
        match sample.workers.cmp(&samples[level_start].workers) {
            Ordering::Equal => {}
            change => (from_above, level_start) = (change.is_lt(), i),
        }
        // While the queue was unavailable no worker stored anything, so all of them need time to settle again.
        if sample.waiting.is_none() {
            (from_above, level_start) = (false, i + 1);
            continue;
        }
        // The newest sample of the same level that is at least `settle` older.
        let level = &samples[level_start..i];
        let settled = level.partition_point(|s| s.at + settings.settle <= sample.at);
        let earlier = &samples[level_start + settled.saturating_sub(1)];
        // After an increase the backlog may be an old one; after a decrease there was none.
        let had_time = from_above || earlier.at + settings.settle <= sample.at;
        let grew = had_time && sample.waiting >= earlier.waiting;
        if grew && sample.is_short(settings) {
            // The rate lags behind the backlog.
            let later = samples[i..].iter();
            let soon = later.take_while(|s| s.at <= sample.at + settings.settle);
            let most = soon
                .map(|s| s.arrival)
                .try_fold(0.0, |most: f64, rate| Some(most.max(rate?)));
            // If nothing arrived, the number of workers is not the reason that the backlog does not shrink.
            if most.is_none_or(|rate| rate == 0.0 || rate > arrival * SAME_ARRIVAL) {
                continue;
            }
            worst = worst.max(Some(sample.workers));
        }
    }
    worst
}

impl Sample {
    fn is_short(&self, settings: &Thresholds) -> bool {
        let waits = self.waiting.is_some_and(|waiting| waiting > 0);
        let old = self.oldest.is_some_and(|age| age > settings.target_age);
        waits && (old || self.for_messages(settings, 1.0) > self.workers)
    }
}
