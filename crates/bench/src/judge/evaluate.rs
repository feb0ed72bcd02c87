//! The evaluation of what was recorded.

use std::collections::HashMap;

use super::{
    faults::Fault,
    ids::{ConnectionNo, RoomNo, Seq, SubscriptionNo},
    state::{Judge, OTHER, Sent, UNKNOWN, name},
    subscription::{Subscription, within},
    verdict::Verdict,
};

impl Judge {
    /// How many accepted messages a subscription still lacks; tests wait for 0. Linear in the number of sends.
    pub fn missing(&self, subscription: SubscriptionNo) -> usize {
        let subscription = &self.subscriptions[subscription.0 as usize];
        self.sends
            .iter()
            .filter(|sent| {
                sent.accepted && sent.room == subscription.room && self.lacks(subscription, sent)
            })
            .count()
    }

    /// Adds up. Messages that have not arrived by now count as lost.
    pub fn verdict(&self) -> Verdict {
        let mut lost = Fault::default();
        let mut expected = 0;
        let (mut accepted, mut stored) = (0, 0);
        for sent in &self.sends {
            accepted += u64::from(sent.accepted);
            stored += u64::from(sent.seq > 0);
            if !sent.accepted {
                continue;
            }
            for number in &self.rooms[sent.room.0 as usize].subscriptions {
                let subscription = &self.subscriptions[number.0 as usize];
                if subscription.expects(sent.seq.into()) {
                    expected += 1;
                    if self.lacks(subscription, sent) {
                        lost.add(|| self.lost_example(subscription, sent));
                    }
                }
            }
        }
        let mut reordered = self.faults.reordered.clone();
        self.check_connections(&mut reordered);
        let mut wrong_seq = self.faults.wrong_seq.clone();
        self.check_numbers(&mut wrong_seq);

        let (duplicated, unexpected) = (&self.faults.duplicated, &self.faults.unexpected);
        Verdict {
            sent: self.sends.len() as u64,
            accepted,
            stored,
            delivered: self.delivered,
            expected,
            lost: lost.count,
            duplicated: duplicated.count,
            reordered: reordered.count,
            unexpected: unexpected.count,
            wrong_seq: wrong_seq.count,
            gaps: self.faults.gaps,
            examples: [&lost, duplicated, &reordered, unexpected, &wrong_seq]
                .iter()
                .flat_map(|fault| fault.examples.iter().cloned())
                .collect(),
        }
    }

    fn lacks(&self, subscription: &Subscription, sent: &Sent) -> bool {
        let seq = Seq::from(sent.seq);
        subscription.expects(seq)
            && !(seq > 0
                && (subscription.has(seq) || (self.allow_gaps && within(&subscription.gaps, seq))))
    }

    /// The numbers of one connection's messages in a room must grow in the order in which it sent them.
    fn check_connections(&self, reordered: &mut Fault) {
        let mut last: HashMap<(ConnectionNo, RoomNo), usize> = HashMap::new();
        for (at, sent) in self.sends.iter().enumerate() {
            if sent.seq == 0 || sent.repeated {
                continue;
            }
            let before = last.insert((sent.connection, sent.room), at);
            if let Some(before) = before.filter(|before| self.sends[*before].seq > sent.seq) {
                reordered.add(|| {
                    format!(
                        "reordered: connection {} sent {:?} before {:?}, which have the numbers {} and {} in {}",
                        sent.connection.0,
                        name(&self.sends, &self.names, before as u32),
                        name(&self.sends, &self.names, at as u32),
                        self.sends[before].seq,
                        sent.seq,
                        self.rooms[sent.room.0 as usize].label
                    )
                });
            }
        }
    }

    /// Every number between a subscription's first and last must be an event that it received.
    fn check_numbers(&self, wrong_seq: &mut Fault) {
        for subscription in &self.subscriptions {
            let room = &self.rooms[subscription.room.0 as usize];
            let last = subscription.last;
            let end = subscription.until.map_or(last, |until| until.min(last));
            for seq in subscription.base + 1..=end {
                let event = room.numbers.get(seq as usize).copied().unwrap_or(UNKNOWN);
                // An accepted message is counted as lost instead.
                let message = event != UNKNOWN && event != OTHER;
                let accepted = message && self.sends[event as usize - 1].accepted;
                let excused = within(&subscription.summarised, seq)
                    || (self.allow_gaps && within(&subscription.gaps, seq));
                if !subscription.has(seq) && !accepted && !excused {
                    wrong_seq.add(|| {
                        format!(
                            "wrong seq: no event has the number {seq} for {} in {}",
                            subscription.label, room.label
                        )
                    });
                }
            }
        }
    }

    fn lost_example(&self, subscription: &Subscription, sent: &Sent) -> String {
        let at = self.by_key.get(&sent.key).copied().unwrap_or_default();
        let number = match sent.seq {
            0 => "that nobody got".to_owned(),
            seq => format!("with the number {seq}"),
        };
        format!(
            "lost: {:?} {number} never came to {} in {}",
            name(&self.sends, &self.names, at),
            subscription.label,
            self.rooms[subscription.room.0 as usize].label
        )
    }
}
