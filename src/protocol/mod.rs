//! The wire protocol between clients and an edge: requests, responses, events and close codes. REST and both socket
//! transports share these types, so that each resource has one shape everywhere. No I/O, no decisions.

pub mod asyncapi;
mod openapi;
pub mod wrong_field;

use std::sync::Arc;

use poem_openapi::Object;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    error::{Code, Error, FieldError, Result},
    model::{
        ClientMetadata, EventKind, Member, Message, MessageId, Role, Room, RoomId, RoomKind, Seq,
        Timestamp, User, UserId, text::emoji::is_reaction,
    },
};

/// Maximum length of `clientMsgId` in bytes.
pub const MAX_CLIENT_MSG_ID: usize = 128;
/// Maximum length of a reaction in bytes; longer than any emoji sequence.
pub const MAX_EMOJI: usize = 64;
/// Maximum messages or events per page.
pub const MAX_PAGE: u32 = 200;
/// Page size if the request has no `limit`.
pub const DEFAULT_PAGE: u32 = 50;

// ---- resources

/// A room as its members see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Object, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Room")]
pub struct RoomView {
    pub id: RoomId,
    pub kind: RoomKind,
    /// Empty for a direct room.
    pub name: String,
    /// The number of the newest event.
    pub seq: Seq,
    pub created_by: UserId,
    pub created_at: Timestamp,
}

impl From<&Room> for RoomView {
    fn from(room: &Room) -> Self {
        RoomView {
            id: room.id,
            kind: room.kind,
            name: room.name.clone(),
            seq: room.head,
            created_by: room.created_by,
            created_at: room.created_at,
        }
    }
}

/// A member of a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Object, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Member")]
pub struct MemberView {
    pub user: User,
    pub role: Role,
    pub joined_at: Timestamp,
    /// The highest number that this member has read.
    pub read_seq: Seq,
    /// The member may not write before this time. Omitted if the member is not muted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub muted_until: Option<Timestamp>,
}

impl From<&Member> for MemberView {
    fn from(member: &Member) -> Self {
        MemberView {
            user: member.user.clone(),
            role: member.role,
            joined_at: member.joined_at,
            read_seq: member.read_seq,
            muted_until: member.muted_until,
        }
    }
}

// ---- events

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

/// The data of `sendFailed`: a send that was accepted and then refused by a worker.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendFailed {
    pub room: RoomId,
    /// The `clientMsgId` of the refused send.
    pub client_msg_id: String,
    pub code: Code,
    pub message: String,
}

/// The data of `readUpdated`: a member has read up to `seq`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReadUpdated {
    pub room: RoomId,
    pub user: UserId,
    pub seq: Seq,
}

// ---- requests and their answers

/// A client's request to its session, the same on every transport.
#[derive(Debug)]
pub enum Request {
    Auth(Auth),
    JoinRoom(JoinRoom),
    LeaveRoom(LeaveRoom),
    SendMessage(SendMessage),
    EditMessage(EditMessage),
    DeleteMessage(DeleteMessage),
    React(React),
    MarkRead(MarkRead),
    Disconnect,
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
    /// message and is stored once.
    pub client_msg_id: String,
    /// The id of a message in the same room.
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
    /// One emoji, or a word of 1 to 32 of the characters `a-z 0-9 _ + -`.
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

impl Request {
    /// Parses an event's data. The error names the wrong field, but does not repeat the data.
    pub fn parse(event: &str, data: Option<&RawValue>) -> Result<Request> {
        let data = data.map_or("{}", RawValue::get);
        Ok(match event {
            "auth" => Request::Auth(fields(data)?),
            "joinRoom" => Request::JoinRoom(fields(data)?),
            "leaveRoom" => Request::LeaveRoom(fields(data)?),
            "sendMessage" => Request::SendMessage(fields(data)?),
            "editMessage" => Request::EditMessage(fields(data)?),
            "deleteMessage" => Request::DeleteMessage(fields(data)?),
            "react" => Request::React(fields(data)?),
            "markRead" => Request::MarkRead(fields(data)?),
            "disconnect" => Request::Disconnect,
            _ => {
                return Err(Error::new(
                    Code::UnknownEvent,
                    "there is no such event; the events are listed by `chat asyncapi`",
                ));
            }
        })
    }
}

fn fields<T: DeserializeOwned>(data: &str) -> Result<T> {
    serde_json::from_str(data).map_err(|error| match wrong_field::find::<T>(data) {
        Some(wrong) => wrong.error(Code::Invalid, "data"),
        None => Error::new(Code::Invalid, format!("data: {error}")),
    })
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
    pub role: Role,
    /// Number of messages above the member's read position, deleted ones included, counted up to 1,000.
    pub unread: u32,
    /// The messages that are new or changed since `afterSeq`, each once, in their current state; without `afterSeq`,
    /// the latest messages (at most 50).
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
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        WireError {
            code: error.code,
            message: error.message.clone(),
            retry_after_ms: error.retry_after_ms(),
            errors: error.fields.clone(),
        }
    }
}

