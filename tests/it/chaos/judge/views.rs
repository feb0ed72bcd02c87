//! Compares the events that one client received, live and by resuming, with the room's feed and history.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{Room, Violation};
use crate::chaos::record::{Change, Event, Millis, Record, Seen, Seq, Truth};

struct Check<'a> {
    number: usize,
    client: usize,
    user: Uuid,
    truth: &'a Truth,
    room: &'a Room<'a>,
    /// Joined and left: the user's own, in order.
    memberships: Vec<(Seq, bool)>,
    position: Seq,
    /// The client has received the end of its own membership.
    left: bool,
    violations: Vec<Violation>,
}

pub fn check(record: &Record, number: usize, client: usize, room: &Room<'_>) -> Vec<Violation> {
    let truth = &record.rooms[number];
    let user = record.users[client];
    let own = truth.feed.iter().filter(|change| change.subject == user);
    let memberships = own.filter_map(|change| match change.event {
        Event::Joined => Some((change.seq, true)),
        Event::Left => Some((change.seq, false)),
        Event::New | Event::Updated | Event::Deleted | Event::Reaction | Event::Room => None,
    });
    let mut check = Check {
        number,
        client,
        user,
        truth,
        room,
        memberships: memberships.collect(),
        position: 0,
        left: false,
        violations: Vec::new(),
    };
    let view = &record.views[client][number];
    for seen in &view.seen {
        check.seen(seen);
        // After the first, the others are mostly its consequences.
        if !check.violations.is_empty() {
            return check.violations;
        }
    }
    let head = truth.feed.last().map_or(0, |change| change.seq);
    if check.position != head {
        let text = format!("the last number received is {}, not {head}", check.position);
        let from = check.position + 1;
        check.violate("every event is delivered", text, (from, head), None);
        return check.violations;
    }
    check.copies(&view.messages);
    check.violations
}

