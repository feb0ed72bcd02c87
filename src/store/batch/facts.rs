//! The facts of a batch's scope, one statement for each kind.

use std::collections::BTreeSet;

use super::{Facts, Scope, postgres, sqlite};
use crate::{
    error::Result,
    model::{Member, Message, MessageId, Room, RoomId, Timestamp, User, UserId},
    store::{
        accounts::user,
        members::member_columns,
        messages::message_columns,
        reactions::{Unsummarised, summarise},
        rooms::room_columns,
        sql::{Column, Dialect, Kind, ListSql, Record, Row, Session},
    },
};

const ROOM_AND_USER: [Column; 2] = [Column("room", Kind::Id), Column("user_id", Kind::Id)];

static ROOM_MEMBERS: ListSql<2> = ListSql::new(
    ROOM_AND_USER,
    concat!(
        "SELECT ",
        room_columns!(),
        ", ",
        member_columns!(),
        " FROM {rows} \
          {join} rooms r ON r.id = n.room \
          LEFT JOIN members m ON m.room = n.room AND m.user_id = n.user_id \
          LEFT JOIN users u ON u.id = m.user_id"
    ),
);

/// The rooms that messages are about to be sent to, and their senders' memberships.
pub(super) async fn room_members<S: Session>(
    session: &mut S,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    if scope.members.is_empty() {
        return Ok(());
    }
    let statement = ROOM_MEMBERS.list(&scope.members, |&(room, user)| [room.into(), user.into()]);
    let pairs: Vec<(Room, Option<Member>)> = session.all(statement).await?;
    for (room, member) in pairs {
        facts.rooms.insert(room.id, room);
        facts.add_members(member);
    }
    Ok(())
}

/// The locks are taken in id order, so that two batches never wait for each other. A row that was updated during the
/// wait is returned in its new state.
static ROOMS: ListSql<1> = ListSql::new(
    [Column("id", Kind::Id)],
    concat!(
        "SELECT ",
        room_columns!(),
        " FROM rooms r WHERE r.id {among} ORDER BY r.id {for update}"
    ),
);

/// Locks the rooms.
pub(super) async fn rooms<S: Session>(
    session: &mut S,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    if scope.rooms.is_empty() {
        return Ok(());
    }
    let statement = ROOMS.list(&scope.rooms, |room| [(*room).into()]);
    for room in session.all::<Room>(statement).await? {
        facts.rooms.insert(room.id, room);
    }
    Ok(())
}

static MESSAGES: ListSql<1> = ListSql::new(
    [Column("id", Kind::Id)],
    concat!(
        "SELECT ",
        message_columns!(),
        " FROM messages m LEFT JOIN users u ON u.id = m.sender WHERE m.id {among}"
    ),
);

pub(super) async fn messages<S: Session>(
    session: &mut S,
    ids: impl IntoIterator<Item = &MessageId, IntoIter: ExactSizeIterator>,
    facts: &mut Facts,
) -> Result<()> {
    let ids = ids.into_iter();
    if ids.len() == 0 {
        return Ok(());
    }
    let statement = MESSAGES.list(ids, |id| [(*id).into()]);
    for message in session.all::<Message>(statement).await? {
        facts.messages.insert(message.id, message);
    }
    Ok(())
}

/// As [`messages`]. Reactions that an earlier version wrote are rewritten first, but only in `locked` rooms: clients
/// may name messages of any room.
pub(super) async fn locked_messages<S: Session>(
    session: &mut S,
    ids: impl IntoIterator<Item = &MessageId, IntoIter: ExactSizeIterator>,
    locked: &BTreeSet<RoomId>,
    facts: &mut Facts,
) -> Result<()> {
    let ids = ids.into_iter();
    if ids.len() == 0 {
        return Ok(());
    }
    let statement = MESSAGES.list(ids, |id| [(*id).into()]);
    let mut old = Vec::new();
    for (message, Unsummarised(is_old)) in session.all::<(Message, Unsummarised)>(statement).await?
    {
        if is_old && locked.contains(&message.room) {
            old.push(message.id);
        }
        facts.messages.insert(message.id, message);
    }
    if !old.is_empty() {
        summarise(session, &old).await?;
        messages(session, &old, facts).await?;
    }
    Ok(())
}

/// A user, their member, ban and mute rows in a room, and whether to lock the account against deletion (`keep`).
static PEOPLE: ListSql<3> = ListSql::each(
    [
        ROOM_AND_USER[0],
        ROOM_AND_USER[1],
        Column("keep", Kind::Flag),
    ],
    postgres::PEOPLE,
    sqlite::PEOPLE,
);

