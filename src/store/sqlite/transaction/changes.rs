//! What a batch writes, one statement for each kind of change.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::SqliteConnection;
use uuid::{Uuid, fmt::Simple};

use crate::{
    error::{Error, Result},
    model::{Member, Message, Metadata, Room, RoomId, Seq, Timestamp, UserId},
    sqlite::failure,
    store::{DELETED_DISPLAY_NAME, DELETED_USERNAME, FeedEntry, MUTE, sqlite::json},
};

/// Runs `sql` over the rows, which it finds in `jsonb_each(?1)`; says how many rows it changed.
async fn write<T: Serialize>(
    connection: &mut SqliteConnection,
    sql: &'static str,
    rows: impl ExactSizeIterator<Item = T>,
) -> Result<u64> {
    if rows.len() == 0 {
        return Ok(0);
    }
    let query = sqlx::query(sql).bind(json(rows)?);
    let result = query.execute(connection).await.map_err(failure)?;
    Ok(result.rows_affected())
}

/// Every row must have been there or been new: anything else means that the facts were not true.
fn expect(written: u64, rows: usize, what: &str) -> Result<()> {
    if written == rows as u64 {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{what}: {written} rows instead of {rows}"
    )))
}

fn millis(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::millis)
}

pub(super) async fn insert_rooms(connection: &mut SqliteConnection, rooms: &[Room]) -> Result<()> {
    const SQL: &str = "INSERT INTO rooms (id, kind, name, head, created_by, created_at, deleted) \
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, unhex(value ->> 4), \
             value ->> 5, value ->> 6 \
         FROM jsonb_each(?1)";
    let items = rows_of(rooms, |r| {
        (
            r.id.simple(),
            r.kind.as_str(),
            &r.name,
            r.head,
            r.created_by.simple(),
            r.created_at.millis(),
            r.deleted,
        )
    });
    write(connection, SQL, items).await.map(drop)
}

pub(super) async fn update_rooms(connection: &mut SqliteConnection, rooms: &[Room]) -> Result<()> {
    const SQL: &str = "UPDATE rooms SET name = n.value ->> 1, deleted = n.value ->> 2 \
         FROM jsonb_each(?1) n WHERE rooms.id = unhex(n.value ->> 0)";
    let items = rows_of(rooms, |r| (r.id.simple(), &r.name, r.deleted));
    let written = write(connection, SQL, items).await?;
    expect(written, rooms.len(), "changed rooms")
}

fn rows_of<'a, T, R>(items: &'a [T], row: impl Fn(&'a T) -> R) -> impl ExactSizeIterator<Item = R> {
    items.iter().map(row)
}

/// A list column: its JSON, or NULL where it is empty.
fn list<T: Serialize>(items: &[T]) -> Option<String> {
    // Ids, texts and lists of them cannot fail to become JSON.
    (!items.is_empty()).then(|| serde_json::to_string(items).unwrap_or_default())
}

fn metadata(message: &Message) -> Option<&str> {
    message.metadata.as_ref().map(Metadata::as_json)
}

/// A message's row, in the order in which the statement takes it apart.
#[derive(Serialize)]
struct NewMessage<'a>(
    Simple,
    Seq,
    Simple,
    Seq,
    Simple,
    &'a str,
    &'a str,
    Option<Simple>,
    Option<String>,
    Option<String>,
    Option<&'a str>,
    i64,
    Option<i64>,
    Option<i64>,
);

