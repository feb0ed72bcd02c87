//! The counts that a run comes to.

use std::fmt::Write as _;

use serde::Serialize;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub sent: u64,
    pub accepted: u64,
    /// Messages that were delivered at least once, so that their number is known.
    pub stored: u64,
    /// Deliveries of new messages, each subscription counted.
    pub delivered: u64,
    /// Deliveries that the accepted messages call for.
    pub expected: u64,
    /// Accepted, and missing at a subscription that should have it.
    pub lost: u64,
    pub duplicated: u64,
    /// Delivered after a later event, or numbered against the order of one connection.
    pub reordered: u64,
    /// Delivered though it was never sent, or to a subscription that had ended.
    pub unexpected: u64,
    /// A number used twice, one message with two numbers, or a number without an event.
    pub wrong_seq: u64,
    /// Explicit `gap` events.
    pub gaps: u64,
    /// A few faults of each kind, as text.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Nothing lost, duplicated, reordered, unexpected or misnumbered. A gap that was not allowed counts as lost messages
    /// or missing numbers.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.unexpected + self.wrong_seq == 0
    }

    /// One line of counts, then one line for each example: for test failures.
    pub fn explain(&self) -> String {
        let mut text = format!(
            "sent {}, accepted {}, stored {}, delivered {} of {}: {} lost, {} duplicated, {} reordered, {} unexpected, {} wrong seq, {} gaps",
            self.sent,
            self.accepted,
            self.stored,
            self.delivered,
            self.expected,
            self.lost,
            self.duplicated,
            self.reordered,
            self.unexpected,
            self.wrong_seq,
            self.gaps
        );
        for example in &self.examples {
            let _ = write!(text, "\n  {example}");
        }
        text
    }
}
