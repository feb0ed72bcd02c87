//! Deleting what expired, a bounded number of rows in each statement, by the server's clock.

use std::time::Duration;

use super::{
    Store,
    pool::{Lease, answer},
};
use crate::{
    error::Result,
    store::{EXPIRE_AT_ONCE, Expired},
};

/// `$1`: milliseconds since the end. `$2`: rows at most. Rows that another transaction has just changed are left for
/// the next time.
const LOGINS: &str = "DELETE FROM logins WHERE id IN (SELECT id FROM logins \
     WHERE expires_at < now() - $1 * interval '1 millisecond' LIMIT $2 FOR UPDATE SKIP LOCKED)";
const BANS: &str = "DELETE FROM bans WHERE (room, user_id) IN (SELECT room, user_id FROM bans \
     WHERE until < now() - $1 * interval '1 millisecond' LIMIT $2 FOR UPDATE SKIP LOCKED)";
const MUTES: &str = "DELETE FROM restrictions WHERE (room, user_id, kind) IN ( \
     SELECT room, user_id, kind FROM restrictions \
     WHERE until < now() - $1 * interval '1 millisecond' LIMIT $2 FOR UPDATE SKIP LOCKED)";
const CODES: &str = "DELETE FROM verification_codes WHERE (user_id, channel) IN ( \
     SELECT user_id, channel FROM verification_codes \
     WHERE expires_at < (extract(epoch FROM now()) * 1000)::bigint - $1 \
     LIMIT $2 FOR UPDATE SKIP LOCKED)";
const WISHES: &str = "DELETE FROM notify_rooms WHERE (user_id, room) IN ( \
     SELECT p.user_id, p.room FROM users u JOIN notify_rooms p ON p.user_id = u.id \
     WHERE u.deleted_at < now() - $1 * interval '1 millisecond' LIMIT $2)";
const NOTIFICATIONS: &str = "DELETE FROM notifications WHERE (message, user_id, channel) IN ( \
     SELECT message, user_id, channel FROM notifications \
     WHERE at < (extract(epoch FROM now()) * 1000)::bigint - $1 \
     LIMIT $2 FOR UPDATE SKIP LOCKED)";
const DELIVERIES: &str = "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries d \
     WHERE at < (extract(epoch FROM now()) * 1000)::bigint - $1 AND NOT open \
     AND NOT EXISTS (SELECT 1 FROM notifications n WHERE n.delivery = d.id) \
     LIMIT $2 FOR UPDATE SKIP LOCKED)";

pub(super) async fn run(store: &Store, after: Duration, keep: Duration) -> Result<Expired> {
    let mut lease = Lease::take(&store.pool).await?;
    let mut delete = async |sql: &'static str, age: Duration| {
        let statement = sqlx::query(sql)
            .bind(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
            .bind(i64::from(EXPIRE_AT_ONCE));
        answer(statement.execute(&mut *lease))
            .await
            .map(|done| done.rows_affected())
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
    expired.more = expired.filled();
    Ok(expired)
}
