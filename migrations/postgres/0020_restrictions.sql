-- What is said of a user in a room and outlives their membership, so that it is not undone by leaving and coming back.
-- While they are a member, `members.muted_until` has their mute, which the path of a message reads; the row moves here
-- when they leave and back when they return. Each kind has an end; what has ended is deleted by the workers.
CREATE TABLE restrictions (
    room    uuid NOT NULL,
    user_id uuid NOT NULL,
    -- 'mute'
    kind    text COLLATE "C" NOT NULL,
    until   timestamptz NOT NULL,
    PRIMARY KEY (room, user_id, kind)
);

CREATE INDEX restrictions_by_user ON restrictions (user_id);
CREATE INDEX restrictions_until ON restrictions (until);
