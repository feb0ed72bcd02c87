//! Room commands, and [`apply()`], which computes the effects of a batch of them.

mod apply;
mod mentions;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use apply::{Applied, apply};

use crate::{
    model::{MessageId, Metadata, Role, RoomId, RoomKind, Seq, Timestamp, UserId, text::emoji},
    store::Scope,
};

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RoomCommand {
    Send(Send),
    Edit {
        message: MessageId,
        body: String,
    },
    Delete {
        message: MessageId,
    },
    React {
        message: MessageId,
        emoji: String,
        on: bool,
    },
    /// The room's id is that of the command, so a repeated command returns the room that the first one created.
    Create {
        kind: RoomKind,
        name: String,
        members: Vec<UserId>,
    },
    Rename {
        name: String,
    },
    DeleteRoom,
    Join,
    Leave,
    /// Adds a member or changes a member's role.
    SetMember {
        user: UserId,
        role: Role,
    },
    RemoveMember {
        user: UserId,
    },
    Ban {
        user: UserId,
        until: Option<Timestamp>,
    },
    LiftBan {
        user: UserId,
    },
    /// Also for users who are not members: it applies when they join. `None` lifts the mute.
    Mute {
        user: UserId,
        until: Option<Timestamp>,
    },
    MarkRead {
        seq: Seq,
    },
    /// Removes the member of a deleted account, whatever its role, and passes ownership to the successor. At most one
    /// per room and batch, with no other command of the room.
    #[serde(rename = "depart")]
    LeaveByDeletion,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Send {
    pub id: MessageId,
    #[serde(rename = "c")]
    pub client_msg_id: String,
    #[serde(rename = "b")]
    pub body: String,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

debug_of!(Send { id, client_msg_id });

/// Omits user-written text: failed commands are logged.
impl std::fmt::Debug for RoomCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            RoomCommand::Send(send) => return send.fmt(f),
            RoomCommand::Edit { message, .. } => return write!(f, "Edit({message})"),
            RoomCommand::Delete { message } => return write!(f, "Delete({message})"),
            RoomCommand::React { message, on, .. } => return write!(f, "React({message}, {on})"),
            RoomCommand::Create { .. } => "Create",
            RoomCommand::Rename { .. } => "Rename",
            RoomCommand::DeleteRoom => "DeleteRoom",
            RoomCommand::Join => "Join",
            RoomCommand::Leave => "Leave",
            RoomCommand::SetMember { user, role } => {
                return write!(f, "SetMember({user}, {role})");
            }
            RoomCommand::RemoveMember { user } => return write!(f, "RemoveMember({user})"),
            RoomCommand::Ban { user, .. } => return write!(f, "Ban({user})"),
            RoomCommand::LiftBan { user } => return write!(f, "LiftBan({user})"),
            RoomCommand::Mute { user, .. } => return write!(f, "Mute({user})"),
            RoomCommand::MarkRead { seq } => return write!(f, "MarkRead({seq})"),
            RoomCommand::LeaveByDeletion => "LeaveByDeletion",
        };
        f.write_str(name)
    }
}

/// A room command with its actor and time.
#[derive(Debug, Clone)]
pub struct RoomEnvelope {
    pub room: RoomId,
    pub actor: UserId,
    pub at: Timestamp,
    pub command: RoomCommand,
}

/// The rows that [`apply()`] needs for `envelopes`.
pub fn scope<'a>(envelopes: impl IntoIterator<Item = &'a RoomEnvelope>) -> Scope {
    let mut scope = Scope::default();
    for envelope in envelopes {
        scope.rooms.insert(envelope.room);
        scope.members.insert((envelope.room, envelope.actor));
        match &envelope.command {
            RoomCommand::Send(send) => {
                scope.new_messages.insert(send.id);
                scope.messages.extend(send.reply_to);
                named(&mut scope, envelope.room, &send.body);
            }
            RoomCommand::Edit { message, body } => {
                scope.messages.insert(*message);
                named(&mut scope, envelope.room, body);
            }
            RoomCommand::Delete { message } => {
                scope.messages.insert(*message);
            }
            RoomCommand::React { message, emoji, on } => {
                scope.messages.insert(*message);
                let key = (*message, emoji::key(emoji).into_owned());
                let reaction = scope.reactions.entry(key).or_default();
                reaction.users.insert(envelope.actor);
                reaction.removals += usize::from(!on);
            }
            RoomCommand::Create { members, .. } => {
                scope.users.insert(envelope.actor);
                scope.users.extend(members);
                scope
                    .members
                    .extend(members.iter().map(|&user| (envelope.room, user)));
                let others = members.iter().filter(|user| **user != envelope.actor);
                let pairs = others.map(|&user| (envelope.actor, user));
                scope.acquaintances.extend(pairs);
            }
            RoomCommand::SetMember { user, .. } => {
                scope.members.insert((envelope.room, *user));
                scope.users.insert(*user);
                scope.acquaintances.insert((envelope.actor, *user));
            }
            RoomCommand::RemoveMember { user }
            | RoomCommand::Ban { user, .. }
            | RoomCommand::LiftBan { user }
            | RoomCommand::Mute { user, .. } => {
                scope.members.insert((envelope.room, *user));
                scope.users.insert(*user);
            }
            RoomCommand::Join => {
                scope.users.insert(envelope.actor);
            }
            RoomCommand::LeaveByDeletion => {
                scope.successors.insert((envelope.room, envelope.actor));
            }
            RoomCommand::Rename { .. }
            | RoomCommand::DeleteRoom
            | RoomCommand::Leave
            | RoomCommand::MarkRead { .. } => {}
        }
    }
    scope
}

fn named(scope: &mut Scope, room: RoomId, body: &str) {
    let names = mentions::names(body).into_iter();
    scope.named.extend(names.map(|name| (room, name)));
}