/// A row of [`PEOPLE`].
struct Person {
    room: RoomId,
    user: User,
    deleted: bool,
    member: Option<Member>,
    ban: Option<Option<Timestamp>>,
    mute: Option<Timestamp>,
}

impl Record for Person {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let banned: bool = row.get("banned")?;
        let until: Option<Timestamp> = row.get("banned_until")?;
        Ok(Person {
            room: row.get("room")?,
            user: user(row, "user_id")?,
            deleted: row.get("deleted")?,
            member: Option::read(row)?,
            ban: banned.then_some(until),
            mute: row.get("outside_mute")?,
        })
    }
}

/// Users, members, bans and mutes. A user without a room is read with the nil room, and their account is locked.
pub(super) async fn people<S: Session>(
    session: &mut S,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    let members = scope
        .members
        .iter()
        .map(|&(room, user)| (room, user, false));
    let users = scope.users.iter().map(|&user| (RoomId::nil(), user, true));
    let people: Vec<(RoomId, UserId, bool)> = members.chain(users).collect();
    if people.is_empty() {
        return Ok(());
    }
    let statement = PEOPLE.list(people, |(room, user, keep)| {
        [room.into(), user.into(), keep.into()]
    });
    for person in session.all::<Person>(statement).await? {
        facts.add_members(person.member);
        let pair = (person.room, person.user.id);
        if let Some(until) = person.ban {
            facts.bans.insert(pair, until);
        }
        if let Some(until) = person.mute {
            facts.mutes.insert(pair, until);
        }
        if !person.deleted {
            facts.users.insert(person.user.id, person.user);
        }
    }
    Ok(())
}

static SUCCESSORS: ListSql<2> =
    ListSql::each(ROOM_AND_USER, postgres::SUCCESSORS, sqlite::SUCCESSORS);

pub(super) async fn successors<S: Session>(
    session: &mut S,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    if scope.successors.is_empty() {
        return Ok(());
    }
    let statement = SUCCESSORS.list(&scope.successors, |&(room, user)| {
        [room.into(), user.into()]
    });
    for successor in session.all::<Member>(statement).await? {
        facts.successors.insert(successor.room, successor.user.id);
        facts.add_members([successor]);
    }
    Ok(())
}

static ACQUAINTANCES: ListSql<2> = ListSql::new(
    [Column("one", Kind::Id), Column("other", Kind::Id)],
    "SELECT n.one, n.other FROM {rows} \
     WHERE EXISTS (SELECT 1 FROM members a \
         JOIN members b ON b.room = a.room AND b.user_id = n.other \
         JOIN rooms r ON r.id = a.room AND NOT r.deleted \
         WHERE a.user_id = n.one)",
);

struct Acquaintance(UserId, UserId);

impl Record for Acquaintance {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Acquaintance(row.get("one")?, row.get("other")?))
    }
}

/// Pairs that are members of a common room. These rooms are not locked: if a user leaves one concurrently, the pair
/// counts as if this were read before.
pub(super) async fn acquaintances<S: Session>(
    session: &mut S,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    if scope.acquaintances.is_empty() {
        return Ok(());
    }
    let statement = ACQUAINTANCES.list(&scope.acquaintances, |&(one, other)| {
        [one.into(), other.into()]
    });
    let pairs: Vec<Acquaintance> = session.all(statement).await?;
    let pairs = pairs.into_iter().map(|pair| (pair.0, pair.1));
    facts.acquaintances.extend(pairs);
    Ok(())
}

static NAMED: ListSql<2> = ListSql::new(
    [Column("room", Kind::Id), Column("name", Kind::Text)],
    concat!(
        "SELECT ",
        member_columns!(),
        ", u.username_key FROM {rows} \
          {join} users u ON u.username_key = n.name \
          JOIN members m ON m.room = n.room AND m.user_id = u.id"
    ),
);

/// A member, and the user name in lower case.
struct Named(Member, String);

impl Record for Named {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Named(Member::read(row)?, row.get("username_key")?))
    }
}

pub(super) async fn named<S: Session>(
    session: &mut S,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    if scope.named.is_empty() {
        return Ok(());
    }
    let statement = NAMED.list(&scope.named, |(room, name)| {
        [(*room).into(), name.as_str().into()]
    });
    for Named(member, name) in session.all(statement).await? {
        facts.named.insert(name, member.user.id);
        facts.add_members([member]);
    }
    Ok(())
}
