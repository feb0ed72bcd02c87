//! The decision for tasks: due and delayed ones.

use super::*;

#[test]
fn due_tasks_start_a_worker_and_delayed_ones_keep_one() {
    let mut world = World::new(SETTINGS, 500.0);
    // Delayed tasks alone start no worker.
    world.due_soon = 5;
    for _ in 0..100 {
        assert_eq!(world.step(0.0, true).target, 0);
    }
    // The first due task starts one at once.
    (world.tasks, world.due_soon) = (1, 4);
    assert_eq!(world.step(0.0, true).target, 1);
    // It stays while more are due soon, and is stopped after them.
    world.tasks = 0;
    for _ in 0..100 {
        assert_eq!(world.step(0.0, true).target, 1);
    }
    world.due_soon = 0;
    assert_eq!(world.step(0.0, true).target, 0);
}

#[test]
fn tasks_may_use_more_workers_than_there_are_partitions() {
    let settings = Thresholds {
        partitions: 2,
        ..SETTINGS
    };
    let mut world = World::new(settings, 500.0);
    for _ in 0..60 {
        world.step(10_000.0, true);
    }
    assert_eq!(world.workers, 2, "messages use no more than the partitions");
    world.tasks = 1000;
    for _ in 0..10 {
        world.step(10_000.0, true);
    }
    assert_eq!(world.workers, 8);
}

#[test]
fn tasks_never_wait_without_a_worker() {
    for seed in 0..50 {
        let mut random = Random(seed);
        let settings = Thresholds {
            min: 0,
            jobs_per_worker: 1 + random.below(500),
            ..random_settings(&mut random)
        };
        let mut world = World::new(settings, 500.0);
        for _ in 0..400 {
            world.tasks = [0, 0, 0, 1, 30, 3000][random.below(6) as usize];
            world.due_soon = random.below(3);
            let decision = world.step(0.0, true);
            assert!(world.tasks == 0 || decision.target > 0, "seed {seed}");
            assert!(decision.target <= settings.max, "seed {seed}");
        }
        (world.tasks, world.due_soon) = (0, 0);
        for _ in 0..6 * 70 {
            world.step(0.0, true);
        }
        assert_eq!(world.workers, 0, "seed {seed}");
    }
}

#[test]
fn a_steady_number_of_tasks_leads_to_a_steady_number_of_workers() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let settings = Thresholds {
            jobs_per_worker: 1 + random.below(500),
            ..random_settings(&mut random)
        };
        let mut world = World::new(settings, 500.0);
        let tasks = random.below(settings.jobs_per_worker * u64::from(settings.max));
        for _ in 0..900 {
            let noise = 0.96 + 0.08 * random.part();
            world.tasks = (tasks as f64 * noise).ceil() as u64;
            world.step(0.0, true);
        }
        let turns = world.turns_after(200);
        assert!(turns <= 2, "seed {seed}: {:?}", world.changes);
    }
}
