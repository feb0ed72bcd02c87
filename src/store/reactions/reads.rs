//! The statements of [`ReactionReads`].

use async_trait::async_trait;

use super::{ReactionReads, Reactor};
use crate::{
    error::Result,
    model::{MessageId, Seq, UserId},
    store::{
        accounts::user,
        sql::{Access, Column, Database, Dialect, Kind, ListSql, Record, Row, Session, sql},
    },
};

const REACTORS: &str = "SELECT r.seq, r.user_id, coalesce(u.username, '') AS username, \
         coalesce(u.display_name, '') AS display_name \
     FROM reactions r LEFT JOIN users u ON u.id = r.user_id \
     WHERE r.message = $1 AND r.emoji = $2 AND (r.seq, r.user_id) > ($3, $4) \
     ORDER BY r.seq, r.user_id LIMIT $5";

static REACTED: ListSql<2> = ListSql::new(
    [Column("message", Kind::Id), Column("user_id", Kind::Id)],
    "SELECT r.message, r.user_id, r.emoji FROM {rows} \
     {join} reactions r ON r.message = n.message AND r.user_id = n.user_id",
);

impl Record for Reactor {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Reactor {
            seq: row.get("seq")?,
            user: user(row, "user_id")?,
        })
    }
}

/// A row of [`REACTED`].
struct Given(MessageId, UserId, String);

impl Record for Given {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Given(
            row.get("message")?,
            row.get("user_id")?,
            row.get("emoji")?,
        ))
    }
}

#[async_trait]
impl<D: Database> ReactionReads for D {
    async fn reactors(
        &self,
        message: MessageId,
        emoji: &str,
        (seq, user): (Seq, UserId),
        limit: u32,
    ) -> Result<Vec<Reactor>> {
        let mut session = self.open(Access::Read).await?;
        let statement = sql(REACTORS)
            .bind(message)
            .bind(emoji)
            .bind(seq)
            .bind(user)
            .bind(i64::from(limit));
        session.all(statement).await
    }

    async fn reacted(
        &self,
        who: &[(MessageId, UserId)],
    ) -> Result<Vec<(MessageId, UserId, String)>> {
        let mut session = self.open(Access::Read).await?;
        let statement = REACTED.list(who, |&(message, user)| [message.into(), user.into()]);
        let given: Vec<Given> = session.all(statement).await?;
        let given = given.into_iter();
        Ok(given.map(|given| (given.0, given.1, given.2)).collect())
    }
}
