//! The port of messages. They are written by [batches](crate::store::BatchWrites).

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{FeedEvent, Message, MessageId, RoomId, Seq},
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

/// How many events one call of [`MessageReads::events`] returns. Numbers have no gaps, so it bounds the range as well.
pub const MAX_EVENTS: i64 = 1000;

#[async_trait]
pub trait MessageReads: Send + Sync {
    /// Every event with `after < seq <= upto`, ascending, at most [`MAX_EVENTS`]: the caller must not request a
    /// longer range. An event that carries a message shows it as it is now, with `changeSeq` set to the event's number.
    async fn events(&self, room: RoomId, after: Seq, upto: Seq) -> Result<Vec<FeedEvent>>;
    /// Messages of a room, ascending by `seq`; deleted ones are there with an empty body.
    async fn messages(&self, room: RoomId, window: Window, limit: u32) -> Result<Vec<Message>>;
    async fn message(&self, room: RoomId, id: MessageId) -> Result<Option<Message>>;
    /// How many messages have a number above `read_seq`, deleted ones included, counted up to 1,000.
    async fn unread(&self, room: RoomId, read_seq: Seq) -> Result<u32>;
}
