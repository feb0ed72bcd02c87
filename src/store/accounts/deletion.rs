//! The deletion of an account: the row stays, without anything personal in it, because messages refer to their sender.

use super::Applied;
use crate::{
    error::Result,
    model::{Timestamp, UserId},
    store::sql::{Access, Database, Session, sql},
};

/// The name under which a deleted account's messages stay. It has a space in it, so no user can register it.
pub const DELETED_USERNAME: &str = "deleted user";
pub const DELETED_DISPLAY_NAME: &str = "Deleted user";

/// Replaces the lower-case user name, which must be unique. No valid user name begins with this prefix.
fn deleted_key(user: UserId) -> String {
    format!("~{user}")
}

/// On PostgreSQL this waits for transactions that hold the row `FOR KEY SHARE`, because a key column changes: a
/// transaction that adds this user to a room or opens a login either commits first or sees that the account is deleted.
const ACCOUNT: &str = "UPDATE users SET username = $2, username_key = $3, display_name = $4, \
         email = NULL, phone = NULL, password_hash = '', skeleton = NULL, \
         deleted_at = coalesce(deleted_at, $5) \
     WHERE id = $1";

/// The statements that erase personal data; the user is the only parameter. Room preferences of the mode "all" stay
/// until they expire, because notifications of earlier messages may still be due.
const PERSONAL: [&str; 6] = [
    "UPDATE logins SET revoked = true, user_agent = NULL, address = NULL WHERE user_id = $1",
    "DELETE FROM notify_settings WHERE user_id = $1",
    "DELETE FROM notify_rooms WHERE user_id = $1 AND mode <> 'all'",
    "DELETE FROM verified_addresses WHERE user_id = $1",
    "DELETE FROM verification_codes WHERE user_id = $1",
    "DELETE FROM restrictions WHERE user_id = $1",
];

pub(super) async fn erase<D: Database>(
    database: &D,
    user: UserId,
    at: Timestamp,
) -> Result<Applied> {
    let key = deleted_key(user);
    let mut session = database.open(Access::Transaction).await?;
    let update = sql(ACCOUNT)
        .bind(user)
        .bind(DELETED_USERNAME)
        .bind(key.as_str())
        .bind(DELETED_DISPLAY_NAME)
        .bind(at);
    if session.execute(update).await? == 0 {
        return Ok(Applied::NoSuchUser);
    }
    for text in PERSONAL {
        session.execute(sql(text).bind(user)).await?;
    }
    session.commit().await?;
    Ok(Applied::Done)
}
