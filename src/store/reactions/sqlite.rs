//! The statements of reactions that are written differently for SQLite. Migration 0030 has them for all messages.

/// Users that no row has yet follow those that have one.
pub(super) const ADOPT_REACTIONS: &str = "INSERT INTO reactions (message, user_id, emoji, seq)
    SELECT g.message, g.user_id, g.emoji,
        (SELECT coalesce(max(x.seq), 0) FROM reactions x WHERE x.message = g.message)
            + row_number() OVER (PARTITION BY g.message ORDER BY g.place)
    FROM (
        SELECT m.id AS message, unhex(replace(u.value, '-', '')) AS user_id,
            replace(r.value ->> 'emoji', char(65039), '') AS emoji, min(r.key * 1000000000 + u.key) AS place
        FROM messages m
        CROSS JOIN json_each(m.reactions) AS r
        CROSS JOIN json_each(r.value -> 'users') AS u
        WHERE m.id {among} AND r.value -> 'count' IS NULL
        GROUP BY 1, 2, 3
    ) AS g
    WHERE NOT EXISTS (SELECT 1 FROM reactions y
        WHERE y.message = g.message AND y.user_id = g.user_id AND y.emoji = g.emoji)";

pub(super) const SUMMARISE_REACTIONS: &str = "UPDATE messages SET reactions = summary.reactions
    FROM (
        SELECT c.message, json_group_array(
            json_object('emoji', c.emoji, 'count', c.count, 'users', json(c.users)) ORDER BY c.first) AS reactions
        FROM (
            SELECT r.message, r.emoji, count(*) AS count, min(r.seq) AS first,
                json_group_array(r.user ORDER BY r.seq, r.user) FILTER (WHERE r.nth <= 10) AS users
            FROM (
                SELECT message, emoji, seq,
                    lower(substr(hex(user_id), 1, 8) || '-' || substr(hex(user_id), 9, 4) || '-'
                        || substr(hex(user_id), 13, 4) || '-' || substr(hex(user_id), 17, 4) || '-'
                        || substr(hex(user_id), 21)) AS user,
                    row_number() OVER (PARTITION BY message, emoji ORDER BY seq, user_id) AS nth
                FROM reactions WHERE message {among}
            ) AS r
            GROUP BY r.message, r.emoji
        ) AS c
        GROUP BY c.message
    ) AS summary
    WHERE messages.id = summary.message";
