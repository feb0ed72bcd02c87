//! Events as they are stored, and as they go over the wire.

use super::{Missed, MissedContent, message_columns};
use crate::{
    error::{Error, Result},
    model::{EventKind, FeedEvent, Message, RoomId, Seq, text::emoji},
    protocol::ReactionUpdated,
    store::{
        ReactionDetail,
        sql::{Dialect, Record, Row},
    },
};

/// One statement, so one snapshot: with two, a commit between them would look like a missing range. `$4` is how many
/// events of the feed show the same message; the earlier ones have none.
pub(super) const EVENTS: &str = concat!(
    "SELECT m.seq AS event_seq, 'newMessage' AS event_kind, CAST(NULL AS text) AS event_data, \
         CAST(NULL AS text) AS event_detail, CAST(1 AS bigint) AS event_nth, ",
    message_columns!(),
    " FROM messages m LEFT JOIN users u ON u.id = m.sender \
      WHERE m.room = $1 AND m.seq > $2 AND m.seq <= $3 \
     UNION ALL SELECT f.seq, f.kind, f.data, f.detail, f.nth, ",
    message_columns!(),
    " FROM (SELECT seq, kind, message, data, detail, \
              row_number() OVER (PARTITION BY message ORDER BY seq DESC) AS nth \
          FROM feed WHERE room = $1 AND seq > $2 AND seq <= $3) AS f \
      LEFT JOIN messages m ON m.id = f.message AND f.nth <= $4 \
      LEFT JOIN users u ON u.id = m.sender \
      ORDER BY 1"
);

/// A row of [`EVENTS`].
pub(super) struct StoredEvent {
    seq: Seq,
    kind: EventKind,
    data: Option<String>,
    detail: Option<String>,
    /// Which of the events of its message it is, counted from the last.
    nth: i64,
    message: Option<Message>,
}

impl Record for StoredEvent {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(StoredEvent {
            seq: row.get("event_seq")?,
            kind: row.get("event_kind")?,
            data: row.get("event_data")?,
            detail: row.get("event_detail")?,
            nth: row.get("event_nth")?,
            message: Option::read(row)?,
        })
    }
}

impl StoredEvent {
    fn is_missing(&self, room: RoomId) -> bool {
        let missing = self.data.is_none() && self.message.is_none();
        if missing {
            let (seq, kind) = (self.seq, self.kind);
            tracing::error!(%room, seq, %kind, "an event of the feed has no content");
        }
        missing
    }
}

/// Events as sockets get them. One whose content is missing is left out, so that clients get a `gap` for its number and
/// do not lose the whole room.
pub(super) fn feed_events(room: RoomId, stored: Vec<StoredEvent>) -> Result<Vec<FeedEvent>> {
    let stored = stored.into_iter();
    let stored = stored.filter(|event| !event.is_missing(room));
    stored.map(feed_event).collect()
}

fn feed_event(stored: StoredEvent) -> Result<FeedEvent> {
    let StoredEvent {
        seq,
        mut kind,
        detail,
        ..
    } = stored;
    let data = match (stored.data, stored.message) {
        (Some(data), _) => data,
        (None, Some(mut message)) => {
            message.change_seq = seq;
            let reaction = match detail {
                Some(detail) if message.deleted_at.is_none() => Some(reaction(&message, &detail)?),
                _ => None,
            };
            match reaction {
                Some(reaction) => serde_json::to_string(&reaction),
                None => {
                    // Without a detail, the change is not known: the event has the whole message.
                    if kind == EventKind::ReactionUpdated {
                        kind = EventKind::MessageUpdated;
                    }
                    serde_json::to_string(&message)
                }
            }
            .map_err(Error::internal)?
        }
        (None, None) => String::new(),
    };
    Ok(FeedEvent { seq, kind, data })
}

/// The stored change, with the present number of users.
fn reaction(message: &Message, detail: &str) -> Result<ReactionUpdated> {
    let detail: ReactionDetail = serde_json::from_str(detail).map_err(Error::internal)?;
    let emoji = emoji::qualified(&detail.emoji).into_owned();
    let given = message.reactions.iter().find(|r| r.emoji == emoji);
    Ok(ReactionUpdated {
        room: message.room,
        id: message.id,
        seq: message.seq,
        change_seq: message.change_seq,
        user: detail.user,
        on: detail.on,
        count: given.map_or(0, |given| given.count),
        users: given.map_or(Vec::new(), |given| given.users.clone()),
        emoji,
    })
}

/// Events as [`MessageReads::missed`](super::MessageReads::missed) has them.
pub(super) fn missed(room: RoomId, stored: Vec<StoredEvent>) -> Vec<Missed> {
    let mut events = Vec::with_capacity(stored.len());
    for event in stored {
        let repeated = event.nth > 1 && event.data.is_none();
        if !repeated && event.is_missing(room) {
            continue;
        }
        let StoredEvent {
            seq,
            kind,
            data,
            message,
            ..
        } = event;
        let content = match (data, message) {
            (Some(data), _) => MissedContent::Event(kind, data),
            (None, Some(mut message)) => {
                message.change_seq = seq;
                MissedContent::Message(Box::new(message))
            }
            (None, None) => MissedContent::Repeated,
        };
        events.push(Missed { seq, content });
    }
    events
}
