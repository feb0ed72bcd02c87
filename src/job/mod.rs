//! The jobs that travel from edges to workers: one serde-tagged enum, so that unknown kinds cannot surprise, and
//! one file per kind of thing they change. The edge makes them, a worker runs them, the queue sees bytes.
//!
//! Each is a JSON object, so that a person can read a dead letter. How they stand in a batch is
//! [`crate::queue::framing`]'s; a bad one is found and set aside alone.

pub mod account;
mod envelope;
pub mod notify;
pub mod room;
#[cfg(test)]
mod tests;

pub use envelope::read;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    bus::EdgeId,
    error::{Code, Error},
    model::{RoomId, Timestamp, UserId},
};

/// The version of a command's format. A worker refuses newer ones (they go to the dead letters, to be replayed
/// after its update).
pub const VERSION: u8 = 1;

/// Who waits for the outcome, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    #[serde(rename = "e")]
    pub edge: EdgeId,
    /// A waiting request's number, or a session's that hears of refusals only.
    #[serde(rename = "n")]
    pub number: u64,
    /// Tell success too.
    #[serde(rename = "w", default, skip_serializing_if = "std::ops::Not::not")]
    pub wait: bool,
}

/// One command of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub v: u8,
    pub at: Timestamp,
    pub actor: UserId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplyTo>,
    #[serde(rename = "do")]
    pub command: Command,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    Room(RoomId, room::RoomCommand),
    Account(account::AccountCommand),
    Notify(notify::NotifyCommand),
}

impl Command {
    /// What decides the partition: everything about one room, or one account, keeps its order.
    pub fn key(&self, actor: UserId) -> Uuid {
        match self {
            Command::Room(room, _) => *room,
            Command::Account(_) => actor,
            Command::Notify(command) => command.key(actor),
        }
    }
}

/// The partition of a key: the same on every node with the same `queue.partitions`, for ever. The low half of a
/// UUIDv7 or v8 is random, so it spreads by itself.
pub fn partition_of(key: Uuid, partitions: u16) -> u16 {
    (key.as_u128() as u64 % u64::from(partitions)) as u16
}

/// What a job came to, as it travels back to the edge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Outcome {
    /// The JSON of the stored resource, where there is one.
    #[serde(rename = "ok")]
    Done(Option<Box<RawValue>>),
    #[serde(rename = "err")]
    Refused(Refusal),
}

/// A worker's no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Refusal {
            code,
            message: message.into(),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::new(refusal.code, refusal.message)
    }
}

/// What workers tell edges beside the feed, on [`crate::bus::Channel::Edge`] and
/// [`crate::bus::Channel::Everyone`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Notice {
    Outcome {
        number: u64,
        outcome: Outcome,
    },
    /// A send that was accepted and then refused.
    SendFailed {
        session: u64,
        #[serde(rename = "clientMsgId")]
        client_msg_id: String,
        room: RoomId,
        refusal: Refusal,
    },
    /// A login ended: its sockets close with 4001.
    LoginClosed {
        login: Uuid,
    },
    /// Someone has another name: workers remember names.
    AccountChanged {
        user: UserId,
    },
}
