//! The changes of a batch, one statement for each kind. New messages are in [`append`](super::append).

use super::{
    FeedEntry,
    append::{metadata, reactions},
    postgres, sqlite,
};
use crate::{
    error::{Error, Result},
    model::{Member, Message, Room, RoomId, Timestamp, UserId},
    store::{
        accounts::{DELETED_DISPLAY_NAME, DELETED_USERNAME},
        sql::{Column, Dialect, Kind, ListSql, Session, Value},
    },
};

/// Writes a row for each item and returns how many rows were written. Nothing is sent where there are no items.
async fn write<'a, S: Session, T, const N: usize>(
    session: &mut S,
    statement: &'static ListSql<N>,
    items: &'a [T],
    row: impl Fn(&'a T) -> [Value<'a>; N],
) -> Result<u64> {
    if items.is_empty() {
        return Ok(0);
    }
    session.execute(statement.list(items, row)).await
}

/// Checks that every row was written. Otherwise the facts were wrong.
fn expect(written: u64, rows: usize, what: &str) -> Result<()> {
    if written == rows as u64 {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{what}: {written} rows instead of {rows}"
    )))
}

static INSERT_ROOMS: ListSql<7> = ListSql::new(
    [
        Column("id", Kind::Id),
        Column("kind", Kind::Text),
        Column("name", Kind::Text),
        Column("head", Kind::Number),
        Column("created_by", Kind::Id),
        Column("created_at", Kind::Time),
        Column("deleted", Kind::Flag),
    ],
    "INSERT INTO rooms (id, kind, name, head, created_by, created_at, deleted) \
     SELECT n.id, n.kind, n.name, n.head, n.created_by, n.created_at, n.deleted FROM {rows}",
);

pub(super) async fn insert_rooms<S: Session>(session: &mut S, rooms: &[Room]) -> Result<()> {
    if rooms.is_empty() {
        return Ok(());
    }
    let statement = INSERT_ROOMS.list(rooms, |room| {
        [
            room.id.into(),
            room.kind.as_str().into(),
            room.name.as_str().into(),
            room.head.into(),
            room.created_by.into(),
            room.created_at.into(),
            room.deleted.into(),
        ]
    });
    match session.attempt(statement).await? {
        Ok(_) => Ok(()),
        // Created by another transaction after this one read the rooms: the retried batch finds it.
        Err(error) if is_unique_violation(&error) => Err(Error::unavailable("database", error)),
        Err(error) => Err(S::Dialect::failure(error)),
    }
}

fn is_unique_violation(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}

static UPDATE_ROOMS: ListSql<3> = ListSql::new(
    [
        Column("id", Kind::Id),
        Column("name", Kind::Text),
        Column("deleted", Kind::Flag),
    ],
    "UPDATE rooms SET name = n.name, deleted = n.deleted FROM {rows} WHERE rooms.id = n.id",
);

pub(super) async fn update_rooms<S: Session>(session: &mut S, rooms: &[Room]) -> Result<()> {
    let written = write(session, &UPDATE_ROOMS, rooms, |room| {
        [
            room.id.into(),
            room.name.as_str().into(),
            room.deleted.into(),
        ]
    });
    expect(written.await?, rooms.len(), "changed rooms")
}

static UPDATE_MESSAGES: ListSql<9> = ListSql::new(
    [
        Column("id", Kind::Id),
        Column("room", Kind::Id),
        Column("change_seq", Kind::Number),
        Column("body", Kind::Text),
        Column("mentions", Kind::Ids),
        Column("reactions", Kind::Json),
        Column("metadata", Kind::Text),
        Column("edited_at", Kind::Time),
        Column("deleted_at", Kind::Time),
    ],
    "UPDATE messages SET change_seq = n.change_seq, body = n.body, mentions = n.mentions, \
         reactions = n.reactions, metadata = n.metadata, edited_at = n.edited_at, \
         deleted_at = n.deleted_at \
     FROM {rows} WHERE messages.id = n.id AND messages.room = n.room",
);

pub(super) async fn update_messages<S: Session>(
    session: &mut S,
    messages: &[Message],
) -> Result<()> {
    let written = write(session, &UPDATE_MESSAGES, messages, |message| {
        [
            message.id.into(),
            message.room.into(),
            message.change_seq.into(),
            message.body.as_str().into(),
            message.mentions.as_slice().into(),
            reactions(message),
            metadata(message),
            message.edited_at.into(),
            message.deleted_at.into(),
        ]
    });
    expect(written.await?, messages.len(), "changed messages")
}

static INSERT_ENTRIES: ListSql<7> = ListSql::new(
    [
        Column("room", Kind::Id),
        Column("seq", Kind::Number),
        Column("kind", Kind::Text),
        Column("message", Kind::Id),
        Column("data", Kind::Text),
        Column("detail", Kind::Text),
        Column("at", Kind::Time),
    ],
    "INSERT INTO feed (room, seq, kind, message, data, detail, at) \
     SELECT n.room, n.seq, n.kind, n.message, n.data, n.detail, n.at FROM {rows}",
);

pub(super) async fn insert_entries<S: Session>(
    session: &mut S,
    entries: &[FeedEntry],
) -> Result<()> {
    let written = write(session, &INSERT_ENTRIES, entries, |entry| {
        // Texts, ids and flags cannot fail to become JSON.
        let detail = entry.detail.as_ref();
        let detail = detail.map(|detail| serde_json::to_string(detail).unwrap_or_default());
        [
            entry.room.into(),
            entry.seq.into(),
            entry.kind.as_str().into(),
            entry.message.into(),
            entry.data.as_deref().into(),
            detail.into(),
            entry.at.into(),
        ]
    });
    expect(written.await?, entries.len(), "feed entries")
}

