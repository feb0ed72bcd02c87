-- What clears away old rows of the ledger finds them by their age.
CREATE INDEX notifications_at ON notifications (at);
CREATE INDEX deliveries_at ON deliveries (at);
