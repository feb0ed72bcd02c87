//! The statements of [`LoginWrites`].

use async_trait::async_trait;

use super::{
    Login, LoginWrites, Rotation,
    rotation::{self, LoginRow, Step},
};
use crate::{
    error::Result,
    model::{LoginId, UserId},
    store::{
        accounts::Applied,
        sql::{Access, Database, Dialect, Record, Row, Session, Sql, sql},
    },
};

/// The lock keeps the account from being deleted until the login is there to be revoked.
static OPEN: Sql = Sql::new(
    "INSERT INTO logins (id, user_id, token_hash, expires_at) \
     SELECT $1, u.id, $3, $4 FROM users u WHERE u.id = $2 AND u.deleted_at IS NULL {for share} \
     ON CONFLICT DO NOTHING",
);

const ACCOUNT: &str = "SELECT id FROM users WHERE id = $1 AND deleted_at IS NULL";

static STATE: Sql = Sql::new(
    "SELECT token_hash, prev_hash, rotated_at, expires_at, revoked FROM logins \
     WHERE id = $1 {for update}",
);

const REPLACE: &str = "UPDATE logins SET prev_hash = token_hash, token_hash = $2, \
         rotated_at = $3, expires_at = $4 \
     WHERE id = $1";

const REVOKE: &str = "UPDATE logins SET revoked = true WHERE id = $1";

static OF_USER: Sql = Sql::new("SELECT id FROM logins WHERE user_id = $1 AND expires_at > {now}");

impl Record for LoginRow {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(LoginRow {
            token_hash: row.get("token_hash")?,
            prev_hash: row.get("prev_hash")?,
            rotated_at: row.get("rotated_at")?,
            expires_at: row.get("expires_at")?,
            revoked: row.get("revoked")?,
        })
    }
}

#[async_trait]
impl<D: Database> LoginWrites for D {
    async fn open_login(&self, login: &Login) -> Result<Applied> {
        let mut session = self.open(Access::Statement).await?;
        let insert = OPEN
            .statement()
            .bind(login.id)
            .bind(login.user)
            .bind(login.token_hash.as_slice())
            .bind(login.expires_at);
        if session.execute(insert).await? == 0 {
            let account = sql(ACCOUNT).bind(login.user);
            let account: Option<UserId> = session.optional(account).await?;
            return Ok(match account {
                Some(_) => Applied::Done,
                None => Applied::NoSuchUser,
            });
        }
        session.commit().await?;
        Ok(Applied::Done)
    }

    async fn rotate_login(&self, rotation: &Rotation) -> Result<Applied> {
        let mut session = self.open(Access::Transaction).await?;
        let state = STATE.statement().bind(rotation.login);
        let Some(state) = session.optional(state).await? else {
            return Ok(Applied::LoginRefused);
        };
        let (statement, applied) = match rotation::decide(&state, rotation) {
            Step::Repeated => return Ok(Applied::Done),
            Step::Refuse => return Ok(Applied::LoginRefused),
            Step::Revoked => return Ok(Applied::LoginRevoked),
            Step::Replace => {
                let replace = sql(REPLACE)
                    .bind(rotation.login)
                    .bind(rotation.new_hash.as_slice())
                    .bind(rotation.applied_at)
                    .bind(rotation.expires_at);
                (replace, Applied::Done)
            }
            Step::Revoke => (sql(REVOKE).bind(rotation.login), Applied::LoginRevoked),
        };
        session.execute(statement).await?;
        session.commit().await?;
        Ok(applied)
    }

    async fn close_login(&self, login: LoginId) -> Result<Applied> {
        let mut session = self.open(Access::Statement).await?;
        let closed = session.execute(sql(REVOKE).bind(login)).await?;
        session.commit().await?;
        Ok(match closed {
            0 => Applied::LoginRefused,
            _ => Applied::Done,
        })
    }

    async fn logins_of(&self, user: UserId) -> Result<Vec<LoginId>> {
        let mut session = self.open(Access::Read).await?;
        session.all(OF_USER.statement().bind(user)).await
    }
}
