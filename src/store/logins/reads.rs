//! The statements of [`LoginReads`].

use async_trait::async_trait;

use super::{Login, LoginReads, LoginSession};
use crate::{
    error::Result,
    model::{ClientInfo, LoginId, Timestamp, UserId},
    store::sql::{Access, Column, Database, Dialect, Kind, ListSql, Record, Row, Session, sql},
};

const LOGIN: &str = "SELECT id, user_id, token_hash, expires_at, coalesce(created_at, $2) AS created_at, \
         user_agent, address FROM logins \
     WHERE id = $1 AND NOT revoked AND expires_at > $2";

const SESSIONS: &str = "SELECT id, created_at, rotated_at, expires_at, user_agent, address FROM logins \
     WHERE user_id = $1 AND id > $2 AND NOT revoked AND expires_at > $3 ORDER BY id LIMIT $4";

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
            created_at: row.get("created_at")?,
            client: ClientInfo::read(row)?,
        })
    }
}

impl Record for ClientInfo {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(ClientInfo {
            user_agent: row.get("user_agent")?,
            address: row.get("address")?,
        })
    }
}

impl Record for LoginSession {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(LoginSession {
            id: row.get("id")?,
            created_at: row.get("created_at")?,
            refreshed_at: row.get("rotated_at")?,
            expires_at: row.get("expires_at")?,
            client: ClientInfo::read(row)?,
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

    async fn sessions(
        &self,
        user: UserId,
        after: Option<LoginId>,
        limit: u32,
    ) -> Result<Vec<LoginSession>> {
        let mut session = self.open(Access::Read).await?;
        let statement = sql(SESSIONS)
            .bind(user)
            .bind(after.unwrap_or_default())
            .bind(Timestamp::now())
            .bind(i64::from(limit));
        session.all(statement).await
    }

    async fn revoked(&self, logins: &[LoginId]) -> Result<Vec<LoginId>> {
        let mut session = self.open(Access::Read).await?;
        let statement = REVOKED.list(logins, |login| [(*login).into()]);
        session.all(statement).await
    }
}
