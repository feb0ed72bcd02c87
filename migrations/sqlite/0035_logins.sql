-- What the list of a user's sessions shows. NULL in logins of earlier versions.
ALTER TABLE logins ADD COLUMN created_at INTEGER;
ALTER TABLE logins ADD COLUMN user_agent TEXT;
ALTER TABLE logins ADD COLUMN address TEXT;

-- The command that revoked the login, by its time: a repeat of it finds what it did.
ALTER TABLE logins ADD COLUMN revoked_at INTEGER;

-- When the address replaced another one that was verified, in milliseconds since 1970; NULL for a first address.
ALTER TABLE verified_addresses ADD COLUMN replaced_at INTEGER;
