//! One batch, one transaction, one statement for each kind of change. Each statement crosses to SQLite's thread and back,
//! so a batch of new messages takes two: one that reads, one that writes.

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use serde::Serialize;
use sqlx::{Row, Sqlite, SqliteConnection, sqlite::SqliteRow};
use uuid::{Uuid, fmt::Simple};

use super::{
    Store, json,
    rows::{self, member_columns, message_columns, room_columns},
};
use crate::{
    error::{Error, Result},
    model::{Member, Message, Room, RoomId, Seq, Timestamp, UserId},
    sqlite::failure,
    store::{
        Changes, DELETED_DISPLAY_NAME, DELETED_USERNAME, Facts, FeedEntry, Scope, Transaction,
    },
};

struct Open {
    tx: sqlx::Transaction<'static, Sqlite>,
    locked: BTreeSet<RoomId>,
    /// Those of `locked` that exist.
    known: HashSet<RoomId>,
    /// Nobody looked whether the new messages are there already.
    optimistic: bool,
}

/// The writer is the lock of all rooms, so none can come to be between here and the commit.
pub(super) async fn begin(store: &Store, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)> {
    let mut tx = store.database.write().await?;
    let mut facts = Facts::default();
    if scope.optimistic {
        read_places(&mut tx, &scope.members, &mut facts).await?;
        if !scope.messages.is_empty() {
            read_messages(&mut tx, scope.messages.iter(), &mut facts).await?;
        }
    } else {
        if !scope.rooms.is_empty() {
            read_rooms(&mut tx, &scope.rooms, &mut facts).await?;
        }
        let mut messages = scope.messages.union(&scope.new_messages).peekable();
        if messages.peek().is_some() {
            read_messages(&mut tx, messages, &mut facts).await?;
        }
        if !scope.members.is_empty() || !scope.users.is_empty() {
            read_people(&mut tx, scope, &mut facts).await?;
        }
    }
    if !scope.heirs.is_empty() {
        read_heirs(&mut tx, scope, &mut facts).await?;
    }
    if !scope.named.is_empty() {
        read_named(&mut tx, scope, &mut facts).await?;
    }
    let open = Open {
        tx,
        locked: scope.rooms.clone(),
        known: facts.rooms.keys().copied().collect(),
        optimistic: scope.optimistic,
    };
    Ok((facts, Box::new(open)))
}

async fn fetch(
    connection: &mut SqliteConnection,
    sql: &'static str,
    list: String,
) -> Result<Vec<SqliteRow>> {
    let query = sqlx::query(sql).bind(list);
    query.fetch_all(connection).await.map_err(failure)
}

/// Rooms, and what those who write there are in them.
async fn read_places(
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

async fn read_rooms(
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

async fn read_messages(
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

/// Users, members and bans in one statement; a user asked for without a room goes with the nil room.
async fn read_people(
    connection: &mut SqliteConnection,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    // The first eight columns are a member's. CROSS JOIN keeps the list outermost.
    const SQL: &str = "SELECT unhex(p.value ->> 0), u.id, u.username, u.display_name, \
             m.role, m.joined_at, m.read_seq, m.muted_until, b.room IS NOT NULL, b.until, \
             u.deleted_at IS NOT NULL \
         FROM jsonb_each(?1) p \
         CROSS JOIN users u ON u.id = unhex(p.value ->> 1) \
         LEFT JOIN members m ON m.room = unhex(p.value ->> 0) AND m.user_id = u.id \
         LEFT JOIN bans b ON b.room = unhex(p.value ->> 0) AND b.user_id = u.id";
    let alone = scope.users.iter().map(|&user| (Uuid::nil(), user));
    let found = fetch(
        connection,
        SQL,
        pairs(scope.members.iter().copied().chain(alone))?,
    )
    .await?;
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

async fn read_heirs(
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
        facts.members.insert((heir.room, heir.user.id), heir);
    }
    Ok(())
}

async fn read_named(
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
        facts.members.insert((member.room, member.user.id), member);
    }
    Ok(())
}

fn pairs(pairs: impl Iterator<Item = (RoomId, UserId)>) -> Result<String> {
    json(pairs.map(|(room, user)| (room.simple(), user.simple())))
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
            .partition(|room| self.known.contains(&room.id));

        let connection = &mut *self.tx;
        insert_rooms(connection, &new).await?;
        update_rooms(connection, &old).await?;
        append(connection, &heads, &new_messages, self.optimistic).await?;
        update_messages(connection, &updated_messages).await?;
        insert_entries(connection, &entries).await?;
        remove_members(connection, &removed_members).await?;
        put_members(connection, &members).await?;
        lift_bans(connection, &lifted_bans).await?;
        put_bans(connection, &bans).await?;
        forget_names(connection, &forgotten).await?;
        self.tx.commit().await.map_err(failure)
    }
}

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

async fn insert_rooms(connection: &mut SqliteConnection, rooms: &[Room]) -> Result<()> {
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

async fn update_rooms(connection: &mut SqliteConnection, rooms: &[Room]) -> Result<()> {
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
    message.metadata.as_ref().map(|json| json.0.get())
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

/// Moves heads and stores messages. An `optimistic` caller is told by [`Code::Conflict`] that a message is there already.
async fn append(
    connection: &mut SqliteConnection,
    heads: &HashMap<RoomId, Seq>,
    messages: &[Message],
    optimistic: bool,
) -> Result<()> {
    const SQL: &str = "UPDATE rooms SET head = n.value ->> 1 \
         FROM jsonb_each(?1) n WHERE rooms.id = unhex(n.value ->> 0); \
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
    let moved = heads.iter().map(|(room, head)| (room.simple(), head));
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
            sqlx::Error::Database(database) if optimistic && database.is_unique_violation() => {
                Error::conflict("a message is stored already")
            }
            _ => failure(error),
        })?;
    expect(
        written.rows_affected(),
        heads.len() + messages.len(),
        "moved heads and new messages",
    )
}

async fn update_messages(connection: &mut SqliteConnection, messages: &[Message]) -> Result<()> {
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

async fn insert_entries(connection: &mut SqliteConnection, entries: &[FeedEntry]) -> Result<()> {
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

async fn put_members(connection: &mut SqliteConnection, members: &[Member]) -> Result<()> {
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

async fn put_bans(
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

async fn remove_members(
    connection: &mut SqliteConnection,
    pairs: &[(RoomId, UserId)],
) -> Result<()> {
    const SQL: &str = "DELETE FROM members WHERE (room, user_id) IN \
         (SELECT unhex(value ->> 0), unhex(value ->> 1) FROM jsonb_each(?1))";
    let items = rows_of(pairs, |&(room, user)| (room.simple(), user.simple()));
    write(connection, SQL, items).await.map(drop)
}

async fn lift_bans(connection: &mut SqliteConnection, pairs: &[(RoomId, UserId)]) -> Result<()> {
    const SQL: &str = "DELETE FROM bans WHERE (room, user_id) IN \
         (SELECT unhex(value ->> 0), unhex(value ->> 1) FROM jsonb_each(?1))";
    let items = rows_of(pairs, |&(room, user)| (room.simple(), user.simple()));
    write(connection, SQL, items).await.map(drop)
}

/// Comings and goings, and changes of a role, tell who it was.
async fn forget_names(connection: &mut SqliteConnection, pairs: &[(RoomId, UserId)]) -> Result<()> {
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
