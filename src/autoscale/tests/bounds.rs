//! The decision at its boundaries: values that just require another worker, just allow one fewer, or neither.

use super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A sample at rest: nothing waits and nothing arrives.
fn rest(at: Duration, workers: u32) -> Sample {
    Sample {
        at,
        workers,
        waiting: Some(0),
        oldest: None,
        arrival: Some(0.0),
        tasks: Some(0),
        due_soon: Some(0),
    }
}

/// This many workers for the last 100 s, with one sample per second; `change` is applied to each sample.
fn steady(workers: u32, change: impl Fn(&mut Sample)) -> Vec<Sample> {
    let samples = (0..=100).map(|second| {
        let mut sample = rest(secs(second), workers);
        change(&mut sample);
        sample
    });
    samples.collect()
}

fn now(samples: &[Sample], settings: &Thresholds) -> Decision {
    decide(samples.last().map_or(secs(0), |s| s.at), samples, settings)
}

/// The target for the samples of [`steady`] with [`SETTINGS`].
fn target(workers: u32, change: impl Fn(&mut Sample)) -> u32 {
    now(&steady(workers, change), &SETTINGS).target
}

#[test]
fn a_message_above_a_workers_capacity_adds_a_worker() {
    for (waiting, arrival, tasks, expected) in [
        (1000, 0.0, 0, 1),
        (1001, 0.0, 0, 2),
        (0, 2000.0, 0, 1),
        (0, 2001.0, 0, 2),
        (0, 0.0, 100, 1),
        (0, 0.0, 101, 2),
        (1000, 2000.0, 100, 1),
    ] {
        let change = |sample: &mut Sample| {
            (sample.waiting, sample.arrival, sample.tasks) =
                (Some(waiting), Some(arrival), Some(tasks));
        };
        let decision = now(&steady(1, change), &SETTINGS);
        assert_eq!(decision.target, expected, "{waiting} {arrival} {tasks}");
        let reason = match (expected, tasks) {
            (1, _) => "no change needed",
            (_, 101) => "tasks wait",
            _ => "messages wait or arrive",
        };
        assert_eq!(decision.reason, reason);
    }
}

#[test]
fn a_step_doubles_or_adds_the_least_and_ends_at_max() {
    for (workers, expected) in [(0, 2), (1, 3), (2, 4), (3, 6), (5, 8), (7, 8), (8, 8)] {
        let busy = |sample: &mut Sample| sample.waiting = Some(1_000_000);
        assert_eq!(target(workers, busy), expected, "from {workers}");
        let busy = |sample: &mut Sample| sample.tasks = Some(1_000_000);
        assert_eq!(target(workers, busy), expected, "from {workers}");
    }
    let busy = steady(8, |sample| sample.tasks = Some(1_000_000));
    assert!(now(&busy, &SETTINGS).reason.contains("autoscale.max"));
    // Messages alone never require more workers than there are partitions.
    let few = Thresholds {
        partitions: 3,
        ..SETTINGS
    };
    let busy = steady(3, |sample| sample.waiting = Some(1_000_000));
    assert_eq!(now(&busy, &few).target, 3);
}

#[test]
fn min_and_max_come_before_everything() {
    let settings = Thresholds {
        min: 2,
        max: 4,
        ..SETTINGS
    };
    for (workers, expected) in [(1, 2), (2, 2), (4, 2), (5, 4), (6, 4)] {
        let samples = steady(workers, |_| {});
        assert_eq!(now(&samples, &settings).target, expected, "{workers}");
    }
    assert_eq!(decide(secs(1), &[], &settings).target, 2);
}

#[test]
fn a_message_is_old_beyond_the_target_and_once_the_number_had_time_to_show() {
    let millis = Duration::from_millis;
    for (age, waiting, expected) in [
        (millis(2000), 1, 1),
        (millis(2001), 1, 2),
        (millis(2001), 0, 0),
    ] {
        let samples = steady(1, |sample| {
            (sample.oldest, sample.waiting) = (Some(age), Some(waiting));
        });
        assert_eq!(
            now(&samples, &SETTINGS).target,
            expected,
            "{age:?} {waiting}"
        );
    }
    for (ago, expected) in [(millis(2999), 1), (millis(3000), 2)] {
        let old = |mut sample: Sample| {
            (sample.oldest, sample.waiting) = (Some(secs(9)), Some(1));
            sample
        };
        let samples = [
            old(rest(secs(50), 0)),
            old(rest(secs(100) - ago, 1)),
            old(rest(secs(100), 1)),
        ];
        assert_eq!(now(&samples, &SETTINGS).target, expected, "{ago:?}");
    }
    let old = |sample: &mut Sample| {
        (sample.oldest, sample.waiting) = (Some(secs(9)), Some(1));
    };
    let few = Thresholds {
        partitions: 2,
        ..SETTINGS
    };
    let decision = now(&steady(2, old), &few);
    assert_eq!(decision.target, 2);
    assert!(decision.reason.contains("every partition"));
    assert_eq!(now(&steady(1, old), &few).target, 2);
}

