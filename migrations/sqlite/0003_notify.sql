-- Notifications, and the queue of the jobs that send them; the tables are those for PostgreSQL, which say why they
-- are so.

CREATE TABLE jobs (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    queue   TEXT    NOT NULL,
    -- When it may be taken, in milliseconds since 1970.
    due     INTEGER NOT NULL,
    payload BLOB    NOT NULL
) STRICT;

CREATE INDEX jobs_due ON jobs (queue, due);

CREATE TABLE notify_settings (
    user_id  BLOB NOT NULL PRIMARY KEY,
    settings TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE notify_rooms (
    user_id BLOB NOT NULL,
    room    BLOB NOT NULL,
    mode    TEXT NOT NULL,
    PRIMARY KEY (user_id, room)
) STRICT, WITHOUT ROWID;

CREATE INDEX notify_rooms_all ON notify_rooms (room, user_id) WHERE mode = 'all';

CREATE TABLE verified_addresses (
    user_id BLOB NOT NULL,
    channel TEXT NOT NULL,
    address TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (user_id, channel)
) STRICT, WITHOUT ROWID;

CREATE TABLE verification_codes (
    user_id    BLOB NOT NULL,
    channel    TEXT NOT NULL,
    address    TEXT NOT NULL,
    code_hash  BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    tries      INTEGER NOT NULL,
    PRIMARY KEY (user_id, channel)
) STRICT, WITHOUT ROWID;

-- With a rowid: records are long and change in place.
CREATE TABLE deliveries (
    id      BLOB NOT NULL PRIMARY KEY,
    user_id BLOB NOT NULL,
    channel TEXT NOT NULL,
    at      INTEGER NOT NULL,
    open    INTEGER NOT NULL,
    version INTEGER NOT NULL,
    record  TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX deliveries_open ON deliveries (user_id, channel) WHERE open;

CREATE TABLE notifications (
    message  BLOB NOT NULL,
    user_id  BLOB NOT NULL,
    channel  TEXT NOT NULL,
    room     BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    cause    TEXT NOT NULL,
    at       INTEGER NOT NULL,
    delivery BLOB,
    state    TEXT,
    reason   TEXT,
    PRIMARY KEY (message, user_id, channel)
) STRICT, WITHOUT ROWID;

CREATE INDEX notifications_by_user ON notifications (user_id, at);
CREATE INDEX notifications_by_delivery ON notifications (delivery) WHERE delivery IS NOT NULL;

CREATE TABLE suppressions (
    channel TEXT NOT NULL,
    address TEXT NOT NULL,
    reason  TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (channel, address)
) STRICT, WITHOUT ROWID;
