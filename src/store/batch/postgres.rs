//! The statements of a batch that are written differently for PostgreSQL.

use crate::store::members::member_columns;

/// Moves heads and stores messages, all or nothing, in one statement that is a transaction of its own. Where a head is
/// not what it was before, the count is too low and the statement fails with a division by zero: plain SQL has no other
/// way to raise an error.
///
/// After waiting for a row's lock, PostgreSQL compares its new state.
pub(super) const APPEND: &str = "WITH moved AS ( \
         UPDATE rooms r SET head = n.head \
         FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[]) AS n (id, before, head) \
         WHERE r.id = n.id AND r.head = coalesce(n.before, r.head) RETURNING 1), \
     stored AS ( \
         INSERT INTO messages (room, seq, id, change_seq, sender, body, client_msg_id, reply_to, \
             mentions, reactions, metadata, created_at, edited_at, deleted_at) \
         SELECT n.room, n.seq, n.id, n.change_seq, n.sender, n.body, n.client_msg_id, n.reply_to, \
             n.mentions::uuid[], n.reactions::jsonb, n.metadata, n.created_at, n.edited_at, \
             n.deleted_at \
         FROM UNNEST($4::uuid[], $5::bigint[], $6::uuid[], $7::bigint[], $8::uuid[], $9::text[], \
             $10::text[], $11::uuid[], $12::text[], $13::text[], $14::text[], \
             $15::timestamptz[], $16::timestamptz[], $17::timestamptz[]) \
             AS n (room, seq, id, change_seq, sender, body, client_msg_id, reply_to, mentions, \
                 reactions, metadata, created_at, edited_at, deleted_at)) \
     SELECT 1 / (count(*) = cardinality($1))::int FROM moved";

/// PostgreSQL's manual, appendix A.
pub(super) const DIVISION_BY_ZERO: &str = "22012";

/// The accounts of users who may become members are locked against deletion, and read in the state that they have under
/// the lock.
pub(super) const PEOPLE: &str = "WITH kept AS MATERIALIZED ( \
         SELECT id, deleted_at FROM users \
         WHERE id = ANY(ARRAY(SELECT n.user_id FROM {rows} WHERE n.keep)) \
         ORDER BY id FOR KEY SHARE \
     ) \
     SELECT n.room, u.id AS user_id, u.username, u.display_name, m.role, m.joined_at, m.read_seq, \
         m.muted_until, b.room IS NOT NULL AS banned, b.until AS banned_until, \
         coalesce(k.deleted_at, u.deleted_at) IS NOT NULL AS deleted, x.until AS outside_mute \
     FROM {rows} \
     JOIN users u ON u.id = n.user_id \
     LEFT JOIN kept k ON k.id = u.id \
     LEFT JOIN members m ON m.room = n.room AND m.user_id = n.user_id \
     LEFT JOIN bans b ON b.room = n.room AND b.user_id = n.user_id \
     LEFT JOIN restrictions x ON x.room = n.room AND x.user_id = n.user_id AND x.kind = 'mute'";

pub(super) const SUCCESSORS: &str = concat!(
    "SELECT DISTINCT ON (m.room) ",
    member_columns!(),
    " FROM {rows} \
      JOIN rooms r ON r.id = n.room \
      JOIN members gone ON gone.room = n.room AND gone.user_id = n.user_id \
          AND (gone.role = 'owner' OR r.kind = 'direct') \
      JOIN members m ON m.room = n.room AND m.user_id <> n.user_id \
      JOIN users u ON u.id = m.user_id AND u.deleted_at IS NULL \
      ORDER BY m.room, (m.role = 'admin') DESC, m.joined_at, m.user_id"
);

pub(super) const ERASE_NAMES: &str = "UPDATE feed SET data = jsonb_set(feed.data::jsonb, \
         CASE feed.kind WHEN 'roomUpdated' THEN '{member,user}' ELSE '{user}' END::text[], \
         jsonb_build_object('id', n.user_id, 'username', n.username, \
             'displayName', n.display_name))::text \
     FROM {rows} \
     WHERE feed.room = n.room AND feed.kind IN ('memberJoined', 'memberLeft', 'roomUpdated') \
         AND coalesce(feed.data::jsonb #>> '{user,id}', feed.data::jsonb #>> '{member,user,id}') \
             = n.user_id";

/// A lateral join reads each list only as far as its limit.
pub(super) const REACTORS: &str = "SELECT n.message, n.emoji, r.user_id FROM {rows} \
     CROSS JOIN LATERAL (SELECT x.user_id, x.seq FROM reactions x \
         WHERE x.message = n.message AND x.emoji = n.emoji ORDER BY x.seq, x.user_id LIMIT $3) AS r \
     ORDER BY n.message, n.emoji, r.seq, r.user_id";