#[test]
fn down_by_half_after_a_whole_cooldown() {
    for (workers, expected) in [(8, 4), (5, 2), (4, 2), (3, 1), (2, 1), (1, 0), (0, 0)] {
        assert_eq!(target(workers, |_| {}), expected, "from {workers}");
    }
    for (ago, expected) in [(29_999, 2), (30_000, 1)] {
        let since = secs(100) - Duration::from_millis(ago);
        let mut samples = vec![rest(secs(60), 1), rest(since, 2)];
        samples.extend((80..=100).map(|second| rest(secs(second), 2)));
        assert_eq!(now(&samples, &SETTINGS).target, expected, "{ago} ms");
    }
    // Samples may be at most a cool-down apart: with a longer gap the load in between is unknown.
    for (millis, expected) in [(30_000, 1), (30_001, 2)] {
        let apart = Duration::from_millis(millis);
        let samples: Vec<_> = (1..=3).map(|n| rest(apart * n, 2)).collect();
        assert_eq!(
            now(&samples, &SETTINGS).target,
            expected,
            "{millis} ms apart"
        );
    }
    // The remaining workers must not need more than 70 % of each threshold.
    for (waiting, expected) in [(700, 1), (701, 2)] {
        let change = |sample: &mut Sample| sample.waiting = Some(waiting);
        assert_eq!(target(2, change), expected, "{waiting} wait");
    }
    for (tasks, expected) in [(70, 1), (71, 2)] {
        let change = |sample: &mut Sample| sample.tasks = Some(tasks);
        assert_eq!(target(2, change), expected, "{tasks} tasks");
    }
    for (arrival, expected) in [(1400.0, 1), (1401.0, 2)] {
        let change = |sample: &mut Sample| sample.arrival = Some(arrival);
        assert_eq!(target(2, change), expected, "{arrival} arrive");
    }
    // One busy second within the cool-down counts, one before it does not.
    for (second, expected) in [(69, 1), (70, 2), (99, 2)] {
        let change = |sample: &mut Sample| {
            if sample.at == secs(second) {
                sample.waiting = Some(1500);
            }
        };
        assert_eq!(target(2, change), expected, "at {second} s");
    }
}

#[test]
fn the_last_worker_stays_while_tasks_fall_due_soon() {
    for (due_soon, expected) in [(Some(0), 0), (Some(1), 1), (None, 1)] {
        let change = |sample: &mut Sample| sample.due_soon = due_soon;
        assert_eq!(target(1, change), expected, "{due_soon:?}");
        assert_eq!(target(2, change), 1, "{due_soon:?}");
    }
}

#[test]
fn unknown_figures_keep_the_number_of_workers() {
    for unknown in [
        (|sample: &mut Sample| sample.waiting = None) as fn(&mut Sample),
        |sample| sample.arrival = None,
        |sample| sample.tasks = None,
    ] {
        assert_eq!(target(3, unknown), 3);
        // The same if only one sample of the cool-down is unknown.
        let once = |sample: &mut Sample| {
            if sample.at == secs(80) {
                unknown(sample);
            }
        };
        assert_eq!(target(3, once), 3);
    }
}

