-- What a user name looks like: names with the same skeleton are taken for one another (src/model/username.rs has the
-- rule, of which this is a copy in SQL). Null where no account may claim it: of older accounts that look alike only the
-- first has one, and a version of chat that does not know the column leaves it out.
ALTER TABLE users ADD COLUMN skeleton text;

WITH looks AS (
    SELECT id, created_at,
        replace(replace(replace(replace(lower(replace(username, 'I', 'l')), '1', 'l'), '0', 'o'), 'm', 'rn'), 'vv', 'w')
            AS skeleton
    FROM users WHERE deleted_at IS NULL
), firsts AS (
    SELECT id, skeleton, row_number() OVER (PARTITION BY skeleton ORDER BY created_at, id) AS place FROM looks
)
UPDATE users SET skeleton = firsts.skeleton FROM firsts WHERE firsts.id = users.id AND firsts.place = 1;

CREATE UNIQUE INDEX users_skeleton ON users (skeleton) WHERE deleted_at IS NULL AND skeleton IS NOT NULL;
