//! What a batch writes, one statement for each kind of change.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgQueryResult;
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    model::{Member, Message, Metadata, Room, RoomId, Seq, Timestamp, UserId},
    store::{
        DELETED_DISPLAY_NAME, DELETED_USERNAME, FeedEntry, MUTE,
        postgres::pool::{Lease, answer, failure},
    },
};

/// With [`bind_messages`], which fills $1 to $14.
macro_rules! insert_messages {
    () => {
        "INSERT INTO messages (room, seq, id, change_seq, sender, body, \
             client_msg_id, reply_to, mentions, reactions, metadata, created_at, edited_at, \
             deleted_at) \
         SELECT n.room, n.seq, n.id, n.change_seq, n.sender, n.body, n.client_msg_id, \
             n.reply_to, n.mentions::uuid[], n.reactions::jsonb, n.metadata, n.created_at, \
             n.edited_at, n.deleted_at \
         FROM UNNEST($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::uuid[], $6::text[], \
             $7::text[], $8::uuid[], $9::text[], $10::text[], $11::text[], $12::timestamptz[], \
             $13::timestamptz[], $14::timestamptz[]) \
             AS n (room, seq, id, change_seq, sender, body, client_msg_id, reply_to, mentions, \
                 reactions, metadata, created_at, edited_at, deleted_at)"
    };
}

/// Moves heads and stores messages, all or nothing, in one statement that is a transaction of its own. It fails where a
/// head is not what it was: a division by zero ends it, for want of a plainer way to say so in SQL.
///
/// Heads are moved in id order, as the locks of [`super::facts::read_rooms`] are taken, so that two batches do not wait for each
/// other; a lock that was waited for shows the head as it is then.
pub(super) async fn append(
    lease: &mut Lease,
    before: &HashMap<RoomId, Seq>,
    after: &HashMap<RoomId, Seq>,
    messages: &[Message],
) -> Result<()> {
    const SQL: &str = concat!(
        "WITH moved AS ( \
             UPDATE rooms r SET head = n.head \
             FROM UNNEST($15::uuid[], $16::bigint[], $17::bigint[]) AS n (id, before, head) \
             WHERE r.id = n.id AND r.head = n.before RETURNING 1), \
         stored AS (",
        insert_messages!(),
        ") SELECT 1 / (count(*) = cardinality($15))::int FROM moved"
    );
    let mut heads: Vec<(RoomId, Seq)> = after.iter().map(|(&room, &head)| (room, head)).collect();
    heads.sort_unstable();
    let was = column(&heads, |(room, _)| before.get(room).copied());
    let (ids, heads): (Vec<RoomId>, Vec<Seq>) = heads.into_iter().unzip();
    let query = bind_messages(sqlx::query(SQL), messages)?
        .bind(ids)
        .bind(was)
        .bind(heads);
    let appended = answer(async { Ok(query.execute(&mut **lease).await) }).await?;
    appended.map(drop).map_err(|error| match &error {
        sqlx::Error::Database(database)
            if database.is_unique_violation()
                || database.code().as_deref() == Some(DIVISION_BY_ZERO) =>
        {
            Error::conflict("a room moved on, or a message is stored already")
        }
        _ => failure(error),
    })
}

/// PostgreSQL's manual, appendix A.
const DIVISION_BY_ZERO: &str = "22012";

/// Every row must have been there or been new: anything else means that the facts were not true.
fn expect(result: &PgQueryResult, rows: usize, what: &str) -> Result<()> {
    if result.rows_affected() == rows as u64 {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{what}: {} rows instead of {rows}",
        result.rows_affected()
    )))
}

fn column<'a, T, U>(items: &'a [T], value: impl Fn(&'a T) -> U) -> Vec<U> {
    items.iter().map(value).collect()
}

fn times<T>(items: &[T], value: impl Fn(&T) -> Option<Timestamp>) -> Vec<Option<DateTime<Utc>>> {
    items
        .iter()
        .map(|item| value(item).map(Timestamp::datetime))
        .collect()
}

