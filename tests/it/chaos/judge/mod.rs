//! Compares what was acknowledged, what each client received and what the server has at the end. Pure: it reads a
//! [`Record`] and returns every violation.

mod feed;
mod members;
mod operations;
#[cfg(test)]
mod tests;
mod views;

use std::collections::HashMap;

use uuid::Uuid;

use super::record::{Millis, Record, Seq, Stored};

/// A property that does not hold, and where to look for the cause.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    pub property: &'static str,
    pub text: String,
    pub room: usize,
    pub client: Option<usize>,
    /// The numbers concerned, if any.
    pub seqs: Option<(Seq, Seq)>,
    pub message: Option<Uuid>,
    pub at: Option<Millis>,
}

impl Violation {
    fn new(property: &'static str, room: usize, text: String) -> Violation {
        Violation {
            property,
            text,
            room,
            client: None,
            seqs: None,
            message: None,
            at: None,
        }
    }

    fn of_client(self, client: usize) -> Violation {
        Violation {
            client: Some(client),
            ..self
        }
    }

    fn seqs(self, from: Seq, to: Seq) -> Violation {
        Violation {
            seqs: Some((from, to)),
            ..self
        }
    }

    fn message(self, message: Uuid) -> Violation {
        Violation {
            message: Some(message),
            ..self
        }
    }

    fn at(self, at: Millis) -> Violation {
        Violation {
            at: Some(at),
            ..self
        }
    }
}

/// A room's messages, found by id and by what their sender called them.
struct Room<'a> {
    by_id: HashMap<Uuid, &'a Stored>,
    by_name: HashMap<(Uuid, &'a str), &'a Stored>,
}

pub fn judge(record: &Record) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (at, text) in &record.surprises {
        violations.push(Violation::new("only expected answers and exits", 0, text.clone()).at(*at));
    }
    for (number, truth) in record.rooms.iter().enumerate() {
        let room = Room {
            by_id: truth
                .history
                .iter()
                .map(|stored| (stored.id, stored))
                .collect(),
            by_name: truth
                .history
                .iter()
                .map(|stored| ((stored.sender, stored.name.as_str()), stored))
                .collect(),
        };
        violations.extend(feed::check(number, truth));
        violations.extend(operations::check(record, number, &room));
        violations.extend(members::check(record, number));
        for client in 0..record.views.len() {
            violations.extend(views::check(record, number, client, &room));
        }
    }
    violations
}
