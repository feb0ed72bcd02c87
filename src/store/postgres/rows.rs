//! Rows to nouns. Each column list stands beside the function that reads it, by position.

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow, types::Json};
use uuid::Uuid;

use crate::model::{
    Account, Member, Message, Metadata, Reaction, Role, Room, RoomKind, Timestamp, User,
};

/// Of `rooms r`. Seven columns.
macro_rules! room_columns {
    () => {
        "r.id, r.kind, r.name, r.head, r.created_by, r.created_at, r.deleted"
    };
}

/// Of `members m` and `users u`. Eight columns.
macro_rules! member_columns {
    () => {
        "m.room, m.user_id, coalesce(u.username, ''), coalesce(u.display_name, ''), \
         m.role, m.joined_at, m.read_seq, m.muted_until"
    };
}

/// Of `messages m` and `users u`. Sixteen columns.
macro_rules! message_columns {
    () => {
        "m.id, m.room, m.seq, m.change_seq, m.sender, coalesce(u.username, ''), \
         coalesce(u.display_name, ''), m.body, m.client_msg_id, m.reply_to, m.mentions, \
         m.reactions, m.metadata, m.created_at, m.edited_at, m.deleted_at"
    };
}

/// Of `users u`. Seven columns, the password's hash last.
macro_rules! account_columns {
    () => {
        "u.id, u.username, u.display_name, u.email, u.phone, u.created_at, u.password_hash"
    };
}

pub(super) use {account_columns, member_columns, message_columns, room_columns};

fn decode_error(message: String) -> sqlx::Error {
    sqlx::Error::Decode(message.into())
}

pub(super) fn time(row: &PgRow, index: usize) -> sqlx::Result<Timestamp> {
    row.try_get::<DateTime<Utc>, _>(index).map(Timestamp::from)
}

pub(super) fn optional_time(row: &PgRow, index: usize) -> sqlx::Result<Option<Timestamp>> {
    let time = row.try_get::<Option<DateTime<Utc>>, _>(index)?;
    Ok(time.map(Timestamp::from))
}

/// From the column `at` on, like the functions below.
pub(super) fn room(row: &PgRow, at: usize) -> sqlx::Result<Room> {
    let kind: &str = row.try_get(at + 1)?;
    Ok(Room {
        id: row.try_get(at)?,
        kind: RoomKind::parse(kind)
            .ok_or_else(|| decode_error(format!("no such room kind: {kind}")))?,
        name: row.try_get(at + 2)?,
        head: row.try_get(at + 3)?,
        created_by: row.try_get(at + 4)?,
        created_at: time(row, at + 5)?,
        deleted: row.try_get(at + 6)?,
    })
}

pub(super) fn user(row: &PgRow, at: usize) -> sqlx::Result<User> {
    Ok(User {
        id: row.try_get(at)?,
        username: row.try_get(at + 1)?,
        display_name: row.try_get(at + 2)?,
    })
}

pub(super) fn member(row: &PgRow, at: usize) -> sqlx::Result<Member> {
    let role: &str = row.try_get(at + 4)?;
    Ok(Member {
        room: row.try_get(at)?,
        user: user(row, at + 1)?,
        role: Role::parse(role).ok_or_else(|| decode_error(format!("no such role: {role}")))?,
        joined_at: time(row, at + 5)?,
        read_seq: row.try_get(at + 6)?,
        muted_until: optional_time(row, at + 7)?,
    })
}

/// A member's columns where there may be no member: those of a left join.
pub(super) fn optional_member(row: &PgRow, at: usize) -> sqlx::Result<Option<Member>> {
    let role: Option<&str> = row.try_get(at + 4)?;
    role.map(|_| member(row, at)).transpose()
}

pub(super) fn message(row: &PgRow, at: usize) -> sqlx::Result<Message> {
    let mentions: Option<Vec<Uuid>> = row.try_get(at + 10)?;
    let reactions: Option<Json<Vec<Reaction>>> = row.try_get(at + 11)?;
    let metadata: Option<String> = row.try_get(at + 12)?;
    Ok(Message {
        id: row.try_get(at)?,
        room: row.try_get(at + 1)?,
        seq: row.try_get(at + 2)?,
        change_seq: row.try_get(at + 3)?,
        sender: user(row, at + 4)?,
        body: row.try_get(at + 7)?,
        client_msg_id: row.try_get(at + 8)?,
        reply_to: row.try_get(at + 9)?,
        mentions: mentions.unwrap_or_default(),
        reactions: reactions.map(|json| json.0).unwrap_or_default(),
        metadata: metadata
            .map(Metadata::stored)
            .transpose()
            .map_err(|e| sqlx::Error::Decode(e.into()))?,
        created_at: time(row, at + 13)?,
        edited_at: optional_time(row, at + 14)?,
        deleted_at: optional_time(row, at + 15)?,
    })
}

pub(super) fn account(row: &PgRow) -> sqlx::Result<Account> {
    Ok(Account {
        user: user(row, 0)?,
        email: row.try_get(3)?,
        phone: row.try_get(4)?,
        created_at: time(row, 5)?,
    })
}

/// All rows, through one of the functions above.
pub(super) fn all<T>(
    rows: &[PgRow],
    read: impl Fn(&PgRow) -> sqlx::Result<T>,
) -> crate::error::Result<Vec<T>> {
    rows.iter()
        .map(read)
        .collect::<sqlx::Result<_>>()
        .map_err(super::pool::failure)
}
