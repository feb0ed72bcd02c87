//! What is true of a batch's scope, one round trip for each kind of fact.

use std::collections::{BTreeSet, HashSet};

use sqlx::Row;
use uuid::Uuid;

use crate::{
    error::Result,
    model::{RoomId, UserId},
    store::{
        Facts, MUTE, Scope,
        postgres::{
            pool::{Lease, answer},
            rows::{self, member_columns, message_columns, room_columns},
        },
    },
};

/// Rooms, and what those who write there are in them.
pub(super) async fn read_places(
    lease: &mut Lease,
    places: &HashSet<(RoomId, UserId)>,
    facts: &mut Facts,
) -> Result<()> {
    const SQL: &str = concat!(
        "SELECT ",
        room_columns!(),
        ", ",
        member_columns!(),
        " FROM UNNEST($1::uuid[], $2::uuid[]) AS p (room, user_id) \
         JOIN rooms r ON r.id = p.room \
         LEFT JOIN members m ON m.room = p.room AND m.user_id = p.user_id \
         LEFT JOIN users u ON u.id = m.user_id"
    );
    let (rooms, users): (Vec<RoomId>, Vec<UserId>) = places.iter().copied().unzip();
    let query = sqlx::query(SQL).bind(rooms).bind(users);
    let found = answer(query.fetch_all(&mut **lease)).await?;
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
    lease: &mut Lease,
    ids: &BTreeSet<RoomId>,
    facts: &mut Facts,
) -> Result<()> {
    // In id order, so that two batches never wait for each other. NO KEY UPDATE, because no id changes. A row
    // that was updated while we waited comes as it is now.
    const SQL: &str = concat!(
        "SELECT ",
        room_columns!(),
        " FROM rooms r WHERE r.id = ANY($1) ORDER BY r.id FOR NO KEY UPDATE"
    );
    let ids: Vec<Uuid> = ids.iter().copied().collect();
    let found = answer(sqlx::query(SQL).bind(ids).fetch_all(&mut **lease)).await?;
    for room in rows::all(&found, |row| rows::room(row, 0))? {
        facts.rooms.insert(room.id, room);
    }
    Ok(())
}

pub(super) async fn read_messages(
    lease: &mut Lease,
    ids: impl Iterator<Item = &Uuid>,
    facts: &mut Facts,
) -> Result<()> {
    const SQL: &str = concat!(
        "SELECT ",
        message_columns!(),
        " FROM messages m LEFT JOIN users u ON u.id = m.sender WHERE m.id = ANY($1)"
    );
    let ids: Vec<Uuid> = ids.copied().collect();
    let found = answer(sqlx::query(SQL).bind(ids).fetch_all(&mut **lease)).await?;
    for message in rows::all(&found, |row| rows::message(row, 0))? {
        facts.messages.insert(message.id, message);
    }
    Ok(())
}