/// Moves heads and stores messages. Who did not look under the lock says what the heads were `before`, and hears
/// [`Code::Conflict`](crate::error::Code) where one is another or a message is there already.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    before: Option<&HashMap<RoomId, Seq>>,
    heads: &HashMap<RoomId, Seq>,
    messages: &[Message],
) -> Result<()> {
    const SQL: &str = "UPDATE rooms SET head = n.value ->> 1 \
         FROM jsonb_each(?1) n WHERE rooms.id = unhex(n.value ->> 0) \
             AND rooms.head = coalesce(n.value ->> 2, rooms.head); \
         INSERT INTO messages (room, seq, id, change_seq, sender, body, \
             client_msg_id, reply_to, mentions, reactions, metadata, created_at, edited_at, \
             deleted_at) \
         SELECT unhex(value ->> 0), value ->> 1, unhex(value ->> 2), value ->> 3, \
             unhex(value ->> 4), value ->> 5, value ->> 6, unhex(value ->> 7), value ->> 8, \
             value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13 \
         FROM jsonb_each(?2)";
    if heads.is_empty() && messages.is_empty() {
        return Ok(());
    }
    let moved = heads.iter().map(|(room, head)| {
        let was = before.and_then(|before| before.get(room));
        (room.simple(), head, was)
    });
    let new = rows_of(messages, |m| {
        NewMessage(
            m.room.simple(),
            m.seq,
            m.id.simple(),
            m.change_seq,
            m.sender.id.simple(),
            &m.body,
            &m.client_msg_id,
            m.reply_to.map(Uuid::simple),
            list(&m.mentions),
            list(&m.reactions),
            metadata(m),
            m.created_at.millis(),
            millis(m.edited_at),
            millis(m.deleted_at),
        )
    });
    let query = sqlx::query(SQL).bind(json(moved)?).bind(json(new)?);
    let written = query
        .execute(connection)
        .await
        .map_err(|error| match &error {
            sqlx::Error::Database(database)
                if before.is_some() && database.is_unique_violation() =>
            {
                Error::conflict("a message is stored already")
            }
            _ => failure(error),
        })?;
    let (written, rows) = (written.rows_affected(), heads.len() + messages.len());
    if before.is_some() && written < rows as u64 {
        return Err(Error::conflict("a room moved on"));
    }
    expect(written, rows, "moved heads and new messages")
}

pub(super) async fn update_messages(
    connection: &mut SqliteConnection,
    messages: &[Message],
) -> Result<()> {
    const SQL: &str = "UPDATE messages SET change_seq = n.value ->> 2, body = n.value ->> 3, \
             mentions = n.value ->> 4, reactions = n.value ->> 5, metadata = n.value ->> 6, \
             edited_at = n.value ->> 7, deleted_at = n.value ->> 8 \
         FROM jsonb_each(?1) n \
         WHERE messages.id = unhex(n.value ->> 0) AND messages.room = unhex(n.value ->> 1)";
    let items = rows_of(messages, |m| {
        (
            m.id.simple(),
            m.room.simple(),
            m.change_seq,
            &m.body,
            list(&m.mentions),
            list(&m.reactions),
            metadata(m),
            millis(m.edited_at),
            millis(m.deleted_at),
        )
    });
    let written = write(connection, SQL, items).await?;
    expect(written, messages.len(), "changed messages")
}

pub(super) async fn insert_entries(
    connection: &mut SqliteConnection,
    entries: &[FeedEntry],
) -> Result<()> {
    const SQL: &str = "INSERT INTO feed (room, seq, kind, message, data, at) \
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, unhex(value ->> 3), value ->> 4, \
             value ->> 5 \
         FROM jsonb_each(?1)";
    let items = rows_of(entries, |e| {
        (
            e.room.simple(),
            e.seq,
            e.kind.as_str(),
            e.message.map(Uuid::simple),
            e.data.as_deref(),
            e.at.millis(),
        )
    });
    let written = write(connection, SQL, items).await?;
    expect(written, entries.len(), "feed entries")
}

pub(super) async fn put_members(
    connection: &mut SqliteConnection,
    members: &[Member],
) -> Result<()> {
    // `WHERE true` keeps ON from being read as the join's.
    const SQL: &str = "INSERT INTO members (room, user_id, role, joined_at, read_seq, muted_until) \
         SELECT unhex(value ->> 0), unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4, \
             value ->> 5 \
         FROM jsonb_each(?1) WHERE true \
         ON CONFLICT (room, user_id) DO UPDATE SET role = excluded.role, \
             joined_at = excluded.joined_at, read_seq = excluded.read_seq, \
             muted_until = excluded.muted_until";
    let items = rows_of(members, |m| {
        (
            m.room.simple(),
            m.user.id.simple(),
            m.role.as_str(),
            m.joined_at.millis(),
            m.read_seq,
            millis(m.muted_until),
        )
    });
    write(connection, SQL, items).await.map(drop)
}

