//! `/v1/rooms/{room}/messages/{id}/reactions`.

use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Tags,
    access::{self, Caller, Need, Shared, Write},
    payload::{Changed, Cursor, Found},
    problem::Problem,
    query,
};
use crate::{
    command::room::RoomCommand,
    edge::Edge,
    error::{Error, Result},
    model::{Message, MessageId, RoomId, Seq, User, UserId, text::emoji},
    protocol::{self, MAX_EMOJI, check_limit, check_text},
    store::Reactor,
};

pub struct ReactionsApi;

/// A page of the users who gave a reaction, in the order in which they did.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "ReactionPage")]
struct ReactionPage {
    items: Vec<User>,
    /// Pass it as `cursor` to get the next page; `null` on the last page.
    next_cursor: Cursor<String>,
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
        cursor: Query<Option<String>>,
        /// 1 to 200. Default: 50.
        limit: Query<Option<u32>>,
    ) -> Result<Found<ReactionPage>, Problem> {
        let limit = check_limit(limit.0)?;
        let after = cursor.0.as_deref().map(parse_cursor).transpose()?;
        check_text("emoji", &emoji.0, 1, MAX_EMOJI)?;
        let (room, _) = access::member(&edge, room.0, caller.user()).await?;
        let message = edge.reads.message(room.id, id.0).await?;
        // As in `GET` of the message: a message above the head was stored after the membership was checked.
        let message = message.filter(|message| message.seq <= room.head);
        let message = message.ok_or_else(|| Error::not_found("message"))?;
        let emoji = emoji::key(&emoji.0);
        let shown = emoji::qualified(&emoji);
        // Workers of the version that listed every user leave rows of reactions that they remove, and of messages that
        // they delete.
        let is_given = message.reactions.iter().any(|r| r.emoji == shown);
        let mut users = Vec::new();
        if is_given && message.deleted_at.is_none() {
            let after = after.unwrap_or((0, Uuid::nil()));
            // Reads one more than requested to learn whether there is another page.
            let reads = &edge.reads;
            users = reads.reactors(message.id, &emoji, after, limit + 1).await?;
            // A reaction above the head was given after the membership was checked.
            users.retain(|user| user.seq <= room.head);
        }
        let has_more = users.len() > limit as usize;
        users.truncate(limit as usize);
        let last = users.last().filter(|_| has_more).map(cursor_of);
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

/// The cursor of a page: `seq_user`.
fn cursor_of(last: &Reactor) -> String {
    format!("{}_{}", last.seq, last.user.id.simple())
}

fn parse_cursor(cursor: &str) -> Result<(Seq, UserId)> {
    let read = || {
        let (seq, user) = cursor.split_once('_')?;
        let seq: Seq = seq.parse().ok()?;
        (seq >= 0).then_some((seq, user.parse().ok()?))
    };
    read().ok_or_else(query::bad_cursor)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Code, model::new_id};

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let user = User {
            id: new_id(),
            username: "ada".to_owned(),
            display_name: String::new(),
        };
        let last = Reactor { seq: 41, user };
        let cursor = cursor_of(&last);
        assert_eq!(parse_cursor(&cursor).unwrap(), (41, last.user.id));
        let id = last.user.id.simple();
        for bad in [
            "",
            "41",
            "_",
            "41_",
            "41_x",
            &format!("-1_{id}"),
            &format!("_{id}"),
        ] {
            assert_eq!(
                parse_cursor(bad).unwrap_err().code,
                Code::Malformed,
                "{bad}"
            );
        }
    }
}
