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

pub(super) use delivery_columns;

pub(super) fn time<D: Dialect>(row: &Row<D>, column: &str) -> sqlx::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

/// `None` where there is none, or nothing can be sent to it.
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
