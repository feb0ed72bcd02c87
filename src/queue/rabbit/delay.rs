//! Delays of tasks. A delay is the sum of levels, each of which has a queue of its own, because messages expire only at a
//! queue's head.

use std::time::Duration;

/// Each level is four times the one before, so a delay uses each but the last at most three times.
pub(super) const LEVELS: [Duration; 8] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(16),
    Duration::from_secs(64),
    Duration::from_secs(256),
    Duration::from_secs(1024),
    Duration::from_secs(4096),
];

/// The level to wait in next and the remaining delay after it; `None` for no delay. The shortest level is the resolution:
/// a shorter delay waits that long.
pub(super) fn split(delay: Duration) -> Option<(Duration, Duration)> {
    if delay.is_zero() {
        return None;
    }
    let fits = LEVELS.iter().rev().find(|level| **level <= delay);
    let level = *fits.unwrap_or(&LEVELS[0]);
    Some((level, delay.saturating_sub(level)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_the_sum_of_its_levels() {
        for millis in [1, 250, 300, 999, 60_000, 86_400_000, 123_456_789] {
            let delay = Duration::from_millis(millis);
            let (mut left, mut waited, mut hops) = (delay, Duration::ZERO, 0);
            while let Some((level, rest)) = split(left) {
                (left, waited, hops) = (rest, waited + level, hops + 1);
            }
            assert!(
                waited >= delay && waited < delay + LEVELS[0],
                "{millis}: {waited:?}"
            );
            assert!(hops <= 24 + millis / 4_096_000, "{millis}: {hops}");
        }
        assert_eq!(split(Duration::ZERO), None);
    }
}
