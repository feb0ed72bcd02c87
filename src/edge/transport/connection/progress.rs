//! How long a peer may take to read what is being written to it. No I/O.

use std::time::Duration;

use tokio::time::Instant;

/// What was waiting for the peer at one time, at most `edge.send_queue_bytes`, may take this many times
/// `edge.write_timeout` altogether.
const WHOLE: u32 = 3;

/// A write that waits for its reader.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Progress {
    began: Instant,
    /// When the system last took a byte, and how many it had taken by then.
    moved: Instant,
    sent: u64,
}

impl Progress {
    /// The write waits from now on; the system has taken `sent` bytes of this socket so far.
    pub fn new(sent: u64, now: Instant) -> Self {
        Progress {
            began: now,
            moved: now,
            sent,
        }
    }

    /// The system has taken `sent` bytes by now.
    pub fn note(&mut self, sent: u64, now: Instant) {
        if sent != self.sent {
            (self.sent, self.moved) = (sent, now);
        }
    }

    /// When the peer counts as stalled: it takes nothing for `timeout`, or is not done after [`WHOLE`] times as long, so
    /// that a reader who takes a byte now and then is closed as well.
    pub fn due(&self, timeout: Duration) -> Instant {
        (self.moved + timeout).min(self.began + timeout * WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_buys_time_but_not_for_ever() {
        let (start, timeout) = (Instant::now(), Duration::from_secs(20));
        let at = |secs| start + Duration::from_secs(secs);
        let mut progress = Progress::new(7, start);
        assert_eq!(progress.due(timeout), at(20));
        progress.note(7, at(15));
        assert_eq!(progress.due(timeout), at(20), "nothing was taken");
        progress.note(8, at(15));
        assert_eq!(progress.due(timeout), at(35));
        progress.note(9, at(34));
        assert_eq!(progress.due(timeout), at(54));
        progress.note(10, at(50));
        assert_eq!(progress.due(timeout), at(60), "a byte a time is not enough");
    }
}
