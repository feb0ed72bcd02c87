//! One batch, one transaction: up to five round trips to open it, one for each kind of change, one to commit. A batch
//! of new messages needs two in all: a look without locks, and one statement (see [`append`]).

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgQueryResult};
use uuid::Uuid;

use super::{
    Store,
    pool::{Lease, answer, failure},
    rows::{self, member_columns, message_columns, room_columns},
};
use crate::{
    error::{Error, Result},
    model::{Member, Message, Room, RoomId, Seq, Timestamp, UserId},
    store::{
        Changes, DELETED_DISPLAY_NAME, DELETED_USERNAME, Facts, FeedEntry, Scope, Transaction,
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
struct Open {
    lease: Lease,
    locked: BTreeSet<RoomId>,
    /// Those of `locked` that exist.
    known: HashSet<RoomId>,
}

/// What was seen without locks.
struct Seen {
    lease: Lease,
    rooms: BTreeSet<RoomId>,
    heads: HashMap<RoomId, Seq>,
}

pub(super) async fn begin(store: &Store, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)> {
    if scope.optimistic {
        return look(store, scope).await;
    }
    let mut lease = Lease::begin(&store.pool).await?;
    let mut facts = Facts::default();
    // Each statement takes its own snapshot, so what follows the locks sees what was committed before them.
    if !scope.rooms.is_empty() {
        read_rooms(&mut lease, &scope.rooms, &mut facts).await?;
    }
    let mut messages = scope.messages.union(&scope.new_messages).peekable();
    if messages.peek().is_some() {
        read_messages(&mut lease, messages, &mut facts).await?;
    }
    if !scope.members.is_empty() || !scope.users.is_empty() {
        read_people(&mut lease, scope, &mut facts).await?;
    }
    if !scope.heirs.is_empty() {
        read_heirs(&mut lease, scope, &mut facts).await?;
    }
    if !scope.named.is_empty() {
        read_named(&mut lease, scope, &mut facts).await?;
    }
    let open = Open {
        lease,
        locked: scope.rooms.clone(),
        known: facts.rooms.keys().copied().collect(),
    };
    Ok((facts, Box::new(open)))
}

async fn look(store: &Store, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)> {
    let mut lease = Lease::take(&store.pool).await?;
    let mut facts = Facts::default();
    read_places(&mut lease, &scope.members, &mut facts).await?;
    if !scope.messages.is_empty() {
        read_messages(&mut lease, scope.messages.iter(), &mut facts).await?;
    }
    if !scope.named.is_empty() {
        read_named(&mut lease, scope, &mut facts).await?;
    }
    let rooms = facts.rooms.values();
    let seen = Seen {
        lease,
        rooms: scope.rooms.clone(),
        heads: rooms.map(|room| (room.id, room.head)).collect(),
    };
    Ok((facts, Box::new(seen)))
}

/// Rooms, and what those who write there are in them.
async fn read_places(
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
        let member = match row.try_get::<Option<Uuid>, _>(8)? {
            Some(_) => Some(rows::member(row, 7)?),
            None => None,
        };
        Ok((rows::room(row, 0)?, member))
    })?;
    for (room, member) in places {
        facts.rooms.insert(room.id, room);
        if let Some(member) = member {
            facts.members.insert((member.room, member.user.id), member);
        }
    }
    Ok(())
}

async fn read_rooms(lease: &mut Lease, ids: &BTreeSet<RoomId>, facts: &mut Facts) -> Result<()> {
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

async fn read_messages(
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

/// Users, members and bans in one round trip; a user asked for without a room goes with the nil room.
async fn read_people(lease: &mut Lease, scope: &Scope, facts: &mut Facts) -> Result<()> {
    // The first eight columns are a member's. Who may become a member is locked against the end of their account, and
    // seen as they are once they are locked.
    const SQL: &str = "WITH kept AS MATERIALIZED ( \
             SELECT id, deleted_at FROM users WHERE id = ANY($3) ORDER BY id FOR KEY SHARE \
         ) \
         SELECT p.room, u.id, u.username, u.display_name, \
             m.role, m.joined_at, m.read_seq, m.muted_until, b.room IS NOT NULL, b.until, \
             coalesce(k.deleted_at, u.deleted_at) IS NOT NULL \
         FROM UNNEST($1::uuid[], $2::uuid[]) AS p (room, user_id) \
         JOIN users u ON u.id = p.user_id \
         LEFT JOIN kept k ON k.id = u.id \
         LEFT JOIN members m ON m.room = p.room AND m.user_id = p.user_id \
         LEFT JOIN bans b ON b.room = p.room AND b.user_id = p.user_id";
    let alone = scope.users.iter().map(|&user| (Uuid::nil(), user));
    let (rooms, users): (Vec<_>, Vec<_>) = scope.members.iter().copied().chain(alone).unzip();
    let kept: Vec<UserId> = scope.users.iter().copied().collect();
    let query = sqlx::query(SQL).bind(rooms).bind(users).bind(kept);
    let found = answer(query.fetch_all(&mut **lease)).await?;
    let people = rows::all(&found, |row| {
        let member = match row.try_get::<Option<&str>, _>(4)? {
            Some(_) => Some(rows::member(row, 0)?),
            None => None,
        };
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
        ))
    })?;
    for (room, user, member, ban, deleted) in people {
        let key = (room, user.id);
        if let Some(member) = member {
            facts.members.insert(key, member);
        }
        if let Some(until) = ban {
            facts.bans.insert(key, until);
        }
        if !deleted {
            facts.users.insert(user.id, user);
        }
    }
    Ok(())
}

