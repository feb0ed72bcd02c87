//! The statements of [`EpochReads`] and [`EpochWrites`].

use std::collections::HashMap;

use async_trait::async_trait;

use super::{EpochReads, EpochWrites, Replacement};
use crate::{
    error::Result,
    model::{Delivered, Epoch, LostHistory, MessageId, Occupant, Position, RoomId, Seq, Timestamp},
    store::sql::{Access, Column, Database, Dialect, Kind, ListSql, Record, Row, Session, sql},
};

/// The epoch as a column of another statement, which reads it in the same snapshot.
macro_rules! epoch_column {
    () => {
        "(SELECT epoch FROM store_epoch) AS epoch"
    };
}

pub(in crate::store) use epoch_column;

const EPOCH: &str = "SELECT epoch AS id FROM store_epoch";

const REPLACE: &str = "UPDATE store_epoch SET epoch = $2, since = $3 WHERE epoch = $1";

static POSITIONS: ListSql<2> = ListSql::new(
    [Column("room", Kind::Id), Column("number", Kind::Number)],
    "SELECT r.id, r.head, n.number, m.id AS message, f.seq IS NOT NULL AS other FROM {rows} \
     {join} rooms r ON r.id = n.room \
     LEFT JOIN messages m ON m.room = n.room AND m.seq = n.number \
     LEFT JOIN feed f ON f.room = n.room AND f.seq = n.number",
);

impl Record for Position {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let message: Option<MessageId> = row.get("message")?;
        let occupant = match message {
            Some(message) => Occupant::Message(message),
            None if row.get("other")? => Occupant::Other,
            None => Occupant::Nothing,
        };
        Ok(Position {
            room: row.get("id")?,
            head: row.get("head")?,
            number: row.get("number")?,
            occupant,
        })
    }
}

async fn positions<S: Session>(session: &mut S, delivered: &[Delivered]) -> Result<Vec<Position>> {
    let statement = POSITIONS.list(delivered, |one| [one.room.into(), one.number().into()]);
    session.all(statement).await
}

#[async_trait]
impl<D: Database> EpochReads for D {
    async fn epoch(&self) -> Result<Epoch> {
        let mut session = self.open(Access::Read).await?;
        session.one(sql(EPOCH)).await
    }

    async fn positions(&self, delivered: &[Delivered]) -> Result<Vec<Position>> {
        let mut session = self.open(Access::Read).await?;
        positions(&mut session, delivered).await
    }
}

#[async_trait]
impl<D: Database> EpochWrites for D {
    async fn replace_epoch(
        &self,
        from: Epoch,
        to: Epoch,
        delivered: &[Delivered],
    ) -> Result<Replacement> {
        let mut session = self.open(Access::Background).await?;
        let replace = sql(REPLACE).bind(from).bind(to).bind(Timestamp::now());
        if session.execute(replace).await? == 0 {
            let current: Epoch = session.one(sql(EPOCH)).await?;
            return Ok(if current == to {
                Replacement::Repeated
            } else {
                Replacement::Superseded(current)
            });
        }
        let found = positions(&mut session, delivered).await?;
        let found: HashMap<(RoomId, Seq), Position> = found
            .into_iter()
            .map(|one| ((one.room, one.number), one))
            .collect();
        let lost: Vec<LostHistory> = delivered
            .iter()
            .filter_map(|one| one.lost(found.get(&(one.room, one.number()))))
            .collect();
        if lost.is_empty() {
            // Dropped without a commit.
            return Ok(Replacement::Refuted);
        }
        session.commit().await?;
        Ok(Replacement::Done(lost))
    }
}
