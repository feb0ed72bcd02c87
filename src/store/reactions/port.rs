//! The port of reactions. An emoji is passed as its [key](crate::model::text::emoji::key).

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{MessageId, Seq, User, UserId},
};

/// A user who gave a reaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reactor {
    /// Orders the users of a reaction, together with the user's id: two may have the same number.
    pub seq: Seq,
    pub user: User,
}

#[async_trait]
pub trait ReactionReads: Send + Sync {
    /// The users who gave an emoji, in the order in which they did, starting above the number and the user of `after`.
    /// 0 and the nil id are below all.
    async fn reactors(
        &self,
        message: MessageId,
        emoji: &str,
        after: (Seq, UserId),
        limit: u32,
    ) -> Result<Vec<Reactor>>;
    /// The emojis that each of the users gave to the message beside them, in any order. Any number of pairs.
    async fn reacted(
        &self,
        who: &[(MessageId, UserId)],
    ) -> Result<Vec<(MessageId, UserId, String)>>;
}
