//! The domain types: users, rooms, members, messages and roles. No I/O.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub type UserId = Uuid;
pub type RoomId = Uuid;
pub type MessageId = Uuid;
/// One login of a user; owns a chain of refresh tokens.
pub type LoginId = Uuid;

/// An event number in a room's feed. The first event of a room is 1; 0 means "before all events".
pub type Seq = i64;

/// UTC with milliseconds, as RFC 3339 on the wire, restricted to the years 0000 to 9999 that RFC 3339 can express. For
/// display; never used for ordering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// 0000-01-01T00:00:00.000Z to 9999-12-31T23:59:59.999Z, in milliseconds since 1970.
const TIMES: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

impl Timestamp {
    pub fn now() -> Self {
        Timestamp(Utc::now().timestamp_millis())
    }

    /// The last millisecond of the year 9999; stands for "no end".
    pub const MAX: Timestamp = Timestamp(*TIMES.end());

    /// From milliseconds since 1970, clamped to the valid range.
    pub fn from_millis(millis: i64) -> Self {
        Timestamp(millis.clamp(*TIMES.start(), *TIMES.end()))
    }

    pub fn millis(self) -> i64 {
        self.0
    }

    pub fn datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or(DateTime::UNIX_EPOCH)
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Timestamp::from_millis(time.timestamp_millis())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.datetime().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FeedEvent {
    /// When an edge accepted this message; `None` for other events.
    pub fn accepted_at(&self) -> Option<Timestamp> {
        if self.kind != EventKind::NewMessage {
            return None;
        }
        // Only times of the server follow in a serialised message, so the last occurrence is its own.
        let (_, rest) = self.data.rsplit_once("\"createdAt\":\"")?;
        let (time, _) = rest.split_once('"')?;
        DateTime::parse_from_rfc3339(time)
            .ok()
            .map(|time| Timestamp::from(time.to_utc()))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DateTime::<Utc>::deserialize(deserializer)
            .ok()
            .map(|time| time.timestamp_millis())
            .filter(|time| TIMES.contains(time))
            .map(Timestamp)
            .ok_or_else(|| {
                serde::de::Error::custom(
                    "must be a time such as 2026-12-01T08:00:00Z, not after the year 9999",
                )
            })
    }
}

/// An id derived from its parts (UUIDv8, RFC 9562 section 5.8): the first 16 bytes of SHA-256 over `kind` and the
/// length-prefixed parts. The same parts always give the same id, on every node.
pub fn derived_id(kind: &str, parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(kind.as_bytes());
    for part in parts {
        hash.update((part.len() as u32).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The id of the message that `(room, sender, clientMsgId)` identifies permanently.
pub fn message_id(room: RoomId, sender: UserId, client_msg_id: &str) -> MessageId {
    derived_id(
        "message",
        &[room.as_bytes(), sender.as_bytes(), client_msg_id.as_bytes()],
    )
}

/// The id of the direct room of two users; their order does not matter.
pub fn direct_room_id(a: UserId, b: UserId) -> RoomId {
    let (first, second) = if a <= b { (a, b) } else { (b, a) };
    derived_id("direct", &[first.as_bytes(), second.as_bytes()])
}

/// A new id that does not derive from anything: UUIDv7, so that indexes grow at their end.
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

macro_rules! text_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, poem_openapi::Enum, schemars::JsonSchema)]
        pub enum $name {
            $($(#[$vmeta])* #[serde(rename = $text)] #[oai(rename = $text)] $variant),+
        }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some($name::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub mod address;
mod channel;
pub mod epoch;
pub mod metadata;
pub mod notify;
pub mod quiet_hours;
mod reaction;
pub mod text;
pub mod username;

pub use epoch::{Anchor, Delivered, Epoch, LostHistory, Occupant, Position};
pub use metadata::{ClientMetadata, Metadata};
pub use reaction::{MAX_REACTIONS, REACTION_USERS, Reaction, StoredReaction};

text_enum! {
    /// The visibility of a room.
    RoomKind {
        /// Every user can find and join it.
        Public = "public",
        /// The owner and admins add members.
        Private = "private",
        /// Exactly two users; the room's id derives from theirs.
        Direct = "direct",
    }
}

text_enum! {
    /// A member's rights. Each role includes the rights of those before it.
    Role {
        /// Read and write.
        Member = "member",
        /// Also rename the room, add and remove members, delete any message, ban and mute.
        Admin = "admin",
        /// Also change roles and delete the room.
        Owner = "owner",
    }
}

/// A user as other users see them.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, poem_openapi::Object, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "PublicUser")]
pub struct User {
    pub id: UserId,
    pub username: String,
    pub display_name: String,
}

/// An account as its owner sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    #[serde(flatten)]
    pub user: User,
    pub email: Option<String>,
    pub phone: Option<String>,
    pub created_at: Timestamp,
}

debug_of!(Account { user, created_at });

/// The client of a login, as far as it is known; shown to the user in the list of their sessions.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientInfo {
    /// The header `User-Agent`, at most [`ClientInfo::MAX_USER_AGENT`] characters of visible ASCII and spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// The IP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

debug_of!(ClientInfo {});

impl ClientInfo {
    pub const MAX_USER_AGENT: usize = 256;
}

/// The data for checking a password.
#[derive(Clone)]
pub struct Credentials {
    pub account: Account,
    /// PHC string, argon2id.
    pub password_hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    pub id: RoomId,
    pub kind: RoomKind,
    /// Empty for a direct room.
    pub name: String,
    /// The number of the newest event.
    pub head: Seq,
    pub created_by: UserId,
    pub created_at: Timestamp,
    /// A deleted room keeps its row, so that its id is never reused.
    pub deleted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub room: RoomId,
    pub user: User,
    pub role: Role,
    pub joined_at: Timestamp,
    /// The highest number that this member has read.
    pub read_seq: Seq,
    /// The member may not write before this time.
    pub muted_until: Option<Timestamp>,
}

/// A message.
#[derive(Clone, Serialize, Deserialize, poem_openapi::Object, schemars::JsonSchema)]
#[oai(rename_all = "camelCase")]
#[serde(rename_all = "camelCase")]
pub struct Message {
    pub id: MessageId,
    pub room: RoomId,
    /// The message's number in the room's feed.
    pub seq: Seq,
    /// The number of the last event that changed the message; equals `seq` if none did.
    pub change_seq: Seq,
    pub sender: User,
    /// Empty once deleted.
    pub body: String,
    /// Chosen by the sender; identifies the message among those of the same sender and room.
    pub client_msg_id: String,
    /// The id of the message that this one replies to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub reply_to: Option<MessageId>,
    /// Ids of the members mentioned with `@username`.
    pub mentions: Vec<UserId>,
    /// At most 50, in the order in which they were first given.
    pub reactions: Vec<Reaction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub metadata: Option<Metadata>,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub edited_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub deleted_at: Option<Timestamp>,
}

debug_of!(Message {
    id,
    room,
    seq,
    change_seq
});

/// One entry of a room's feed in wire format. Each number of a room is exactly one entry.
#[derive(Debug, Clone)]
pub struct FeedEvent {
    pub seq: Seq,
    pub kind: EventKind,
    /// The JSON of the event's `data`.
    pub data: String,
}

text_enum! {
    /// The durable events of a room. Each has a number in the room's feed.
    EventKind {
        NewMessage = "newMessage",
        MessageUpdated = "messageUpdated",
        MessageDeleted = "messageDeleted",
        ReactionUpdated = "reactionUpdated",
        MemberJoined = "memberJoined",
        MemberLeft = "memberLeft",
        RoomUpdated = "roomUpdated",
    }
}

/// An event of a room without a number: sent to current subscribers, not stored, and not recovered if missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EphemeralEvent {
    pub kind: EphemeralKind,
    /// The JSON of the event's `data`.
    pub data: String,
}

text_enum! {
    /// The events of a room that are not in its feed.
    EphemeralKind {
        /// A member's read position advanced.
        ReadUpdated = "readUpdated",
    }
}

impl EventKind {
    /// Whether the event's data is a whole message.
    pub fn carries_message(self) -> bool {
        matches!(
            self,
            EventKind::NewMessage | EventKind::MessageUpdated | EventKind::MessageDeleted
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_id_depends_on_every_part_and_on_where_parts_end() {
        let (room, user) = (new_id(), new_id());
        let id = message_id(room, user, "a");
        assert_eq!(id, message_id(room, user, "a"));
        assert_ne!(id, message_id(room, user, "b"));
        assert_ne!(id, message_id(user, room, "a"));
        assert_ne!(
            derived_id("k", &[b"ab", b"c"]),
            derived_id("k", &[b"a", b"bc"])
        );
        assert_eq!(id.get_version_num(), 8);
    }

    #[test]
    fn a_direct_room_is_the_same_from_both_sides() {
        let (a, b) = (new_id(), new_id());
        assert_eq!(direct_room_id(a, b), direct_room_id(b, a));
    }

    #[test]
    fn times_always_show_milliseconds() {
        assert_eq!(
            Timestamp::from_millis(0).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
        let json = serde_json::to_string(&Timestamp::from_millis(1_700_000_000_120)).unwrap();
        assert_eq!(json, "\"2023-11-14T22:13:20.120Z\"");
        assert_eq!(
            serde_json::from_str::<Timestamp>(&json).unwrap().millis(),
            1_700_000_000_120
        );
    }

    #[test]
    fn times_stay_within_what_rfc_3339_can_write() {
        let read = |text: &str| serde_json::from_str::<Timestamp>(&format!("\"{text}\""));
        let last = "9999-12-31T23:59:59.999Z";
        assert_eq!(read(last).unwrap(), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.to_string(), last);
        let first = "0000-01-01T00:00:00.000Z";
        assert_eq!(read(first).unwrap().to_string(), first);
        for text in [
            "+10000-01-01T00:00:00Z",
            "+262142-12-31T23:59:59Z",
            "-0001-12-31T23:59:59.999Z",
            "9999-12-31T23:59:59.999-00:01",
            "9999-12-31T23:59:60Z",
            "0000-01-01T00:00:00+00:01",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        for millis in [i64::MIN, i64::MAX] {
            let time = Timestamp::from_millis(millis);
            assert_eq!(read(&time.to_string()).unwrap(), time);
        }
    }
}
