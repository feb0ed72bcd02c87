-- Accounts, rooms and their feeds; the same tables as for PostgreSQL, which say why they are so.
-- Ids are 16-byte blobs, times are milliseconds since 1970, lists are JSON text.

CREATE TABLE users (
    id            BLOB NOT NULL PRIMARY KEY,
    username      TEXT NOT NULL,
    username_key  TEXT NOT NULL UNIQUE,
    display_name  TEXT NOT NULL,
    email         TEXT,
    phone         TEXT,
    password_hash TEXT NOT NULL,
    created_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE logins (
    id         BLOB NOT NULL PRIMARY KEY,
    user_id    BLOB NOT NULL,
    token_hash BLOB NOT NULL,
    prev_hash  BLOB,
    rotated_at INTEGER,
    expires_at INTEGER NOT NULL,
    revoked    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE rooms (
    id         BLOB NOT NULL PRIMARY KEY,
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    head       INTEGER NOT NULL,
    created_by BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    deleted    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE INDEX rooms_public ON rooms (id) WHERE kind = 'public' AND NOT deleted;

CREATE TABLE members (
    room        BLOB NOT NULL,
    user_id     BLOB NOT NULL,
    role        TEXT NOT NULL,
    joined_at   INTEGER NOT NULL,
    read_seq    INTEGER NOT NULL,
    muted_until INTEGER,
    PRIMARY KEY (room, user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX members_by_user ON members (user_id, room);

CREATE TABLE bans (
    room    BLOB NOT NULL,
    user_id BLOB NOT NULL,
    until   INTEGER,
    PRIMARY KEY (room, user_id)
) STRICT, WITHOUT ROWID;

-- With a rowid: rows are appended at the end of the table whatever their room, and the two indexes stay small
-- enough to sit in the page cache.
CREATE TABLE messages (
    room          BLOB NOT NULL,
    seq           INTEGER NOT NULL,
    id            BLOB NOT NULL UNIQUE,
    change_seq    INTEGER NOT NULL,
    sender        BLOB NOT NULL,
    body          TEXT NOT NULL,
    client_msg_id TEXT NOT NULL,
    reply_to      BLOB,
    mentions      TEXT,
    reactions     TEXT,
    metadata      TEXT,
    created_at    INTEGER NOT NULL,
    edited_at     INTEGER,
    deleted_at    INTEGER,
    PRIMARY KEY (room, seq)
) STRICT;

CREATE TABLE feed (
    room    BLOB NOT NULL,
    seq     INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    message BLOB,
    data    TEXT,
    at      INTEGER NOT NULL,
    PRIMARY KEY (room, seq)
) STRICT, WITHOUT ROWID;
