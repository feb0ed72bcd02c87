-- An account that was deleted stays as a row without anything personal: messages name their sender by it.
ALTER TABLE users ADD COLUMN deleted_at timestamptz;
CREATE INDEX users_deleted ON users (deleted_at) WHERE deleted_at IS NOT NULL;

-- What belongs to a user, for the day they go.
CREATE INDEX logins_by_user ON logins (user_id);
CREATE INDEX deliveries_by_user ON deliveries (user_id, id);
