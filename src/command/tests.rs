//! Injection tests: for any bytes that a client puts into the fields of a command, the worker reads one command with
//! the same actor.

use chrono::NaiveTime;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::{
    account::AccountCommand,
    notify::NotifyCommand,
    room::{RoomCommand, Send},
    *,
};
use crate::{
    model::{
        Account, ClientMetadata, Role, RoomKind, User,
        address::Address,
        direct_room_id, message_id,
        metadata::tests::spaced_json,
        new_id,
        notify::{ChannelKind, DeliveryState, Preferences, QuietHours, Report, RoomMode},
    },
    queue::{BatchBuilder, framing},
};

/// An injection attempt: a whole command of another user, between bytes that might end one.
fn smuggled() -> impl Strategy<Value = String> {
    let command = Envelope {
        v: VERSION,
        at: Timestamp::from_millis(0),
        actor: Uuid::from_u128(7),
        reply: None,
        command: Command::Account(AccountCommand::Delete),
    };
    let line = serde_json::to_string(&command).unwrap();
    (
        ".{0,3}",
        "[\"\\\\}\\]\n\r\u{1}\u{1e}\u{2028}]{0,4}",
        0..40usize,
    )
        .prop_map(move |(before, end, length)| format!("{before}{end}\n{length:08x}{line}\n{end}"))
}

/// Any text that an edge accepts.
fn text() -> BoxedStrategy<String> {
    prop_oneof![any::<String>(), smuggled(), "\\PC{1,40}"]
        .prop_map(|text| format!("{}.", text.replace('\0', "")))
        .boxed()
}

fn short_text() -> impl Strategy<Value = String> {
    text().prop_map(|mut text| {
        text.truncate(text.floor_char_boundary(crate::protocol::MAX_EMOJI));
        text
    })
}

fn id() -> impl Strategy<Value = Uuid> {
    (1..u128::MAX).prop_map(Uuid::from_u128)
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0..253_402_300_799_000_i64).prop_map(Timestamp::from_millis)
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Member), Just(Role::Admin), Just(Role::Owner)]
}

fn channel() -> impl Strategy<Value = ChannelKind> {
    prop_oneof![Just(ChannelKind::Email), Just(ChannelKind::Sms)]
}

/// Any valid address, which contains neither quotes nor line breaks.
fn address() -> impl Strategy<Value = Address> {
    let email = "[a-z!#$%&'*+/=?^_`{|}~-]{1,30}@[a-z]{1,9}\\.com";
    prop_oneof![
        email.prop_map(|text| Address::parse(ChannelKind::Email, &text).unwrap()),
        "\\+[1-9][0-9]{7,13}".prop_map(|text| Address::parse(ChannelKind::Sms, &text).unwrap()),
    ]
}

fn hash() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..33)
}

