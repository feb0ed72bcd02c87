//! Notifications; see [`crate::store::notify`], which has the statements that both stores share.

use sqlx::{PgConnection, postgres::PgRow};

use super::{
    Store,
    pool::{Lease, answer, failure},
};
use crate::store::notify::notify_store;

macro_rules! read {
    ($store:expr, $connection:ident, $body:block) => {{
        let mut lease = Lease::take(&$store.pool).await?;
        let $connection: &mut PgConnection = &mut lease;
        answer(async { $body }).await
    }};
}

macro_rules! write {
    ($store:expr, $connection:ident, $body:block) => {{
        let mut lease = Lease::begin(&$store.pool).await?;
        let $connection: &mut PgConnection = &mut lease;
        let value = answer(async { $body }).await?;
        lease.commit().await?;
        Ok(value)
    }};
}

/// Three ways to be concerned, each a walk along an index: a direct room's members, those named, those who set the
/// room to "all". Who has left since is still among them, so that the ledger can say why they were not told; a direct
/// room is left only with the account. `DISTINCT ON` keeps the strongest cause.
const CANDIDATES: &str = "WITH asked AS MATERIALIZED ( \
         SELECT m.id, m.room, m.seq, m.sender, m.mentions, m.deleted_at, r.kind \
         FROM messages m JOIN rooms r ON r.id = m.room \
         WHERE m.id = ANY($1) AND NOT r.deleted \
     ), concerned AS ( \
         SELECT a.id, x.user_id, 'direct' AS cause, 1 AS rank FROM asked a \
             JOIN members x ON x.room = a.room WHERE a.kind = 'direct' \
         UNION ALL \
         SELECT a.id, (f.data::jsonb #>> '{user,id}')::uuid, 'direct', 1 FROM asked a \
             JOIN feed f ON f.room = a.room AND f.seq > a.seq AND f.kind = 'memberLeft' \
             WHERE a.kind = 'direct' \
         UNION ALL \
         SELECT a.id, named.user_id, 'mention', 2 FROM asked a \
             CROSS JOIN LATERAL UNNEST(a.mentions) AS named (user_id) \
         UNION ALL \
         SELECT a.id, p.user_id, 'all', 3 FROM asked a \
             JOIN notify_rooms p ON p.room = a.room AND p.mode = 'all' \
             WHERE EXISTS (SELECT 1 FROM members y \
                     WHERE y.room = p.room AND y.user_id = p.user_id) \
                 OR EXISTS (SELECT 1 FROM feed f WHERE f.room = a.room AND f.seq > a.seq \
                     AND f.kind = 'memberLeft' \
                     AND f.data::jsonb #>> '{user,id}' = p.user_id::text) \
     ) \
     SELECT DISTINCT ON (a.id, c.user_id) a.id, a.room, a.seq, a.deleted_at IS NOT NULL, \
         c.user_id, c.cause, x.read_seq >= a.seq, p.mode, s.settings, e.address, t.address, \
         u.deleted_at IS NOT NULL \
     FROM asked a \
     JOIN concerned c ON c.id = a.id AND c.user_id <> a.sender \
     LEFT JOIN members x ON x.room = a.room AND x.user_id = c.user_id \
     JOIN users u ON u.id = c.user_id \
     LEFT JOIN notify_rooms p ON p.user_id = c.user_id AND p.room = a.room \
     LEFT JOIN notify_settings s ON s.user_id = c.user_id \
     LEFT JOIN verified_addresses e ON e.user_id = c.user_id AND e.channel = 'email' \
         AND lower(e.address) = lower(u.email) \
     LEFT JOIN verified_addresses t ON t.user_id = c.user_id AND t.channel = 'sms' \
         AND lower(t.address) = lower(u.phone) \
     ORDER BY a.id, c.user_id, c.rank";

fn ids(messages: &[MessageId]) -> Result<Vec<Uuid>> {
    Ok(messages.to_vec())
}

notify_store!(Store, PgRow, read, write, failure, CANDIDATES, ids);