// ---- checks shared by REST and the sockets

/// Checks a message body: 1 to `max` bytes, no U+0000 (PostgreSQL cannot store it).
pub fn check_body(body: &str, max: usize) -> Result<()> {
    check_text("body", body, 1, max)
}

/// Checks a `clientMsgId`: 1 to [`MAX_CLIENT_MSG_ID`] bytes, no U+0000.
pub fn check_client_msg_id(id: &str) -> Result<()> {
    check_text("clientMsgId", id, 1, MAX_CLIENT_MSG_ID)
}

/// Checks a new reaction: one emoji or a short plain word. One that is being removed may predate that rule.
pub fn check_reaction(emoji: &str, on: bool) -> Result<()> {
    check_text("emoji", emoji, 1, MAX_EMOJI)?;
    if !on || is_reaction(emoji) {
        return Ok(());
    }
    Err(Error::field(
        "emoji",
        "must be one emoji, or a word of 1 to 32 of the characters a-z 0-9 _ + - such as thumbsup",
    ))
}

/// Checks a text: `min..=max` bytes, no U+0000.
pub fn check_text(field: &str, text: &str, min: usize, max: usize) -> Result<()> {
    if text.len() < min {
        return Err(Error::field(field, "must not be empty"));
    }
    if text.len() > max {
        return Err(too_long(field, text.len(), max));
    }
    if text.contains('\0') {
        return Err(Error::field(field, "must not contain the character U+0000"));
    }
    Ok(())
}

fn too_long(field: &str, len: usize, max: usize) -> Error {
    let message = format!("is {len} bytes long; at most {max} are allowed");
    Error {
        code: Code::TooLarge,
        ..Error::field(field, message)
    }
}

/// Checks a page size: an excessive one is an error, it is not reduced.
pub fn check_limit(limit: Option<u32>) -> Result<u32> {
    match limit {
        None => Ok(DEFAULT_PAGE),
        Some(limit) if (1..=MAX_PAGE).contains(&limit) => Ok(limit),
        Some(limit) => Err(Error::field(
            "limit",
            format!("{limit} is out of range; allowed: 1 to {MAX_PAGE}"),
        )),
    }
}

/// Close codes of sockets (RFC 6455 section 7.4; 4000–4999 are for applications). 4000–4499 mean "do not reconnect
/// until something changes", except 4008 and 4009.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The client sent `disconnect`.
    Bye,
    /// The edge restarts; the reason states when to reconnect.
    Restarting,
    Unauthorized,
    Forbidden,
    /// The client did not read fast enough; it may reconnect and resume.
    Slow,
    /// The client did not answer pings; it may reconnect.
    Idle,
    /// Too many requests, or too many sockets of the user.
    RateLimited,
    /// Input that is not JSON or does not follow the protocol.
    Malformed,
    /// A frame that violates RFC 6455. This code and the three below are those that RFC 6455 assigns.
    Protocol,
    /// A binary frame; only text is supported.
    Unsupported,
    /// A text frame that is not UTF-8.
    NotUtf8,
    /// A frame that exceeds the size limit.
    TooBig,
}

impl Close {
    pub fn code(self) -> u16 {
        match self {
            Close::Bye => 1001,
            Close::Restarting => 1012,
            Close::Protocol => 1002,
            Close::Unsupported => 1003,
            Close::NotUtf8 => 1007,
            Close::TooBig => 1009,
            Close::Unauthorized => 4001,
            Close::Forbidden => 4003,
            Close::Slow => 4008,
            Close::Idle => 4009,
            Close::RateLimited => 4029,
            Close::Malformed => 4400,
        }
    }

    pub fn reason(self) -> &'static str {
        match self {
            Close::Bye => "bye",
            Close::Restarting => "restarting",
            Close::Protocol => "not the WebSocket protocol",
            Close::Unsupported => "binary frames are not used here",
            Close::NotUtf8 => "text frames are UTF-8",
            Close::TooBig => "frame too large",
            Close::Unauthorized => "unauthorized",
            Close::Forbidden => "forbidden",
            Close::Slow => "slow reader",
            Close::Idle => "no pong",
            Close::RateLimited => "rate limited",
            Close::Malformed => "malformed",
        }
    }
}

/// A message's JSON, serialised once for all recipients.
pub fn message_json(message: &Message) -> Box<RawValue> {
    raw(message)
}

/// JSON of one of this crate's types.
pub fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("our own types have string keys only")
}
