//! The port of messages. They are written by [batches](crate::store::BatchWrites).

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{EventKind, FeedEvent, Message, MessageId, RoomId, Seq},
};

/// Which messages of a room, by `seq`; a page always comes back in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The newest ones.
    Latest,
    /// The newest ones below this number.
    Before(Seq),
    /// The oldest ones above this number.
    After(Seq),
    /// Half of them below this number, the larger half from this number on. If one side has fewer, the other does not
    /// get more.
    Around(Seq),
}

/// An event that a client missed.
#[derive(Debug)]
pub struct Missed {
    pub seq: Seq,
    pub content: MissedContent,
}

#[derive(Debug)]
pub enum MissedContent {
    /// A new message or a change of one: the message as it is now.
    Message(Box<Message>),
    /// A change of a message that a later event of the same range has.
    Repeated,
    /// Any other event: its JSON.
    Event(EventKind, String),
}

/// How many events one call of [`MessageReads::events`] returns. Numbers have no gaps, so it bounds the range as well.
pub const MAX_EVENTS: i64 = 1000;

#[async_trait]
pub trait MessageReads: Send + Sync {
    /// Every event with `after < seq <= upto`, ascending, at most [`MAX_EVENTS`]: the caller must not request a longer
    /// range. An event that carries a message shows it as it is now, with `changeSeq` set to the event's number. An
    /// event of a reaction has the number of users as it is now. It is a `messageUpdated` if the change is not known,
    /// because an earlier version stored the event, or must not be shown, because the message was deleted.
    async fn events(&self, room: RoomId, after: Seq, upto: Seq) -> Result<Vec<FeedEvent>>;
    /// The same events for a client that resumes: each change of a message is the message itself, which is read once.
    async fn missed(&self, room: RoomId, after: Seq, upto: Seq) -> Result<Vec<Missed>>;
    /// Messages of a room, ascending by `seq`; deleted ones are there with an empty body.
    async fn messages(&self, room: RoomId, window: Window, limit: u32) -> Result<Vec<Message>>;
    async fn message(&self, room: RoomId, id: MessageId) -> Result<Option<Message>>;
    /// How many messages have a number above `read_seq`, deleted ones included, counted up to 1,000.
    async fn unread(&self, room: RoomId, read_seq: Seq) -> Result<u32>;
}
