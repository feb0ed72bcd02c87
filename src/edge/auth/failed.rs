//! Failed logins: counted, and logged at a bounded rate, so that an attacker cannot fill the disk.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::telemetry::metrics;

/// Lines within one [`WINDOW`]; further ones are only counted.
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// Why a login failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A wrong password, or an unknown user name.
    WrongPassword,
    /// Too many attempts: the password was not checked.
    Limited,
    /// A refresh token that is invalid, has expired or was used before, or whose login has ended.
    BadToken,
}

impl Reason {
    /// The label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::WrongPassword => "wrong_password",
            Reason::Limited => "limited",
            Reason::BadToken => "bad_token",
        }
    }
}

static LOG: Mutex<Option<Window>> = Mutex::new(None);

/// Counts a failed login and logs it with the client's address. The user name is not logged: users type passwords into
/// the wrong field.
pub fn count(reason: Reason, client: Option<IpAddr>) {
    let reason = reason.as_str();
    metrics().logins_failed.with_label_values(&[reason]).inc();
    let now = Instant::now();
    let line = LOG.lock().get_or_insert_with(|| Window::at(now)).line(now);
    if let Some(omitted) = line {
        let client = client.map(tracing::field::display);
        tracing::info!(reason, client, omitted, "login failed");
    }
}

/// The lines of the current second.
struct Window {
    since: Instant,
    lines: u32,
    /// Failures without a line since the last line.
    omitted: u64,
}

impl Window {
    fn at(since: Instant) -> Window {
        Window {
            since,
            lines: 0,
            omitted: 0,
        }
    }

    /// Whether a failure gets a line, and how many before it got none.
    fn line(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= WINDOW {
            self.since = now;
            self.lines = 0;
        }
        if self.lines >= LINES {
            self.omitted += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.omitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_and_omitted_ones_counted() {
        let start = Instant::now();
        let mut window = Window::at(start);
        for _ in 0..LINES {
            assert_eq!(window.line(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(window.line(start), None);
        }
        assert_eq!(window.line(start + WINDOW), Some(7));
        assert_eq!(window.line(start + WINDOW), Some(0));
    }
}
