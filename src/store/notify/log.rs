//! The statements of [`LogReads`] and [`LogWrites`]: the delivery log, which consists of decisions.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Candidate, Decision, LogEntry, LogPosition, LogReads, LogWrites, NotifyVerdict, candidates,
    record::{decided, delivery_columns, json, time},
};
use crate::{
    error::Result,
    model::{
        MessageId, RoomId, Timestamp, UserId,
        notify::{Cause, ChannelKind, Delivery, Purpose, delivery_id},
    },
    store::sql::{Access, Database, Dialect, Record, Row, Session, sql},
};

macro_rules! select_entries {
    () => {
        concat!(
            "SELECT n.message, n.room, n.seq, n.user_id, n.channel, n.cause, n.at, n.state, \
                 n.reason, ",
            delivery_columns!(),
            " FROM notifications n LEFT JOIN deliveries d ON d.id = n.delivery "
        )
    };
}

const OF_MESSAGE: &str = concat!(
    select_entries!(),
    "WHERE n.message = $1 ORDER BY n.user_id, n.channel LIMIT 1000"
);

const OF_USER: &str = concat!(
    select_entries!(),
    "WHERE n.user_id = $1 AND (n.at, n.message, n.channel) < ($2, $3, $4) \
     ORDER BY n.at DESC, n.message DESC, n.channel DESC LIMIT $5"
);

const ROOM: &str = "SELECT room AS id FROM messages WHERE id = $1";

const DECIDED: &str = "SELECT channel, cause, delivery FROM notifications \
     WHERE message = $1 AND user_id = $2";

/// Updating the open delivery locks it until the commit: it cannot close before.
const JOIN_DELIVERY: &str = "INSERT INTO deliveries (id, user_id, channel, at, open, version, record) \
     VALUES ($1, $2, $3, $4, true, 0, $5) \
     ON CONFLICT (user_id, channel) WHERE open DO UPDATE SET at = deliveries.at RETURNING id";

const PUT: &str = "INSERT INTO notifications (message, user_id, channel, room, seq, cause, at, \
         delivery, state, reason) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";

impl Record for LogEntry {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        // Empty where no channel was chosen.
        let channel: String = row.get("channel")?;
        let delivery: Option<Uuid> = row.get("delivery_id")?;
        Ok(LogEntry {
            message: row.get("message")?,
            room: row.get("room")?,
            seq: row.get("seq")?,
            user: row.get("user_id")?,
            channel: ChannelKind::parse(&channel),
            cause: row.get("cause")?,
            at: time(row, "at")?,
            decided: decided(row)?,
            delivery: delivery.map(|_| Delivery::read(row)).transpose()?,
        })
    }
}

/// An earlier decision about a message and a user.
struct Decided {
    channel: Option<ChannelKind>,
    cause: Cause,
    delivery: Option<Uuid>,
}

impl Record for Decided {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let channel: String = row.get("channel")?;
        Ok(Decided {
            channel: ChannelKind::parse(&channel),
            cause: row.get("cause")?,
            delivery: row.get("delivery")?,
        })
    }
}

impl Decided {
    /// Whether the decision also holds for `cause`: if the room's setting kept a user from being
    /// notified, an edit of the message may mention them later.
    fn holds_for(&self, cause: Cause) -> bool {
        self.delivery.is_some() || self.cause != Cause::All || cause == Cause::All
    }
}

#[async_trait]
impl<D: Database> LogReads for D {
    async fn log_of_message(&self, message: MessageId) -> Result<Vec<LogEntry>> {
        let mut session = self.open(Access::Read).await?;
        session.all(sql(OF_MESSAGE).bind(message)).await
    }

    async fn log_of_user(
        &self,
        user: UserId,
        before: Option<&LogPosition>,
        limit: u32,
    ) -> Result<Vec<LogEntry>> {
        let (at, message, channel) = match before {
            Some(position) => (
                position.at.millis(),
                position.message,
                position.channel.as_str(),
            ),
            None => (i64::MAX, Uuid::max(), ""),
        };
        let mut session = self.open(Access::Read).await?;
        let statement = sql(OF_USER)
            .bind(user)
            .bind(at)
            .bind(message)
            .bind(channel)
            .bind(i64::from(limit));
        session.all(statement).await
    }

    async fn room_of(&self, message: MessageId) -> Result<Option<RoomId>> {
        let mut session = self.open(Access::Read).await?;
        session.optional(sql(ROOM).bind(message)).await
    }
}

#[async_trait]
impl<D: Database> LogWrites for D {
    async fn candidates(&self, messages: &[MessageId]) -> Result<Vec<Candidate>> {
        candidates::candidates(self, messages).await
    }

    async fn decide(&self, decisions: &[Decision]) -> Result<Vec<(Uuid, ChannelKind)>> {
        let now = Timestamp::now();
        let mut session = self.open(Access::Background).await?;
        let mut deliveries = Vec::new();
        let mut earlier = Vec::new();
        let mut about = None;
        for decision in decisions {
            // Read before the first decision about this message and user; the following ones belong to the same
            // evaluation.
            if about != Some((decision.message, decision.user)) {
                about = Some((decision.message, decision.user));
                let decided = sql(DECIDED).bind(decision.message).bind(decision.user);
                earlier = session.all::<Decided>(decided).await?;
                let joined = earlier
                    .iter()
                    .filter_map(|decided| Some((decided.delivery?, decided.channel?)));
                deliveries.extend(joined);
            }
            if earlier
                .iter()
                .any(|decided| decided.holds_for(decision.cause))
            {
                continue;
            }
            let (channel, delivery, state, reason) = match decision.verdict {
                NotifyVerdict::Skip(state, reason) => ("", None, Some(state), Some(reason)),
                NotifyVerdict::Notify(channel) => {
                    let id = join_delivery(&mut session, decision, channel, now).await?;
                    deliveries.push((id, channel));
                    (channel.as_str(), Some(id), None, None)
                }
            };
            let put = sql(PUT)
                .bind(decision.message)
                .bind(decision.user)
                .bind(channel)
                .bind(decision.room)
                .bind(decision.seq)
                .bind(decision.cause)
                .bind(now.millis())
                .bind(delivery)
                .bind(state)
                .bind(reason);
            session.execute(put).await?;
        }
        session.commit().await?;
        deliveries.sort_unstable();
        deliveries.dedup();
        Ok(deliveries)
    }
}

/// The open delivery of the decision's user and channel, or a new one.
async fn join_delivery<S: Session>(
    session: &mut S,
    decision: &Decision,
    channel: ChannelKind,
    now: Timestamp,
) -> Result<Uuid> {
    let id = delivery_id(decision.user, channel, decision.message);
    let new = Delivery::new(id, decision.user, channel, Purpose::Messages);
    let record = json(&new.record).map_err(S::Dialect::failure)?;
    let join = sql(JOIN_DELIVERY)
        .bind(id)
        .bind(decision.user)
        .bind(channel)
        .bind(now.millis())
        .bind(record.as_str());
    session.one(join).await
}
