-- The epoch of the store: which history the numbers of the rooms belong to. It is replaced when an edge finds that the
-- database has lost history (a standby that was behind was promoted, an older backup was restored): from then on a
-- number may name another event than before. One row.
CREATE TABLE store_epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    uuid NOT NULL,
    since    timestamptz NOT NULL
);

INSERT INTO store_epoch (epoch, since) VALUES (gen_random_uuid(), now());
