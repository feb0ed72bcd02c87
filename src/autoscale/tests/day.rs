//! The decision over a day of traffic.

use super::*;

/// Messages per second over a day: none at night, a slow rise, two peaks, and bursts of twenty times as much.
fn day(second: u64, random: &mut Random) -> f64 {
    let hour = second as f64 / 3600.0;
    let peak = |at: f64, width: f64| (-((hour - at) / width).powi(2)).exp();
    let base = 900.0 * peak(10.5, 2.5) + 1500.0 * peak(19.5, 2.0);
    let base = if base < 3.0 { 0.0 } else { base };
    let burst = if second % 7200 < 90 && base > 0.0 {
        20.0
    } else {
        1.0
    };
    (base * burst).min(6000.0) * (0.9 + 0.2 * random.part())
}

#[test]
fn a_day_needs_few_workers_and_few_changes() {
    let mut random = Random(7);
    let capacity = 1500.0;
    let mut world = World::new(SETTINGS, capacity);
    let (mut worker_seconds, mut oldest, mut total) = (0u64, Duration::ZERO, 0.0);
    let mut at_night = 0;
    let mut late = 0;
    let mut busy = 0u32;
    let mut seconds = 0;
    for second in 0..86_400 {
        let arriving = day(second, &mut random);
        world.step(arriving, true);
        total += arriving;
        busy += u32::from(arriving > 0.0);
        worker_seconds += u64::from(world.workers);
        oldest = oldest.max(world.age());
        late += u64::from(world.age() > SETTINGS.target_age);
        if second > 300 && second < 3 * 3600 {
            at_night += u64::from(world.workers);
        }
        seconds += 1;
    }
    assert_eq!(at_night, 0, "no worker runs at night");
    assert!(oldest <= Duration::from_secs(6), "{oldest:?}");
    assert!(late * 1000 < seconds, "{late} of {seconds} seconds late");
    // Fewer worker seconds than one worker while messages arrive, plus twice the worker seconds that the load requires.
    let least = f64::from(busy) + 2.0 * total / capacity;
    assert!(
        (worker_seconds as f64) < least,
        "{worker_seconds} of {least}"
    );
    // There are two dozen bursts and two slopes, so the number must not change every minute.
    assert!(world.changes.len() < 200, "{} changes", world.changes.len());
}
