//! The statement of notifications that is written differently for PostgreSQL.

use super::record::{candidate_columns, candidate_joins, concerned};

/// `DISTINCT ON` keeps the strongest cause, which has the lowest rank.
pub(super) const CANDIDATES: &str = concat!(
    concerned!(
        "(f.data::jsonb #>> '{user,id}')::uuid",
        "named.user_id, 'mention', 2 FROM asked a \
             CROSS JOIN LATERAL UNNEST(a.mentions) AS named (user_id)"
    ),
    " SELECT DISTINCT ON (a.id, c.user_id) ",
    candidate_columns!(),
    "FROM asked a \
     JOIN concerned c ON c.id = a.id AND c.user_id <> a.sender \
     JOIN users u ON u.id = c.user_id ",
    candidate_joins!(),
    " ORDER BY a.id, c.user_id, c.rank"
);
