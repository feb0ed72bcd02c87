//! One reader's view of one room: which numbers it received, and which it should have.

use super::ids::{RoomNo, Seq};

pub(super) struct Subscription {
    pub label: String,
    pub room: RoomNo,
    /// The reader sees events above this number only.
    pub base: Seq,
    /// The highest number received or caught up to.
    pub last: Seq,
    /// A bit for each number above `base` that was received.
    received: Vec<u64>,
    /// Ranges, both ends included, in which events may be left out: answers to a resume, and pages of history.
    pub summarised: Vec<(Seq, Seq)>,
    pub gaps: Vec<(Seq, Seq)>,
    /// The subscription has ended: nothing above this number is expected.
    pub until: Option<Seq>,
}

impl Subscription {
    pub fn new(label: String, room: RoomNo, base: Seq) -> Self {
        Subscription {
            label,
            room,
            base,
            last: base,
            received: Vec::new(),
            summarised: Vec::new(),
            gaps: Vec::new(),
            until: None,
        }
    }

    pub fn has(&self, seq: Seq) -> bool {
        let bit = seq - self.base - 1;
        bit >= 0
            && self
                .received
                .get(bit as usize / 64)
                .is_some_and(|word| word & 1 << (bit % 64) != 0)
    }

    /// Marks a number above `base` as received. `false` if it was marked before.
    pub fn mark(&mut self, seq: Seq) -> bool {
        let bit = (seq - self.base - 1) as usize;
        if self.received.len() <= bit / 64 {
            self.received.resize(bit / 64 + 1, 0);
        }
        let word = &mut self.received[bit / 64];
        let is_new = *word & 1 << (bit % 64) == 0;
        *word |= 1 << (bit % 64);
        is_new
    }

    /// Whether an accepted message of its room is for it; `seq` is 0 where no delivery has shown the message's number.
    pub fn expects(&self, seq: Seq) -> bool {
        match (seq, self.until) {
            (0, until) => until.is_none(),
            (seq, until) => seq > self.base && until.is_none_or(|until| seq <= until),
        }
    }
}

pub(super) fn within(ranges: &[(Seq, Seq)], seq: Seq) -> bool {
    ranges.iter().any(|(from, to)| (*from..=*to).contains(&seq))
}