/// One strategy per variant: each arm leads to the next, so that a new variant does not compile without one.
fn next_room_command(last: Option<&RoomCommand>) -> Option<BoxedStrategy<RoomCommand>> {
    use RoomCommand::*;
    let Some(last) = last else {
        let metadata = option::of(spaced_json()).prop_map(|json| {
            // `null` counts as absent.
            let client: Option<ClientMetadata> = serde_json::from_str(&json?).ok()?;
            client?.check().ok()
        });
        let send = (short_text(), text(), option::of(id()), metadata);
        return Some(
            send.prop_map(|(client_msg_id, body, reply_to, metadata)| {
                Send(super::room::Send {
                    id: Uuid::nil(),
                    client_msg_id,
                    body,
                    reply_to,
                    metadata,
                })
            })
            .boxed(),
        );
    };
    Some(match last {
        Send(_) => (id(), text())
            .prop_map(|(message, body)| Edit { message, body })
            .boxed(),
        Edit { .. } => id().prop_map(|message| Delete { message }).boxed(),
        Delete { .. } => (id(), short_text(), any::<bool>())
            .prop_map(|(message, emoji, on)| React { message, emoji, on })
            .boxed(),
        React { .. } => {
            let kinds = [RoomKind::Public, RoomKind::Private, RoomKind::Direct];
            (
                proptest::sample::select(kinds.to_vec()),
                text(),
                vec(id(), 1..4),
            )
                .prop_map(|(kind, name, mut members)| {
                    if kind == RoomKind::Direct {
                        members.truncate(1);
                    }
                    Create {
                        kind,
                        name,
                        members,
                    }
                })
                .boxed()
        }
        Create { .. } => text().prop_map(|name| Rename { name }).boxed(),
        Rename { .. } => Just(DeleteRoom).boxed(),
        DeleteRoom => Just(Join).boxed(),
        Join => Just(Leave).boxed(),
        Leave => (id(), role())
            .prop_map(|(user, role)| SetMember { user, role })
            .boxed(),
        SetMember { .. } => id().prop_map(|user| RemoveMember { user }).boxed(),
        RemoveMember { .. } => (id(), option::of(time()))
            .prop_map(|(user, until)| Ban { user, until })
            .boxed(),
        Ban { .. } => id().prop_map(|user| LiftBan { user }).boxed(),
        LiftBan { .. } => (id(), option::of(time()))
            .prop_map(|(user, until)| Mute { user, until })
            .boxed(),
        Mute { .. } => (0..i64::MAX).prop_map(|seq| MarkRead { seq }).boxed(),
        MarkRead { .. } => Just(LeaveByDeletion).boxed(),
        LeaveByDeletion => return None,
    })
}

fn next_account_command(last: Option<&AccountCommand>) -> Option<BoxedStrategy<AccountCommand>> {
    use AccountCommand::*;
    let Some(last) = last else {
        let names = (text(), text(), option::of(text()), option::of(text()));
        return Some(
            (names, time(), text())
                .prop_map(
                    |((username, display_name, email, phone), created_at, hash)| Register {
                        account: Account {
                            user: User {
                                id: Uuid::nil(),
                                username,
                                display_name,
                            },
                            email,
                            phone,
                            created_at,
                        },
                        password_hash: hash,
                    },
                )
                .boxed(),
        );
    };
    Some(match last {
        Register { .. } => (id(), hash(), time())
            .prop_map(|(login, token_hash, expires_at)| OpenLogin {
                login,
                token_hash,
                expires_at,
            })
            .boxed(),
        OpenLogin { .. } => (id(), hash(), hash(), time())
            .prop_map(|(login, old_hash, new_hash, expires_at)| RotateLogin {
                login,
                old_hash,
                new_hash,
                expires_at,
            })
            .boxed(),
        RotateLogin { .. } => id().prop_map(|login| CloseLogin { login }).boxed(),
        CloseLogin { .. } => {
            let text = || option::of(text());
            (text(), text(), text())
                .prop_map(|(display_name, email, phone)| Update {
                    display_name,
                    email,
                    phone,
                })
                .boxed()
        }
        Update { .. } => Just(Delete).boxed(),
        Delete => return None,
    })
}

