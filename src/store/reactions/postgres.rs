//! The statements of reactions that are written differently for PostgreSQL. Migration 0030 has them for all messages.

/// Users that no row has yet follow those that have one.
pub(super) const ADOPT_REACTIONS: &str = r"INSERT INTO reactions (message, user_id, emoji, seq)
    SELECT g.message, g.user_id, g.emoji,
        (SELECT coalesce(max(x.seq), 0) FROM reactions x WHERE x.message = g.message)
            + row_number() OVER (PARTITION BY g.message ORDER BY g.place)
    FROM (
        SELECT m.id AS message, u.value::uuid AS user_id, replace(r.value ->> 'emoji', U&'\FE0F', '') AS emoji,
            min(r.place * 1000000000 + u.place) AS place
        FROM messages m
        CROSS JOIN LATERAL jsonb_array_elements(m.reactions) WITH ORDINALITY AS r (value, place)
        CROSS JOIN LATERAL jsonb_array_elements_text(r.value -> 'users') WITH ORDINALITY AS u (value, place)
        WHERE m.id {among} AND r.value -> 'count' IS NULL
        GROUP BY m.id, u.value, replace(r.value ->> 'emoji', U&'\FE0F', '')
    ) AS g
    WHERE NOT EXISTS (SELECT 1 FROM reactions y
        WHERE y.message = g.message AND y.user_id = g.user_id AND y.emoji = g.emoji)";

pub(super) const SUMMARISE_REACTIONS: &str = r"UPDATE messages SET reactions = summary.reactions
    FROM (
        SELECT c.message, jsonb_agg(jsonb_build_object('emoji', c.emoji, 'count', c.count, 'users', c.users)
            ORDER BY c.first) AS reactions
        FROM (
            SELECT r.message, r.emoji, count(*) AS count, min(r.seq) AS first,
                (jsonb_agg(r.user_id ORDER BY r.seq, r.user_id) FILTER (WHERE r.nth <= 10)) AS users
            FROM (
                SELECT message, emoji, user_id, seq,
                    row_number() OVER (PARTITION BY message, emoji ORDER BY seq, user_id) AS nth
                FROM reactions WHERE message {among}
            ) AS r
            GROUP BY r.message, r.emoji
        ) AS c
        GROUP BY c.message
    ) AS summary
    WHERE messages.id = summary.message";
