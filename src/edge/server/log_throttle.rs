//! A limit for log lines that peers can cause.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Minimum time between two log lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts events and lets one log line through per [`INTERVAL`].
#[derive(Default)]
pub struct LogThrottle(Mutex<Counter>);

#[derive(Default)]
struct Counter {
    last: Option<Instant>,
    since: u64,
}

impl LogThrottle {
    /// Counts an event. If a line may be logged now, returns the number of events since the last line.
    pub fn count(&self) -> Option<u64> {
        let mut counter = self.0.lock();
        counter.since += 1;
        if counter.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return None;
        }
        counter.last = Some(Instant::now());
        Some(std::mem::take(&mut counter.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_between_two_lines_are_counted_by_the_second() {
        let throttle = LogThrottle::default();
        assert_eq!(throttle.count(), Some(1));
        assert_eq!([throttle.count(), throttle.count()], [None, None]);
        throttle.0.lock().last = None;
        assert_eq!(throttle.count(), Some(3));
    }
}