/// `WHERE true` keeps SQLite from reading `ON` as a join's.
static PUT_MEMBERS: ListSql<6> = ListSql::new(
    [
        Column("room", Kind::Id),
        Column("user_id", Kind::Id),
        Column("role", Kind::Text),
        Column("joined_at", Kind::Time),
        Column("read_seq", Kind::Number),
        Column("muted_until", Kind::Time),
    ],
    "INSERT INTO members (room, user_id, role, joined_at, read_seq, muted_until) \
     SELECT n.room, n.user_id, n.role, n.joined_at, n.read_seq, n.muted_until \
     FROM {rows} WHERE true \
     ON CONFLICT (room, user_id) DO UPDATE SET role = excluded.role, \
         joined_at = excluded.joined_at, read_seq = excluded.read_seq, \
         muted_until = excluded.muted_until",
);

pub(super) async fn put_members<S: Session>(session: &mut S, members: &[Member]) -> Result<()> {
    let written = write(session, &PUT_MEMBERS, members, |member| {
        [
            member.room.into(),
            member.user.id.into(),
            member.role.as_str().into(),
            member.joined_at.into(),
            member.read_seq.into(),
            member.muted_until.into(),
        ]
    });
    written.await.map(drop)
}

static PUT_BANS: ListSql<3> = ListSql::new(
    [
        ROOM_AND_USER[0],
        ROOM_AND_USER[1],
        Column("until", Kind::Time),
    ],
    "INSERT INTO bans (room, user_id, until) \
     SELECT n.room, n.user_id, n.until FROM {rows} WHERE true \
     ON CONFLICT (room, user_id) DO UPDATE SET until = excluded.until",
);

pub(super) async fn put_bans<S: Session>(
    session: &mut S,
    bans: &[(RoomId, UserId, Option<Timestamp>)],
) -> Result<()> {
    let written = write(session, &PUT_BANS, bans, |&(room, user, until)| {
        [room.into(), user.into(), until.into()]
    });
    written.await.map(drop)
}

static PUT_MUTES: ListSql<3> = ListSql::new(
    [
        ROOM_AND_USER[0],
        ROOM_AND_USER[1],
        Column("until", Kind::Time),
    ],
    "INSERT INTO restrictions (room, user_id, kind, until) \
     SELECT n.room, n.user_id, 'mute', n.until FROM {rows} WHERE true \
     ON CONFLICT (room, user_id, kind) DO UPDATE SET until = excluded.until",
);

pub(super) async fn put_mutes<S: Session>(
    session: &mut S,
    mutes: &[(RoomId, UserId, Timestamp)],
) -> Result<()> {
    let written = write(session, &PUT_MUTES, mutes, |&(room, user, until)| {
        [room.into(), user.into(), until.into()]
    });
    written.await.map(drop)
}

const ROOM_AND_USER: [Column; 2] = [Column("room", Kind::Id), Column("user_id", Kind::Id)];

static REMOVE_MEMBERS: ListSql<2> = ListSql::new(
    ROOM_AND_USER,
    "DELETE FROM members WHERE (room, user_id) IN (SELECT n.room, n.user_id FROM {rows})",
);

pub(super) async fn remove_members<S: Session>(
    session: &mut S,
    pairs: &[(RoomId, UserId)],
) -> Result<()> {
    write(session, &REMOVE_MEMBERS, pairs, room_and_user)
        .await
        .map(drop)
}

static LIFT_BANS: ListSql<2> = ListSql::new(
    ROOM_AND_USER,
    "DELETE FROM bans WHERE (room, user_id) IN (SELECT n.room, n.user_id FROM {rows})",
);

pub(super) async fn lift_bans<S: Session>(
    session: &mut S,
    pairs: &[(RoomId, UserId)],
) -> Result<()> {
    write(session, &LIFT_BANS, pairs, room_and_user)
        .await
        .map(drop)
}

static LIFT_MUTES: ListSql<2> = ListSql::new(
    ROOM_AND_USER,
    "DELETE FROM restrictions WHERE kind = 'mute' \
     AND (room, user_id) IN (SELECT n.room, n.user_id FROM {rows})",
);

pub(super) async fn lift_mutes<S: Session>(
    session: &mut S,
    pairs: &[(RoomId, UserId)],
) -> Result<()> {
    write(session, &LIFT_MUTES, pairs, room_and_user)
        .await
        .map(drop)
}

fn room_and_user(&(room, user): &(RoomId, UserId)) -> [Value<'_>; 2] {
    [room.into(), user.into()]
}

/// The user's id is the text that stands in the JSON of events.
static ERASE_NAMES: ListSql<4> = ListSql::each(
    [
        Column("room", Kind::Id),
        Column("user_id", Kind::Text),
        Column("username", Kind::Text),
        Column("display_name", Kind::Text),
    ],
    postgres::ERASE_NAMES,
    sqlite::ERASE_NAMES,
);

/// Events of joining and leaving and of a changed role have a user's name in them.
pub(super) async fn erase_names<S: Session>(
    session: &mut S,
    pairs: &[(RoomId, UserId)],
) -> Result<()> {
    let written = write(session, &ERASE_NAMES, pairs, |&(room, user)| {
        [
            room.into(),
            Some(user.to_string()).into(),
            DELETED_USERNAME.into(),
            DELETED_DISPLAY_NAME.into(),
        ]
    });
    written.await.map(drop)
}
