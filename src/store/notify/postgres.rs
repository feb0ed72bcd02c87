//! The statement of notifications that PostgreSQL has its own words for.

use super::record::{asked, candidate_columns, candidate_joins};

/// `DISTINCT ON` keeps the strongest cause, which has the lowest rank.
pub(super) const CANDIDATES: &str = concat!(
    asked!(),
    "concerned AS ( \
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
     SELECT DISTINCT ON (a.id, c.user_id) ",
    candidate_columns!(),
    "FROM asked a \
     JOIN concerned c ON c.id = a.id AND c.user_id <> a.sender \
     JOIN users u ON u.id = c.user_id ",
    candidate_joins!(),
    " ORDER BY a.id, c.user_id, c.rank"
);
