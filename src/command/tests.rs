//! Injection tests: for any bytes that a client puts into the fields of a command, the worker reads one command with
//! the same actor.

mod strategies;

use proptest::{collection::vec, prelude::*};

use super::{
    account::AccountCommand,
    epoch::{EpochCommand, MAX_REPORTED},
    notify::NotifyCommand,
    room::{RoomCommand, Send},
    *,
};
use crate::{
    model::{
        Delivered, RoomKind, message_id, metadata::tests::spaced_json, new_id, notify::ChannelKind,
    },
    queue::{BatchBuilder, framing},
};

use self::strategies::*;

fn written(envelope: &Envelope) -> String {
    serde_json::to_string(envelope).unwrap()
}

#[test]
fn every_kind_of_command_has_its_strategy() {
    assert_eq!(all(next_room_command).len(), 16);
    assert_eq!(all(next_account_command).len(), 8);
    assert_eq!(all(next_notify_command).len(), 8);
}

proptest! {
    #[test]
    fn client_texts_decode_to_exactly_their_commands(envelopes in vec(envelope(), 1..8)) {
        let mut batch = BatchBuilder::default();
        for envelope in &envelopes {
            let push = batch.push(|bytes| {
                serde_json::to_writer(bytes, envelope).map_err(Error::internal)
            });
            push.unwrap();
        }
        let batch = batch.finish();
        prop_assert_eq!(batch.commands() as usize, envelopes.len());
        // An earlier worker splits payloads at line feeds: it must find a single unreadable line and run nothing.
        prop_assert!(!batch.payload().contains(&b'\n'));
        let commands = framing::decode(batch.payload()).unwrap();
        prop_assert_eq!(commands.len(), envelopes.len());
        for (sent, bytes) in envelopes.iter().zip(&commands) {
            match (&sent.command, read(bytes)) {
                (Command::Room(_, RoomCommand::LeaveByDeletion), read) => {
                    prop_assert!(read.unwrap_err().contains("only a worker"));
                }
                (_, read) => {
                    let read = read.unwrap();
                    prop_assert_eq!(read.actor, sent.actor);
                    prop_assert_eq!(written(&read), written(sent));
                }
            }
            // A command from the dead letters is encoded alike.
            let again = crate::queue::EncodedBatch::again(bytes.clone()).unwrap();
            prop_assert_eq!(&framing::decode(again.payload()).unwrap(), std::slice::from_ref(bytes));
        }
    }

    /// Payloads that earlier edges left in the queue: lines, with metadata that contains the clients' line breaks.
    #[test]
    fn old_payloads_hold_the_same_commands_for_any_text(
        sends in vec((id(), id(), text(), spaced_json()), 1..8)
    ) {
        let lines: Vec<String> = sends.iter().map(|(room, actor, body, metadata)| {
            let id = message_id(*room, *actor, "c");
            let body = serde_json::Value::String(body.clone());
            let smuggled = format!("\n{}\n", written(&victims_end()));
            format!(
                "{{\"v\":1,\"at\":\"2026-01-01T00:00:00.000Z\",\"actor\":\"{actor}\",\"do\":{{\"room\":[\"{room}\",\
                 {{\"send\":{{\"id\":\"{id}\",\"c\":\"c\",\"b\":{body},\"m\":{{\"m\":{metadata},\"a\":{smuggled}}}}}}}]}}}}"
            )
        }).collect();
        let commands = framing::decode(&lines.join("\n").into()).unwrap();
        prop_assert_eq!(&commands, &lines);
        for ((_, actor, body, _), bytes) in sends.iter().zip(&commands) {
            match read(bytes) {
                Ok(envelope) => {
                    prop_assert_eq!(envelope.actor, *actor);
                    let Command::Room(_, RoomCommand::Send(Send { body: read, .. })) = envelope.command else {
                        panic!("it was a send");
                    };
                    prop_assert_eq!(&read, body);
                }
                // Beyond a limit that was introduced later.
                Err(reason) => prop_assert!(reason.contains("metadata"), "{}", reason),
            }
        }
    }
}

fn victims_end() -> Envelope {
    Envelope {
        v: VERSION,
        at: Timestamp::from_millis(0),
        actor: Uuid::from_u128(7),
        reply: None,
        command: Command::Account(AccountCommand::Delete),
    }
}

/// A report of lost history in this many rooms.
fn lost(rooms: usize) -> Command {
    let one = Delivered {
        room: new_id(),
        seq: 1,
        anchor: None,
    };
    Command::Epoch(EpochCommand::Replace {
        from: new_id(),
        to: new_id(),
        delivered: vec![one; rooms],
    })
}

fn refused(envelope: &Envelope) -> String {
    read(written(envelope).as_bytes()).expect_err("it contradicts itself")
}

