//! What is true of a batch's scope, one statement for each kind of fact.

use std::collections::{BTreeSet, HashSet};

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use crate::{
    error::Result,
    model::{RoomId, UserId},
    sqlite::failure,
    store::{
        Facts, Scope,
        sqlite::{
            json,
            rows::{self, member_columns, message_columns, room_columns},
        },
    },
};

async fn fetch(
    connection: &mut SqliteConnection,
    sql: &'static str,
    list: String,
) -> Result<Vec<SqliteRow>> {
    let query = sqlx::query(sql).bind(list);
    query.fetch_all(connection).await.map_err(failure)
}

/// Rooms, and what those who write there are in them.
pub(super) async fn read_places(
    connection: &mut SqliteConnection,
    places: &HashSet<(RoomId, UserId)>,
    facts: &mut Facts,
) -> Result<()> {
    // CROSS JOIN keeps the list outermost.
    const SQL: &str = concat!(
        "SELECT ",
        room_columns!(),
        ", ",
        member_columns!(),
        " FROM jsonb_each(?1) p \
         CROSS JOIN rooms r ON r.id = unhex(p.value ->> 0) \
         LEFT JOIN members m ON m.room = r.id AND m.user_id = unhex(p.value ->> 1) \
         LEFT JOIN users u ON u.id = m.user_id"
    );
    let found = fetch(connection, SQL, pairs(places.iter().copied())?).await?;
    let places = rows::all(&found, |row| {
        Ok((rows::room(row, 0)?, rows::optional_member(row, 7)?))
    })?;
    for (room, member) in places {
        facts.rooms.insert(room.id, room);
        facts.add_members(member);
    }
    Ok(())
}

pub(super) async fn read_rooms(
    connection: &mut SqliteConnection,
    ids: &BTreeSet<RoomId>,
    facts: &mut Facts,
) -> Result<()> {
    const SQL: &str = concat!(
        "SELECT ",
        room_columns!(),
        " FROM rooms r WHERE r.id IN (SELECT unhex(value) FROM jsonb_each(?1))"
    );
    let found = fetch(connection, SQL, json(ids.iter().map(Uuid::as_simple))?).await?;
    for room in rows::all(&found, |row| rows::room(row, 0))? {
        facts.rooms.insert(room.id, room);
    }
    Ok(())
}

pub(super) async fn read_messages(
    connection: &mut SqliteConnection,
    ids: impl Iterator<Item = &Uuid>,
    facts: &mut Facts,
) -> Result<()> {
    const SQL: &str = concat!(
        "SELECT ",
        message_columns!(),
        " FROM messages m LEFT JOIN users u ON u.id = m.sender \
          WHERE m.id IN (SELECT unhex(value) FROM jsonb_each(?1))"
    );
    let found = fetch(connection, SQL, json(ids.map(Uuid::as_simple))?).await?;
    for message in rows::all(&found, |row| rows::message(row, 0))? {
        facts.messages.insert(message.id, message);
    }
    Ok(())
}