pub(super) async fn insert_rooms(lease: &mut Lease, rooms: &[Room]) -> Result<()> {
    const SQL: &str = "INSERT INTO rooms (id, kind, name, head, created_by, created_at, deleted) \
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::uuid[], \
             $6::timestamptz[], $7::bool[])";
    if rooms.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(SQL)
        .bind(column(rooms, |r| r.id))
        .bind(column(rooms, |r| r.kind.as_str()))
        .bind(column(rooms, |r| r.name.as_str()))
        .bind(column(rooms, |r| r.head))
        .bind(column(rooms, |r| r.created_by))
        .bind(column(rooms, |r| r.created_at.datetime()))
        .bind(column(rooms, |r| r.deleted));
    match answer(async { Ok(query.execute(&mut **lease).await) }).await? {
        Ok(_) => Ok(()),
        // Someone created it after our look: the batch finds it when it is run again.
        Err(error) if is_unique_violation(&error) => Err(Error::unavailable("database", error)),
        Err(error) => Err(failure(error)),
    }
}

fn is_unique_violation(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}

pub(super) async fn update_rooms(lease: &mut Lease, rooms: &[Room]) -> Result<()> {
    const SQL: &str = "UPDATE rooms r SET name = n.name, deleted = n.deleted \
         FROM UNNEST($1::uuid[], $2::text[], $3::bool[]) AS n (id, name, deleted) \
         WHERE r.id = n.id";
    if rooms.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(SQL)
        .bind(column(rooms, |r| r.id))
        .bind(column(rooms, |r| r.name.as_str()))
        .bind(column(rooms, |r| r.deleted));
    let result = answer(query.execute(&mut **lease)).await?;
    expect(&result, rooms.len(), "changed rooms")
}

/// A new room was stored with its head.
pub(super) async fn move_heads(
    lease: &mut Lease,
    heads: &HashMap<RoomId, Seq>,
    created: &HashSet<RoomId>,
) -> Result<()> {
    const SQL: &str = "UPDATE rooms r SET head = n.head \
         FROM UNNEST($1::uuid[], $2::bigint[]) AS n (id, head) WHERE r.id = n.id";
    let (ids, heads): (Vec<RoomId>, Vec<Seq>) = heads
        .iter()
        .filter(|(room, _)| !created.contains(room))
        .unzip();
    if ids.is_empty() {
        return Ok(());
    }
    let rows = ids.len();
    let query = sqlx::query(SQL).bind(ids).bind(heads);
    let result = answer(query.execute(&mut **lease)).await?;
    expect(&result, rows, "moved heads")
}

/// An array of uuids as PostgreSQL writes one: UNNEST takes arrays of arrays apart, so each travels as text.
fn mentions(message: &Message) -> Option<String> {
    if message.mentions.is_empty() {
        return None;
    }
    let ids: Vec<String> = message.mentions.iter().map(Uuid::to_string).collect();
    Some(format!("{{{}}}", ids.join(",")))
}

fn reactions(messages: &[Message]) -> Result<Vec<Option<String>>> {
    messages
        .iter()
        .map(|message| match message.reactions.as_slice() {
            [] => Ok(None),
            reactions => serde_json::to_string(reactions)
                .map(Some)
                .map_err(Error::internal),
        })
        .collect()
}

