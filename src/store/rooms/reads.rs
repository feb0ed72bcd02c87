//! The statements of [`RoomReads`].

use async_trait::async_trait;

use super::{RoomReads, room_columns};
use crate::{
    error::Result,
    model::{Position, Room, RoomId, Seq},
    store::sql::{
        Access, Column, Database, Dialect, Kind, ListSql, Record, Row, Session, on_replica, sql,
    },
};

const ROOM: &str = concat!(
    "SELECT ",
    room_columns!(),
    " FROM rooms r WHERE r.id = $1 AND NOT r.deleted"
);

const PUBLIC: &str = concat!(
    "SELECT ",
    room_columns!(),
    " FROM rooms r WHERE r.kind = 'public' AND NOT r.deleted AND r.id > $1 \
      ORDER BY r.id LIMIT $2"
);

static HEADS: ListSql<1> = ListSql::new(
    [Column("id", Kind::Id)],
    "SELECT id, head FROM rooms WHERE id {among} AND NOT deleted",
);

static TIPS: ListSql<1> = ListSql::new(
    [Column("id", Kind::Id)],
    "SELECT r.id, r.head, r.head AS number, m.id AS message, m.id IS NULL AND r.head > 0 AS other FROM rooms r \
     LEFT JOIN messages m ON m.room = r.id AND m.seq = r.head \
     WHERE r.id {among}",
);

struct Head(RoomId, Seq);

impl Record for Head {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Head(row.get("id")?, row.get("head")?))
    }
}

#[async_trait]
impl<D: Database> RoomReads for D {
    async fn room(&self, room: RoomId) -> Result<Option<Room>> {
        let mut session = self.open(Access::Read).await?;
        session.optional(sql(ROOM).bind(room)).await
    }

    async fn public_rooms(&self, after: Option<RoomId>, limit: u32) -> Result<Vec<Room>> {
        let statement = || {
            sql(PUBLIC)
                .bind(after.unwrap_or(RoomId::nil()))
                .bind(i64::from(limit))
        };
        let read = async |mut session: D::Session| session.all(statement()).await.map(Some);
        if let Some(rooms) = on_replica(self, read).await {
            return Ok(rooms);
        }
        self.open(Access::Read).await?.all(statement()).await
    }

    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>> {
        let mut session = self.open(Access::Read).await?;
        let statement = HEADS.list(rooms, |room| [(*room).into()]);
        let heads: Vec<Head> = session.all(statement).await?;
        Ok(heads.into_iter().map(|head| (head.0, head.1)).collect())
    }

    async fn tips(&self, rooms: &[RoomId]) -> Result<Vec<Position>> {
        let mut session = self.open(Access::Read).await?;
        let statement = TIPS.list(rooms, |room| [(*room).into()]);
        session.all(statement).await
    }
}