/// Users, members, bans and mutes in one statement; a user asked for without a room goes with the nil room.
pub(super) async fn read_people(
    connection: &mut SqliteConnection,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    // The first eight columns are a member's. CROSS JOIN keeps the list outermost.
    const SQL: &str = "SELECT unhex(p.value ->> 0), u.id, u.username, u.display_name, \
             m.role, m.joined_at, m.read_seq, m.muted_until, b.room IS NOT NULL, b.until, \
             u.deleted_at IS NOT NULL, x.until \
         FROM jsonb_each(?1) p \
         CROSS JOIN users u ON u.id = unhex(p.value ->> 1) \
         LEFT JOIN members m ON m.room = unhex(p.value ->> 0) AND m.user_id = u.id \
         LEFT JOIN bans b ON b.room = unhex(p.value ->> 0) AND b.user_id = u.id \
         LEFT JOIN restrictions x ON x.room = unhex(p.value ->> 0) AND x.user_id = u.id \
             AND x.kind = 'mute'";
    let alone = scope.users.iter().map(|&user| (Uuid::nil(), user));
    let found = fetch(
        connection,
        SQL,
        pairs(scope.members.iter().copied().chain(alone))?,
    )
    .await?;
    let people = rows::all(&found, |row| {
        let member = rows::optional_member(row, 0)?;
        let room: RoomId = row.try_get(0)?;
        let ban = row
            .try_get::<bool, _>(8)?
            .then(|| rows::optional_time(row, 9))
            .transpose()?;
        Ok((
            room,
            rows::user(row, 1)?,
            member,
            ban,
            row.try_get::<bool, _>(10)?,
            rows::optional_time(row, 11)?,
        ))
    })?;
    for (room, user, member, ban, deleted, muted) in people {
        facts.add_members(member);
        if let Some(until) = ban {
            facts.bans.insert((room, user.id), until);
        }
        if let Some(until) = muted {
            facts.mutes.insert((room, user.id), until);
        }
        if !deleted {
            facts.users.insert(user.id, user);
        }
    }
    Ok(())
}

pub(super) async fn read_heirs(
    connection: &mut SqliteConnection,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    const SQL: &str = concat!(
        "SELECT ",
        member_columns!(),
        " FROM jsonb_each(?1) p \
         CROSS JOIN rooms r ON r.id = unhex(p.value ->> 0) \
         CROSS JOIN members gone ON gone.room = r.id AND gone.user_id = unhex(p.value ->> 1) \
             AND (gone.role = 'owner' OR r.kind = 'direct') \
         CROSS JOIN members m ON m.room = r.id AND m.user_id = ( \
             SELECT x.user_id FROM members x \
             JOIN users y ON y.id = x.user_id AND y.deleted_at IS NULL \
             WHERE x.room = r.id AND x.user_id <> gone.user_id \
             ORDER BY x.role = 'admin' DESC, x.joined_at, x.user_id LIMIT 1) \
         JOIN users u ON u.id = m.user_id"
    );
    let found = fetch(connection, SQL, pairs(scope.heirs.iter().copied())?).await?;
    for heir in rows::all(&found, |row| rows::member(row, 0))? {
        facts.heirs.insert(heir.room, heir.user.id);
        facts.add_members([heir]);
    }
    Ok(())
}

/// Pairs who are members of a common room.
pub(super) async fn read_acquaintances(
    connection: &mut SqliteConnection,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    const SQL: &str = "SELECT unhex(p.value ->> 0), unhex(p.value ->> 1) FROM jsonb_each(?1) p \
         WHERE EXISTS (SELECT 1 FROM members m \
             JOIN members n ON n.room = m.room AND n.user_id = unhex(p.value ->> 1) \
             JOIN rooms r ON r.id = m.room AND NOT r.deleted \
             WHERE m.user_id = unhex(p.value ->> 0))";
    let found = fetch(connection, SQL, pairs(scope.acquaintances.iter().copied())?).await?;
    let pairs = rows::all(&found, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?;
    facts.acquaintances.extend(pairs);
    Ok(())
}

pub(super) async fn read_named(
    connection: &mut SqliteConnection,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    const SQL: &str = concat!(
        "SELECT ",
        member_columns!(),
        ", u.username_key FROM jsonb_each(?1) p \
         CROSS JOIN users u ON u.username_key = p.value ->> 1 \
         JOIN members m ON m.room = unhex(p.value ->> 0) AND m.user_id = u.id"
    );
    let asked = scope.named.iter().map(|(room, name)| (room.simple(), name));
    let found = fetch(connection, SQL, json(asked)?).await?;
    let named = rows::all(&found, |row| Ok((rows::member(row, 0)?, row.try_get(8)?)))?;
    for (member, name) in named {
        facts.named.insert(name, member.user.id);
        facts.add_members([member]);
    }
    Ok(())
}

fn pairs(pairs: impl Iterator<Item = (RoomId, UserId)>) -> Result<String> {
    json(pairs.map(|(room, user)| (room.simple(), user.simple())))
}
