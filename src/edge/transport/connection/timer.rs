//! The deadlines of a connection: authentication, pings, and writes that make no progress.

use std::{pin::Pin, task::Context, time::Duration};

use tokio::time::{Instant, Sleep};

use super::{Codec, Connection, Heartbeat, Over, Phase, progress::Progress};
use crate::protocol::Close;

/// Minimum delay before the next heartbeat check of a peer that is not being read, whose silence does not count.
const RECHECK_DELAY: Duration = Duration::from_millis(10);

impl<C: Codec> Connection<C> {
    /// The earliest deadline.
    pub(super) fn due(&self) -> Instant {
        let mut due = self.heartbeat_at;
        if matches!(self.phase, Phase::Anonymous(_)) {
            due = due.min(self.auth_deadline);
        }
        match &self.progress {
            Some(progress) => due.min(progress.due(self.edge.config.edge.write_timeout)),
            None => due,
        }
    }

    /// Tracks whether the peer takes bytes written to it, of any kind.
    pub(super) fn watch(&mut self) {
        let (unsent, sent) = self.link.unsent();
        match &mut self.progress {
            _ if !unsent && !self.blocked => self.progress = None,
            Some(progress) => progress.note(sent, Instant::now()),
            None => self.progress = Some(Box::new(Progress::new(sent, Instant::now()))),
        }
    }

    pub(super) fn poll_timer(
        &mut self,
        cx: &mut Context,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<bool, Over> {
        self.watch();
        let mut expired = false;
        loop {
            let due = self.due();
            // A deadline that moved later is noticed when the timer fires: most move before they expire.
            if due < timer.deadline() {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(expired);
            }
            let now = Instant::now();
            if now < due {
                timer.as_mut().reset(due);
                continue;
            }
            self.at(now)?;
            timer.as_mut().reset(self.due());
            expired = true;
        }
    }

    /// Handles expired deadlines.
    pub(super) fn at(&mut self, now: Instant) -> Result<(), Over> {
        let write_timeout = self.edge.config.edge.write_timeout;
        if self
            .progress
            .as_ref()
            .is_some_and(|progress| progress.due(write_timeout) <= now)
        {
            return Err(self.stall());
        }
        if matches!(self.phase, Phase::Anonymous(_)) && now >= self.auth_deadline {
            return Err(self.codec.too_late(&self.outbox));
        }
        if now < self.heartbeat_at {
            return Ok(());
        }
        let (heartbeat, mut again) = self.codec.heartbeat(now - self.last_received);
        match heartbeat {
            Heartbeat::Nothing => {}
            Heartbeat::Ping => self.link.ping(),
            Heartbeat::Send(item) => self.outbox.push(item),
            // The pong may be behind unread input, or the ping behind unread output; both cases have their own
            // timeouts.
            Heartbeat::Dead if self.blocked || self.next.is_some() => {
                again = self.codec.pong_due().unwrap_or(again).max(RECHECK_DELAY);
            }
            Heartbeat::Dead => return Err(Over::with(Close::Idle)),
        }
        self.heartbeat_at = now + again;
        Ok(())
    }

    /// The peer has not read for too long: discard its queued items.
    pub(super) fn stall(&mut self) -> Over {
        self.stalled = true;
        self.outbox.close_slow();
        self.writing.clear();
        Over::with(Close::Slow)
    }
}
