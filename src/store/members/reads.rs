//! The statements of [`MemberReads`] and [`MemberRooms`].

use async_trait::async_trait;

use super::{MemberKey, MemberReads, MemberRooms, RoomEntry, member_columns};
use crate::{
    error::Result,
    model::{Member, Room, RoomId, UserId},
    store::{
        epoch::epoch_column,
        rooms::room_columns,
        sql::{Access, Column, Database, Dialect, Kind, ListSql, Record, Row, Session, sql},
    },
};

const MEMBERSHIP: &str = concat!(
    "SELECT ",
    room_columns!(),
    ", ",
    member_columns!(),
    " FROM rooms r \
      LEFT JOIN members m ON m.room = r.id AND m.user_id = $2 \
      LEFT JOIN users u ON u.id = m.user_id \
      WHERE r.id = $1 AND NOT r.deleted"
);

static ENTRIES: ListSql<3> = ListSql::new(
    [
        Column("room", Kind::Id),
        Column("user_id", Kind::Id),
        Column("position", Kind::Number),
    ],
    concat!(
        "SELECT ",
        room_columns!(),
        ", ",
        member_columns!(),
        ", n.position, (SELECT count(*) FROM (SELECT 1 FROM messages x \
             WHERE x.room = m.room AND x.seq > m.read_seq LIMIT 1000) AS above) AS unread, ",
        epoch_column!(),
        " FROM {rows} \
          {join} rooms r ON r.id = n.room AND NOT r.deleted \
          LEFT JOIN members m ON m.room = n.room AND m.user_id = n.user_id \
          LEFT JOIN users u ON u.id = m.user_id"
    ),
);

static ARE_MEMBERS: ListSql<2> = ListSql::new(
    [Column("room", Kind::Id), Column("user_id", Kind::Id)],
    "SELECT m.room, m.user_id FROM {rows} \
     {join} rooms r ON r.id = n.room AND NOT r.deleted \
     {join} members m ON m.room = n.room AND m.user_id = n.user_id",
);

/// No id is below the nil UUID, and none is it.
const MEMBERS: &str = concat!(
    "SELECT ",
    member_columns!(),
    " FROM members m LEFT JOIN users u ON u.id = m.user_id \
      WHERE m.room = $1 AND m.user_id > $2 ORDER BY m.user_id LIMIT $3"
);

const ROOMS: &str = concat!(
    "SELECT ",
    room_columns!(),
    ", ",
    member_columns!(),
    " FROM members m JOIN rooms r ON r.id = m.room \
      LEFT JOIN users u ON u.id = m.user_id \
      WHERE m.user_id = $1 AND m.room > $2 AND NOT r.deleted \
      ORDER BY m.room LIMIT $3"
);

const ROOM_IDS: &str = "SELECT m.room AS id FROM members m \
     JOIN rooms r ON r.id = m.room AND NOT r.deleted \
     WHERE m.user_id = $1 AND m.room > $2 ORDER BY m.room LIMIT $3";

/// An entry, and its position among those asked for.
struct EntryAt(usize, RoomEntry);

impl Record for EntryAt {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let entry = RoomEntry {
            room: Room::read(row)?,
            member: Option::read(row)?,
            unread: row.count("unread")?,
            epoch: row.get("epoch")?,
        };
        Ok(EntryAt(row.count("position")? as usize, entry))
    }
}

#[async_trait]
impl<D: Database> MemberReads for D {
    async fn membership(
        &self,
        room: RoomId,
        user: UserId,
    ) -> Result<Option<(Room, Option<Member>)>> {
        let mut session = self.open(Access::Read).await?;
        session
            .optional(sql(MEMBERSHIP).bind(room).bind(user))
            .await
    }

    async fn entries(&self, who: &[(RoomId, UserId)]) -> Result<Vec<Option<RoomEntry>>> {
        let mut session = self.open(Access::Read).await?;
        let statement = ENTRIES.list(who.iter().enumerate(), |(position, &(room, user))| {
            [room.into(), user.into(), (position as i64).into()]
        });
        let found: Vec<EntryAt> = session.all(statement).await?;
        let mut entries = vec![None; who.len()];
        for EntryAt(position, entry) in found {
            if let Some(slot) = entries.get_mut(position) {
                *slot = Some(entry);
            }
        }
        Ok(entries)
    }

    async fn are_members(&self, who: &[(RoomId, UserId)]) -> Result<Vec<(RoomId, UserId)>> {
        let mut session = self.open(Access::Read).await?;
        let statement = ARE_MEMBERS.list(who, |&(room, user)| [room.into(), user.into()]);
        let found: Vec<MemberKey> = session.all(statement).await?;
        Ok(found.into_iter().map(|pair| (pair.0, pair.1)).collect())
    }

    async fn members(
        &self,
        room: RoomId,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<Member>> {
        let mut session = self.open(Access::Read).await?;
        let statement = sql(MEMBERS)
            .bind(room)
            .bind(after.unwrap_or(UserId::nil()))
            .bind(i64::from(limit));
        session.all(statement).await
    }

    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<(Room, Member)>> {
        let mut session = self.open(Access::Read).await?;
        let statement = sql(ROOMS)
            .bind(user)
            .bind(after.unwrap_or(RoomId::nil()))
            .bind(i64::from(limit));
        session.all(statement).await
    }
}

#[async_trait]
impl<D: Database> MemberRooms for D {
    async fn member_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<RoomId>> {
        let mut session = self.open(Access::Read).await?;
        let statement = sql(ROOM_IDS)
            .bind(user)
            .bind(after.unwrap_or(RoomId::nil()))
            .bind(i64::from(limit));
        session.all(statement).await
    }
}
