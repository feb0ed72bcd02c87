//! The record of a run: the operations with their outcomes, the events of each client, and the server's state at
//! the end. The clients write it and the judge reads it.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use serde_json::Value;
use uuid::Uuid;

/// Milliseconds since the beginning of the run.
pub type Millis = u64;
pub type Seq = i64;

pub const EMOJIS: [&str; 3] = ["👍", "🎉", "eyes"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    New,
    Updated,
    Deleted,
    Reaction,
    Joined,
    Left,
    Room,
}

impl Event {
    /// `None` for events that have no number in a room.
    pub fn named(name: &str) -> Option<Event> {
        Some(match name {
            "newMessage" => Event::New,
            "messageUpdated" => Event::Updated,
            "messageDeleted" => Event::Deleted,
            "reactionUpdated" => Event::Reaction,
            "memberJoined" => Event::Joined,
            "memberLeft" => Event::Left,
            "roomUpdated" => Event::Room,
            _ => return None,
        })
    }

    pub fn is_of_message(self) -> bool {
        matches!(
            self,
            Event::New | Event::Updated | Event::Deleted | Event::Reaction
        )
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// `name` is the `clientMsgId`.
    Send {
        name: String,
        body: String,
    },
    Edit {
        message: Uuid,
        body: String,
    },
    Delete {
        message: Uuid,
    },
    React {
        message: Uuid,
        emoji: usize,
        on: bool,
    },
    Read {
        seq: Seq,
    },
    Join,
    Leave,
    /// The owner adds or removes another client's user.
    Add {
        client: usize,
    },
    Remove {
        client: usize,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Not answered, or answered in a way that leaves open whether it happens: `busy`, or the connection was lost.
    Unknown,
    /// Answered with its result: a message's id, the number of the message's last change.
    Done {
        id: Option<Uuid>,
        change: Option<Seq>,
    },
    /// Enqueued; the result was not awaited.
    Accepted,
    Refused(String),
}

#[derive(Debug, Clone)]
pub struct Op {
    pub client: usize,
    pub room: usize,
    pub action: Action,
    /// The connection of its first attempt.
    pub connection: usize,
    pub attempts: u32,
    pub sent: Millis,
    pub answered: Option<Millis>,
    /// The client's position in the room when it was sent first.
    pub position: Seq,
    pub outcome: Outcome,
}

impl Op {
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done { .. } | Outcome::Accepted)
    }
}

/// The events of a room that a client received, in order of arrival.
#[derive(Debug, Clone)]
pub enum Seen {
    /// An answer to `joinRoom`.
    Page {
        at: Millis,
        after: Seq,
        upto: Seq,
        /// The messages, each with the number of one of its events in the page's range.
        messages: Vec<(Uuid, Seq)>,
        events: Vec<(Seq, Event)>,
        gaps: Vec<(Seq, Seq)>,
    },
    Live {
        at: Millis,
        seq: Seq,
        event: Event,
        /// The message, or the member.
        subject: Uuid,
    },
    Gap {
        at: Millis,
        from: Seq,
        to: Seq,
    },
    Reset {
        at: Millis,
    },
}

impl Seen {
    pub fn at(&self) -> Millis {
        match self {
            Seen::Page { at, .. }
            | Seen::Live { at, .. }
            | Seen::Gap { at, .. }
            | Seen::Reset { at } => *at,
        }
    }
}

/// The state of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    /// A hash; bodies would fill the memory in a long run.
    pub body: u64,
    pub deleted: bool,
    /// Emoji, number of users and a hash of the first users, ordered by emoji.
    pub reactions: Vec<(String, u64, u64)>,
}

pub fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Copy {
    /// Reads a message of the protocol.
    pub fn read(message: &Value) -> Copy {
        let mut copy = Copy {
            body: hash(message["body"].as_str().unwrap_or_default()),
            deleted: !message["deletedAt"].is_null(),
            reactions: Vec::new(),
        };
        for reaction in message["reactions"].as_array().into_iter().flatten() {
            copy.react(reaction);
        }
        copy
    }

    /// Applies an entry of `reactions`, or the event `reactionUpdated`, which has the same fields.
    pub fn react(&mut self, reaction: &Value) {
        let emoji = reaction["emoji"].as_str().unwrap_or_default().to_owned();
        let count = reaction["count"].as_u64().unwrap_or_default();
        let users = hash(reaction["users"].to_string());
        self.reactions.retain(|(known, _, _)| *known != emoji);
        if count > 0 {
            self.reactions.push((emoji, count, users));
            self.reactions.sort();
        }
    }
}

/// Everything that a client received about a room.
#[derive(Debug, Default)]
pub struct View {
    pub seen: Vec<Seen>,
    pub messages: HashMap<Uuid, Copy>,
    pub position: Seq,
}

/// An event of a room's feed, as `GET …/changes` returns it.
#[derive(Debug, Clone)]
pub struct Change {
    pub seq: Seq,
    pub event: Event,
    /// The message, or the member.
    pub subject: Uuid,
}

/// A message of a room's history.
#[derive(Debug, Clone)]
pub struct Stored {
    pub id: Uuid,
    pub seq: Seq,
    pub sender: Uuid,
    pub name: String,
    pub copy: Copy,
    /// The users who gave each emoji of [`EMOJIS`].
    pub reactions: Vec<Vec<Uuid>>,
}

/// The server's state at the end.
#[derive(Debug, Default)]
pub struct Truth {
    pub feed: Vec<Change>,
    pub history: Vec<Stored>,
    /// Users and the numbers up to which they have read.
    pub members: HashMap<Uuid, Seq>,
}

#[derive(Debug, Default)]
pub struct Record {
    /// The users of the clients.
    pub users: Vec<Uuid>,
    pub rooms: Vec<Truth>,
    pub ops: Vec<Op>,
    /// Room, `clientMsgId` and code of each `sendFailed`.
    pub failed: Vec<(usize, String, String)>,
    /// By client, then by room.
    pub views: Vec<Vec<View>>,
    /// Processes that ended by themselves, and answers that no fault explains.
    pub surprises: Vec<(Millis, String)>,
}

/// The id of an event's subject, and the user in events about members.
pub fn subject(event: Event, data: &Value) -> Uuid {
    let id = match event {
        Event::Joined | Event::Left => &data["user"]["id"],
        Event::Room => &data["room"],
        Event::New | Event::Updated | Event::Deleted | Event::Reaction => &data["id"],
    };
    id.as_str()
        .and_then(|id| id.parse().ok())
        .unwrap_or_default()
}