fn next_notify_command(last: Option<&NotifyCommand>) -> Option<BoxedStrategy<NotifyCommand>> {
    use NotifyCommand::*;
    let Some(last) = last else {
        let time = || (0..86_400u32 / 60).prop_map(|minute| minute * 60);
        let modes = [RoomMode::All, RoomMode::Mentions, RoomMode::None];
        let rooms = vec((id(), proptest::sample::select(modes.to_vec())), 0..3);
        return Some(
            (any::<bool>(), option::of((time(), time())), text(), rooms)
                .prop_map(|(email, quiet, time_zone, rooms)| {
                    let at = |seconds| {
                        NaiveTime::from_num_seconds_from_midnight_opt(seconds, 0).unwrap()
                    };
                    let quiet_hours = quiet.map(|(from, to)| QuietHours {
                        from: at(from),
                        to: at(to),
                    });
                    Prefer {
                        preferences: Preferences {
                            email,
                            quiet_hours,
                            time_zone,
                            ..Preferences::default()
                        },
                        rooms,
                    }
                })
                .boxed(),
        );
    };
    Some(match last {
        Prefer { .. } => (id(), address(), text(), hash(), time(), any::<bool>())
            .prop_map(
                |(delivery, address, code, hash, expires_at, withheld)| SendCode {
                    delivery,
                    address,
                    code,
                    hash,
                    expires_at,
                    withheld,
                },
            )
            .boxed(),
        SendCode { .. } => (channel(), hash())
            .prop_map(|(channel, hash)| TryCode { channel, hash })
            .boxed(),
        TryCode { .. } => (id(), text(), text(), any::<bool>())
            .prop_map(|(delivery, id, reason, suppress)| {
                Report(self::Report {
                    delivery,
                    id,
                    state: DeliveryState::Bounced,
                    reason,
                    suppress,
                })
            })
            .boxed(),
        Report(_) => id().prop_map(|delivery| Unsubscribe { delivery }).boxed(),
        Unsubscribe { .. } => (address(), any::<bool>())
            .prop_map(|(address, stop)| OptOut { address, stop })
            .boxed(),
        OptOut { .. } => id().prop_map(|delivery| Replay { delivery }).boxed(),
        Replay { .. } => return None,
    })
}

/// The strategies of all variants.
fn all<C: std::fmt::Debug>(
    next: impl Fn(Option<&C>) -> Option<BoxedStrategy<C>>,
) -> Vec<BoxedStrategy<C>> {
    let mut runner = TestRunner::deterministic();
    let mut found = Vec::new();
    let mut last = None;
    while let Some(strategy) = next(last.as_ref()) {
        last = Some(strategy.new_tree(&mut runner).unwrap().current());
        found.push(strategy);
    }
    found
}

/// As an edge submits it: ids that derive from room and actor are set.
fn envelope() -> impl Strategy<Value = Envelope> {
    let room = proptest::strategy::Union::new(all(next_room_command));
    let account = proptest::strategy::Union::new(all(next_account_command));
    let notify = proptest::strategy::Union::new(all(next_notify_command));
    let command = prop_oneof![
        4 => (id(), room).prop_map(|(room, command)| Command::Room(room, command)),
        1 => account.prop_map(Command::Account),
        1 => notify.prop_map(Command::Notify),
    ];
    (id(), time(), any::<Option<(u128, u64, bool)>>(), command).prop_map(
        |(actor, at, reply, mut command)| {
            match &mut command {
                Command::Room(room, RoomCommand::Send(send)) => {
                    send.id = message_id(*room, actor, &send.client_msg_id);
                }
                Command::Room(room, RoomCommand::Create { kind, members, .. })
                    if *kind == RoomKind::Direct =>
                {
                    *room = direct_room_id(actor, members[0]);
                }
                Command::Account(AccountCommand::Register { account, .. }) => {
                    account.user.id = actor;
                }
                _ => {}
            }
            let reply = reply.map(|(edge, number, wait)| ReplyTo {
                edge: Uuid::from_u128(edge),
                number,
                wait,
            });
            Envelope {
                v: VERSION,
                at,
                actor,
                reply,
                command,
            }
        },
    )
}

fn written(envelope: &Envelope) -> String {
    serde_json::to_string(envelope).unwrap()
}

#[test]
fn every_kind_of_command_has_its_strategy() {
    assert_eq!(all(next_room_command).len(), 16);
    assert_eq!(all(next_account_command).len(), 6);
    assert_eq!(all(next_notify_command).len(), 7);
}

proptest! {
    #[test]
    fn what_clients_write_arrives_as_exactly_their_commands(envelopes in vec(envelope(), 1..8)) {
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
    fn old_payloads_hold_the_same_commands_whatever_is_inside(
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
    ] {
        read(written(&fine).as_bytes()).unwrap();
    }
}

#[test]
fn versions_are_told_apart() {
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
