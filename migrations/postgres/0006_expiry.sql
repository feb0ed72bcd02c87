-- What clears away old rows of the ledger finds them by their age. Rows come nearly in the order of their times, so a
-- BRIN index says it in a few pages and costs an insert next to nothing.
CREATE INDEX notifications_at ON notifications USING brin (at);
CREATE INDEX deliveries_at ON deliveries USING brin (at);
