//! The judge accepts a run without faults, and finds each violation.

use uuid::Uuid;

use super::judge;
use crate::chaos::record::{
    Action, Change, Copy, Event, Op, Outcome, Record, Seen, Seq, Stored, Truth, View, hash,
};

const fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

const ADA: Uuid = id(1);
const BOB: Uuid = id(2);
const FIRST: Uuid = id(11);
const SECOND: Uuid = id(12);

fn done(id: Uuid) -> Outcome {
    Outcome::Done {
        id: Some(id),
        change: None,
    }
}

fn op(client: usize, action: Action, position: Seq, outcome: Outcome) -> Op {
    Op {
        client,
        room: 0,
        action,
        connection: client,
        attempts: 1,
        sent: 10,
        answered: Some(20),
        position,
        outcome,
    }
}

fn send(client: usize, name: &str, position: Seq, outcome: Outcome) -> Op {
    let (name, body) = (name.to_owned(), name.to_owned());
    op(client, Action::Send { name, body }, position, outcome)
}

fn react(on: bool, outcome: Outcome) -> Op {
    let action = Action::React {
        message: FIRST,
        emoji: 0,
        on,
    };
    op(1, action, 4, outcome)
}

fn edit(body: &str, outcome: Outcome) -> Op {
    let (message, body) = (SECOND, body.to_owned());
    op(0, Action::Edit { message, body }, 4, outcome)
}

fn live(seq: Seq, event: Event, subject: Uuid) -> Seen {
    Seen::Live {
        at: 30,
        seq,
        event,
        subject,
    }
}

fn stored(id: Uuid, seq: Seq, name: &str, body: &str) -> Stored {
    Stored {
        id,
        seq,
        sender: ADA,
        name: name.to_owned(),
        copy: Copy {
            body: hash(body),
            ..Copy::default()
        },
        reactions: vec![Vec::new(); 3],
    }
}

/// Ada sends two messages, edits the second and removes Bob, who has reacted to the first. He is added again.
fn clean() -> Record {
    let events = [
        (Event::New, FIRST),
        (Event::New, SECOND),
        (Event::Updated, SECOND),
        (Event::Reaction, FIRST),
        (Event::Left, BOB),
        (Event::Joined, BOB),
    ];
    let feed: Vec<Change> = (1..)
        .zip(events)
        .map(|(seq, (event, subject))| Change {
            seq,
            event,
            subject,
        })
        .collect();
    let mut history = vec![stored(FIRST, 1, "a", "a"), stored(SECOND, 2, "b", "c")];
    history[0].reactions[0].push(BOB);
    history[0].copy.reactions.push(("👍".to_owned(), 1, 0));
    let copies = || {
        history
            .iter()
            .map(|stored| (stored.id, stored.copy.clone()))
            .collect()
    };
    let all = feed
        .iter()
        .map(|change| live(change.seq, change.event, change.subject));
    let ada = View {
        seen: all.collect(),
        messages: copies(),
        position: 6,
    };
    // Bob connects late, and resumes after the removal.
    let bob = View {
        seen: vec![
            Seen::Page {
                at: 25,
                after: 0,
                upto: 3,
                messages: vec![(FIRST, 1), (SECOND, 3)],
                events: Vec::new(),
                gaps: Vec::new(),
            },
            live(4, Event::Reaction, FIRST),
            live(5, Event::Left, BOB),
            Seen::Page {
                at: 40,
                after: 5,
                upto: 6,
                messages: Vec::new(),
                events: vec![(6, Event::Joined)],
                gaps: Vec::new(),
            },
        ],
        messages: copies(),
        position: 6,
    };
    let edited = Outcome::Done {
        id: Some(SECOND),
        change: Some(3),
    };
    Record {
        users: vec![ADA, BOB],
        ops: vec![
            send(0, "a", 0, done(FIRST)),
            send(0, "b", 1, done(SECOND)),
            edit("c", edited),
            react(true, Outcome::Accepted),
            op(0, Action::Remove { client: 1 }, 4, Outcome::Accepted),
            op(0, Action::Add { client: 1 }, 5, Outcome::Accepted),
        ],
        rooms: vec![Truth {
            feed,
            history,
            members: [(ADA, 2), (BOB, 0)].into(),
        }],
        views: vec![vec![ada], vec![bob]],
        ..Record::default()
    }
}