/// Users, members, bans and mutes in one round trip; a user asked for without a room goes with the nil room.
pub(super) async fn read_people(lease: &mut Lease, scope: &Scope, facts: &mut Facts) -> Result<()> {
    // The first eight columns are a member's. Who may become a member is locked against the end of their account, and
    // seen as they are once they are locked.
    const SQL: &str = "WITH kept AS MATERIALIZED ( \
             SELECT id, deleted_at FROM users WHERE id = ANY($3) ORDER BY id FOR KEY SHARE \
         ) \
         SELECT p.room, u.id, u.username, u.display_name, \
             m.role, m.joined_at, m.read_seq, m.muted_until, b.room IS NOT NULL, b.until, \
             coalesce(k.deleted_at, u.deleted_at) IS NOT NULL, x.until \
         FROM UNNEST($1::uuid[], $2::uuid[]) AS p (room, user_id) \
         JOIN users u ON u.id = p.user_id \
         LEFT JOIN kept k ON k.id = u.id \
         LEFT JOIN members m ON m.room = p.room AND m.user_id = p.user_id \
         LEFT JOIN bans b ON b.room = p.room AND b.user_id = p.user_id \
         LEFT JOIN restrictions x ON x.room = p.room AND x.user_id = p.user_id AND x.kind = $4";
    let alone = scope.users.iter().map(|&user| (Uuid::nil(), user));
    let (rooms, users): (Vec<_>, Vec<_>) = scope.members.iter().copied().chain(alone).unzip();
    let kept: Vec<UserId> = scope.users.iter().copied().collect();
    let query = sqlx::query(SQL)
        .bind(rooms)
        .bind(users)
        .bind(kept)
        .bind(MUTE);
    let found = answer(query.fetch_all(&mut **lease)).await?;
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

pub(super) async fn read_heirs(lease: &mut Lease, scope: &Scope, facts: &mut Facts) -> Result<()> {
    const SQL: &str = concat!(
        "SELECT DISTINCT ON (m.room) ",
        member_columns!(),
        " FROM UNNEST($1::uuid[], $2::uuid[]) AS p (room, user_id) \
         JOIN rooms r ON r.id = p.room \
         JOIN members gone ON gone.room = p.room AND gone.user_id = p.user_id \
             AND (gone.role = 'owner' OR r.kind = 'direct') \
         JOIN members m ON m.room = p.room AND m.user_id <> p.user_id \
         JOIN users u ON u.id = m.user_id AND u.deleted_at IS NULL \
         ORDER BY m.room, (m.role = 'admin') DESC, m.joined_at, m.user_id"
    );
    let (rooms, users): (Vec<RoomId>, Vec<UserId>) = scope.heirs.iter().copied().unzip();
    let query = sqlx::query(SQL).bind(rooms).bind(users);
    let found = answer(query.fetch_all(&mut **lease)).await?;
    for heir in rows::all(&found, |row| rows::member(row, 0))? {
        facts.heirs.insert(heir.room, heir.user.id);
        facts.add_members([heir]);
    }
    Ok(())
}

/// Pairs who are members of a common room. These rooms are not locked: who leaves one now was in it a moment ago.
pub(super) async fn read_acquaintances(
    lease: &mut Lease,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    const SQL: &str = "SELECT p.one, p.other FROM UNNEST($1::uuid[], $2::uuid[]) AS p (one, other) \
         WHERE EXISTS (SELECT FROM members m \
             JOIN members n ON n.room = m.room AND n.user_id = p.other \
             JOIN rooms r ON r.id = m.room AND NOT r.deleted \
             WHERE m.user_id = p.one)";
    let (ones, others): (Vec<UserId>, Vec<UserId>) = scope.acquaintances.iter().copied().unzip();
    let query = sqlx::query(SQL).bind(ones).bind(others);
    let found = answer(query.fetch_all(&mut **lease)).await?;
    let pairs = rows::all(&found, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?;
    facts.acquaintances.extend(pairs);
    Ok(())
}

pub(super) async fn read_named(lease: &mut Lease, scope: &Scope, facts: &mut Facts) -> Result<()> {
    const SQL: &str = concat!(
        "SELECT ",
        member_columns!(),
        ", u.username_key FROM UNNEST($1::uuid[], $2::text[]) AS p (room, name) \
         JOIN users u ON u.username_key = p.name \
         JOIN members m ON m.room = p.room AND m.user_id = u.id"
    );
    let (rooms, names): (Vec<RoomId>, Vec<&str>) = scope
        .named
        .iter()
        .map(|(room, name)| (*room, name.as_str()))
        .unzip();
    let query = sqlx::query(SQL).bind(rooms).bind(names);
    let found = answer(query.fetch_all(&mut **lease)).await?;
    let named = rows::all(&found, |row| Ok((rows::member(row, 0)?, row.try_get(8)?)))?;
    for (member, name) in named {
        facts.named.insert(name, member.user.id);
        facts.add_members([member]);
    }
    Ok(())
}
