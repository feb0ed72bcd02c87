//! Rows of the tables of notifications. Their times are milliseconds in both databases.

use crate::{
    model::{
        Timestamp,
        address::Address,
        notify::{ChannelKind, Delivery, DeliveryRecord, DeliveryState},
    },
    store::sql::{Dialect, Record, Row},
};

/// The columns of a [`Delivery`], of `deliveries d`.
macro_rules! delivery_columns {
    () => {
        "d.id AS delivery_id, d.user_id AS delivery_user, d.channel AS delivery_channel, \
         d.at AS delivery_at, d.version, d.record"
    };
}

/// The messages, as the table `asked`, and the users whom they may concern, as the table `concerned`.
///
/// `$left` is the id of the user who left in an event `f`. `$named` are the columns and the tables that yield a row for
/// each user whom a message of `asked a` names.
macro_rules! concerned {
    ($left:literal, $named:literal) => {
        concat!(
            "WITH asked AS MATERIALIZED ( \
                 SELECT m.id, m.room, m.seq, m.sender, m.mentions, m.deleted_at, r.kind \
                 FROM messages m JOIN rooms r ON r.id = m.room \
                 WHERE m.id {among} AND NOT r.deleted \
             ), concerned AS ( \
                 SELECT a.id, x.user_id, 'direct' AS cause, 1 AS rank FROM asked a \
                     {join} members x ON x.room = a.room WHERE a.kind = 'direct' \
                 UNION ALL SELECT a.id, ",
            $left,
            ", 'direct', 1 FROM asked a \
                     {join} feed f ON f.room = a.room AND f.seq > a.seq AND f.kind = 'memberLeft' \
                     WHERE a.kind = 'direct' \
                 UNION ALL SELECT a.id, ",
            $named,
            " UNION ALL SELECT a.id, p.user_id, 'all', 3 FROM asked a \
                     {join} notify_rooms p ON p.room = a.room AND p.mode = 'all' \
                     WHERE EXISTS (SELECT 1 FROM members y \
                             WHERE y.room = p.room AND y.user_id = p.user_id) \
                         OR EXISTS (SELECT 1 FROM feed f WHERE f.room = a.room AND f.seq > a.seq \
                             AND f.kind = 'memberLeft' AND ",
            $left,
            " = p.user_id))"
        )
    };
}

/// The columns of a [`Candidate`](super::Candidate), of `asked a`, the strongest row of `concerned` as `c`, `users u`,
/// and the tables of `candidate_joins`.
macro_rules! candidate_columns {
    () => {
        "a.id AS message, a.room, a.seq, \
             a.deleted_at IS NOT NULL AS deleted, c.user_id, c.cause, x.read_seq >= a.seq AS is_read, \
             p.mode, s.settings, e.address AS email, t.address AS phone, \
             u.deleted_at IS NOT NULL AS gone "
    };
}

/// Joins the user's membership, preferences and verified addresses.
macro_rules! candidate_joins {
    () => {
        "LEFT JOIN members x ON x.room = a.room AND x.user_id = c.user_id \
         LEFT JOIN notify_rooms p ON p.user_id = c.user_id AND p.room = a.room \
         LEFT JOIN notify_settings s ON s.user_id = c.user_id \
         LEFT JOIN verified_addresses e ON e.user_id = c.user_id AND e.channel = 'email' \
             AND lower(e.address) = lower(u.email) \
         LEFT JOIN verified_addresses t ON t.user_id = c.user_id AND t.channel = 'sms' \
             AND lower(t.address) = lower(u.phone)"
    };
}

pub(super) use {candidate_columns, candidate_joins, concerned, delivery_columns};

pub(super) fn time<D: Dialect>(row: &Row<D>, column: &str) -> sqlx::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

/// `None` where there is no address, or it cannot be parsed: nothing is sent to it.
pub(super) fn address<D: Dialect>(
    row: &Row<D>,
    channel: ChannelKind,
    column: &str,
) -> sqlx::Result<Option<Address>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.and_then(|text| Address::parse(channel, &text)))
}

/// A delivery's record as it is stored.
pub(super) fn json(record: &DeliveryRecord) -> sqlx::Result<String> {
    serde_json::to_string(record).map_err(|error| sqlx::Error::Encode(error.into()))
}

pub(super) fn decided<D: Dialect>(row: &Row<D>) -> sqlx::Result<Option<(DeliveryState, String)>> {
    let state: Option<DeliveryState> = row.get("state")?;
    let reason: Option<String> = row.get("reason")?;
    Ok(state.map(|state| (state, reason.unwrap_or_default())))
}

impl Record for Delivery {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let record: String = row.get("record")?;
        Ok(Delivery {
            id: row.get("delivery_id")?,
            user: row.get("delivery_user")?,
            channel: row.get("delivery_channel")?,
            at: time(row, "delivery_at")?,
            version: row.get("version")?,
            record: serde_json::from_str(&record)
                .map_err(|error| sqlx::Error::Decode(error.into()))?,
        })
    }
}
