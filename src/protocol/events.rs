//! The events that a server sends: one list of names, data and summaries, from which the AsyncAPI specification is
//! made. An event that is not in the list cannot be sent.

use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{reactions::ReactionUpdated, resources::MemberView};
use crate::{
    error::Code,
    model::{
        EphemeralKind, Epoch, EventKind, Message, MessageId, Role, RoomId, RoomKind, Seq,
        Timestamp, User, UserId,
    },
};

/// An event of the specification.
pub(super) struct EventDescription {
    pub name: &'static str,
    /// The JSON schema of its data.
    pub data: Value,
    pub summary: &'static str,
}

macro_rules! events {
    ($($name:literal $variant:ident($data:ty): $summary:literal;)*) => {
        /// The name of a server's event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum EventName {
            $(#[doc = $summary] $variant,)*
        }

        impl EventName {
            pub fn as_str(self) -> &'static str {
                match self {
                    $(EventName::$variant => $name,)*
                }
            }
        }

        pub(super) fn describe_events(schemas: &mut SchemaGenerator) -> Vec<EventDescription> {
            vec![$(EventDescription {
                name: $name,
                data: schemas.subschema_for::<$data>().into(),
                summary: $summary,
            },)*]
        }
    };
}

events! {
    "connected" Connected(Connected): "The first event: the user of this socket, and its limits.";
    "newMessage" NewMessage(Message):
        "A message was stored. Sent to the sender as well, who recognises it by clientMsgId.";
    "messageUpdated" MessageUpdated(Message):
        "A message changed; its current state. Also sent for a reaction that an earlier version stored, or whose message was deleted since.";
    "messageDeleted" MessageDeleted(Message): "A message was deleted; its body is empty. Replies to it keep their replyTo.";
    "reactionUpdated" ReactionUpdated(ReactionUpdated): "A user added or removed a reaction.";
    "memberJoined" MemberJoined(MemberEvent):
        "A user became a member, who sees the room's whole history; after a removal also the messages in between.";
    "memberLeft" MemberLeft(MemberEvent):
        "A membership ended. The user's sockets get no further events of the room. With the reason deleted, the account is gone; a direct room remains for its other member alone.";
    "roomUpdated" RoomUpdated(RoomEvent):
        "The room's name, a member's role or mute changed, or the room was deleted.";
    "readUpdated" ReadUpdated(ReadUpdated):
        "A member's read position advanced. The event has no changeSeq and is not recovered; the list of members has the current positions.";
    "gap" Gap(Gap): "Events of a room that cannot be delivered.";
    "reset" Reset(Reset):
        "The server has lost history: the numbers of this room that the client has stored are no longer valid. Discard the room's messages and numbers and call joinRoom without afterSeq. Sent to live sockets, which are then unsubscribed from the room, and before the answer to a joinRoom whose afterSeq or epoch is no longer valid; that answer is already the one without afterSeq.";
    "userUpdated" UserUpdated(UserUpdated):
        "The names of a user changed. Sent once to each socket that is live in a room of the user, and to the user's own sockets. The event has no changeSeq and is not recovered; messages and members always have the current names.";
    "sendFailed" SendFailed(SendFailed): "A send was accepted and then refused by a worker.";
}

impl From<EventKind> for EventName {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::NewMessage => EventName::NewMessage,
            EventKind::MessageUpdated => EventName::MessageUpdated,
            EventKind::MessageDeleted => EventName::MessageDeleted,
            EventKind::ReactionUpdated => EventName::ReactionUpdated,
            EventKind::MemberJoined => EventName::MemberJoined,
            EventKind::MemberLeft => EventName::MemberLeft,
            EventKind::RoomUpdated => EventName::RoomUpdated,
        }
    }
}

impl From<EphemeralKind> for EventName {
    fn from(kind: EphemeralKind) -> Self {
        match kind {
            EphemeralKind::ReadUpdated => EventName::ReadUpdated,
        }
    }
}

/// The data of `memberJoined` and `memberLeft`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberEvent {
    pub room: RoomId,
    /// The event's number in the room's feed.
    pub change_seq: Seq,
    pub user: User,
    pub role: Role,
    /// Only in `memberLeft`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<MemberLeftReason>,
    /// The user who caused the change; equals `user.id` if the member joined or left by themselves.
    pub by: UserId,
    pub at: Timestamp,
}

/// Why a membership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MemberLeftReason {
    /// The member left.
    Left,
    /// An admin or the owner removed the member.
    Removed,
    /// An admin or the owner banned the member.
    Banned,
    /// The member's account was deleted.
    Deleted,
}

/// The data of `roomUpdated`: the room's current state, and the member whose role or mute changed, if any.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoomEvent {
    pub room: RoomId,
    /// The event's number in the room's feed.
    pub change_seq: Seq,
    pub name: String,
    pub kind: RoomKind,
    /// `true` if the room has been deleted; otherwise omitted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberView>,
}

/// The data of `connected`, the first event on a socket.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connected {
    pub user: User,
    /// Identifies this connection in the server's logs.
    pub session: String,
    pub limits: ConnectedLimits,
}

/// The limits of this socket.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectedLimits {
    /// Maximum size of one frame from the client, in bytes.
    pub max_frame_bytes: usize,
    /// Maximum size of a message body, in bytes of UTF-8.
    pub max_body_bytes: usize,
    /// Interval of the server's pings, in milliseconds.
    pub ping_interval_ms: u64,
}

/// The data of `gap`: the events `from..=to` of a room cannot be delivered. Fetch what is still stored with `GET
/// /v1/rooms/{room}/changes`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    pub room: RoomId,
    pub from: Seq,
    pub to: Seq,
}

/// The data of `reset`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Reset {
    pub room: RoomId,
    /// The store's present epoch.
    pub epoch: Epoch,
}

/// The data of `userUpdated`: the user with the new names.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct UserUpdated {
    pub user: User,
}

/// The data of `sendFailed`: a send that was accepted and then refused by a worker.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendFailed {
    pub room: RoomId,
    /// The `clientMsgId` of the refused send.
    pub client_msg_id: String,
    pub code: Code,
    pub message: String,
    /// With `conflict`: the id of the message that was stored first with this `clientMsgId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
}

/// The data of `readUpdated`: a member has read up to `seq`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReadUpdated {
    pub room: RoomId,
    pub user: UserId,
    pub seq: Seq,
}
