//! Commands that travel from edges to workers: one serde-tagged enum, one file per subject, with each payload beside
//! its effect. An edge creates commands, a worker runs them; the queue sees only bytes.
//!
//! Each command is a JSON object, so that a dead letter is readable. [`crate::queue::framing`] packs them into batches;
//! an invalid command is dead-lettered without affecting the others.

pub mod account;
mod envelope;
pub mod epoch;
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
    model::{Epoch, MessageId, RoomId, Timestamp, User, UserId},
};

/// Version of the command format. A worker dead-letters newer ones, to be replayed after its update.
pub const VERSION: u8 = 1;

/// The edge and the request or session that gets the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    #[serde(rename = "e")]
    pub edge: EdgeId,
    /// The number of a waiting request, or of a session that is only notified of refusals.
    #[serde(rename = "n")]
    pub number: u64,
    /// Report success as well.
    #[serde(rename = "w", default, skip_serializing_if = "std::ops::Not::not")]
    pub wait: bool,
}

/// One command of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
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
    /// Without an actor.
    Epoch(epoch::EpochCommand),
}

impl Command {
    /// The partition key: all commands for one room, or one account, stay in order.
    pub fn key(&self, actor: UserId) -> Uuid {
        match self {
            Command::Room(room, _) => *room,
            Command::Account(_) => actor,
            Command::Notify(command) => command.key(actor),
            Command::Epoch(epoch::EpochCommand::Replace { from, .. }) => *from,
        }
    }
}

/// The partition of a key: the same on every node, as long as `queue.partitions` does not change. The low half of a
/// UUIDv7 or v8 is random, so keys are spread evenly.
pub fn partition_of(key: Uuid, partitions: u16) -> u16 {
    (key.as_u128() as u64 % u64::from(partitions)) as u16
}

/// The outcome of a command, as it is sent back to the edge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Outcome {
    /// The JSON of the stored resource, if there is one.
    #[serde(rename = "ok")]
    Done(Option<Box<RawValue>>),
    #[serde(rename = "err")]
    Refused(Refusal),
}

/// A rejection by a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
    /// With `conflict` of a send: the stored message with the same `clientMsgId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Refusal {
            code,
            message: message.into(),
            id: None,
        }
    }

    /// The refusal of a send whose `clientMsgId` belongs to `message`, which has other content.
    pub fn other_content(message: MessageId) -> Self {
        let text = "this clientMsgId was sent before with another body, replyTo or metadata";
        Refusal {
            id: Some(message),
            ..Refusal::new(Code::Conflict, text)
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error {
            id: refusal.id,
            ..Error::new(refusal.code, refusal.message)
        }
    }
}

/// Messages from workers to edges outside of room feeds, on [`crate::bus::Channel::Edge`] and
/// [`crate::bus::Channel::Everyone`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Notice {
    Outcome {
        number: u64,
        outcome: Outcome,
    },
    /// A send was accepted by the queue and then refused by a worker.
    SendFailed {
        session: u64,
        #[serde(rename = "clientMsgId")]
        client_msg_id: String,
        room: RoomId,
        refusal: Refusal,
        /// The id that the message would have had. Earlier versions omit it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<MessageId>,
    },
    /// A login has ended: its sockets are closed with 4001.
    LoginClosed {
        login: Uuid,
    },
    /// An account's name changed or the account was deleted: workers invalidate their cached names.
    AccountChanged {
        user: UserId,
    },
    /// A user's names changed. One change may take several notices, each with other rooms of the user.
    UserUpdated {
        /// Unique for each change.
        change: Uuid,
        user: User,
        rooms: Vec<RoomId>,
        /// Another notice of the same change follows.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
    },
    /// A worker has handled a report of lost history; the store has this epoch now, a new one or the same.
    EpochChanged {
        epoch: Epoch,
    },
}
