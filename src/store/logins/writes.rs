//! The statements of [`LoginWrites`].

use async_trait::async_trait;

use super::{
    Login, LoginWrites, NewPassword, Rotation,
    rotation::{self, LoginRow, Step},
};
use crate::{
    error::Result,
    model::{LoginId, Timestamp, UserId},
    store::{
        accounts::Applied,
        sql::{Access, Database, Dialect, Record, Row, Session, Sql, sql},
    },
};

/// The lock keeps the account from being deleted until the login is there to be revoked.
static OPEN: Sql = Sql::new(
    "INSERT INTO logins (id, user_id, token_hash, expires_at, created_at, user_agent, address) \
     SELECT $1, u.id, $3, $4, $5, $6, $7 FROM users u WHERE u.id = $2 AND u.deleted_at IS NULL \
         AND u.password_hash = coalesce($8, u.password_hash) {for share} \
     ON CONFLICT DO NOTHING",
);

const OPENED: &str = "SELECT id FROM logins WHERE id = $1";

static STATE: Sql = Sql::new(
    "SELECT user_id, token_hash, prev_hash, rotated_at, expires_at, revoked FROM logins \
     WHERE id = $1 {for update}",
);

const REPLACE: &str = "UPDATE logins SET prev_hash = token_hash, token_hash = $2, \
         rotated_at = $3, expires_at = $4 \
     WHERE id = $1";

const REVOKE: &str = "UPDATE logins SET revoked = true WHERE id = $1 AND user_id = $2";

const SET_PASSWORD: &str = "UPDATE users SET password_hash = $2 WHERE id = $1 AND deleted_at IS NULL AND password_hash = $3";

const HAS_PASSWORD: &str =
    "SELECT id FROM users WHERE id = $1 AND deleted_at IS NULL AND password_hash = $2";

/// A repeat of the command of time `$3` changes nothing: logins that were opened since stay open.
const REVOKE_OTHERS: &str = "UPDATE logins SET revoked = true, revoked_at = $3 \
     WHERE user_id = $1 AND id <> $2 AND NOT revoked \
         AND NOT EXISTS (SELECT 1 FROM logins WHERE user_id = $1 AND revoked_at = $3)";

const REVOKED_BY: &str = "SELECT id FROM logins WHERE user_id = $1 AND revoked_at = $2";

static OF_USER: Sql = Sql::new("SELECT id FROM logins WHERE user_id = $1 AND expires_at > {now}");

/// Revokes the user's open logins except `except`.
async fn revoke_others<S: Session>(
    session: &mut S,
    user: UserId,
    except: Option<LoginId>,
    at: Timestamp,
) -> Result<()> {
    let revoke = sql(REVOKE_OTHERS)
        .bind(user)
        .bind(except.unwrap_or_default())
        .bind(at);
    session.execute(revoke).await?;
    Ok(())
}

impl Record for LoginRow {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(LoginRow {
            user: row.get("user_id")?,
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
    async fn open_login(&self, login: &Login, password_hash: Option<&str>) -> Result<Applied> {
        let mut session = self.open(Access::Statement).await?;
        let insert = OPEN
            .statement()
            .bind(login.id)
            .bind(login.user)
            .bind(login.token_hash.as_slice())
            .bind(login.expires_at)
            .bind(login.created_at)
            .bind(login.client.user_agent.as_deref())
            .bind(login.client.address.as_deref())
            .bind(password_hash);
        if session.execute(insert).await? == 0 {
            let opened: Option<LoginId> = session.optional(sql(OPENED).bind(login.id)).await?;
            return Ok(match opened {
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
            Step::Revoke => (
                sql(REVOKE).bind(rotation.login).bind(state.user),
                Applied::LoginRevoked,
            ),
        };
        session.execute(statement).await?;
        session.commit().await?;
        Ok(applied)
    }

    async fn close_login(&self, user: UserId, login: LoginId) -> Result<Applied> {
        let mut session = self.open(Access::Statement).await?;
        let closed = session.execute(sql(REVOKE).bind(login).bind(user)).await?;
        session.commit().await?;
        Ok(match closed {
            0 => Applied::LoginRefused,
            _ => Applied::Done,
        })
    }

    async fn close_logins(
        &self,
        user: UserId,
        except: Option<LoginId>,
        at: Timestamp,
    ) -> Result<Applied> {
        let mut session = self.open(Access::Statement).await?;
        revoke_others(&mut session, user, except, at).await?;
        session.commit().await?;
        Ok(Applied::Done)
    }

    async fn set_password(
        &self,
        user: UserId,
        new: &NewPassword,
        except: Option<LoginId>,
        at: Timestamp,
    ) -> Result<Applied> {
        let mut session = self.open(Access::Transaction).await?;
        let update = sql(SET_PASSWORD)
            .bind(user)
            .bind(new.password_hash.as_str())
            .bind(new.replaces.as_str());
        if session.execute(update).await? == 0 {
            let repeated = sql(HAS_PASSWORD)
                .bind(user)
                .bind(new.password_hash.as_str());
            let repeated: Option<UserId> = session.optional(repeated).await?;
            return Ok(repeated.map_or(Applied::NoSuchUser, |_| Applied::Done));
        }
        // None of them can have been opened with the new password.
        revoke_others(&mut session, user, except, at).await?;
        session.commit().await?;
        Ok(Applied::Done)
    }

    async fn revoked_by(&self, user: UserId, at: Timestamp) -> Result<Vec<LoginId>> {
        let mut session = self.open(Access::Read).await?;
        session.all(sql(REVOKED_BY).bind(user).bind(at)).await
    }

    async fn logins_of(&self, user: UserId) -> Result<Vec<LoginId>> {
        let mut session = self.open(Access::Read).await?;
        session.all(OF_USER.statement().bind(user)).await
    }
}
