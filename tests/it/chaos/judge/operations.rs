//! The operations on messages: what was acknowledged is there, once and in order, and what was not acknowledged is there
//! at most once.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Room, Violation};
use crate::chaos::record::{Action, Event, Op, Outcome, Record, Seq, hash};

pub fn check(record: &Record, number: usize, room: &Room<'_>) -> Vec<Violation> {
    let ops: Vec<&Op> = record.ops.iter().filter(|op| op.room == number).collect();
    let check = Check {
        record,
        number,
        room,
        ops,
    };
    let mut violations = check.sends();
    violations.extend(check.unknown_messages());
    violations.extend(check.order());
    violations.extend(check.changes());
    violations.extend(check.bodies());
    violations.extend(check.reactions());
    violations.extend(check.reads());
    violations
}

struct Check<'a> {
    record: &'a Record,
    number: usize,
    room: &'a Room<'a>,
    ops: Vec<&'a Op>,
}

impl Check<'_> {
    fn violation(&self, property: &'static str, op: &Op, text: String) -> Violation {
        let text = format!("client {}: {text}", op.client);
        let violation = Violation::new(property, self.number, text);
        violation.of_client(op.client).at(op.sent)
    }

    /// Whether a membership of the client's user ended after `position`: a worker may have refused what an edge has
    /// accepted before.
    fn may_be_refused(&self, op: &Op) -> bool {
        let user = self.record.users[op.client];
        let feed = self.record.rooms[self.number].feed.iter();
        feed.rev()
            .take_while(|change| change.seq >= op.position)
            .any(|change| change.event == Event::Left && change.subject == user)
    }

    fn sends(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        for op in &self.ops {
            let Action::Send { name, .. } = &op.action else {
                continue;
            };
            let key = (self.record.users[op.client], name.as_str());
            let stored = self.room.by_name.get(&key);
            match (&op.outcome, stored) {
                (Outcome::Done { .. }, None) => {
                    let told = |(room, failed, _): &(usize, String, String)| {
                        *room == self.number && failed == name
                    };
                    let told = self.record.failed.iter().find(|failed| told(failed));
                    if !self.may_be_refused(op) {
                        let also = told.map_or("no sendFailed", |(_, _, code)| code);
                        let text = format!("{name} was acknowledged and is not stored ({also})");
                        let property = "an acknowledged send is stored";
                        violations.push(self.violation(property, op, text));
                    }
                }
                (Outcome::Done { id: Some(id), .. }, Some(stored)) if stored.id != *id => {
                    let text = format!("{name} was acknowledged as {id} and is {}", stored.id);
                    let property = "an acknowledged send is stored";
                    violations.push(self.violation(property, op, text).message(stored.id));
                }
                (Outcome::Refused(code), Some(stored)) => {
                    let text = format!("{name} was refused ({code}) and is stored");
                    let property = "a refused send is not stored";
                    let violation = self.violation(property, op, text).message(stored.id);
                    violations.push(violation.seqs(stored.seq, stored.seq));
                }
                _ => {}
            }
        }
        violations
    }

    /// Messages that no client has sent.
    fn unknown_messages(&self) -> Vec<Violation> {
        let sends = self.ops.iter().filter_map(|op| match &op.action {
            Action::Send { name, .. } => Some((self.record.users[op.client], name.as_str())),
            _ => None,
        });
        let sent: HashSet<(Uuid, &str)> = sends.collect();
        let stored = self
            .room
            .by_name
            .iter()
            .filter(|(key, _)| !sent.contains(*key));
        let violation = |(_, stored): (_, &&crate::chaos::record::Stored)| {
            let text = format!("{} of {} was never sent", stored.name, stored.sender);
            let violation = Violation::new("every message was sent", self.number, text);
            violation.message(stored.id).seqs(stored.seq, stored.seq)
        };
        stored.map(violation).collect()
    }

    /// The sends of one connection that were acknowledged at the first attempt are stored in their order.
    fn order(&self) -> Vec<Violation> {
        let (mut last, mut violations) = (HashMap::<usize, (Seq, &str)>::new(), Vec::new());
        for op in &self.ops {
            let Action::Send { name, .. } = &op.action else {
                continue;
            };
            let key = (self.record.users[op.client], name.as_str());
            let stored = self.room.by_name.get(&key);
            let Some(stored) = stored.filter(|_| op.is_done() && op.attempts == 1) else {
                continue;
            };
            let before = last.insert(op.connection, (stored.seq, name));
            if let Some((seq, earlier)) = before.filter(|(seq, _)| *seq > stored.seq) {
                let text = format!(
                    "{earlier} was sent before {name}, and their numbers are {seq} and {}",
                    stored.seq
                );
                let property = "the sends of a connection keep their order";
                let violation = self.violation(property, op, text).message(stored.id);
                violations.push(violation.seqs(stored.seq, seq));
            }
        }
        violations
    }

    /// An answer that names a change of a message names one of that message.
    fn changes(&self) -> Vec<Violation> {
        let feed = &self.record.rooms[self.number].feed;
        let mut violations = Vec::new();
        for op in &self.ops {
            let (
                Some(message),
                Outcome::Done {
                    change: Some(seq), ..
                },
            ) = (changed(&op.action), &op.outcome)
            else {
                continue;
            };
            let index = usize::try_from(seq - 1).ok();
            let change = index.and_then(|index| feed.get(index));
            if change.is_none_or(|change| change.subject != message) {
                let text = format!(
                    "{:?} was answered with {seq}, which is {change:?}",
                    op.action
                );
                let property = "an acknowledged change is in the feed";
                let violation = self.violation(property, op, text).message(message);
                violations.push(violation.seqs(*seq, *seq));
            }
        }
        violations
    }

    /// A message has the body of its last acknowledged edit, or of an edit without an answer, and is deleted if that was
    /// acknowledged.
    fn bodies(&self) -> Vec<Violation> {
        let mut by_message = HashMap::<Uuid, Vec<&Op>>::new();
        for op in &self.ops {
            let key = match &op.action {
                Action::Send { name, .. } => {
                    let key = (self.record.users[op.client], name.as_str());
                    self.room.by_name.get(&key).map(|stored| stored.id)
                }
                Action::Edit { message, .. } | Action::Delete { message } => Some(*message),
                _ => None,
            };
            if let Some(message) = key {
                by_message.entry(message).or_default().push(op);
            }
        }
        let mut violations = Vec::new();
        for (message, ops) in by_message {
            let Some(stored) = self.room.by_id.get(&message) else {
                continue;
            };
            let deletes = || {
                ops.iter()
                    .filter(|op| matches!(op.action, Action::Delete { .. }))
            };
            let acked = deletes().find(|op| op.is_done() && !self.may_be_refused(op));
            let text = match (acked, stored.copy.deleted) {
                (Some(op), false) => Some((*op, "an acknowledged delete vanished")),
                (None, true) if deletes().next().is_none() => {
                    Some((ops[0], "it is deleted, and no client did that"))
                }
                _ => None,
            };
            if let Some((op, text)) = text {
                let text = format!("{}: {text}", stored.name);
                let property = "an acknowledged delete stays";
                violations.push(self.violation(property, op, text).message(message));
            }
            if stored.copy.deleted {
                continue;
            }
            // From the last acknowledged one on, and those whose time is unknown.
            let written = ops.iter().filter_map(|op| match &op.action {
                Action::Send { body, .. } | Action::Edit { body, .. } => {
                    Some((*op, hash(body.as_str())))
                }
                _ => None,
            });
            let written: Vec<(&Op, u64)> = written.collect();
            let firm = |op: &Op| {
                op.is_done()
                    && (matches!(op.action, Action::Send { .. }) || !self.may_be_refused(op))
            };
            let last = written.iter().rposition(|(op, _)| firm(op)).unwrap_or(0);
            let mut allowed = written.iter().enumerate().filter(|(i, (op, _))| {
                *i >= last || !(firm(op) || matches!(op.outcome, Outcome::Refused(_)))
            });
            if !allowed.any(|(_, (_, body))| *body == stored.copy.body) {
                let (op, _) = written[last];
                let text = format!("{} does not have the body of {:?}", stored.name, op.action);
                let property = "an acknowledged edit stays";
                violations.push(self.violation(property, op, text).message(message));
            }
        }
        violations
    }

    /// A user's reaction is what their last acknowledged operation made it, or one without an answer.
    fn reactions(&self) -> Vec<Violation> {
        let mut by_reaction = HashMap::<(usize, Uuid, usize), Vec<(&Op, bool)>>::new();
        for op in &self.ops {
            if let Action::React { message, emoji, on } = op.action {
                let key = (op.client, message, emoji);
                by_reaction.entry(key).or_default().push((op, on));
            }
        }
        let mut violations = Vec::new();
        for ((client, message, emoji), ops) in by_reaction {
            let Some(stored) = self.room.by_id.get(&message).filter(|m| !m.copy.deleted) else {
                continue;
            };
            let user = self.record.users[client];
            let is_on = stored
                .reactions
                .get(emoji)
                .is_some_and(|users| users.contains(&user));
            let firm = |op: &Op| op.is_done() && !self.may_be_refused(op);
            let last = ops.iter().rposition(|(op, _)| firm(op));
            let initial = last.is_none() && !is_on;
            let mut allowed = ops.iter().enumerate().filter(|(i, (op, _))| {
                Some(*i) == last || !(firm(op) || matches!(op.outcome, Outcome::Refused(_)))
            });
            if !initial && !allowed.any(|(_, (_, on))| *on == is_on) {
                let op = ops[last.unwrap_or(0)].0;
                let text = format!("{}: on is {is_on} after {:?}", stored.name, op.action);
                let property = "an acknowledged reaction settles";
                violations.push(self.violation(property, op, text).message(message));
            }
        }
        violations
    }

    /// A member has read at least what was acknowledged, and at most what was requested.
    fn reads(&self) -> Vec<Violation> {
        let members = &self.record.rooms[self.number].members;
        let mut violations = Vec::new();
        for op in &self.ops {
            let Action::Read { seq } = op.action else {
                continue;
            };
            if !op.is_done() || self.may_be_refused(op) {
                continue;
            }
            let read = members.get(&self.record.users[op.client]);
            // A send reads what is above it, so there is no upper bound.
            if read.is_none_or(|read| *read < seq) {
                let text = format!("it has read up to {seq}, and the server has {read:?}");
                let property = "an acknowledged read position stays";
                violations.push(self.violation(property, op, text).seqs(seq, seq));
            }
        }
        violations
    }
}

/// The message that an operation changes.
fn changed(action: &Action) -> Option<Uuid> {
    match action {
        Action::Edit { message, .. }
        | Action::Delete { message }
        | Action::React { message, .. } => Some(*message),
        _ => None,
    }
}
