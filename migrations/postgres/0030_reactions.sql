-- Writes to messages wait while this runs; reads do not. Each statement below has its own snapshot: without the lock, a
-- reaction that a worker stores between two of them would be lost, and a message that it deletes would get its
-- reactions back. Workers retry meanwhile, and commands stay in the queue.
LOCK TABLE messages IN SHARE ROW EXCLUSIVE MODE;

-- Who reacted to a message: one row for each user and emoji. `messages.reactions` keeps a summary, which is all that a
-- page, an event or a new reaction reads: [{"emoji", "count", "users": the first 10}], in the order in which they were
-- first given.
CREATE TABLE reactions (
    message uuid NOT NULL,
    user_id uuid NOT NULL,
    -- Without U+FE0F, so that two spellings of an emoji are one reaction (src/model/text/emoji.rs).
    emoji   text COLLATE "C" NOT NULL,
    -- Orders a message's reactions: the number of the event, below which those of earlier versions are counted from 1.
    seq     bigint NOT NULL,
    PRIMARY KEY (message, user_id, emoji)
);

CREATE INDEX reactions_in_order ON reactions (message, emoji, seq, user_id);

-- Earlier versions listed every user in `messages.reactions`.
INSERT INTO reactions (message, user_id, emoji, seq)
SELECT g.message, g.user_id, g.emoji, row_number() OVER (PARTITION BY g.message ORDER BY g.place)
FROM (
    SELECT m.id AS message, u.value::uuid AS user_id, replace(r.value ->> 'emoji', U&'\FE0F', '') AS emoji,
        min(r.place * 1000000000 + u.place) AS place
    FROM messages m
    CROSS JOIN LATERAL jsonb_array_elements(m.reactions) WITH ORDINALITY AS r (value, place)
    CROSS JOIN LATERAL jsonb_array_elements_text(r.value -> 'users') WITH ORDINALITY AS u (value, place)
    WHERE m.reactions IS NOT NULL AND m.deleted_at IS NULL
    GROUP BY m.id, u.value, replace(r.value ->> 'emoji', U&'\FE0F', '')
) AS g;

UPDATE messages SET reactions = summary.reactions
FROM (
    SELECT c.message,
        jsonb_agg(jsonb_build_object('emoji', c.emoji, 'count', c.count, 'users', c.users) ORDER BY c.first) AS reactions
    FROM (
        SELECT r.message, r.emoji, count(*) AS count, min(r.seq) AS first,
            (jsonb_agg(r.user_id ORDER BY r.seq) FILTER (WHERE r.nth <= 10)) AS users
        FROM (
            SELECT message, emoji, user_id, seq, row_number() OVER (PARTITION BY message, emoji ORDER BY seq) AS nth
            FROM reactions
        ) AS r
        GROUP BY r.message, r.emoji
    ) AS c
    GROUP BY c.message
) AS summary
WHERE messages.id = summary.message AND messages.deleted_at IS NULL;

-- What an event of a reaction changed, as JSON: {"emoji", "user", "on"}. The events of earlier versions do not say it.
ALTER TABLE feed ADD COLUMN detail text;
