//! The decision against a simulated queue: properties under many random loads.

mod bounds;
mod day;
mod held;
mod tasks;

use std::time::Duration;

use super::decide::{Decision, Sample, Thresholds, decide};

const SETTINGS: Thresholds = Thresholds {
    min: 0,
    max: 8,
    partitions: 8,
    messages_per_worker: 1000,
    messages_per_second: 2000.0,
    jobs_per_worker: 100,
    target_age: Duration::from_secs(2),
    cooldown: Duration::from_secs(30),
    settle: Duration::from_secs(3),
    step: 2,
    hysteresis: 0.7,
    memory: Duration::from_secs(1800),
};

/// A random number generator (SplitMix64), so that a failure can be reproduced from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A number in 0..1.
    fn part(&mut self) -> f64 {
        self.below(1 << 32) as f64 / (1u64 << 32) as f64
    }
}

/// A queue that each worker drains at `capacity` per second, measured once a second.
struct World {
    settings: Thresholds,
    capacity: f64,
    second: u64,
    waiting: f64,
    /// The waiting messages, by second of arrival.
    line: std::collections::VecDeque<(u64, f64)>,
    rate: f64,
    tasks: u64,
    due_soon: u64,
    workers: u32,
    samples: Vec<Sample>,
    changes: Vec<(u64, u32)>,
}

impl World {
    fn new(settings: Thresholds, capacity: f64) -> World {
        World {
            settings,
            capacity: capacity.floor(),
            second: 0,
            waiting: 0.0,
            line: Default::default(),
            rate: 0.0,
            tasks: 0,
            due_soon: 0,
            workers: settings.min,
            samples: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// One second in which `arriving` messages arrive. `seen`: whether statistics are available.
    fn step(&mut self, arriving: f64, seen: bool) -> Decision {
        // Whole numbers, so that no fraction of a message remains.
        let arriving = arriving.floor();
        self.second += 1;
        self.waiting += arriving;
        if arriving > 0.0 {
            self.line.push_back((self.second, arriving));
        }
        let mut drained = (self.capacity * f64::from(self.workers)).min(self.waiting);
        self.waiting -= drained;
        while drained > 0.0
            && let Some((_, first)) = self.line.front_mut()
        {
            let taken = first.min(drained);
            *first -= taken;
            drained -= taken;
            if *first < 1.0 {
                self.line.pop_front();
            }
        }
        // The mean over some seconds, as in the product.
        self.rate += (arriving - self.rate) / 5.0;
        if self.rate < 0.01 {
            self.rate = 0.0;
        }
        let now = Duration::from_secs(self.second);
        self.samples.push(Sample {
            at: now,
            workers: self.workers,
            waiting: seen.then_some(self.waiting.ceil() as u64),
            oldest: seen.then(|| self.age()),
            arrival: seen.then_some(self.rate),
            tasks: seen.then_some(self.tasks),
            due_soon: seen.then_some(self.due_soon),
        });
        let decision = decide(now, &self.samples, &self.settings);
        if decision.target != self.workers {
            self.changes.push((self.second, decision.target));
            self.workers = decision.target;
        }
        if self.samples.len() > 4000 {
            self.samples.drain(..2000);
        }
        decision
    }

    fn age(&self) -> Duration {
        let since = self.line.front().map_or(self.second, |(second, _)| *second);
        Duration::from_secs(self.second - since)
    }

    /// How often the direction of change reversed after `second`.
    fn turns_after(&self, second: u64) -> usize {
        let levels: Vec<i64> = self
            .changes
            .iter()
            .filter(|(at, _)| *at >= second)
            .map(|(_, workers)| i64::from(*workers))
            .collect();
        let steps: Vec<i64> = levels.windows(2).map(|pair| pair[1] - pair[0]).collect();
        steps
            .windows(2)
            .filter(|pair| pair[0].signum() != pair[1].signum())
            .count()
    }
}

fn random_settings(random: &mut Random) -> Thresholds {
    let min = random.below(4) as u32;
    let max = min + 1 + random.below(12) as u32;
    Thresholds {
        min,
        max,
        partitions: max,
        messages_per_worker: 1 + random.below(5000),
        messages_per_second: 50.0 + random.part() * 5000.0,
        target_age: Duration::from_secs(1 + random.below(10)),
        cooldown: Duration::from_secs(5 + random.below(60)),
        step: 1 + random.below(4) as u32,
        ..SETTINGS
    }
}

#[test]
fn the_target_is_between_min_and_max_for_any_samples() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let settings = random_settings(&mut random);
        let mut samples = Vec::new();
        let mut at = Duration::ZERO;
        let mut workers = random.below(30) as u32;
        for _ in 0..60 {
            at += Duration::from_millis(random.below(3000));
            let huge = [1, 100, 1_000_000, u64::MAX][random.below(4) as usize];
            samples.push(Sample {
                at,
                workers,
                waiting: (random.below(5) > 0).then(|| random.below(huge.max(2))),
                oldest: (random.below(5) > 0).then(|| Duration::from_millis(random.below(20_000))),
                arrival: (random.below(5) > 0).then(|| random.part() * huge as f64),
                tasks: (random.below(5) > 0).then(|| random.below(huge.max(2))),
                due_soon: (random.below(5) > 0).then(|| random.below(2)),
            });
            let Decision { target, .. } = decide(at, &samples, &settings);
            assert!(
                (settings.min..=settings.max).contains(&target),
                "seed {seed}: {target} with {settings:?}"
            );
            workers = target;
        }
    }
}

