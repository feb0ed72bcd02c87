-- Notifications: what people wish, which addresses are theirs, what was sent to them and why not.
--
-- Times are milliseconds since 1970 (UTC), so that the statements are the same for both stores.

CREATE TABLE notify_settings (
    user_id  uuid PRIMARY KEY,
    -- JSON; what is not in it is as the program's default has it.
    settings text NOT NULL
);

-- Only rooms that a user has set apart from the default.
CREATE TABLE notify_rooms (
    user_id uuid NOT NULL,
    room    uuid NOT NULL,
    mode    text NOT NULL,
    PRIMARY KEY (user_id, room)
);

-- Who is to hear of every message of a room, without looking at its other members.
CREATE INDEX notify_rooms_all ON notify_rooms (room, user_id) WHERE mode = 'all';

-- An address counts as verified while it still is the one in `users`.
CREATE TABLE verified_addresses (
    user_id uuid NOT NULL,
    channel text NOT NULL,
    address text NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (user_id, channel)
);

CREATE TABLE verification_codes (
    user_id    uuid NOT NULL,
    channel    text NOT NULL,
    address    text NOT NULL,
    code_hash  bytea NOT NULL,
    expires_at bigint NOT NULL,
    -- Wrong guesses so far.
    tries      bigint NOT NULL,
    PRIMARY KEY (user_id, channel)
);

-- One request to a provider. `record` is JSON: state, reason, attempts, reports.
CREATE TABLE deliveries (
    id      uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    channel text NOT NULL,
    at      bigint NOT NULL,
    -- Still takes messages.
    open    boolean NOT NULL,
    version bigint NOT NULL,
    record  text NOT NULL
);

-- At most one open digest for a user and a channel; it is also the lock under which messages join it.
CREATE UNIQUE INDEX deliveries_open ON deliveries (user_id, channel) WHERE open;

-- One row for each message and each member whom it concerned: told or not told.
CREATE TABLE notifications (
    message  uuid NOT NULL,
    user_id  uuid NOT NULL,
    -- '' where it was decided before any channel.
    channel  text NOT NULL,
    room     uuid NOT NULL,
    seq      bigint NOT NULL,
    cause    text NOT NULL,
    at       bigint NOT NULL,
    delivery uuid,
    -- NULL where the delivery says it.
    state    text,
    reason   text,
    PRIMARY KEY (message, user_id, channel)
);

CREATE INDEX notifications_by_user ON notifications (user_id, at);
CREATE INDEX notifications_by_delivery ON notifications (delivery) WHERE delivery IS NOT NULL;

-- Addresses that get nothing any more: bounced, complained, unsubscribed.
CREATE TABLE suppressions (
    channel text NOT NULL,
    address text NOT NULL,
    reason  text NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (channel, address)
);
