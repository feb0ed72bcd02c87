//! The statements of a batch that are written differently for SQLite.

use crate::store::members::member_columns;

/// Moves the heads that are what they were before, and stores messages. Two statements in one call, which is one switch
/// to SQLite's thread; the rows that both wrote are counted together.
pub(super) const APPEND: &str = "UPDATE rooms SET head = n.value ->> 2 \
     FROM jsonb_each($1) n \
     WHERE rooms.id = unhex(n.value ->> 0) AND rooms.head = coalesce(n.value ->> 1, rooms.head); \
     INSERT INTO messages (room, seq, id, change_seq, sender, body, client_msg_id, reply_to, \
         mentions, reactions, metadata, created_at, edited_at, deleted_at) \
     SELECT unhex(value ->> 0), value ->> 1, unhex(value ->> 2), value ->> 3, \
         unhex(value ->> 4), value ->> 5, value ->> 6, unhex(value ->> 7), value ->> 8, \
         value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13 \
     FROM jsonb_each($2)";

pub(super) const PEOPLE: &str = "SELECT n.room, u.id AS user_id, u.username, u.display_name, \
         m.role, m.joined_at, m.read_seq, m.muted_until, b.room IS NOT NULL AS banned, \
         b.until AS banned_until, u.deleted_at IS NOT NULL AS deleted, x.until AS outside_mute \
     FROM {rows} \
     CROSS JOIN users u ON u.id = n.user_id \
     LEFT JOIN members m ON m.room = n.room AND m.user_id = u.id \
     LEFT JOIN bans b ON b.room = n.room AND b.user_id = u.id \
     LEFT JOIN restrictions x ON x.room = n.room AND x.user_id = u.id AND x.kind = 'mute'";

pub(super) const SUCCESSORS: &str = concat!(
    "SELECT ",
    member_columns!(),
    " FROM {rows} \
      CROSS JOIN rooms r ON r.id = n.room \
      CROSS JOIN members gone ON gone.room = r.id AND gone.user_id = n.user_id \
          AND (gone.role = 'owner' OR r.kind = 'direct') \
      CROSS JOIN members m ON m.room = r.id AND m.user_id = ( \
          SELECT x.user_id FROM members x \
          JOIN users y ON y.id = x.user_id AND y.deleted_at IS NULL \
          WHERE x.room = r.id AND x.user_id <> gone.user_id \
          ORDER BY x.role = 'admin' DESC, x.joined_at, x.user_id LIMIT 1) \
      JOIN users u ON u.id = m.user_id"
);

pub(super) const ERASE_NAMES: &str = "UPDATE feed SET data = CASE kind WHEN 'roomUpdated' \
         THEN json_set(data, '$.member.user.username', n.username, \
             '$.member.user.displayName', n.display_name) \
         ELSE json_set(data, '$.user.username', n.username, \
             '$.user.displayName', n.display_name) END \
     FROM {rows} \
     WHERE feed.room = n.room AND feed.kind IN ('memberJoined', 'memberLeft', 'roomUpdated') \
         AND coalesce(feed.data ->> '$.user.id', feed.data ->> '$.member.user.id') = n.user_id";

/// SQLite has no lateral join: the number of the last one wanted ends each list.
pub(super) const REACTORS: &str = "SELECT n.message, n.emoji, r.user_id FROM {rows} \
     CROSS JOIN reactions r ON r.message = n.message AND r.emoji = n.emoji \
         AND r.seq <= coalesce((SELECT x.seq FROM reactions x \
             WHERE x.message = n.message AND x.emoji = n.emoji ORDER BY x.seq LIMIT 1 OFFSET $2 - 1), \
             9223372036854775807) \
     ORDER BY n.message, n.emoji, r.seq, r.user_id";
