//! A `clientMsgId` that is sent again: the same content is the same message, another one is a conflict.

use serde_json::value::to_raw_value;

use super::*;
use crate::{
    error::Code,
    model::{EventKind, Metadata},
};

fn send(w: &World, change: impl FnOnce(&mut Send)) -> RoomEnvelope {
    let mut envelope = w.send(&w.owner, "a");
    let RoomCommand::Send(send) = &mut envelope.command else {
        unreachable!("a send");
    };
    change(send);
    envelope
}

fn metadata(json: &str) -> Option<Metadata> {
    Some(Metadata::stored(json.to_owned()))
}

fn contents(w: &World) -> Vec<RoomEnvelope> {
    vec![
        send(w, |_| {}),
        send(w, |send| send.body = "other".to_owned()),
        send(w, |send| send.reply_to = Some(w.message(&w.owner, "first"))),
        send(w, |send| send.metadata = metadata("{}")),
        send(w, |send| send.metadata = metadata("null")),
        send(w, |send| send.metadata = metadata("{\"a\":1}")),
    ]
}

/// The outcome of `again` after `first` was stored, in the same batch or in an earlier one.
fn outcomes(w: &World, first: &RoomEnvelope, again: &RoomEnvelope) -> [Outcome; 2] {
    let reply = w.send(&w.owner, "first");
    let mut together = apply(w.facts.clone(), [&reply, first, again]);
    assert_eq!(together.changes.new_messages.len(), 2);
    let mut facts = w.facts.clone();
    for message in together.changes.new_messages {
        facts.messages.insert(message.id, message);
    }
    let mut later = apply(facts, [again]);
    assert!(later.changes.is_empty());
    let is_done = matches!(later.outcomes[0], Outcome::Done(_));
    assert_eq!(later.repeats.len(), usize::from(is_done));
    [together.outcomes.remove(2), later.outcomes.remove(0)]
}

#[test]
fn another_content_is_a_conflict_with_the_first_message() {
    let w = world();
    let contents = contents(&w);
    let id = w.message(&w.owner, "a");
    for (i, first) in contents.iter().enumerate() {
        for (j, again) in contents.iter().enumerate() {
            for outcome in outcomes(&w, first, again) {
                match outcome {
                    Outcome::Done(message) => {
                        let message = message.unwrap();
                        assert!(message.get().contains(&id.to_string()));
                        assert_eq!(i, j);
                    }
                    Outcome::Refused(refusal) => {
                        assert_eq!((refusal.code, refusal.id), (Code::Conflict, Some(id)));
                        assert_ne!(i, j);
                    }
                }
            }
        }
    }
}

#[test]
fn metadata_that_was_written_differently_is_the_same() {
    let w = world();
    let sent = send(&w, |send| send.metadata = metadata("{\"b\":1,\"a\":\"ä\"}"));
    let again = send(&w, |send| {
        send.metadata = metadata("{\"a\":\"\\u00e4\",\"b\":1}");
    });
    for outcome in outcomes(&w, &sent, &again) {
        assert!(matches!(outcome, Outcome::Done(_)));
    }
}

#[test]
fn a_repeat_of_a_changed_message_is_no_conflict() {
    let w = world();
    let id = w.message(&w.owner, "a");
    let first = send(&w, |_| {});
    let body = "edited".to_owned();
    for change in [
        RoomCommand::Edit { message: id, body },
        RoomCommand::Delete { message: id },
    ] {
        for again in contents(&w) {
            let envelopes = [&first, &w.envelope(&w.owner, change.clone()), &again];
            let applied = apply(w.facts.clone(), envelopes);
            assert!(matches!(applied.outcomes[2], Outcome::Done(_)));
            assert_eq!(applied.events[&w.room].len(), 2);
            assert_eq!(applied.events[&w.room][0].kind, EventKind::NewMessage);
        }
    }
}

#[test]
fn a_refusal_of_an_earlier_version_has_no_id() {
    let old = r#"{"code":"conflict","message":"m"}"#;
    let read: crate::command::Refusal = serde_json::from_str(old).unwrap();
    assert_eq!(read.id, None);
    assert_eq!(to_raw_value(&read).unwrap().get(), old);
}
