//! Validation of a command before a worker runs it. Being on the queue is what authorises a command (see "What a worker
//! trusts" in ARCHITECTURE.md); anything rejected here is corrupt or was not created by an edge of this version.

use super::{
    Command, Envelope, VERSION,
    account::AccountCommand,
    epoch::{EpochCommand, MAX_REPORTED},
    notify::NotifyCommand,
    room::RoomCommand,
};
use crate::{
    model::{RoomKind, direct_room_id, message_id},
    protocol,
};

/// Parses and validates one command of a batch.
///
/// # Errors
/// The reason for its dead letter: unreadable, another version, or inconsistent.
pub fn read(bytes: &[u8]) -> Result<Envelope, String> {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u8,
    }
    match serde_json::from_slice::<Envelope>(bytes) {
        Ok(envelope) if envelope.v == VERSION => {
            check(&envelope).map_err(|reason| format!("it contradicts itself: {reason}"))?;
            Ok(envelope)
        }
        result => {
            let version = serde_json::from_slice::<Version>(bytes).map(|v| v.v);
            Err(match (version, result) {
                (Ok(v), _) if v > VERSION => format!(
                    "it has version {v}, this worker knows {VERSION}: update the workers, then replay"
                ),
                (_, Err(error)) => format!("it cannot be read: {error}"),
                (_, Ok(envelope)) => {
                    format!("it has version {}, which is not used any more", envelope.v)
                }
            })
        }
    }
}

fn check(envelope: &Envelope) -> Result<(), String> {
    // Provider reports and links in notifications name a delivery and have no actor; lost history is found by edges.
    let anonymous = matches!(
        envelope.command,
        Command::Notify(
            NotifyCommand::Report(_)
                | NotifyCommand::Unsubscribe { .. }
                | NotifyCommand::OptOut { .. }
                | NotifyCommand::Replay { .. }
        ) | Command::Epoch(_)
    );
    if envelope.actor.is_nil() && !anonymous {
        return Err("it has no actor".to_owned());
    }
    match &envelope.command {
        Command::Room(room, command) => match command {
            RoomCommand::Send(send) => {
                if send.id != message_id(*room, envelope.actor, &send.client_msg_id) {
                    return Err(
                        "the message's id is not that of its room, sender and clientMsgId"
                            .to_owned(),
                    );
                }
                text(protocol::check_client_msg_id(&send.client_msg_id))?;
                text(protocol::check_body(&send.body, usize::MAX))
            }
            RoomCommand::Edit { body, .. } => text(protocol::check_body(body, usize::MAX)),
            RoomCommand::React { emoji, .. } => {
                text(protocol::check_text("emoji", emoji, 1, protocol::MAX_EMOJI))
            }
            RoomCommand::Create {
                kind: RoomKind::Direct,
                members,
                ..
            } => match members.as_slice() {
                [other] if *room == direct_room_id(envelope.actor, *other) => Ok(()),
                _ => Err("a direct room's id is not that of its two members".to_owned()),
            },
            RoomCommand::MarkRead { seq } if *seq < 0 => Err("the number is negative".to_owned()),
            RoomCommand::LeaveByDeletion => {
                Err("only a worker takes a deleted account out of its rooms".to_owned())
            }
            _ => Ok(()),
        },
        Command::Account(AccountCommand::Register { account, .. })
            if account.user.id != envelope.actor =>
        {
            Err("it registers another account than its actor".to_owned())
        }
        Command::Epoch(EpochCommand::Replace { delivered, .. })
            if delivered.is_empty() || delivered.len() > MAX_REPORTED =>
        {
            Err(format!("it reports no rooms, or more than {MAX_REPORTED}"))
        }
        Command::Account(_) | Command::Notify(_) | Command::Epoch(_) => Ok(()),
    }
}

fn text(checked: crate::error::Result<()>) -> Result<(), String> {
    checked.map_err(|error| error.message)
}
