//! The memberships: an acknowledged end or beginning is an event of the feed.

use super::Violation;
use crate::chaos::record::{Action, Event, Op, Outcome, Record};

pub fn check(record: &Record, number: usize) -> Vec<Violation> {
    let mut violations = Vec::new();
    for client in 0..record.users.len() {
        let ops = record.ops.iter().filter(|op| op.room == number);
        let ops = ops.filter_map(|op| match op.action {
            Action::Join if op.client == client => Some((op, true)),
            Action::Leave if op.client == client => Some((op, false)),
            Action::Add { client: of } if of == client => Some((op, true)),
            Action::Remove { client: of } if of == client => Some((op, false)),
            _ => None,
        });
        let mut ops: Vec<(&Op, bool)> = ops.collect();
        ops.sort_by_key(|(op, _)| op.sent);
        // Whether the user is a member, as far as the answers tell. Only a change of what is known must be an event.
        let (mut member, mut joins, mut ends) = (Some(true), 0, 0);
        for (op, joins_room) in ops {
            if op.is_done() {
                joins += usize::from(joins_room && member == Some(false));
                ends += usize::from(!joins_room && member == Some(true));
                member = Some(joins_room);
            } else if !matches!(op.outcome, Outcome::Refused(_)) || member == Some(joins_room) {
                member = None;
            }
        }
        let user = record.users[client];
        for (event, least) in [(Event::Joined, joins), (Event::Left, ends)] {
            let feed = record.rooms[number].feed.iter();
            let found = feed.filter(|change| change.event == event && change.subject == user);
            let found = found.count();
            if found < least {
                let text =
                    format!("client {client}: {least} acknowledged, {found} {event:?} in the feed");
                let property = "an acknowledged change of a membership is in the feed";
                violations.push(Violation::new(property, number, text).of_client(client));
            }
        }
        if member == Some(false) && record.rooms[number].members.contains_key(&user) {
            let text = format!("client {client}: its membership ended, and it is a member");
            let property = "an acknowledged change of a membership is in the feed";
            // A public room is joined again by resuming, which is no operation of its own.
            let joined = record.rooms[number].feed.iter().rev();
            let mut own = joined.filter(|change| change.subject == user);
            let rejoined = own.find(|change| matches!(change.event, Event::Joined | Event::Left));
            if rejoined.is_none_or(|change| change.event != Event::Joined) {
                violations.push(Violation::new(property, number, text).of_client(client));
            }
        }
    }
    violations
}
