//! The requests of a socket and their answers: one list of events, from which the parser and the AsyncAPI specification
//! are made.

use std::sync::Arc;

use poem_openapi::Object;
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use super::{events::Gap, resources::MemberView, wrong_field};
use crate::{
    error::{Code, Error, FieldError, Result},
    model::{ClientMetadata, Epoch, EventKind, Message, MessageId, Role, RoomId, Seq},
};

/// A request of the specification.
pub(super) struct RequestDescription {
    pub event: &'static str,
    /// The JSON schemas of its data, and of the data of a successful answer.
    pub data: Value,
    pub answer: Value,
    pub summary: &'static str,
}

macro_rules! requests {
    ($($event:literal $variant:ident($data:ty) -> $answer:ty: $summary:literal;)*) => {
        /// A client's request to its session, the same on every transport.
        #[derive(Debug)]
        pub enum Request {
            $(#[doc = $summary] $variant($data),)*
        }

        impl Request {
            /// Parses an event's data. The error names the wrong field, but does not repeat the data.
            pub fn parse(event: &str, data: Option<&RawValue>) -> Result<Request> {
                let data = data.map_or("{}", RawValue::get);
                match event {
                    $($event => Ok(Request::$variant(fields(data)?)),)*
                    _ => Err(Error::new(
                        Code::UnknownEvent,
                        "there is no such event; the events are listed by `chat asyncapi`",
                    )),
                }
            }
        }

        pub(super) fn describe_requests(schemas: &mut SchemaGenerator) -> Vec<RequestDescription> {
            vec![$(RequestDescription {
                event: $event,
                data: schemas.subschema_for::<$data>().into(),
                answer: schemas.subschema_for::<$answer>().into(),
                summary: $summary,
            },)*]
        }
    };
}

requests! {
    "auth" Auth(Auth) -> Empty:
        "Authenticates the socket. Must be the first frame if the handshake had no credentials; later, a newer token of the same user is accepted.";
    "joinRoom" JoinRoom(JoinRoom) -> Joined:
        "Subscribes this socket to a room, and joins the user to it if it is public. Returns the events after afterSeq, or the latest messages without it. Live events follow once hasMore is false. Members see the whole history: one who was removed and added again also gets the messages in between.";
    "leaveRoom" LeaveRoom(LeaveRoom) -> Empty:
        "Unsubscribes this socket from a room. The membership remains.";
    "sendMessage" SendMessage(SendMessage) -> Accepted:
        "Sends a message. Acknowledged once the queue has stored it durably; newMessage follows when the message is stored, or sendFailed if a worker refuses it. A repeated clientMsgId is the same message and is stored once; with another content it is a conflict.";
    "editMessage" EditMessage(EditMessage) -> Message:
        "Changes the body of a message. Only for its sender. Members whom only the new body mentions are notified as by a new message, if they were not notified of this message already.";
    "deleteMessage" DeleteMessage(DeleteMessage) -> Message:
        "Deletes a message. For its sender, admins and the owner of the room. Replies to it stay and keep their replyTo.";
    "react" React(React) -> Message:
        "Adds a reaction, or removes it with on: false. A message has at most 50 different reactions.";
    "markRead" MarkRead(MarkRead) -> MemberView:
        "Marks all messages up to seq as read.";
    "disconnect" Disconnect(Empty) -> Empty: "Closes the socket with 1001.";
}

/// No data.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Empty {}

fn fields<T: DeserializeOwned>(data: &str) -> Result<T> {
    serde_json::from_str(data).map_err(|error| match wrong_field::find::<T>(data) {
        Some(wrong) => wrong.error(Code::Invalid, "data"),
        None => Error::new(Code::Invalid, format!("data: {error}")),
    })
}

/// The data of `auth`.
#[derive(Deserialize, JsonSchema)]
pub struct Auth {
    /// An access token.
    pub token: String,
}

debug_of!(Auth {});

/// The data of `joinRoom`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JoinRoom {
    pub room: RoomId,
    /// The highest number of this room that the client has seen; the answer holds the events after it. 0 recovers from
    /// the beginning; without it, the answer holds the latest messages.
    pub after_seq: Option<Seq>,
    /// The `epoch` of the answer that `afterSeq` follows from. If the server has lost history since, or if `afterSeq`
    /// is above the room's newest number, the event `reset` precedes the answer, which is then that of a `joinRoom`
    /// without `afterSeq`. Without it, only a number that is too high is noticed.
    pub epoch: Option<Epoch>,
}

/// The data of `leaveRoom`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct LeaveRoom {
    pub room: RoomId,
}