#[test]
fn messages_never_wait_without_a_worker() {
    for seed in 0..50 {
        let mut random = Random(seed);
        let settings = Thresholds {
            min: 0,
            ..random_settings(&mut random)
        };
        let mut world = World::new(settings, 10.0 + random.part() * 5000.0);
        for _ in 0..400 {
            let arriving = [0, 0, 0, 1, 50, 5000][random.below(6) as usize] as f64;
            let decision = world.step(arriving, true);
            let waits = world.samples.last().unwrap().waiting > Some(0);
            assert!(
                !waits || decision.target > 0,
                "seed {seed}, second {}",
                world.second
            );
        }
        // Without load the number is halved at each cool-down, until no worker is left.
        while world.waiting > 0.0 {
            world.step(0.0, true);
        }
        for _ in 0..6 * 70 {
            world.step(0.0, true);
        }
        assert_eq!(world.workers, 0, "seed {seed}");
    }
}

#[test]
fn a_steady_load_ends_in_a_steady_number() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let settings = random_settings(&mut random);
        // A worker's capacity differs from the assumed one in both directions.
        let capacity = settings.messages_per_second * (0.3 + random.part() * 3.0);
        let rate = random.part() * capacity * f64::from(settings.max) * 0.9;
        let mut world = World::new(settings, capacity);
        let noise = 0.04 * random.part();
        for _ in 0..1800 {
            let arriving = rate * (1.0 + noise * (2.0 * random.part() - 1.0));
            world.step(arriving, true);
        }
        // Each number that is too small may be tried once.
        let turns = world.turns_after(400);
        assert!(
            turns <= 2,
            "seed {seed}: {rate:.0}/s at {capacity:.0}/s each: {:?}\n{settings:?}",
            world.changes
        );
        let age = world.age();
        assert!(
            world.workers == settings.max || age <= settings.target_age * 3,
            "seed {seed}: {age:?} behind with {} of {}",
            world.workers,
            settings.max
        );
    }
}

#[test]
fn unknown_figures_change_nothing() {
    let mut world = World::new(SETTINGS, 500.0);
    for _ in 0..60 {
        world.step(1500.0, true);
    }
    let before = world.workers;
    assert!(before >= 3, "{before}");
    for _ in 0..600 {
        world.step(0.0, false);
        assert_eq!(world.workers, before);
    }
    // The figures are known again: a whole cool-down of known samples is required.
    for _ in 0..29 {
        world.step(0.0, true);
        assert_eq!(world.workers, before);
    }
    for _ in 0..300 {
        world.step(0.0, true);
    }
    assert_eq!(world.workers, 0);
}

