//! Deleting what expired, a bounded number of rows in each transaction, since each holds up the only writer.

use std::time::Duration;

use super::Store;
use crate::{
    error::Result,
    model::Timestamp,
    sqlite::failure,
    store::{EXPIRE_AT_ONCE, Expired},
};

/// `?1`: the latest end, in milliseconds since 1970. `?2`: rows at most.
const LOGINS: &str = "DELETE FROM logins WHERE id IN \
     (SELECT id FROM logins WHERE expires_at < ?1 LIMIT ?2)";
const BANS: &str = "DELETE FROM bans WHERE (room, user_id) IN \
     (SELECT room, user_id FROM bans WHERE until < ?1 LIMIT ?2)";
const MUTES: &str = "DELETE FROM restrictions WHERE (room, user_id, kind) IN \
     (SELECT room, user_id, kind FROM restrictions WHERE until < ?1 LIMIT ?2)";
const CODES: &str = "DELETE FROM verification_codes WHERE (user_id, channel) IN \
     (SELECT user_id, channel FROM verification_codes WHERE expires_at < ?1 LIMIT ?2)";
const WISHES: &str = "DELETE FROM notify_rooms WHERE (user_id, room) IN \
     (SELECT p.user_id, p.room FROM users u JOIN notify_rooms p ON p.user_id = u.id \
      WHERE u.deleted_at < ?1 LIMIT ?2)";
const NOTIFICATIONS: &str = "DELETE FROM notifications WHERE (message, user_id, channel) IN \
     (SELECT message, user_id, channel FROM notifications WHERE at < ?1 LIMIT ?2)";
const DELIVERIES: &str = "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries d \
     WHERE at < ?1 AND NOT open \
     AND NOT EXISTS (SELECT 1 FROM notifications n WHERE n.delivery = d.id) LIMIT ?2)";

pub(super) async fn run(store: &Store, after: Duration, keep: Duration) -> Result<Expired> {
    let mut tx = store.database.write().await?;
    let now = Timestamp::now().millis();
    let mut delete = async |sql: &'static str, age: Duration| {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let statement = sqlx::query(sql)
            .bind(now.saturating_sub(age))
            .bind(EXPIRE_AT_ONCE);
        let done = statement.execute(&mut *tx).await.map_err(failure)?;
        Ok::<_, crate::error::Error>(done.rows_affected())
    };
    delete(WISHES, after).await?;
    let mut expired = Expired {
        logins: delete(LOGINS, after).await?,
        codes: delete(CODES, after).await?,
        bans: delete(BANS, after).await?,
        mutes: delete(MUTES, after).await?,
        notifications: delete(NOTIFICATIONS, keep).await?,
        deliveries: delete(DELIVERIES, keep).await?,
        more: false,
    };
    tx.commit().await.map_err(failure)?;
    expired.more = expired.filled();
    Ok(expired)
}