/// The data of `sendMessage`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendMessage {
    pub room: RoomId,
    /// 1 to `limits.maxBodyBytes` bytes of UTF-8, without U+0000.
    pub body: String,
    /// 1 to 128 bytes, chosen by the client. A repeated send with the same room, sender and `clientMsgId` is the same
    /// message and is stored once. With another body, `replyTo` or metadata it is refused with `conflict` and the `id`
    /// of the first message, by the answer or by `sendFailed`, unless that message was edited or deleted since.
    pub client_msg_id: String,
    /// The id of a message in the same room. It may be deleted, now or later: the reply keeps this id, under which a
    /// message with an empty body and `deletedAt` is found.
    pub reply_to: Option<MessageId>,
    pub metadata: Option<ClientMetadata>,
}

debug_of!(SendMessage {
    room,
    client_msg_id
});

/// The data of `editMessage`.
#[derive(Deserialize, JsonSchema)]
pub struct EditMessage {
    pub room: RoomId,
    pub id: MessageId,
    /// The new body, with the limits of `sendMessage`.
    pub body: String,
}

debug_of!(EditMessage { room, id });

/// The data of `deleteMessage`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct DeleteMessage {
    pub room: RoomId,
    pub id: MessageId,
}

/// The data of `react`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct React {
    pub room: RoomId,
    pub id: MessageId,
    /// One emoji, or a word of 1 to 32 of the characters `a-z 0-9 _ + -`. Emojis that differ only in U+FE0F are the
    /// same; the fully-qualified one is shown.
    pub emoji: String,
    /// `true`, the default, adds the reaction; `false` removes it.
    #[serde(default = "yes")]
    pub on: bool,
}

fn yes() -> bool {
    true
}

/// The data of `markRead`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct MarkRead {
    pub room: RoomId,
    /// The highest number that was read, at most the room's newest. A lower one than before changes nothing.
    pub seq: Seq,
}

/// The answer to `joinRoom`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    pub room: RoomId,
    /// The position reached: the next `afterSeq`. If `hasMore` is false, it is the room's newest number, and later
    /// changes arrive as events.
    pub seq: Seq,
    /// The room's newest number.
    pub head: Seq,
    /// The epoch of the server's history: keep it with `seq`, and pass both to resume. It changes when the server has
    /// lost history.
    pub epoch: Epoch,
    pub role: Role,
    /// Number of messages above the member's read position, deleted ones included, counted up to 1,000.
    pub unread: u32,
    /// The messages that are new or changed since `afterSeq`, each once, in their current state; without `afterSeq`,
    /// the latest messages (at most 50, and at most a quarter of `edge.send_queue_bytes`). A new reaction is a change
    /// of its message, and there is no `reactionUpdated` in `events`.
    #[schemars(with = "Vec<Message>")]
    pub messages: Vec<Arc<RawValue>>,
    /// Other events since `afterSeq`: changes of members and of the room.
    pub events: Vec<MissedEvent>,
    /// Ranges between `afterSeq` and `seq` that cannot be delivered, as in the event `gap`. Omitted if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// More events follow: call `joinRoom` again with `afterSeq` set to `seq`. Until it is false, this socket gets no
    /// live events of the room, which keeps events in order.
    pub has_more: bool,
}

/// An event of `joinRoom`, as it would have been sent live.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MissedEvent {
    #[schemars(with = "EventKind")]
    pub event: &'static str,
    #[schemars(with = "serde_json::Value")]
    pub data: Box<RawValue>,
}

/// The answer to a send that the queue has stored durably.
#[derive(Debug, Clone, Serialize, Deserialize, Object, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase")]
pub struct Accepted {
    /// The id of the message.
    pub id: MessageId,
    pub client_msg_id: String,
    /// Always `accepted`: the message will be stored, unless a worker refuses it (`sendFailed`).
    pub status: String,
}

impl Accepted {
    pub fn new(id: MessageId, client_msg_id: &str) -> Self {
        Accepted {
            id,
            client_msg_id: client_msg_id.to_owned(),
            status: "accepted".to_owned(),
        }
    }
}

/// An error in an acknowledgement.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WireError {
    pub code: Code,
    /// A text that explains the error.
    pub message: String,
    /// The delay in milliseconds after which the same request may be retried, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The rejected fields; omitted if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// With `conflict` of a send: the id of the message that was sent first with this `clientMsgId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        WireError {
            code: error.code,
            message: error.message.clone(),
            retry_after_ms: error.retry_after_ms(),
            errors: error.fields.clone(),
            id: error.id,
        }
    }
}