#[test]
fn a_command_that_contradicts_itself_is_refused() {
    let (room, actor) = (new_id(), new_id());
    let of = |actor, command| Envelope {
        actor,
        command,
        ..victims_end()
    };
    let send = |change: fn(&mut Send)| {
        let mut send = Send {
            id: message_id(room, actor, "c"),
            client_msg_id: "c".to_owned(),
            body: "b".to_owned(),
            reply_to: None,
            metadata: None,
        };
        change(&mut send);
        of(actor, Command::Room(room, RoomCommand::Send(send)))
    };
    read(written(&send(|_| {})).as_bytes()).unwrap();
    let in_room = |command| of(actor, Command::Room(room, command));
    let (message, emoji) = (new_id(), "x".repeat(65));
    let create = |kind, members: &[UserId]| RoomCommand::Create {
        kind,
        name: String::new(),
        members: members.to_vec(),
    };
    for (envelope, reason) in [
        (send(|send| send.id = new_id()), "the message's id"),
        (
            send(|send| send.client_msg_id = "d".to_owned()),
            "the message's id",
        ),
        (send(|send| send.body = String::new()), "empty"),
        (send(|send| send.body = "\0".to_owned()), "U+0000"),
        (
            in_room(RoomCommand::Edit {
                message,
                body: String::new(),
            }),
            "empty",
        ),
        (
            in_room(RoomCommand::React {
                message,
                emoji,
                on: true,
            }),
            "65 bytes",
        ),
        (in_room(RoomCommand::MarkRead { seq: -1 }), "negative"),
        (in_room(RoomCommand::LeaveByDeletion), "only a worker"),
        (
            in_room(create(RoomKind::Direct, &[new_id()])),
            "direct room",
        ),
        (in_room(create(RoomKind::Direct, &[])), "direct room"),
        (
            of(Uuid::nil(), Command::Account(AccountCommand::Delete)),
            "no actor",
        ),
        (
            of(Uuid::nil(), Command::Room(room, RoomCommand::Join)),
            "no actor",
        ),
        (of(Uuid::nil(), lost(0)), "no rooms"),
        (of(Uuid::nil(), lost(MAX_REPORTED + 1)), "more than 20"),
    ] {
        let refused = refused(&envelope);
        assert!(refused.contains(reason), "{refused}: {envelope:?}");
    }
    for fine in [
        in_room(create(RoomKind::Public, &[])),
        in_room(RoomCommand::MarkRead { seq: 0 }),
        of(
            Uuid::nil(),
            Command::Notify(NotifyCommand::Replay { delivery: room }),
        ),
        of(Uuid::nil(), lost(MAX_REPORTED)),
    ] {
        read(written(&fine).as_bytes()).unwrap();
    }
}

#[test]
fn versions_are_distinguished() {
    let of = |v: u8| written(&Envelope { v, ..victims_end() });
    assert!(read(of(VERSION).as_bytes()).is_ok());
    let newer = read(of(VERSION + 1).as_bytes()).unwrap_err();
    assert!(newer.contains("update the workers"), "{newer}");
    let older = read(of(0).as_bytes()).unwrap_err();
    assert!(older.contains("not used any more"), "{older}");
    let unknown = read(br#"{"v":9,"something":"new"}"#).unwrap_err();
    assert!(unknown.contains("version 9"), "{unknown}");
    for bad in [&b"{}"[..], b"", b"{\"v\":1}", b"\xff"] {
        assert!(read(bad).unwrap_err().contains("cannot be read"));
    }
    let twice = of(VERSION) + &of(VERSION);
    assert!(
        read(twice.as_bytes())
            .unwrap_err()
            .contains("cannot be read")
    );
}

#[test]
fn a_key_names_one_partition() {
    let key = |high: u64, low: u64| Uuid::from_u64_pair(high, low);
    assert_eq!(partition_of(key(u64::MAX, 0), 8), 0);
    assert_eq!(partition_of(key(0, 13), 8), 5);
    assert_eq!(partition_of(key(3, 13), 8), 5, "the low half decides");
    assert_eq!(partition_of(key(0, u64::MAX), 256), 255);
    assert_eq!(partition_of(key(0, u64::MAX), 1), 0);
    assert_eq!(partition_of(key(0, 100), 7), 2);

    let (actor, room, delivery) = (new_id(), new_id(), new_id());
    let of = |command: Command| command.key(actor);
    assert_eq!(of(Command::Room(room, RoomCommand::Join)), room);
    assert_eq!(of(Command::Account(AccountCommand::Delete)), actor);
    let replay = NotifyCommand::Replay { delivery };
    assert_eq!(of(Command::Notify(replay)), delivery);
    let code = NotifyCommand::TryCode {
        channel: ChannelKind::Sms,
        hash: Vec::new(),
    };
    assert_eq!(of(Command::Notify(code)), actor);
}
