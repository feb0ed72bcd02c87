-- Accounts, rooms and their feeds.
--
-- There are no foreign keys. Workers check every reference while they hold the room's lock, a check per row
-- would cost the hot path a lookup, and tables that refer to each other cannot be sharded apart by room and user.
-- Indexed text is compared byte by byte (COLLATE "C"): an index in a locale's order breaks silently when the
-- system's locale data is updated.

CREATE TABLE users (
    id            uuid PRIMARY KEY,
    username      text NOT NULL,
    -- The name in lower case, made by the program, so that both stores fold case alike.
    username_key  text COLLATE "C" NOT NULL CONSTRAINT users_username_key UNIQUE,
    display_name  text NOT NULL,
    email         text,
    phone         text,
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL
);

CREATE TABLE logins (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL,
    token_hash bytea NOT NULL,
    -- The token before that one, and when it was replaced: a repeat is told from a theft by its age.
    prev_hash  bytea,
    rotated_at timestamptz,
    expires_at timestamptz NOT NULL,
    revoked    boolean NOT NULL DEFAULT false
);

-- One row is updated by every batch that writes to the room. Free space in each page and no index on `head` keep
-- those updates inside the page (HOT), without touching an index.
CREATE TABLE rooms (
    id         uuid PRIMARY KEY,
    kind       text NOT NULL,
    name       text NOT NULL,
    head       bigint NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamptz NOT NULL,
    deleted    boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70);

CREATE INDEX rooms_public ON rooms (id) WHERE kind = 'public' AND NOT deleted;

-- `read_seq` changes often and stands in no index.
CREATE TABLE members (
    room        uuid NOT NULL,
    user_id     uuid NOT NULL,
    role        text NOT NULL,
    joined_at   timestamptz NOT NULL,
    read_seq    bigint NOT NULL,
    muted_until timestamptz,
    PRIMARY KEY (room, user_id)
) WITH (fillfactor = 80);

CREATE INDEX members_by_user ON members (user_id, room);

CREATE TABLE bans (
    room    uuid NOT NULL,
    user_id uuid NOT NULL,
    -- NULL is for good.
    until   timestamptz,
    PRIMARY KEY (room, user_id)
);

-- Every number of a room is one row of `messages` or one of `feed`, never of both.
--
-- The two indexes are all there are: (room, seq) reads and orders, (id) finds a message and refuses to store it
-- twice. Each further one would cost every insert a random page.
CREATE TABLE messages (
    room          uuid NOT NULL,
    seq           bigint NOT NULL,
    id            uuid NOT NULL CONSTRAINT messages_id UNIQUE,
    change_seq    bigint NOT NULL,
    sender        uuid NOT NULL,
    body          text NOT NULL,
    client_msg_id text NOT NULL,
    reply_to      uuid,
    -- NULL where there are none, which is nearly always: NULL takes no space.
    mentions      uuid[],
    -- [{"emoji", "users": [id]}], in the order in which they were first given.
    reactions     jsonb,
    -- JSON as the client wrote it: jsonb would reorder keys and round numbers.
    metadata      text,
    created_at    timestamptz NOT NULL,
    edited_at     timestamptz,
    deleted_at    timestamptz,
    CONSTRAINT messages_pkey PRIMARY KEY (room, seq)
);

-- The events that are not new messages: edits, deletions, reactions, who came and went. One about a message shows
-- the message as it is when read, so only its id is kept.
CREATE TABLE feed (
    room    uuid NOT NULL,
    seq     bigint NOT NULL,
    kind    text NOT NULL,
    message uuid,
    data    text,
    at      timestamptz NOT NULL,
    PRIMARY KEY (room, seq)
);
