//! The progress of a long command on standard error: one line that is rewritten on a terminal, a line every few seconds
//! elsewhere.

use std::{
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

/// Between two lines on a terminal.
const REWRITE: Duration = Duration::from_millis(200);
/// Between two lines elsewhere, for logs.
const LINE: Duration = Duration::from_secs(5);

pub struct Progress {
    is_terminal: bool,
    last: Instant,
    /// A line on the terminal is to be ended.
    open: bool,
}

impl Progress {
    #[expect(clippy::new_without_default, reason = "it looks at standard error")]
    pub fn new() -> Progress {
        Progress {
            is_terminal: stderr().is_terminal(),
            last: Instant::now(),
            open: false,
        }
    }

    /// Shows `done` of `total`, unless something was shown a moment ago: `copying messages: 41 % of 1200 rows`.
    pub fn show(&mut self, what: &str, done: u64, total: u64, unit: &str) {
        let pause = if self.is_terminal { REWRITE } else { LINE };
        if self.last.elapsed() < pause {
            return;
        }
        self.last = Instant::now();
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
        // An estimate may be too low.
        let text = format!("{what}: {} % of {total} {unit}", percent.min(100));
        if self.is_terminal {
            let _ = write!(stderr(), "\r\x1b[K{text}");
            let _ = stderr().flush();
            self.open = true;
        } else {
            super::note(text);
        }
    }

    /// Shows the next step.
    pub fn step(&mut self, what: &str) {
        self.clear();
        if self.is_terminal {
            let _ = write!(stderr(), "{what} …");
            let _ = stderr().flush();
            self.open = true;
        } else {
            super::note(what);
        }
    }

    /// Removes the line from the terminal.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
