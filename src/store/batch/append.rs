//! Moves heads and stores new messages in one statement. Nearly every batch is only this: the **hot path**.

use std::collections::HashMap;

use super::{postgres, sqlite};
use crate::{
    error::{Error, Result},
    model::{Message, Metadata, RoomId, Seq},
    store::sql::{Column, Dialect, Kind, Session, Value, sql},
};

/// The first list of the statement.
static HEADS: [Column; 3] = [
    Column("id", Kind::Id),
    Column("before", Kind::Number),
    Column("head", Kind::Number),
];

/// The second list of the statement.
static MESSAGES: [Column; 14] = [
    Column("room", Kind::Id),
    Column("seq", Kind::Number),
    Column("id", Kind::Id),
    Column("change_seq", Kind::Number),
    Column("sender", Kind::Id),
    Column("body", Kind::Text),
    Column("client_msg_id", Kind::Text),
    Column("reply_to", Kind::Id),
    Column("mentions", Kind::Ids),
    Column("reactions", Kind::Json),
    Column("metadata", Kind::Text),
    Column("created_at", Kind::Time),
    Column("edited_at", Kind::Time),
    Column("deleted_at", Kind::Time),
];

/// Without `before`, the heads are locked and may be moved from any value. With it, the result is
/// [`Code::Conflict`](crate::error::Code) where a head is not what it was `before` or a message is already stored.
///
/// Heads are moved in id order, as the locks of [`facts::rooms`](super::facts::rooms) are taken, so that two batches do
/// not wait for each other.
pub(super) async fn append<S: Session>(
    session: &mut S,
    before: Option<&HashMap<RoomId, Seq>>,
    heads: &HashMap<RoomId, Seq>,
    messages: &[Message],
) -> Result<()> {
    if heads.is_empty() && messages.is_empty() {
        return Ok(());
    }
    let mut heads: Vec<(RoomId, Seq)> = heads.iter().map(|(&room, &head)| (room, head)).collect();
    heads.sort_unstable();
    let moved = heads.iter().map(|&(room, head)| {
        let was = before.and_then(|before| before.get(&room)).copied();
        [room.into(), was.into(), head.into()]
    });
    let statement = sql(S::Dialect::choose(postgres::APPEND, sqlite::APPEND))
        .bind_list(&HEADS, moved)
        .bind_list(&MESSAGES, messages.iter().map(row));
    let written = match session.attempt(statement).await? {
        Ok(written) => written,
        Err(error) if before.is_some() && is_conflict(&error) => {
            return Err(Error::conflict(
                "a room moved on, or a message is stored already",
            ));
        }
        Err(error) => return Err(S::Dialect::failure(error)),
    };
    // PostgreSQL's statement fails where a head was not moved and returns one row; SQLite's counts what it wrote.
    let expected = S::Dialect::choose(1, (heads.len() + messages.len()) as u64);
    if written == expected {
        Ok(())
    } else if before.is_some() {
        Err(Error::conflict("a room moved on"))
    } else {
        Err(Error::internal(format!(
            "moved heads and new messages: {written} rows instead of {expected}"
        )))
    }
}

fn row(message: &Message) -> [Value<'_>; 14] {
    [
        message.room.into(),
        message.seq.into(),
        message.id.into(),
        message.change_seq.into(),
        message.sender.id.into(),
        message.body.as_str().into(),
        message.client_msg_id.as_str().into(),
        message.reply_to.into(),
        message.mentions.as_slice().into(),
        reactions(message),
        metadata(message),
        message.created_at.into(),
        message.edited_at.into(),
        message.deleted_at.into(),
    ]
}

/// JSON, or null where there are none.
pub(super) fn reactions(message: &Message) -> Value<'_> {
    let reactions = &message.reactions;
    // Texts, ids and lists of them cannot fail to become JSON.
    (!reactions.is_empty())
        .then(|| serde_json::to_string(reactions).unwrap_or_default())
        .into()
}

pub(super) fn metadata(message: &Message) -> Value<'_> {
    message.metadata.as_ref().map(Metadata::as_json).into()
}

/// A unique violation (a message is stored already), or the division by zero with which PostgreSQL's statement ends
/// where a head has moved.
fn is_conflict(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        error.is_unique_violation() || error.code().as_deref() == Some(postgres::DIVISION_BY_ZERO)
    })
}
