//! The writing half: accounts and logins.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use sqlx::{Row, sqlite::SqliteRow};

use super::{Store, expire, rows, transaction};
use crate::{
    error::Result,
    model::{LoginId, RoomId, Seq, Timestamp, UserId, username::skeleton},
    sqlite::failure,
    store::{
        AccountPatch, Applied, Changes, DELETED_DISPLAY_NAME, DELETED_USERNAME, ERASE, Expired,
        Facts, Login, NewAccount, Rotation, Scope, Transaction, Writes, deleted_key,
        rotation::{self, Step},
    },
};

#[async_trait]
impl Writes for Store {
    async fn begin(&self, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)> {
        transaction::begin(self, scope).await
    }

    async fn look(&self, scope: &Scope) -> Result<Facts> {
        transaction::look(self, scope).await
    }

    async fn append(&self, before: &HashMap<RoomId, Seq>, changes: &Changes) -> Result<()> {
        transaction::append(self, before, changes).await
    }

    async fn register(&self, new: &NewAccount) -> Result<Applied> {
        const INSERT: &str = "INSERT INTO users (id, username, username_key, display_name, email, \
                 phone, password_hash, created_at, skeleton) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING";
        const SAME: &str = "SELECT max(id = ?1 AND username_key = ?2) FROM users \
             WHERE id = ?1 OR username_key = ?2";
        let account = &new.account;
        let key = account.user.username.to_lowercase();
        let mut tx = self.database.write().await?;
        let insert = sqlx::query(INSERT)
            .bind(account.user.id)
            .bind(&account.user.username)
            .bind(&key)
            .bind(&account.user.display_name)
            .bind(&account.email)
            .bind(&account.phone)
            .bind(&new.password_hash)
            .bind(account.created_at.millis())
            .bind(skeleton(&account.user.username));
        let inserted = insert.execute(&mut *tx).await.map_err(failure)?;
        if inserted.rows_affected() == 1 {
            tx.commit().await.map_err(failure)?;
            return Ok(Applied::Done);
        }
        let same = sqlx::query_scalar(SAME).bind(account.user.id).bind(&key);
        let same: Option<bool> = same.fetch_one(&mut *tx).await.map_err(failure)?;
        Ok(match same {
            Some(true) => Applied::Done,
            Some(false) => Applied::NameTaken,
            None => Applied::NameConfusable,
        })
    }

    async fn update_account(&self, user: UserId, patch: &AccountPatch) -> Result<Applied> {
        const SQL: &str = "UPDATE users SET \
                 display_name = CASE ?2 WHEN '' THEN username ELSE coalesce(?2, display_name) END, \
                 email = CASE WHEN ?3 IS NULL THEN email ELSE nullif(?3, '') END, \
                 phone = CASE WHEN ?4 IS NULL THEN phone ELSE nullif(?4, '') END \
             WHERE id = ?1 AND deleted_at IS NULL";
        let mut tx = self.database.write().await?;
        let update = sqlx::query(SQL)
            .bind(user)
            .bind(&patch.display_name)
            .bind(&patch.email)
            .bind(&patch.phone);
        let updated = update.execute(&mut *tx).await.map_err(failure)?;
        tx.commit().await.map_err(failure)?;
        Ok(match updated.rows_affected() {
            0 => Applied::NoSuchUser,
            _ => Applied::Done,
        })
    }

    async fn open_login(&self, login: &Login) -> Result<Applied> {
        const USER: &str = "SELECT 1 FROM users WHERE id = ?1 AND deleted_at IS NULL";
        const INSERT: &str = "INSERT INTO logins (id, user_id, token_hash, expires_at) \
             VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
        let mut tx = self.database.write().await?;
        let user = sqlx::query(USER).bind(login.user);
        let user = user.fetch_optional(&mut *tx).await.map_err(failure)?;
        if user.is_none() {
            return Ok(Applied::NoSuchUser);
        }
        let insert = sqlx::query(INSERT)
            .bind(login.id)
            .bind(login.user)
            .bind(&login.token_hash)
            .bind(login.expires_at.millis());
        insert.execute(&mut *tx).await.map_err(failure)?;
        tx.commit().await.map_err(failure)?;
        Ok(Applied::Done)
    }

