//! The statements of [`LoginReads`].

use async_trait::async_trait;

use super::{Login, LoginReads};
use crate::{
    error::Result,
    model::{LoginId, Timestamp},
    store::sql::{Access, Column, Database, Dialect, Kind, ListSql, Record, Row, Session, sql},
};

const LOGIN: &str = "SELECT id, user_id, token_hash, expires_at FROM logins \
     WHERE id = $1 AND NOT revoked AND expires_at > $2";

static REVOKED: ListSql<1> = ListSql::new(
    [Column("id", Kind::Id)],
    "SELECT id FROM logins WHERE id {among} AND revoked",
);

impl Record for Login {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Login {
            id: row.get("id")?,
            user: row.get("user_id")?,
            token_hash: row.get("token_hash")?,
            expires_at: row.get("expires_at")?,
        })
    }
}

#[async_trait]
impl<D: Database> LoginReads for D {
    async fn login(&self, login: LoginId) -> Result<Option<Login>> {
        let mut session = self.open(Access::Read).await?;
        let statement = sql(LOGIN).bind(login).bind(Timestamp::now());
        session.optional(statement).await
    }

    async fn revoked(&self, logins: &[LoginId]) -> Result<Vec<LoginId>> {
        let mut session = self.open(Access::Read).await?;
        let statement = REVOKED.list(logins, |login| [(*login).into()]);
        session.all(statement).await
    }
}
