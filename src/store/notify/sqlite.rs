//! The statement of notifications that is written differently for SQLite.

use super::record::{candidate_columns, candidate_joins, concerned};

/// The strongest cause has the lowest rank, and `min` takes the other columns of its row along
/// (sqlite.org/lang_select.html, "bare columns").
pub(super) const CANDIDATES: &str = concat!(
    concerned!(
        "unhex(replace(f.data ->> '$.user.id', '-', ''))",
        "unhex(replace(named.value, '-', '')), 'mention', 2 FROM asked a \
             CROSS JOIN json_each(a.mentions) named WHERE a.mentions IS NOT NULL"
    ),
    ", strongest AS ( \
         SELECT id, user_id, cause, min(rank) FROM concerned GROUP BY id, user_id \
     ) SELECT ",
    candidate_columns!(),
    "FROM strongest c \
     CROSS JOIN asked a ON a.id = c.id AND c.user_id <> a.sender \
     CROSS JOIN users u ON u.id = c.user_id ",
    candidate_joins!()
);
