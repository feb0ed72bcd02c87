-- Who reacted to a message: one row for each user and emoji. `messages.reactions` keeps a summary, which is all that a
-- page, an event or a new reaction reads: [{"emoji", "count", "users": the first 10}], in the order in which they were
-- first given.
CREATE TABLE reactions (
    message BLOB NOT NULL,
    user_id BLOB NOT NULL,
    -- Without U+FE0F, so that two spellings of an emoji are one reaction (src/model/text/emoji.rs).
    emoji   TEXT NOT NULL,
    -- Orders a message's reactions: the number of the event, below which those of earlier versions are counted from 1.
    seq     INTEGER NOT NULL,
    PRIMARY KEY (message, user_id, emoji)
) STRICT, WITHOUT ROWID;

CREATE INDEX reactions_in_order ON reactions (message, emoji, seq, user_id);

-- Earlier versions listed every user in `messages.reactions`.
INSERT INTO reactions (message, user_id, emoji, seq)
SELECT g.message, g.user_id, g.emoji, row_number() OVER (PARTITION BY g.message ORDER BY g.place)
FROM (
    SELECT m.id AS message, unhex(replace(u.value, '-', '')) AS user_id,
        replace(r.value ->> 'emoji', char(65039), '') AS emoji, min(r.key * 1000000000 + u.key) AS place
    FROM messages m
    CROSS JOIN json_each(m.reactions) AS r
    CROSS JOIN json_each(r.value -> 'users') AS u
    WHERE m.reactions IS NOT NULL
    GROUP BY 1, 2, 3
) AS g;

UPDATE messages SET reactions = summary.reactions
FROM (
    SELECT c.message,
        json_group_array(json_object('emoji', c.emoji, 'count', c.count, 'users', json(c.users)) ORDER BY c.first)
            AS reactions
    FROM (
        SELECT r.message, r.emoji, count(*) AS count, min(r.seq) AS first,
            json_group_array(r.user ORDER BY r.seq) FILTER (WHERE r.nth <= 10) AS users
        FROM (
            SELECT message, emoji, seq,
                lower(substr(hex(user_id), 1, 8) || '-' || substr(hex(user_id), 9, 4) || '-' || substr(hex(user_id), 13, 4)
                    || '-' || substr(hex(user_id), 17, 4) || '-' || substr(hex(user_id), 21)) AS user,
                row_number() OVER (PARTITION BY message, emoji ORDER BY seq) AS nth
            FROM reactions
        ) AS r
        GROUP BY r.message, r.emoji
    ) AS c
    GROUP BY c.message
) AS summary
WHERE messages.id = summary.message;

-- What an event of a reaction changed, as JSON: {"emoji", "user", "on"}. The events of earlier versions do not say it.
ALTER TABLE feed ADD COLUMN detail TEXT;