async fn read_heirs(lease: &mut Lease, scope: &Scope, facts: &mut Facts) -> Result<()> {
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
        facts.members.insert((heir.room, heir.user.id), heir);
    }
    Ok(())
}

async fn read_named(lease: &mut Lease, scope: &Scope, facts: &mut Facts) -> Result<()> {
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
        facts.members.insert((member.room, member.user.id), member);
    }
    Ok(())
}

#[async_trait]
impl Transaction for Open {
    async fn commit(mut self: Box<Self>, changes: Changes) -> Result<()> {
        changes.check(&self.locked)?;
        let Changes {
            rooms,
            heads,
            new_messages,
            updated_messages,
            entries,
            members,
            removed_members,
            bans,
            lifted_bans,
            forgotten,
        } = changes;
        let (old, new): (Vec<Room>, Vec<Room>) = rooms
            .into_iter()
            .map(|room| Room {
                head: heads.get(&room.id).copied().unwrap_or(room.head),
                ..room
            })
            .partition(|room| self.known.contains(&room.id));
        let created: HashSet<RoomId> = new.iter().map(|room| room.id).collect();

        let lease = &mut self.lease;
        insert_rooms(lease, &new).await?;
        update_rooms(lease, &old).await?;
        move_heads(lease, &heads, &created).await?;
        insert_messages(lease, &new_messages).await?;
        update_messages(lease, &updated_messages).await?;
        insert_entries(lease, &entries).await?;
        remove_members(lease, &removed_members).await?;
        put_members(lease, &members).await?;
        lift_bans(lease, &lifted_bans).await?;
        put_bans(lease, &bans).await?;
        forget_names(lease, &forgotten).await?;
        self.lease.commit().await
    }
}

#[async_trait]
impl Transaction for Seen {
    async fn commit(mut self: Box<Self>, changes: Changes) -> Result<()> {
        changes.check(&self.rooms)?;
        let Changes {
            heads,
            new_messages,
            rooms,
            updated_messages,
            entries,
            members,
            removed_members,
            bans,
            lifted_bans,
            forgotten,
        } = changes;
        let only_new = rooms.is_empty()
            && updated_messages.is_empty()
            && entries.is_empty()
            && members.is_empty()
            && removed_members.is_empty()
            && bans.is_empty()
            && lifted_bans.is_empty()
            && forgotten.is_empty();
        if !only_new {
            return Err(Error::internal(
                "an optimistic batch stores new messages only",
            ));
        }
        append(&mut self.lease, &self.heads, heads, &new_messages).await
    }
}

/// Moves heads and stores messages, all or nothing, in one statement that is a transaction of its own. It fails where a
/// head is not what it was: a division by zero ends it, for want of a plainer way to say so in SQL.
///
/// Heads are moved in id order, as the locks of [`read_rooms`] are taken, so that two batches do not wait for each
/// other; a lock that was waited for shows the head as it is then.
async fn append(
    lease: &mut Lease,
    before: &HashMap<RoomId, Seq>,
    after: HashMap<RoomId, Seq>,
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
    let mut heads: Vec<(RoomId, Seq)> = after.into_iter().collect();
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

async fn insert_rooms(lease: &mut Lease, rooms: &[Room]) -> Result<()> {
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

async fn update_rooms(lease: &mut Lease, rooms: &[Room]) -> Result<()> {
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
async fn move_heads(
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
    message.metadata.as_ref().map(|json| json.0.get())
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

async fn insert_messages(lease: &mut Lease, messages: &[Message]) -> Result<()> {
    const SQL: &str = insert_messages!();
    if messages.is_empty() {
        return Ok(());
    }
    let query = bind_messages(sqlx::query(SQL), messages)?;
    let result = answer(query.execute(&mut **lease)).await?;
    expect(&result, messages.len(), "new messages")
}

async fn update_messages(lease: &mut Lease, messages: &[Message]) -> Result<()> {
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

async fn insert_entries(lease: &mut Lease, entries: &[FeedEntry]) -> Result<()> {
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

async fn put_members(lease: &mut Lease, members: &[Member]) -> Result<()> {
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

async fn put_bans(lease: &mut Lease, bans: &[(RoomId, UserId, Option<Timestamp>)]) -> Result<()> {
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

async fn remove_members(lease: &mut Lease, pairs: &[(RoomId, UserId)]) -> Result<()> {
    const SQL: &str = "DELETE FROM members m \
         USING UNNEST($1::uuid[], $2::uuid[]) AS n (room, user_id) \
         WHERE m.room = n.room AND m.user_id = n.user_id";
    remove(lease, SQL, pairs).await
}

async fn lift_bans(lease: &mut Lease, pairs: &[(RoomId, UserId)]) -> Result<()> {
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
async fn forget_names(lease: &mut Lease, pairs: &[(RoomId, UserId)]) -> Result<()> {
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
