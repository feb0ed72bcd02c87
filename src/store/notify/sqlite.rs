//! The statement of notifications that SQLite has its own words for.

use super::record::{asked, candidate_columns, candidate_joins};

/// The strongest cause has the lowest rank, and `min` takes the other columns of its row along
/// (sqlite.org/lang_select.html, "bare columns").
pub(super) const CANDIDATES: &str = concat!(
    asked!(),
    "concerned AS ( \
         SELECT a.id, x.user_id, 'direct' AS cause, 1 AS rank FROM asked a \
             CROSS JOIN members x ON x.room = a.room WHERE a.kind = 'direct' \
         UNION ALL \
         SELECT a.id, unhex(replace(f.data ->> '$.user.id', '-', '')), 'direct', 1 FROM asked a \
             CROSS JOIN feed f ON f.room = a.room AND f.seq > a.seq AND f.kind = 'memberLeft' \
             WHERE a.kind = 'direct' \
         UNION ALL \
         SELECT a.id, unhex(replace(named.value, '-', '')), 'mention', 2 FROM asked a \
             CROSS JOIN json_each(a.mentions) named WHERE a.mentions IS NOT NULL \
         UNION ALL \
         SELECT a.id, p.user_id, 'all', 3 FROM asked a \
             CROSS JOIN notify_rooms p ON p.room = a.room AND p.mode = 'all' \
             WHERE EXISTS (SELECT 1 FROM members y \
                     WHERE y.room = p.room AND y.user_id = p.user_id) \
                 OR EXISTS (SELECT 1 FROM feed f WHERE f.room = a.room AND f.seq > a.seq \
                     AND f.kind = 'memberLeft' \
                     AND unhex(replace(f.data ->> '$.user.id', '-', '')) = p.user_id) \
     ), strongest AS ( \
         SELECT id, user_id, cause, min(rank) FROM concerned GROUP BY id, user_id \
     ) \
     SELECT ",
    candidate_columns!(),
    "FROM strongest c \
     CROSS JOIN asked a ON a.id = c.id AND c.user_id <> a.sender \
     CROSS JOIN users u ON u.id = c.user_id ",
    candidate_joins!()
);
