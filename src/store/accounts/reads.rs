//! The statements of [`AccountReads`].

use std::collections::HashMap;

use async_trait::async_trait;

use super::{AccountReads, record::account_columns};
use crate::{
    error::Result,
    model::{Account, Credentials, User, UserId},
    store::sql::{Access, Column, Database, Kind, ListSql, Session, sql},
};

const CREDENTIALS: &str = concat!(
    "SELECT ",
    account_columns!(),
    " FROM users u WHERE u.username_key = $1 AND u.deleted_at IS NULL"
);

const ACCOUNT: &str = concat!(
    "SELECT ",
    account_columns!(),
    " FROM users u WHERE u.id = $1 AND u.deleted_at IS NULL"
);

static ACCOUNTS: ListSql<1> = ListSql::new(
    [Column("id", Kind::Id)],
    concat!(
        "SELECT ",
        account_columns!(),
        " FROM users u WHERE u.id {among} AND u.deleted_at IS NULL"
    ),
);

static USERS: ListSql<1> = ListSql::new(
    [Column("id", Kind::Id)],
    "SELECT id, username, display_name FROM users WHERE id {among}",
);

#[async_trait]
impl<D: Database> AccountReads for D {
    async fn credentials(&self, username: &str) -> Result<Option<Credentials>> {
        let key = username.to_lowercase();
        let mut session = self.open(Access::Read).await?;
        session.optional(sql(CREDENTIALS).bind(key.as_str())).await
    }

    async fn account(&self, user: UserId) -> Result<Option<Account>> {
        let mut session = self.open(Access::Read).await?;
        session.optional(sql(ACCOUNT).bind(user)).await
    }

    async fn accounts(&self, users: &[UserId]) -> Result<Vec<Option<Account>>> {
        let mut session = self.open(Access::Read).await?;
        let found: Vec<Account> = session
            .all(ACCOUNTS.list(users, |user| [(*user).into()]))
            .await?;
        let found: HashMap<UserId, Account> = found
            .into_iter()
            .map(|account| (account.user.id, account))
            .collect();
        Ok(users.iter().map(|user| found.get(user).cloned()).collect())
    }

    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>> {
        let mut session = self.open(Access::Read).await?;
        session.all(USERS.list(ids, |user| [(*user).into()])).await
    }
}