pub(super) async fn put_bans(
    connection: &mut SqliteConnection,
    bans: &[(RoomId, UserId, Option<Timestamp>)],
) -> Result<()> {
    const SQL: &str = "INSERT INTO bans (room, user_id, until) \
         SELECT unhex(value ->> 0), unhex(value ->> 1), value ->> 2 \
         FROM jsonb_each(?1) WHERE true \
         ON CONFLICT (room, user_id) DO UPDATE SET until = excluded.until";
    let items = rows_of(bans, |&(room, user, until)| {
        (room.simple(), user.simple(), millis(until))
    });
    write(connection, SQL, items).await.map(drop)
}

pub(super) async fn put_mutes(
    connection: &mut SqliteConnection,
    mutes: &[(RoomId, UserId, Timestamp)],
) -> Result<()> {
    const SQL: &str = "INSERT INTO restrictions (room, user_id, kind, until) \
         SELECT unhex(value ->> 0), unhex(value ->> 1), value ->> 2, value ->> 3 \
         FROM jsonb_each(?1) WHERE true \
         ON CONFLICT (room, user_id, kind) DO UPDATE SET until = excluded.until";
    let items = rows_of(mutes, |&(room, user, until)| {
        (room.simple(), user.simple(), MUTE, until.millis())
    });
    write(connection, SQL, items).await.map(drop)
}

pub(super) async fn lift_mutes(
    connection: &mut SqliteConnection,
    pairs: &[(RoomId, UserId)],
) -> Result<()> {
    const SQL: &str = "DELETE FROM restrictions WHERE kind = 'mute' AND (room, user_id) IN \
         (SELECT unhex(value ->> 0), unhex(value ->> 1) FROM jsonb_each(?1))";
    let items = rows_of(pairs, |&(room, user)| (room.simple(), user.simple()));
    write(connection, SQL, items).await.map(drop)
}

pub(super) async fn remove_members(
    connection: &mut SqliteConnection,
    pairs: &[(RoomId, UserId)],
) -> Result<()> {
    const SQL: &str = "DELETE FROM members WHERE (room, user_id) IN \
         (SELECT unhex(value ->> 0), unhex(value ->> 1) FROM jsonb_each(?1))";
    let items = rows_of(pairs, |&(room, user)| (room.simple(), user.simple()));
    write(connection, SQL, items).await.map(drop)
}

pub(super) async fn lift_bans(
    connection: &mut SqliteConnection,
    pairs: &[(RoomId, UserId)],
) -> Result<()> {
    const SQL: &str = "DELETE FROM bans WHERE (room, user_id) IN \
         (SELECT unhex(value ->> 0), unhex(value ->> 1) FROM jsonb_each(?1))";
    let items = rows_of(pairs, |&(room, user)| (room.simple(), user.simple()));
    write(connection, SQL, items).await.map(drop)
}

/// Comings and goings, and changes of a role, tell who it was.
pub(super) async fn forget_names(
    connection: &mut SqliteConnection,
    pairs: &[(RoomId, UserId)],
) -> Result<()> {
    const SQL: &str = "UPDATE feed SET data = CASE kind WHEN 'roomUpdated' \
             THEN json_set(data, '$.member.user.username', p.value ->> 2, \
                 '$.member.user.displayName', p.value ->> 3) \
             ELSE json_set(data, '$.user.username', p.value ->> 2, \
                 '$.user.displayName', p.value ->> 3) END \
         FROM jsonb_each(?1) p \
         WHERE feed.room = unhex(p.value ->> 0) \
             AND feed.kind IN ('memberJoined', 'memberLeft', 'roomUpdated') \
             AND coalesce(feed.data ->> '$.user.id', feed.data ->> '$.member.user.id') = p.value ->> 1";
    let items = rows_of(pairs, |&(room, user)| {
        (
            room.simple(),
            user.hyphenated(),
            DELETED_USERNAME,
            DELETED_DISPLAY_NAME,
        )
    });
    write(connection, SQL, items).await.map(drop)
}