/// The property that is violated after a change of the clean run.
#[track_caller]
fn finds(property: &str, change: impl FnOnce(&mut Record)) {
    let mut record = clean();
    change(&mut record);
    let found = judge(&record);
    let properties: Vec<&str> = found.iter().map(|violation| violation.property).collect();
    assert!(properties.contains(&property), "{found:#?}");
}

#[track_caller]
fn accepts(change: impl FnOnce(&mut Record)) {
    let mut record = clean();
    change(&mut record);
    assert_eq!(judge(&record), []);
}

#[test]
fn a_run_without_violation_is_accepted() {
    accepts(|_| {});
}

#[test]
fn a_lost_send_is_found() {
    let lost = |position| {
        move |record: &mut Record| record.ops.push(send(0, "lost", position, done(id(9))))
    };
    finds("an acknowledged send is stored", lost(0));
    // Bob was removed at 5: what he sent before may have been refused, what he sent after not.
    accepts(|record| record.ops.push(send(1, "refused", 4, done(id(9)))));
    finds("an acknowledged send is stored", |record| {
        record.ops.push(send(1, "lost", 6, done(id(9))));
    });
    accepts(|record| record.ops.push(send(0, "unknown", 0, Outcome::Unknown)));
    finds("an acknowledged send is stored", |record| {
        record.ops[0] = send(0, "a", 0, done(id(9)))
    });
    finds("a refused send is not stored", |record| {
        record.ops[0] = send(0, "a", 0, Outcome::Refused("forbidden".to_owned()));
    });
    finds("every message was sent", |record| {
        drop(record.ops.remove(0))
    });
}

#[test]
fn a_duplicate_is_found() {
    finds("a message is stored once", |record| {
        let again = stored(id(13), 7, "a", "a");
        let (seq, event, subject) = (7, Event::New, id(13));
        record.rooms[0].feed.push(Change {
            seq,
            event,
            subject,
        });
        record.rooms[0].history.push(again);
    });
    let once = "each event is delivered once and in order";
    finds(once, |record| {
        record.views[0][0]
            .seen
            .insert(2, live(2, Event::New, SECOND))
    });
}

#[test]
fn a_wrong_order_is_found() {
    finds("no event is skipped", |record| {
        record.views[0][0].seen.swap(0, 1)
    });
    finds("no event is skipped", |record| {
        drop(record.views[0][0].seen.remove(2))
    });
    finds("the sends of a connection keep their order", |record| {
        record.ops.swap(0, 1)
    });
    accepts(|record| {
        record.ops.swap(0, 1);
        record.ops[1].attempts = 2;
    });
    finds("every event is delivered", |record| {
        drop(record.views[0][0].seen.pop())
    });
    finds("each number of a room is one event", |record| {
        record.rooms[0].feed.remove(1);
    });
}

#[test]
fn another_event_or_message_than_in_the_feed_is_found() {
    let same = "clients receive the events of the feed";
    finds(same, |record| {
        record.views[0][0].seen[3] = live(4, Event::Updated, FIRST)
    });
    let page = |messages: Vec<(Uuid, Seq)>| {
        move |record: &mut Record| {
            record.views[1][0].seen[0] = Seen::Page {
                at: 25,
                after: 0,
                upto: 3,
                messages,
                events: Vec::new(),
                gaps: Vec::new(),
            };
        }
    };
    // The number of any event of the message in the range.
    accepts(page(vec![(FIRST, 1), (SECOND, 2)]));
    finds(same, page(vec![(FIRST, 1), (SECOND, 4)]));
    finds(same, page(vec![(FIRST, 1), (SECOND, 3), (SECOND, 3)]));
    finds("no event is skipped", page(vec![(SECOND, 3)]));
    finds("the history has the messages of the feed", |record| {
        drop(record.rooms[0].history.pop());
    });
    finds("a client's copies settle on the history", |record| {
        let copy = record.views[1][0]
            .messages
            .get_mut(&SECOND)
            .expect("a copy");
        copy.body = hash("b");
    });
}