    async fn rotate_login(&self, rotation: &Rotation) -> Result<Applied> {
        const FIND: &str = "SELECT token_hash, prev_hash, rotated_at, expires_at, revoked \
             FROM logins WHERE id = ?1";
        const REPLACE: &str = "UPDATE logins SET prev_hash = token_hash, token_hash = ?2, \
             rotated_at = ?3, expires_at = ?4 WHERE id = ?1";
        let mut tx = self.database.write().await?;
        let row = sqlx::query(FIND).bind(rotation.login);
        let row = row.fetch_optional(&mut *tx).await.map_err(failure)?;
        let Some(row) = row else {
            return Ok(Applied::LoginRefused);
        };
        let state = state(&row).map_err(failure)?;
        let (statement, applied) = match rotation::decide(&state, rotation) {
            Step::Repeated => return Ok(Applied::Done),
            Step::Refuse => return Ok(Applied::LoginRefused),
            Step::Revoked => return Ok(Applied::LoginRevoked),
            Step::Replace => {
                let replace = sqlx::query(REPLACE)
                    .bind(rotation.login)
                    .bind(&rotation.new_hash)
                    .bind(rotation.applied_at.millis())
                    .bind(rotation.expires_at.millis());
                (replace, Applied::Done)
            }
            Step::Revoke => (
                sqlx::query(REVOKE).bind(rotation.login),
                Applied::LoginRevoked,
            ),
        };
        statement.execute(&mut *tx).await.map_err(failure)?;
        tx.commit().await.map_err(failure)?;
        Ok(applied)
    }

    async fn close_login(&self, login: LoginId) -> Result<Applied> {
        let mut tx = self.database.write().await?;
        let revoke = sqlx::query(REVOKE).bind(login);
        let revoked = revoke.execute(&mut *tx).await.map_err(failure)?;
        tx.commit().await.map_err(failure)?;
        Ok(match revoked.rows_affected() {
            0 => Applied::LoginRefused,
            _ => Applied::Done,
        })
    }

    async fn erase_account(&self, user: UserId, at: Timestamp) -> Result<Applied> {
        const ACCOUNT: &str = "UPDATE users SET username = ?2, username_key = ?3, \
                 display_name = ?4, email = NULL, phone = NULL, password_hash = '', \
                 skeleton = NULL, \
                 deleted_at = coalesce(deleted_at, ?5) WHERE id = ?1";
        let mut tx = self.database.write().await?;
        let update = sqlx::query(ACCOUNT)
            .bind(user)
            .bind(DELETED_USERNAME)
            .bind(deleted_key(user))
            .bind(DELETED_DISPLAY_NAME)
            .bind(at.millis());
        let updated = update.execute(&mut *tx).await.map_err(failure)?;
        if updated.rows_affected() == 0 {
            return Ok(Applied::NoSuchUser);
        }
        for sql in ERASE {
            let erase = sqlx::query(sql).bind(user);
            erase.execute(&mut *tx).await.map_err(failure)?;
        }
        tx.commit().await.map_err(failure)?;
        Ok(Applied::Done)
    }

    async fn logins_of(&self, user: UserId) -> Result<Vec<LoginId>> {
        const SQL: &str = "SELECT id FROM logins WHERE user_id = ?1 AND expires_at > ?2";
        let query = sqlx::query_scalar(SQL)
            .bind(user)
            .bind(Timestamp::now().millis());
        let logins = query.fetch_all(self.database.readers()).await;
        logins.map_err(failure)
    }

    async fn member_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<RoomId>> {
        const SQL: &str = "SELECT m.room FROM members m \
             JOIN rooms r ON r.id = m.room AND NOT r.deleted \
             WHERE m.user_id = ?1 AND m.room > ?2 ORDER BY m.room LIMIT ?3";
        let query = sqlx::query_scalar(SQL)
            .bind(user)
            .bind(after.unwrap_or(RoomId::nil()))
            .bind(i64::from(limit));
        let rooms = query.fetch_all(self.database.readers()).await;
        rooms.map_err(failure)
    }

    async fn expire(&self, after: Duration, keep: Duration) -> Result<Expired> {
        expire::run(self, after, keep).await
    }
}

const REVOKE: &str = "UPDATE logins SET revoked = true WHERE id = ?1";

fn state(row: &SqliteRow) -> sqlx::Result<rotation::State> {
    Ok(rotation::State {
        token_hash: row.try_get(0)?,
        prev_hash: row.try_get(1)?,
        rotated_at: rows::optional_time(row, 2)?,
        expires_at: rows::time(row, 3)?,
        revoked: row.try_get(4)?,
    })
}
