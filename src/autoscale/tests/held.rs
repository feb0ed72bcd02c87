//! A locked database: workers take the waiting payloads and acknowledge none.

use std::time::Duration;

use super::SETTINGS;
use crate::{
    autoscale::{
        decide::{Sample, decide},
        signal::{Flow, Scope, Tracker},
    },
    queue::{Held, Load, PartitionLoad},
};

/// Payloads that a broker delivers ahead of acknowledgements, all partitions together.
const PREFETCH: u64 = 256;
const SIZE: u64 = 3;

/// Runs for `seconds` with `arriving` payloads in each of the first `busy` seconds, and returns the changes of the
/// number of workers. `reports`: whether workers report what they hold.
fn changes(seconds: u64, busy: u64, arriving: u64, reports: bool) -> Vec<(u64, u32)> {
    let mut tracker = Tracker::new(Scope {
        messages: true,
        tasks: Vec::new(),
        soon: SETTINGS.cooldown,
    });
    let (mut ready, mut held, mut published) = (0, 0, 0);
    let (mut workers, mut samples, mut changes) = (0, Vec::new(), Vec::new());
    for second in 0..seconds {
        let at = Duration::from_secs(second);
        if second < busy {
            ready += arriving;
            published += arriving;
        }
        // The last worker returns its payloads; a new one takes them.
        let holds = if workers > 0 {
            (ready + held).min(PREFETCH)
        } else {
            0
        };
        (ready, held) = (ready + held - holds, holds);
        tracker.report(
            at,
            Some(Flow {
                payloads: published,
                messages: published * SIZE,
            }),
        );
        tracker.hold(Some(Held {
            commands: if reports { SIZE * held.min(1) } else { 0 },
            payloads: if reports { held.saturating_sub(1) } else { 0 },
            ..Held::default()
        }));
        let partition = PartitionLoad {
            ready,
            consumers: u64::from(workers),
            ..PartitionLoad::default()
        };
        let load = Load {
            partitions: vec![partition],
            ..Load::default()
        };
        let measured = tracker.measure(at, Some(&load));
        samples.push(Sample {
            at,
            workers,
            waiting: measured.waiting,
            oldest: measured.oldest,
            arrival: measured.arrival,
            tasks: measured.tasks,
            due_soon: measured.due_soon,
        });
        let target = decide(at, &samples, &SETTINGS).target;
        if target != workers {
            changes.push((second, target));
            workers = target;
        }
    }
    changes
}

#[test]
fn a_worker_with_batches_that_it_cannot_store_is_not_stopped() {
    for arriving in [1, 7, 200] {
        let changes = changes(3600, 1, arriving, true);
        let targets: Vec<u32> = changes.iter().map(|(_, target)| *target).collect();
        assert_eq!(targets, [1], "{arriving}: {changes:?}");
    }
    // Without reports, the worker looks idle, is stopped after each cool-down, and started again.
    assert!(changes(3600, 1, 7, false).len() > 50);
}

#[test]
fn a_backlog_behind_a_locked_database_leads_to_a_steady_number() {
    for arriving in [5, 50, 500] {
        let changes = changes(3600, 300, arriving, true);
        let late = changes.iter().filter(|(second, _)| *second > 600).count();
        assert_eq!(late, 0, "{arriving}: {changes:?}");
    }
}
