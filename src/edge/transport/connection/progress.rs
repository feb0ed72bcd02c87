//! Write timeout of a peer. No I/O.

use std::time::Duration;

use tokio::time::Instant;

/// The bytes pending at one time (at most `edge.send_queue_bytes`) may take this many times `edge.write_timeout` in
/// total.
const WHOLE: u32 = 3;

/// A write that is blocked by the peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Progress {
    began: Instant,
    /// When the kernel last took a byte, and how many it had taken by then.
    moved: Instant,
    sent: u64,
}

impl Progress {
    /// Starts now; the kernel has taken `sent` bytes of this socket so far.
    pub fn new(sent: u64, now: Instant) -> Self {
        Progress {
            began: now,
            moved: now,
            sent,
        }
    }

    /// Records that the kernel has taken `sent` bytes by now.
    pub fn note(&mut self, sent: u64, now: Instant) {
        if sent != self.sent {
            (self.sent, self.moved) = (sent, now);
        }
    }

    /// When the peer counts as stalled: after `timeout` without a byte, or after [`WHOLE`] times as long in total, so
    /// that a peer that takes a byte now and then is closed as well.
    pub fn due(&self, timeout: Duration) -> Instant {
        (self.moved + timeout).min(self.began + timeout * WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_extends_the_deadline_up_to_a_maximum() {
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
