//! Events as they are stored, and as they go over the wire.

use super::message_columns;
use crate::{
    error::{Error, Result},
    model::{EventKind, FeedEvent, Message, RoomId, Seq},
    store::sql::{Dialect, Record, Row},
};

/// One statement, so one snapshot: with two, a commit between them would look like a missing range.
pub(super) const EVENTS: &str = concat!(
    "SELECT m.seq AS event_seq, 'newMessage' AS event_kind, CAST(NULL AS text) AS event_data, ",
    message_columns!(),
    " FROM messages m LEFT JOIN users u ON u.id = m.sender \
      WHERE m.room = $1 AND m.seq > $2 AND m.seq <= $3 \
     UNION ALL SELECT f.seq, f.kind, f.data, ",
    message_columns!(),
    " FROM feed f LEFT JOIN messages m ON m.id = f.message \
      LEFT JOIN users u ON u.id = m.sender \
      WHERE f.room = $1 AND f.seq > $2 AND f.seq <= $3 \
      ORDER BY 1"
);

/// A row of [`EVENTS`].
pub(super) struct StoredEvent {
    seq: Seq,
    kind: EventKind,
    data: Option<String>,
    message: Option<Message>,
}

impl Record for StoredEvent {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(StoredEvent {
            seq: row.get("event_seq")?,
            kind: row.get("event_kind")?,
            data: row.get("event_data")?,
            message: Option::read(row)?,
        })
    }
}

/// Events as clients get them. One whose content is missing is left out, so that clients get a `gap` for its number and
/// do not lose the whole room.
pub(super) fn feed_events(room: RoomId, stored: Vec<StoredEvent>) -> Result<Vec<FeedEvent>> {
    let mut events = Vec::with_capacity(stored.len());
    for StoredEvent {
        seq,
        kind,
        data,
        message,
    } in stored
    {
        let data = match (data, message) {
            (Some(data), _) => data,
            (None, Some(mut message)) => {
                message.change_seq = seq;
                serde_json::to_string(&message).map_err(Error::internal)?
            }
            (None, None) => {
                tracing::error!(%room, seq, %kind, "an event of the feed has no content");
                continue;
            }
        };
        events.push(FeedEvent { seq, kind, data });
    }
    Ok(events)
}
