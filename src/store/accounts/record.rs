//! Rows of `users`.

use crate::{
    model::{Account, Credentials, User},
    store::sql::{Dialect, Record, Row},
};

/// The columns of an [`Account`] and of its [`Credentials`], of `users u`.
macro_rules! account_columns {
    () => {
        "u.id, u.username, u.display_name, u.email, u.phone, u.created_at, u.password_hash"
    };
}

pub(super) use account_columns;

/// A user whose id is in another column than `id`.
pub(in crate::store) fn user<D: Dialect>(row: &Row<D>, id: &str) -> sqlx::Result<User> {
    Ok(User {
        id: row.get(id)?,
        username: row.get("username")?,
        display_name: row.get("display_name")?,
    })
}

impl Record for User {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        user(row, "id")
    }
}

impl Record for Account {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Account {
            user: User::read(row)?,
            email: row.get("email")?,
            phone: row.get("phone")?,
            created_at: row.get("created_at")?,
        })
    }
}

impl Record for Credentials {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Credentials {
            account: Account::read(row)?,
            password_hash: row.get("password_hash")?,
        })
    }
}