/// One worker did not keep up; a second one does. The first number is not tried again while as much arrives.
#[test]
fn a_number_that_fell_behind_is_not_tried_again_while_as_much_arrives() {
    let history_of = |arrival_then: f64, oldest: Duration, arrival_now: f64, until: u64| {
        let mut samples = Vec::new();
        for second in 0..10 {
            let mut sample = rest(secs(second), 1);
            sample.arrival = Some(arrival_then);
            (sample.waiting, sample.oldest) = (Some(100 + second), Some(oldest));
            samples.push(sample);
        }
        for second in 10..=until {
            let mut sample = rest(secs(second), 2);
            sample.arrival = Some(arrival_now);
            samples.push(sample);
        }
        samples
    };
    let history = |arrival_now, until| history_of(1000.0, secs(5), arrival_now, until);
    assert_eq!(now(&history(1000.0, 60), &SETTINGS).target, 2);
    // A load that is up to a tenth smaller counts as the same load.
    assert_eq!(now(&history(910.0, 60), &SETTINGS).target, 2);
    assert_eq!(now(&history(900.0, 60), &SETTINGS).target, 1);
    let exactly_a_tenth = history_of(1100.0, secs(5), 1000.0, 60);
    assert_eq!(now(&exactly_a_tenth, &SETTINGS).target, 2);
    // Messages that waited no longer than the target show no shortage.
    for (millis, expected) in [(2000, 1), (2001, 2)] {
        let samples = history_of(1000.0, Duration::from_millis(millis), 1000.0, 60);
        assert_eq!(now(&samples, &SETTINGS).target, expected, "{millis} ms");
    }
    // The shortage is ignored after `memory`.
    let memory = Thresholds {
        memory: secs(100),
        ..SETTINGS
    };
    assert_eq!(now(&history(1000.0, 100), &memory).target, 2);
    assert_eq!(now(&history(1000.0, 120), &memory).target, 1);
    // The samples of seconds 6 to 9 show it; with fewer samples the worker had no time to catch up.
    assert_eq!(now(&history(1000.0, 106), &memory).target, 2);
    assert_eq!(now(&history(1000.0, 107), &memory).target, 1);
}

/// After an increase the backlog may be older, so workers get time to reduce it. After a decrease there was no backlog.
#[test]
fn a_backlog_right_after_a_decrease_shows_that_the_rest_does_not_suffice() {
    let history = |before: u32| {
        let mut samples: Vec<_> = (0..=60)
            .map(|second| match second {
                0..10 => rest(secs(second), before),
                10..12 => {
                    let mut sample = rest(secs(second), 1);
                    (sample.waiting, sample.oldest) = (Some(100 + second), Some(secs(5)));
                    sample
                }
                _ => rest(secs(second), 2),
            })
            .collect();
        samples
            .iter_mut()
            .for_each(|sample| sample.arrival = Some(1000.0));
        now(&samples, &SETTINGS).target
    };
    assert_eq!(history(2), 2, "after a decrease");
    assert_eq!(history(0), 1, "after an increase");
}

/// While the queue was unavailable no worker stored anything: a backlog from that time shows nothing about their
/// number.
#[test]
fn a_backlog_that_grew_while_the_queue_was_away_shows_nothing() {
    let history = |waiting_afterwards: u64| {
        let mut samples: Vec<_> = (0..=60)
            .filter(|second| !(6..9).contains(second))
            .map(|second| {
                let mut sample = rest(secs(second), if second < 10 { 1 } else { 2 });
                let waiting = match second {
                    0..5 => Some(200 - 10 * second),
                    5 => None,
                    9 => Some(waiting_afterwards),
                    _ => Some(0),
                };
                let oldest = waiting.filter(|waiting| *waiting > 0).map(|_| secs(5));
                (sample.waiting, sample.oldest) = (waiting, oldest);
                sample.arrival = Some(1000.0);
                sample
            })
            .collect();
        let target = now(&samples, &SETTINGS).target;
        // The same without the outage: the worker fell behind.
        samples.retain(|sample| sample.waiting.is_some());
        (target, now(&samples, &SETTINGS).target)
    };
    assert_eq!(history(165), (1, 2));
}

/// A backlog is compared with the one `settle` earlier, not with the largest one.
#[test]
fn a_backlog_that_shrank_and_grows_again_shows_a_shortage() {
    let history = |growth: u64| {
        let samples: Vec<_> = (0..=60)
            .map(|second| {
                let mut sample = rest(secs(second), if second < 9 { 1 } else { 2 });
                let waiting = match second {
                    0..5 => 500 - 100 * second,
                    5..9 => 100 + growth * (second - 4),
                    _ => 0,
                };
                if waiting > 0 {
                    (sample.waiting, sample.oldest) = (Some(waiting), Some(secs(5)));
                }
                sample.arrival = Some(1000.0);
                sample
            })
            .collect();
        now(&samples, &SETTINGS).target
    };
    assert_eq!(history(10), 2);
}
