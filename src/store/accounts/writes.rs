//! The statements of [`AccountWrites`].

use async_trait::async_trait;

use super::{AccountPatch, AccountWrites, Applied, NewAccount, deletion};
use crate::{
    error::Result,
    model::{Timestamp, User, UserId, username::skeleton},
    store::sql::{Access, Database, Dialect, Record, Row, Session, sql},
};

const REGISTER: &str = "INSERT INTO users (id, username, username_key, display_name, email, phone, \
         password_hash, created_at, skeleton) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";

/// The accounts that have the id or the name of a new one. Two walks along an index: with `OR` PostgreSQL would read
/// the whole table, because bitmap scans are disabled.
const CLAIMED: &str = "SELECT id = $1 AND username_key = $2 AS same FROM users WHERE id = $1 \
     UNION ALL SELECT id = $1 AND username_key = $2 FROM users WHERE username_key = $2";

const UPDATE: &str = "UPDATE users SET \
         display_name = CASE $2 WHEN '' THEN username ELSE coalesce($2, display_name) END, \
         email = CASE WHEN CAST($3 AS text) IS NULL THEN email ELSE nullif($3, '') END, \
         phone = CASE WHEN CAST($4 AS text) IS NULL THEN phone ELSE nullif($4, '') END \
     WHERE id = $1 AND deleted_at IS NULL";

const NAMES: &str =
    "SELECT id, username, display_name FROM users WHERE id = $1 AND deleted_at IS NULL";

/// Whether an account is the new one itself.
struct Claim(bool);

impl Record for Claim {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        row.get("same").map(Claim)
    }
}

#[async_trait]
impl<D: Database> AccountWrites for D {
    async fn register(&self, new: &NewAccount) -> Result<Applied> {
        let account = &new.account;
        let key = account.user.username.to_lowercase();
        let skeleton = skeleton(&account.user.username);
        let mut session = self.open(Access::Statement).await?;
        let insert = sql(REGISTER)
            .bind(account.user.id)
            .bind(account.user.username.as_str())
            .bind(key.as_str())
            .bind(account.user.display_name.as_str())
            .bind(account.email.as_deref())
            .bind(account.phone.as_deref())
            .bind(new.password_hash.as_str())
            .bind(account.created_at)
            .bind(skeleton.as_str());
        if session.execute(insert).await? == 1 {
            session.commit().await?;
            return Ok(Applied::Done);
        }
        let claimed = sql(CLAIMED).bind(account.user.id).bind(key.as_str());
        let claims: Vec<Claim> = session.all(claimed).await?;
        Ok(if claims.is_empty() {
            Applied::NameConfusable
        } else if claims.iter().any(|claim| claim.0) {
            Applied::Done
        } else {
            Applied::NameTaken
        })
    }

    async fn update_account(&self, user: UserId, patch: &AccountPatch) -> Result<Applied> {
        let mut session = self.open(Access::Statement).await?;
        let update = sql(UPDATE)
            .bind(user)
            .bind(patch.display_name.as_deref())
            .bind(patch.email.as_deref())
            .bind(patch.phone.as_deref());
        let updated = session.execute(update).await?;
        session.commit().await?;
        Ok(match updated {
            0 => Applied::NoSuchUser,
            _ => Applied::Done,
        })
    }

    async fn names(&self, user: UserId) -> Result<Option<User>> {
        let mut session = self.open(Access::Read).await?;
        session.optional(sql(NAMES).bind(user)).await
    }

    async fn erase_account(&self, user: UserId, at: Timestamp) -> Result<Applied> {
        deletion::erase(self, user, at).await
    }
}
