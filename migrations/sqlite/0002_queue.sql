-- The queue of a standalone node. Payloads are batches of commands; ids ascend in the order of publishing and are
-- never used twice, so that a consumer's place stays valid when the table runs empty.
CREATE TABLE queue (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    partition INTEGER NOT NULL,
    -- How many commands are inside.
    messages  INTEGER NOT NULL,
    payload   BLOB    NOT NULL
);

-- Ends with the rowid, as every index does: a partition's payloads in order.
CREATE INDEX queue_partition ON queue (partition);

-- Commands that cannot succeed, with the reason.
CREATE TABLE dead_letters (
    position  INTEGER PRIMARY KEY AUTOINCREMENT,
    id        BLOB    NOT NULL UNIQUE,
    -- Milliseconds since 1970.
    at        INTEGER NOT NULL,
    reason    TEXT    NOT NULL,
    partition INTEGER NOT NULL,
    payload   BLOB    NOT NULL
);
