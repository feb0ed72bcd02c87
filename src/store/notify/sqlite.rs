//! The statement of notifications that SQLite has its own words for.

/// The strongest cause has the lowest rank, and `min` takes the other columns of its row along
/// (sqlite.org/lang_select.html, "bare columns").
pub(super) const CANDIDATES: &str = "WITH asked AS MATERIALIZED ( \
         SELECT m.id, m.room, m.seq, m.sender, m.mentions, m.deleted_at, r.kind \
         FROM messages m JOIN rooms r ON r.id = m.room \
         WHERE m.id {among} AND NOT r.deleted \
     ), concerned AS ( \
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
     SELECT a.id AS message, a.room, a.seq, \
         a.deleted_at IS NOT NULL AS deleted, c.user_id, c.cause, x.read_seq >= a.seq AS is_read, \
         p.mode, s.settings, e.address AS email, t.address AS phone, \
         u.deleted_at IS NOT NULL AS gone \
     FROM strongest c \
     CROSS JOIN asked a ON a.id = c.id AND c.user_id <> a.sender \
     CROSS JOIN users u ON u.id = c.user_id \
     LEFT JOIN members x ON x.room = a.room AND x.user_id = c.user_id \
     LEFT JOIN notify_rooms p ON p.user_id = c.user_id AND p.room = a.room \
     LEFT JOIN notify_settings s ON s.user_id = c.user_id \
     LEFT JOIN verified_addresses e ON e.user_id = c.user_id AND e.channel = 'email' \
         AND lower(e.address) = lower(u.email) \
     LEFT JOIN verified_addresses t ON t.user_id = c.user_id AND t.channel = 'sms' \
         AND lower(t.address) = lower(u.phone)";
