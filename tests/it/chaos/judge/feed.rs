//! The feed of a room against its history.

use std::collections::HashSet;

use super::Violation;
use crate::chaos::record::{Event, Truth};

/// Each number is one event, each message has one event `newMessage`, and the history has the same messages.
pub fn check(room: usize, truth: &Truth) -> Vec<Violation> {
    let mut violations = Vec::new();
    let numbers = "each number of a room is one event";
    for (expected, change) in (1..).zip(&truth.feed) {
        if change.seq != expected {
            let text = format!("the feed has {} in the place of {expected}", change.seq);
            violations.push(Violation::new(numbers, room, text).seqs(expected, change.seq));
            break;
        }
    }
    let created = truth
        .feed
        .iter()
        .filter(|change| change.event == Event::New);
    let created: Vec<_> = created.map(|change| (change.seq, change.subject)).collect();
    let stored: Vec<_> = truth
        .history
        .iter()
        .map(|stored| (stored.seq, stored.id))
        .collect();
    if created != stored {
        let differs = created.iter().zip(&stored).position(|(a, b)| a != b);
        let at = differs.unwrap_or(created.len().min(stored.len()));
        let text = format!(
            "entry {at} is {:?} in the feed and {:?} in the history",
            created.get(at),
            stored.get(at)
        );
        let seq = created
            .get(at)
            .or(stored.get(at))
            .map_or(0, |(seq, _)| *seq);
        let property = "the history has the messages of the feed";
        violations.push(Violation::new(property, room, text).seqs(seq, seq));
    }
    let (mut ids, mut names) = (HashSet::new(), HashSet::new());
    for message in &truth.history {
        if !ids.insert(message.id) || !names.insert((message.sender, &message.name)) {
            let text = format!("{} of {} is stored twice", message.name, message.sender);
            let violation = Violation::new("a message is stored once", room, text);
            violations.push(violation.message(message.id).seqs(message.seq, message.seq));
        }
    }
    violations
}