impl Check<'_> {
    fn violate(
        &mut self,
        property: &'static str,
        text: String,
        (from, to): (Seq, Seq),
        at: Option<Millis>,
    ) {
        let text = format!("client {}: {text}", self.client);
        let violation = Violation::new(property, self.number, text);
        let mut violation = violation.of_client(self.client).seqs(from, to);
        violation.at = at;
        self.violations.push(violation);
    }

    fn change(&self, seq: Seq) -> Option<&Change> {
        let index = usize::try_from(seq - 1).ok()?;
        self.truth.feed.get(index)
    }

    fn seen(&mut self, seen: &Seen) {
        match seen {
            Seen::Live {
                at,
                seq,
                event,
                subject,
            } => self.live(*at, *seq, *event, *subject),
            // The client joins again from where it was.
            Seen::Gap { at, from, to } => self.gap(*at, *from, *to),
            Seen::Reset { at } => {
                let text = "the server reports lost history, and lost none".to_owned();
                let seqs = (self.position, self.position);
                self.violate("no reset without reason", text, seqs, Some(*at));
            }
            Seen::Page {
                at,
                after,
                upto,
                messages,
                events,
                gaps,
            } => {
                self.left = false;
                self.page(*at, (*after, *upto), messages, events, gaps);
                self.position = *upto;
            }
        }
    }

    fn live(&mut self, at: Millis, seq: Seq, event: Event, subject: Uuid) {
        let (next, seqs, time) = (self.position + 1, (seq, seq), Some(at));
        if self.left {
            let text = format!("{event:?} {seq} arrived after memberLeft");
            self.violate("nothing is delivered to a removed member", text, seqs, time);
        } else if !self.was_member(seq, event, subject) {
            let text = format!("{event:?} {seq} was delivered, and the user was no member then");
            self.violate("nothing is delivered to a removed member", text, seqs, time);
        } else if seq < next {
            let text = format!("{event:?} {seq} arrived after {}", self.position);
            self.violate(
                "each event is delivered once and in order",
                text,
                seqs,
                time,
            );
        } else if seq > next {
            let text = format!("{event:?} {seq} arrived after {}", self.position);
            let seqs = (next, seq);
            self.violate("no event is skipped", text, seqs, time);
        } else if !self.is_in_feed(seq, event, subject) {
            let text = format!(
                "{event:?} {seq} of {subject}; the feed has {:?}",
                self.change(seq)
            );
            self.violate("clients receive the events of the feed", text, seqs, time);
        }
        self.position = seq;
        self.left = event == Event::Left && subject == self.user;
    }

    /// Whether the user was a member at this number, or it ended their membership.
    fn was_member(&self, seq: Seq, event: Event, subject: Uuid) -> bool {
        if event == Event::Left && subject == self.user {
            return true;
        }
        let before = self.memberships.iter().rev().find(|(at, _)| *at <= seq);
        // Members from the beginning have no event.
        before.is_none_or(|(_, joined)| *joined)
    }

    fn is_in_feed(&self, seq: Seq, event: Event, subject: Uuid) -> bool {
        let Some(change) = self.change(seq) else {
            return false;
        };
        // The feed shows a reaction to a message that was deleted since as an update.
        let deleted = self
            .room
            .by_id
            .get(&subject)
            .is_some_and(|stored| stored.copy.deleted);
        let same = change.event == event
            || (event == Event::Reaction && change.event == Event::Updated && deleted);
        same && change.subject == subject
    }

    /// Numbers that the feed does not have, or an unsubscription because the user is no member any more.
    fn gap(&mut self, at: Millis, from: Seq, to: Seq) {
        if self
            .memberships
            .iter()
            .any(|(seq, joined)| !joined && *seq >= from)
        {
            return;
        }
        if let Some(seq) = (from..=to).find(|seq| self.change(*seq).is_some()) {
            let text = format!("a gap from {from} to {to}, and the feed has {seq}");
            self.violate("no gap without reason", text, (from, to), Some(at));
        }
    }

    fn page(
        &mut self,
        at: Millis,
        (after, upto): (Seq, Seq),
        messages: &[(Uuid, Seq)],
        events: &[(Seq, Event)],
        gaps: &[(Seq, Seq)],
    ) {
        let seqs = (after + 1, upto);
        if upto < after {
            let text = format!("a resume after {after} goes back to {upto}");
            self.violate("no event is skipped", text, seqs, Some(at));
            return;
        }
        for (from, to) in gaps {
            self.gap(at, *from, *to);
        }
        // A message is there once, with the number of one of its events in the range.
        let mut changed: HashMap<Uuid, Vec<Seq>> = HashMap::new();
        let mut others = BTreeMap::new();
        for change in (after + 1..=upto).filter_map(|seq| self.change(seq)) {
            if change.event.is_of_message() {
                changed.entry(change.subject).or_default().push(change.seq);
            } else {
                others.insert(change.seq, change.event);
            }
        }
        let is_known = |id, seq| {
            changed
                .get(id)
                .is_some_and(|seqs: &Vec<Seq>| seqs.contains(seq))
        };
        let unexpected = messages.iter().find(|(id, seq)| !is_known(id, seq));
        let repeated = messages.len() > changed.len();
        let events: BTreeMap<Seq, Event> = events.iter().copied().collect();
        if unexpected.is_some() || repeated {
            let text = format!(
                "the resume {after}..{upto} has another message than the feed: {unexpected:?}"
            );
            self.violate(
                "clients receive the events of the feed",
                text,
                seqs,
                Some(at),
            );
        } else if messages.len() < changed.len() {
            let there: HashMap<Uuid, Seq> = messages.iter().copied().collect();
            let missing = changed.iter().find(|(id, _)| !there.contains_key(*id));
            let text = format!("the resume {after}..{upto} lacks {missing:?}");
            self.violate("no event is skipped", text, seqs, Some(at));
        } else if events != others {
            let text = format!("the resume {after}..{upto} has {events:?}, the feed {others:?}");
            self.violate(
                "clients receive the events of the feed",
                text,
                seqs,
                Some(at),
            );
        }
    }

    /// The client's copy of each message is the message of the history.
    fn copies(&mut self, copies: &HashMap<Uuid, crate::chaos::record::Copy>) {
        for stored in &self.truth.history {
            let copy = copies.get(&stored.id);
            if copy != Some(&stored.copy) {
                let text = format!(
                    "client {}: its copy of {} is {copy:?}, the history has {:?}",
                    self.client, stored.name, stored.copy
                );
                let property = "a client's copies settle on the history";
                let violation = Violation::new(property, self.number, text);
                let violation = violation.of_client(self.client).message(stored.id);
                self.violations.push(violation.seqs(stored.seq, stored.seq));
                return;
            }
        }
    }
}
