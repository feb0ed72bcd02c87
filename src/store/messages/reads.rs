//! The statements of [`MessageReads`].

use async_trait::async_trait;

use super::{
    MAX_EVENTS, MessageReads, Missed, Window,
    events::{EVENTS, feed_events, missed},
    message_columns,
};
use crate::{
    error::Result,
    model::{FeedEvent, Message, MessageId, RoomId, Seq},
    store::sql::{Access, Database, Dialect, Record, Row, Session, on_replica, sql},
};

const BELOW: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages m LEFT JOIN users u ON u.id = m.sender \
      WHERE m.room = $1 AND m.seq < $2 ORDER BY m.seq DESC LIMIT $3"
);

const FROM: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages m LEFT JOIN users u ON u.id = m.sender \
      WHERE m.room = $1 AND m.seq >= $2 ORDER BY m.seq LIMIT $3"
);

const AROUND: &str = concat!(
    "SELECT * FROM (SELECT ",
    message_columns!(),
    " FROM messages m LEFT JOIN users u ON u.id = m.sender \
      WHERE m.room = $1 AND m.seq < $2 ORDER BY m.seq DESC LIMIT $3) AS below \
     UNION ALL SELECT * FROM (SELECT ",
    message_columns!(),
    " FROM messages m LEFT JOIN users u ON u.id = m.sender \
      WHERE m.room = $1 AND m.seq >= $2 ORDER BY m.seq LIMIT $4) AS above"
);

const MESSAGE: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages m LEFT JOIN users u ON u.id = m.sender \
      WHERE m.id = $2 AND m.room = $1"
);

const UNREAD: &str = "SELECT count(*) AS count FROM \
     (SELECT 1 FROM messages WHERE room = $1 AND seq > $2 LIMIT 1000) AS above";

const HEAD: &str = "SELECT head FROM rooms WHERE id = $1";

struct Head(Seq);

impl Record for Head {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        row.get("head").map(Head)
    }
}

/// The messages below a number, from a replica; `None` if the primary must be read, since no replica has all of them.
async fn older<D: Database>(
    database: &D,
    room: RoomId,
    seq: Seq,
    limit: i64,
) -> Option<Vec<Message>> {
    let read = async |mut session: D::Session| {
        // First: a replica only moves forward.
        let head: Option<Head> = session.optional(sql(HEAD).bind(room)).await?;
        if head.is_none_or(|head| head.0 < seq.saturating_sub(1)) {
            return Ok(None);
        }
        let statement = sql(BELOW).bind(room).bind(seq).bind(limit);
        session.all(statement).await.map(Some)
    };
    on_replica(database, read).await
}

struct Count(u32);

impl Record for Count {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        row.count("count").map(Count)
    }
}

#[async_trait]
impl<D: Database> MessageReads for D {
    async fn events(&self, room: RoomId, after: Seq, upto: Seq) -> Result<Vec<FeedEvent>> {
        let upto = upto.min(after.saturating_add(MAX_EVENTS));
        let mut session = self.open(Access::Read).await?;
        let statement = sql(EVENTS).bind(room).bind(after).bind(upto);
        feed_events(room, session.all(statement.bind(MAX_EVENTS)).await?)
    }

    async fn missed(&self, room: RoomId, after: Seq, upto: Seq) -> Result<Vec<Missed>> {
        let upto = upto.min(after.saturating_add(MAX_EVENTS));
        let mut session = self.open(Access::Read).await?;
        let statement = sql(EVENTS).bind(room).bind(after).bind(upto);
        Ok(missed(room, session.all(statement.bind(1)).await?))
    }

    async fn messages(&self, room: RoomId, window: Window, limit: u32) -> Result<Vec<Message>> {
        let limit = i64::from(limit);
        let statement = match window {
            Window::Latest => sql(BELOW).bind(room).bind(Seq::MAX).bind(limit),
            Window::Before(seq) => sql(BELOW).bind(room).bind(seq).bind(limit),
            Window::After(seq) => sql(FROM).bind(room).bind(seq.saturating_add(1)).bind(limit),
            Window::Around(seq) => {
                let below = limit / 2;
                let above = limit - below;
                sql(AROUND).bind(room).bind(seq).bind(below).bind(above)
            }
        };
        let replica = match window {
            Window::Before(seq) => older(self, room, seq, limit).await,
            _ => None,
        };
        let mut messages: Vec<Message> = match replica {
            Some(messages) => messages,
            None => self.open(Access::Read).await?.all(statement).await?,
        };
        messages.sort_unstable_by_key(|message| message.seq);
        Ok(messages)
    }

    async fn message(&self, room: RoomId, id: MessageId) -> Result<Option<Message>> {
        let mut session = self.open(Access::Read).await?;
        session.optional(sql(MESSAGE).bind(room).bind(id)).await
    }

    async fn unread(&self, room: RoomId, read_seq: Seq) -> Result<u32> {
        let mut session = self.open(Access::Read).await?;
        let count: Count = session.one(sql(UNREAD).bind(room).bind(read_seq)).await?;
        Ok(count.0)
    }
}