/// Each sample waits for its deadline because the queue does not answer: few samples, far apart.
#[test]
fn workers_are_stopped_only_after_a_cooldown_of_known_samples() {
    for pause in 1..40 {
        let mut world = World::new(SETTINGS, 500.0);
        for _ in 0..60 {
            world.step(1500.0, true);
        }
        let before = world.workers;
        for _ in 0..20 {
            world.second += pause;
            world.step(0.0, false);
        }
        world.waiting = 0.0;
        for second in 0..29 {
            world.step(0.0, true);
            assert_eq!(world.workers, before, "{pause} s apart, {second} s after");
        }
        for _ in 0..300 {
            world.step(0.0, true);
        }
        assert_eq!(world.workers, 0);
    }
}

/// After an outage the workers reconnect one by one, and until then the backlog does not shrink.
#[test]
fn the_backlog_of_an_outage_keeps_no_workers() {
    for idle in 1..40 {
        for arriving in [0.0, 300.0] {
            let mut world = World::new(Thresholds { max: 4, ..SETTINGS }, 500.0);
            for _ in 0..60 {
                world.step(1500.0, true);
            }
            for _ in 0..60 {
                world.step(0.0, false);
            }
            (world.waiting, world.capacity) = (50_000.0, 0.0);
            for _ in 0..idle {
                world.step(arriving, true);
            }
            world.capacity = 500.0;
            for _ in 0..600 {
                world.step(0.0, true);
            }
            assert_eq!(world.workers, 0, "idle for {idle} s at {arriving}/s");
        }
    }
}

/// The clock used is monotonic, but even one that jumps must not stop workers: an hour without samples proves nothing.
#[test]
fn a_clock_that_jumps_stops_no_worker() {
    const HOUR: u64 = 3600;
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut world = World::new(random_settings(&mut random), 500.0);
        world.second = 2 * HOUR;
        for _ in 0..300 {
            world.step(1500.0, true);
        }
        let before = world.workers;
        match seed % 3 {
            0 => world.second += HOUR,
            1 => world.second -= HOUR,
            // Back by a little, as when a clock is corrected.
            _ => world.second -= 1 + random.below(20),
        }
        // At the first sample after the jump the backlog is gone.
        (world.waiting, world.rate) = (0.0, 0.0);
        world.line.clear();
        assert_eq!(world.step(0.0, true).target, before, "seed {seed}");
        // Waiting messages get a worker after any jump.
        let decision = world.step(1.0, true);
        assert!(decision.target > 0, "seed {seed}");
        assert!(decision.target <= world.settings.max, "seed {seed}");
        // A jump has no effect after a cool-down; from then on the number is halved repeatedly.
        for _ in 0..6 * 70 {
            world.step(0.0, true);
        }
        assert_eq!(world.workers, world.settings.min, "seed {seed}");
    }
}

#[test]
fn steps_are_limited_and_down_is_slow() {
    let mut world = World::new(
        Thresholds {
            max: 100,
            partitions: 100,
            ..SETTINGS
        },
        500.0,
    );
    world.step(1_000_000.0, true);
    let levels: Vec<u32> = (0..6).map(|_| world.step(0.0, true).target).collect();
    assert_eq!(world.changes[0], (1, 2), "the first step");
    assert_eq!(levels[..5], [4, 8, 16, 32, 64]);
    while world.waiting > 0.0 {
        world.step(0.0, true);
    }
    let idle = world.second;
    let most = world.workers;
    while world.workers > 0 {
        world.step(0.0, true);
        assert!(world.second < idle + 400);
    }
    let down: Vec<_> = world.changes.iter().filter(|(at, _)| *at > idle).collect();
    for pair in down.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= 30, "{down:?}");
        assert!(pair[1].1 >= pair[0].1 / 2, "{down:?}");
    }
    assert!(down[0].1 >= most / 2);
}

#[test]
fn one_old_message_starts_a_worker() {
    let sample = |at, oldest| Sample {
        at: Duration::from_secs(at),
        workers: 1,
        waiting: Some(1),
        oldest: Some(Duration::from_secs(oldest)),
        arrival: Some(0.1),
        tasks: Some(0),
        due_soon: Some(0),
    };
    let samples = [sample(0, 0), sample(5, 5)];
    let now = samples[1].at;
    assert_eq!(decide(now, &samples, &SETTINGS).target, 2);
    // Not before the last change can have an effect.
    assert_eq!(decide(now, &samples[1..], &SETTINGS).target, 1);
}
