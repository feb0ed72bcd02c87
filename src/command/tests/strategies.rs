//! Arbitrary commands: each kind, with hostile texts in every field.

use chrono::NaiveTime;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::super::{
    account::AccountCommand,
    epoch::{EpochCommand, MAX_REPORTED},
    notify::NotifyCommand,
    room::RoomCommand,
    *,
};
use crate::model::{
    Account, Anchor, ClientInfo, ClientMetadata, Delivered, Role, RoomKind, User,
    address::Address,
    direct_room_id, message_id,
    metadata::tests::spaced_json,
    notify::{ChannelKind, DeliveryState, Preferences, QuietHours, Report, RoomMode},
};

/// An injection attempt: a whole command of another user, between bytes that might end one.
pub(super) fn smuggled() -> impl Strategy<Value = String> {
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
pub(super) fn text() -> BoxedStrategy<String> {
    prop_oneof![any::<String>(), smuggled(), "\\PC{1,40}"]
        .prop_map(|text| format!("{}.", text.replace('\0', "")))
        .boxed()
}

pub(super) fn short_text() -> impl Strategy<Value = String> {
    text().prop_map(|mut text| {
        text.truncate(text.floor_char_boundary(crate::protocol::MAX_EMOJI));
        text
    })
}

pub(super) fn id() -> impl Strategy<Value = Uuid> {
    (1..u128::MAX).prop_map(Uuid::from_u128)
}

pub(super) fn time() -> impl Strategy<Value = Timestamp> {
    (0..253_402_300_799_000_i64).prop_map(Timestamp::from_millis)
}

pub(super) fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Member), Just(Role::Admin), Just(Role::Owner)]
}

pub(super) fn channel() -> impl Strategy<Value = ChannelKind> {
    prop_oneof![Just(ChannelKind::Email), Just(ChannelKind::Sms)]
}

/// Any valid address, which contains neither quotes nor line breaks.
pub(super) fn address() -> impl Strategy<Value = Address> {
    let email = "[a-z!#$%&'*+/=?^_`{|}~-]{1,30}@[a-z]{1,9}\\.com";
    prop_oneof![
        email.prop_map(|text| Address::parse(ChannelKind::Email, &text).unwrap()),
        "\\+[1-9][0-9]{7,13}".prop_map(|text| Address::parse(ChannelKind::Sms, &text).unwrap()),
    ]
}

pub(super) fn hash() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..33)
}

/// One strategy per variant: each arm leads to the next, so that a new variant does not compile without one.
pub(super) fn next_room_command(last: Option<&RoomCommand>) -> Option<BoxedStrategy<RoomCommand>> {
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

pub(super) fn next_account_command(
    last: Option<&AccountCommand>,
) -> Option<BoxedStrategy<AccountCommand>> {
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
                password_hash: None,
                client: ClientInfo::default(),
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
        CloseLogin { .. } => option::of(id())
            .prop_map(|except| CloseLogins { except })
            .boxed(),
        CloseLogins { .. } => (text(), option::of(id()))
            .prop_map(|(password_hash, except)| SetPassword {
                replaces: password_hash.clone(),
                password_hash,
                except,
            })
            .boxed(),
        SetPassword { .. } => {
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

pub(super) fn next_notify_command(
    last: Option<&NotifyCommand>,
) -> Option<BoxedStrategy<NotifyCommand>> {
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
        SendCode { .. } => (id(), address(), text())
            .prop_map(|(delivery, address, token)| SendReset {
                delivery,
                address,
                token,
            })
            .boxed(),
        SendReset { .. } => (channel(), hash())
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
pub(super) fn all<C: std::fmt::Debug>(
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

fn epoch() -> impl Strategy<Value = EpochCommand> {
    let anchor = proptest::option::of((any::<i64>(), id()));
    let delivered = (id(), any::<i64>(), anchor).prop_map(|(room, seq, anchor)| Delivered {
        room,
        seq,
        anchor: anchor.map(|(seq, message)| Anchor { seq, message }),
    });
    let delivered = proptest::collection::vec(delivered, 1..=MAX_REPORTED);
    (id(), id(), delivered).prop_map(|(from, to, delivered)| EpochCommand::Replace {
        from,
        to,
        delivered,
    })
}

/// As an edge submits it: ids that derive from room and actor are set.
pub(super) fn envelope() -> impl Strategy<Value = Envelope> {
    let room = proptest::strategy::Union::new(all(next_room_command));
    let account = proptest::strategy::Union::new(all(next_account_command));
    let notify = proptest::strategy::Union::new(all(next_notify_command));
    let command = prop_oneof![
        4 => (id(), room).prop_map(|(room, command)| Command::Room(room, command)),
        1 => account.prop_map(Command::Account),
        1 => notify.prop_map(Command::Notify),
        1 => epoch().prop_map(Command::Epoch),
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