#[test]
fn a_vanished_edit_is_found() {
    let stays = "an acknowledged edit stays";
    finds(stays, |record| {
        record.ops.push(edit("d", Outcome::Accepted))
    });
    finds(stays, |record| {
        record.ops[2] = edit("d", Outcome::Refused("conflict".to_owned()))
    });
    accepts(|record| record.ops.push(edit("d", Outcome::Unknown)));
    accepts(|record| {
        record.ops.insert(2, edit("d", Outcome::Accepted));
        record.ops[3] = edit("c", Outcome::Unknown);
    });
    finds("an acknowledged change is in the feed", |record| {
        record.ops[2].outcome = Outcome::Done {
            id: Some(SECOND),
            change: Some(4),
        };
    });
    finds("an acknowledged delete stays", |record| {
        let delete = Action::Delete { message: FIRST };
        record.ops.push(op(0, delete, 6, Outcome::Accepted));
    });
}

#[test]
fn a_reaction_that_did_not_settle_is_found() {
    let settles = "an acknowledged reaction settles";
    // The user's membership ended after the reaction, which may therefore have been refused.
    accepts(|record| record.rooms[0].history[0].reactions[0].clear());
    finds(settles, |record| {
        record.ops[3].position = 6;
        record.rooms[0].history[0].reactions[0].clear();
    });
    finds(settles, |record| {
        record.ops[3].position = 6;
        record.ops.push(react(false, Outcome::Accepted).at(6));
    });
    accepts(|record| record.ops.push(react(false, Outcome::Unknown)));
    accepts(|record| {
        record
            .ops
            .push(react(false, Outcome::Refused("forbidden".to_owned())))
    });
}

impl Op {
    /// The same at another position.
    fn at(self, position: Seq) -> Op {
        Op { position, ..self }
    }
}

#[test]
fn an_event_for_a_removed_member_is_found() {
    let nothing = "nothing is delivered to a removed member";
    // Received after the end of the membership.
    finds(nothing, |record| {
        record.views[1][0].seen[3] = live(6, Event::Joined, BOB)
    });
    // The end itself was not received.
    finds(nothing, |record| {
        record.rooms[0].feed[5] = Change {
            seq: 6,
            event: Event::Updated,
            subject: SECOND,
        };
        record.views[1][0].seen.truncate(2);
        record.views[1][0]
            .seen
            .push(live(6, Event::Updated, SECOND));
    });
}

#[test]
fn a_gap_or_reset_without_reason_is_found() {
    let gap = |from, to| Seen::Gap { at: 30, from, to };
    finds("no gap without reason", |record| {
        record.views[0][0].seen[3] = gap(4, 4)
    });
    // Bob was removed at 5: his subscription was ended by the comparison of the memberships.
    accepts(|record| {
        record.views[1][0].seen[2] = gap(5, 5);
        record.views[1][0].seen[3] = Seen::Page {
            at: 40,
            after: 4,
            upto: 6,
            messages: Vec::new(),
            events: vec![(5, Event::Left), (6, Event::Joined)],
            gaps: Vec::new(),
        };
    });
    finds("no gap without reason", |record| {
        record.views[0][0].seen[2] = Seen::Page {
            at: 30,
            after: 2,
            upto: 3,
            messages: vec![(SECOND, 3)],
            events: Vec::new(),
            gaps: vec![(3, 3)],
        };
    });
    finds("no reset without reason", |record| {
        record.views[0][0].seen.push(Seen::Reset { at: 30 });
    });
}

#[test]
fn a_vanished_change_of_a_membership_is_found() {
    let there = "an acknowledged change of a membership is in the feed";
    finds(there, |record| {
        let remove = Action::Remove { client: 1 };
        record.ops.push(op(0, remove, 6, Outcome::Accepted));
    });
    accepts(|record| {
        let remove = Action::Remove { client: 1 };
        record.ops.push(op(0, remove, 6, Outcome::Unknown));
    });
    finds("an acknowledged read position stays", |record| {
        record
            .ops
            .push(op(0, Action::Read { seq: 3 }, 3, Outcome::Accepted));
    });
}

#[test]
fn an_unexpected_answer_is_found() {
    finds("only expected answers and exits", |record| {
        record.surprises.push((5, "internal".to_owned()));
    });
}
