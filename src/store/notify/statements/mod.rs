//! The statements of both traits, as a macro that each store expands over its own kind of connection: nearly all of them
//! are the same text for PostgreSQL and for SQLite, which reads `$1` as well.

mod reads;
mod writes;

pub(crate) use reads::notify_reads;
pub(crate) use writes::notify_writes;

/// The statements that are the same for both databases, as one `impl` of both traits. `$run` opens a transaction
/// (`$write` one that may change something), runs a future over its connection, and commits.
macro_rules! notify_store {
    ($store:ty, $row:ty, $read:ident, $write:ident, $failure:path, $candidates:expr, $bind_ids:expr) => {
        use async_trait::async_trait;
        use sqlx::Row;
        use uuid::Uuid;

        use crate::{
            error::Result,
            model::{
                MessageId, RoomId, Timestamp, UserId,
                address::Address,
                notify::{
                    Cause, ChannelKind, Delivery, Preferences, Purpose, RoomMode, delivery_id,
                },
            },
            store::notify::{
                Candidate, CodeAnswer, Decision, Entry, Line, MAX_TRIES, NewCode, NotifyReads,
                NotifySettings, NotifyWrites, Place, Verdict, columns,
            },
        };

        $crate::store::notify::notify_reads!($store, $row, $read);
        $crate::store::notify::notify_writes!(
            $store,
            $row,
            $read,
            $write,
            $failure,
            $candidates,
            $bind_ids
        );
    };
}

pub(crate) use notify_store;

/// Columns to values, for both databases.
pub mod columns {
    use crate::model::{
        address::Address,
        notify::{ChannelKind, DeliveryRecord, DeliveryState},
    };

    fn decode(message: String) -> sqlx::Error {
        sqlx::Error::Decode(message.into())
    }

    pub fn word<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> sqlx::Result<T> {
        parse(text).ok_or_else(|| decode(format!("a word that nobody knows: {text}")))
    }

    /// `None` for one that nothing can be sent to.
    pub fn address(channel: ChannelKind, text: Option<&str>) -> Option<Address> {
        Address::parse(channel, text?)
    }

    pub fn record(json: &str) -> sqlx::Result<DeliveryRecord> {
        serde_json::from_str(json).map_err(|error| sqlx::Error::Decode(error.into()))
    }

    pub fn json(record: &DeliveryRecord) -> sqlx::Result<String> {
        serde_json::to_string(record).map_err(|error| sqlx::Error::Encode(error.into()))
    }

    pub fn decided(
        state: Option<&str>,
        reason: Option<String>,
    ) -> sqlx::Result<Option<(DeliveryState, String)>> {
        state
            .map(|state| {
                Ok((
                    word(state, DeliveryState::parse)?,
                    reason.unwrap_or_default(),
                ))
            })
            .transpose()
    }
}
