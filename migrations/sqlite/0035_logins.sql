-- What the list of a user's sessions shows. NULL in logins of earlier versions.
ALTER TABLE logins ADD COLUMN created_at INTEGER;
ALTER TABLE logins ADD COLUMN user_agent TEXT;
ALTER TABLE logins ADD COLUMN address TEXT;
