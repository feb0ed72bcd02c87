-- The epoch of the store: which history the numbers of the rooms belong to. It is replaced when an edge finds that the
-- database has lost history (a standby that was behind was promoted, an older backup was restored): from then on a
-- number may name another event than before. One row.
CREATE TABLE store_epoch (
    only_row INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    epoch    BLOB NOT NULL CHECK (length(epoch) = 16),
    since    INTEGER NOT NULL
) STRICT;

INSERT INTO store_epoch (epoch, since)
    VALUES (randomblob(16), CAST(unixepoch('subsec') * 1000 AS INTEGER));
