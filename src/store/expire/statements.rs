//! The statements of [`Expiry`]. `$1` is an age in milliseconds, `$2` the number of rows. Rows that another transaction
//! has locked are left for the next time.

use std::time::Duration;

use async_trait::async_trait;

use super::{EXPIRE_AT_ONCE, Expired, Expiry};
use crate::{
    error::Result,
    store::sql::{Access, Database, Session, Sql},
};

static LOGINS: Sql = Sql::new(
    "DELETE FROM logins WHERE id IN (SELECT id FROM logins \
     WHERE expires_at < {now} - $1 {millis} LIMIT $2 {skip locked})",
);

static BANS: Sql = Sql::new(
    "DELETE FROM bans WHERE (room, user_id) IN (SELECT room, user_id FROM bans \
     WHERE until < {now} - $1 {millis} LIMIT $2 {skip locked})",
);

static MUTES: Sql = Sql::new(
    "DELETE FROM restrictions WHERE (room, user_id, kind) IN ( \
     SELECT room, user_id, kind FROM restrictions \
     WHERE until < {now} - $1 {millis} LIMIT $2 {skip locked})",
);

static CODES: Sql = Sql::new(
    "DELETE FROM verification_codes WHERE (user_id, channel) IN ( \
     SELECT user_id, channel FROM verification_codes \
     WHERE expires_at < {now millis} - $1 LIMIT $2 {skip locked})",
);

static ROOM_PREFERENCES: Sql = Sql::new(
    "DELETE FROM notify_rooms WHERE (user_id, room) IN ( \
     SELECT p.user_id, p.room FROM users u JOIN notify_rooms p ON p.user_id = u.id \
     WHERE u.deleted_at < {now} - $1 {millis} LIMIT $2)",
);

static NOTIFICATIONS: Sql = Sql::new(
    "DELETE FROM notifications WHERE (message, user_id, channel) IN ( \
     SELECT message, user_id, channel FROM notifications \
     WHERE at < {now millis} - $1 LIMIT $2 {skip locked})",
);

static DELIVERIES: Sql = Sql::new(
    "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries d \
     WHERE at < {now millis} - $1 AND NOT open \
     AND NOT EXISTS (SELECT 1 FROM notifications n WHERE n.delivery = d.id) \
     LIMIT $2 {skip locked})",
);

#[async_trait]
impl<D: Database> Expiry for D {
    /// On PostgreSQL each statement is a transaction of its own.
    async fn expire(&self, after: Duration, keep: Duration) -> Result<Expired> {
        let mut session = self.open(Access::Statement).await?;
        delete(&mut session, &ROOM_PREFERENCES, after).await?;
        let mut expired = Expired {
            logins: delete(&mut session, &LOGINS, after).await?,
            codes: delete(&mut session, &CODES, after).await?,
            bans: delete(&mut session, &BANS, after).await?,
            mutes: delete(&mut session, &MUTES, after).await?,
            notifications: delete(&mut session, &NOTIFICATIONS, keep).await?,
            deliveries: delete(&mut session, &DELIVERIES, keep).await?,
            more: false,
        };
        session.commit().await?;
        expired.more = expired.filled();
        Ok(expired)
    }
}

async fn delete<S: Session>(session: &mut S, sql: &'static Sql, age: Duration) -> Result<u64> {
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let statement = sql.statement().bind(age).bind(i64::from(EXPIRE_AT_ONCE));
    session.execute(statement).await
}
