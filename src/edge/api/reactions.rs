//! `/v1/rooms/{room}/messages/{id}/reactions`.

use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
};
use serde::Serialize;

use super::{
    Tags,
    access::{self, Caller, Need, Shared, Write},
    payload::{Changed, Cursor, Found},
    problem::Problem,
    query::{self, PageCursor},
};
use crate::{
    command::room::RoomCommand,
    edge::Edge,
    error::{Error, Result},
    model::{Message, MessageId, RoomId, Seq, User, text::emoji},
    protocol::{self, MAX_EMOJI, check_limit, check_text},
};

pub struct ReactionsApi;

/// A page of the users who gave a reaction, in the order in which they did.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "ReactionPage")]
struct ReactionPage {
    items: Vec<User>,
    /// Pass it as `cursor` to get the next page; `null` on the last page.
    next_cursor: Cursor<Seq>,
    /// Whether there is a next page.
    has_more: bool,
}

#[OpenApi(prefix_path = "/v1/rooms", tag = "Tags::Messages")]
impl ReactionsApi {
    /// List the users of a reaction
    ///
    /// For members. In the order in which the users reacted. A message itself lists the first 10 of them and their
    /// number. A deleted message has no reactions.
    #[oai(
        path = "/:room/messages/:id/reactions/:emoji",
        method = "get",
        operation_id = "listReaction"
    )]
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a parameter of the operation"
    )]
    async fn list(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        id: Path<MessageId>,
        /// 1 to 64 bytes of UTF-8, percent-encoded. With or without U+FE0F.
        emoji: Path<String>,
        /// The `nextCursor` of the previous page.
        cursor: Query<Option<PageCursor<Seq>>>,
        /// 1 to 200. Default: 50.
        limit: Query<Option<u32>>,
    ) -> Result<Found<ReactionPage>, Problem> {
        let limit = check_limit(limit.0)?;
        let after = cursor.0.map_or(0, |cursor| cursor.0);
        check_text("emoji", &emoji.0, 1, MAX_EMOJI)?;
        if after < 0 {
            return Err(query::bad_cursor().into());
        }
        let (room, _) = access::member(&edge, room.0, caller.user()).await?;
        let message = edge.reads.message(room.id, id.0).await?;
        // As in `GET` of the message: a message above the head was stored after the membership was checked.
        let message = message.filter(|message| message.seq <= room.head);
        let message = message.ok_or_else(|| Error::not_found("message"))?;
        // Reads one more than requested to learn whether there is another page.
        let emoji = emoji::key(&emoji.0);
        let mut users = match message.deleted_at {
            None => edge.reads.reactors(message.id, &emoji, after, limit + 1),
            Some(_) => Box::pin(async { Ok(Vec::new()) }),
        }
        .await?;
        let has_more = users.len() > limit as usize;
        users.truncate(limit as usize);
        let last = users.last().filter(|_| has_more).map(|user| user.seq);
        Ok(Found::of(&ReactionPage {
            items: users.into_iter().map(|user| user.user).collect(),
            next_cursor: Cursor(last),
            has_more,
        }))
    }

    /// Add a reaction
    ///
    /// A message can have at most 50 different emojis. Adding the same reaction again has no effect. Emojis that differ
    /// only in U+FE0F are the same.
    #[oai(
        path = "/:room/messages/:id/reactions/:emoji",
        method = "put",
        operation_id = "addReaction"
    )]
    async fn react(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        id: Path<MessageId>,
        /// 1 to 64 bytes of UTF-8, percent-encoded.
        emoji: Path<String>,
    ) -> Result<Changed<Message>, Problem> {
        Ok(reaction(&edge, &caller, room.0, id.0, emoji.0, true).await?)
    }

    /// Remove a reaction
    #[oai(
        path = "/:room/messages/:id/reactions/:emoji",
        method = "delete",
        operation_id = "removeReaction"
    )]
    async fn unreact(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        id: Path<MessageId>,
        /// 1 to 64 bytes of UTF-8, percent-encoded.
        emoji: Path<String>,
    ) -> Result<Changed<Message>, Problem> {
        Ok(reaction(&edge, &caller, room.0, id.0, emoji.0, false).await?)
    }
}

async fn reaction(
    edge: &Edge,
    caller: &Caller,
    room: RoomId,
    message: MessageId,
    emoji: String,
    on: bool,
) -> Result<Changed<Message>> {
    protocol::check_reaction(&emoji, on)?;
    let write = Write {
        edge,
        user: caller.user(),
        room,
        need: Need::Voice,
    };
    write
        .change_message(message, RoomCommand::React { message, emoji, on })
        .await
}