fn metadata(message: &Message) -> Option<&str> {
    message.metadata.as_ref().map(Metadata::as_json)
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind_messages<'q>(query: Query<'q>, messages: &'q [Message]) -> Result<Query<'q>> {
    Ok(query
        .bind(column(messages, |m| m.room))
        .bind(column(messages, |m| m.seq))
        .bind(column(messages, |m| m.id))
        .bind(column(messages, |m| m.change_seq))
        .bind(column(messages, |m| m.sender.id))
        .bind(column(messages, |m| m.body.as_str()))
        .bind(column(messages, |m| m.client_msg_id.as_str()))
        .bind(column(messages, |m| m.reply_to))
        .bind(column(messages, mentions))
        .bind(reactions(messages)?)
        .bind(column(messages, metadata))
        .bind(column(messages, |m| m.created_at.datetime()))
        .bind(times(messages, |m| m.edited_at))
        .bind(times(messages, |m| m.deleted_at)))
}

pub(super) async fn insert_messages(lease: &mut Lease, messages: &[Message]) -> Result<()> {
    const SQL: &str = insert_messages!();
    if messages.is_empty() {
        return Ok(());
    }
    let query = bind_messages(sqlx::query(SQL), messages)?;
    let result = answer(query.execute(&mut **lease)).await?;
    expect(&result, messages.len(), "new messages")
}

pub(super) async fn update_messages(lease: &mut Lease, messages: &[Message]) -> Result<()> {
    const SQL: &str = "UPDATE messages m SET change_seq = n.change_seq, body = n.body, \
             mentions = n.mentions::uuid[], reactions = n.reactions::jsonb, \
             metadata = n.metadata, edited_at = n.edited_at, deleted_at = n.deleted_at \
         FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], \
             $7::text[], $8::timestamptz[], $9::timestamptz[]) \
             AS n (id, room, change_seq, body, mentions, reactions, metadata, edited_at, \
                 deleted_at) \
         WHERE m.id = n.id AND m.room = n.room";
    if messages.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(SQL)
        .bind(column(messages, |m| m.id))
        .bind(column(messages, |m| m.room))
        .bind(column(messages, |m| m.change_seq))
        .bind(column(messages, |m| m.body.as_str()))
        .bind(column(messages, mentions))
        .bind(reactions(messages)?)
        .bind(column(messages, metadata))
        .bind(times(messages, |m| m.edited_at))
        .bind(times(messages, |m| m.deleted_at));
    let result = answer(query.execute(&mut **lease)).await?;
    expect(&result, messages.len(), "changed messages")
}

pub(super) async fn insert_entries(lease: &mut Lease, entries: &[FeedEntry]) -> Result<()> {
    const SQL: &str = "INSERT INTO feed (room, seq, kind, message, data, at) \
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::text[], $4::uuid[], $5::text[], \
             $6::timestamptz[])";
    if entries.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(SQL)
        .bind(column(entries, |e| e.room))
        .bind(column(entries, |e| e.seq))
        .bind(column(entries, |e| e.kind.as_str()))
        .bind(column(entries, |e| e.message))
        .bind(column(entries, |e| e.data.as_deref()))
        .bind(column(entries, |e| e.at.datetime()));
    let result = answer(query.execute(&mut **lease)).await?;
    expect(&result, entries.len(), "feed entries")
}

pub(super) async fn put_members(lease: &mut Lease, members: &[Member]) -> Result<()> {
    const SQL: &str = "INSERT INTO members AS m (room, user_id, role, joined_at, read_seq, muted_until) \
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], \
             $5::bigint[], $6::timestamptz[]) \
         ON CONFLICT (room, user_id) DO UPDATE SET role = excluded.role, \
             joined_at = excluded.joined_at, read_seq = excluded.read_seq, \
             muted_until = excluded.muted_until";
    if members.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(SQL)
        .bind(column(members, |m| m.room))
        .bind(column(members, |m| m.user.id))
        .bind(column(members, |m| m.role.as_str()))
        .bind(column(members, |m| m.joined_at.datetime()))
        .bind(column(members, |m| m.read_seq))
        .bind(times(members, |m| m.muted_until));
    answer(query.execute(&mut **lease)).await.map(drop)
}

pub(super) async fn put_bans(
    lease: &mut Lease,
    bans: &[(RoomId, UserId, Option<Timestamp>)],
) -> Result<()> {
    const SQL: &str = "INSERT INTO bans (room, user_id, until) \
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[]) \
         ON CONFLICT (room, user_id) DO UPDATE SET until = excluded.until";
    if bans.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(SQL)
        .bind(column(bans, |ban| ban.0))
        .bind(column(bans, |ban| ban.1))
        .bind(times(bans, |ban| ban.2));
    answer(query.execute(&mut **lease)).await.map(drop)
}

pub(super) async fn put_mutes(
    lease: &mut Lease,
    mutes: &[(RoomId, UserId, Timestamp)],
) -> Result<()> {
    const SQL: &str = "INSERT INTO restrictions (room, user_id, kind, until) \
         SELECT n.room, n.user_id, $4, n.until \
         FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[]) AS n (room, user_id, until) \
         ON CONFLICT (room, user_id, kind) DO UPDATE SET until = excluded.until";
    if mutes.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(SQL)
        .bind(column(mutes, |mute| mute.0))
        .bind(column(mutes, |mute| mute.1))
        .bind(column(mutes, |mute| mute.2.datetime()))
        .bind(MUTE);
    answer(query.execute(&mut **lease)).await.map(drop)
}

pub(super) async fn lift_mutes(lease: &mut Lease, pairs: &[(RoomId, UserId)]) -> Result<()> {
    const SQL: &str = "DELETE FROM restrictions x \
         USING UNNEST($1::uuid[], $2::uuid[]) AS n (room, user_id) \
         WHERE x.room = n.room AND x.user_id = n.user_id AND x.kind = 'mute'";
    remove(lease, SQL, pairs).await
}

pub(super) async fn remove_members(lease: &mut Lease, pairs: &[(RoomId, UserId)]) -> Result<()> {
    const SQL: &str = "DELETE FROM members m \
         USING UNNEST($1::uuid[], $2::uuid[]) AS n (room, user_id) \
         WHERE m.room = n.room AND m.user_id = n.user_id";
    remove(lease, SQL, pairs).await
}

pub(super) async fn lift_bans(lease: &mut Lease, pairs: &[(RoomId, UserId)]) -> Result<()> {
    const SQL: &str = "DELETE FROM bans b \
         USING UNNEST($1::uuid[], $2::uuid[]) AS n (room, user_id) \
         WHERE b.room = n.room AND b.user_id = n.user_id";
    remove(lease, SQL, pairs).await
}

async fn remove(lease: &mut Lease, sql: &'static str, pairs: &[(RoomId, UserId)]) -> Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    let (rooms, users): (Vec<RoomId>, Vec<UserId>) = pairs.iter().copied().unzip();
    let query = sqlx::query(sql).bind(rooms).bind(users);
    answer(query.execute(&mut **lease)).await.map(drop)
}

/// Comings and goings, and changes of a role, tell who it was.
pub(super) async fn forget_names(lease: &mut Lease, pairs: &[(RoomId, UserId)]) -> Result<()> {
    const SQL: &str = "UPDATE feed f SET data = jsonb_set(f.data::jsonb, \
             CASE f.kind WHEN 'roomUpdated' THEN '{member,user}' ELSE '{user}' END::text[], \
             jsonb_build_object('id', p.user_id, 'username', $3::text, 'displayName', $4::text))::text \
         FROM UNNEST($1::uuid[], $2::uuid[]) AS p (room, user_id) \
         WHERE f.room = p.room AND f.kind IN ('memberJoined', 'memberLeft', 'roomUpdated') \
             AND coalesce(f.data::jsonb #>> '{user,id}', f.data::jsonb #>> '{member,user,id}') \
                 = p.user_id::text";
    if pairs.is_empty() {
        return Ok(());
    }
    let (rooms, users): (Vec<RoomId>, Vec<UserId>) = pairs.iter().copied().unzip();
    let query = sqlx::query(SQL)
        .bind(rooms)
        .bind(users)
        .bind(DELETED_USERNAME)
        .bind(DELETED_DISPLAY_NAME);
    answer(query.execute(&mut **lease)).await.map(drop)
}
