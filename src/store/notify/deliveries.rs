//! The statements of [`DeliveryReads`] and [`DeliveryWrites`].

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    DeliveryReads, DeliveryWrites, DigestLine,
    record::{delivery_columns, json},
};
use crate::{
    error::Result,
    model::{MessageId, UserId, notify::Delivery},
    store::sql::{Access, Database, Dialect, Record, Row, Session, sql},
};

const DELIVERY: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    " FROM deliveries d WHERE d.id = $1"
);

const TO_USER: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    " FROM deliveries d WHERE d.user_id = $1 AND d.id > $2 ORDER BY d.id LIMIT $3"
);

const PUT: &str = "INSERT INTO deliveries (id, user_id, channel, at, open, version, record) \
     VALUES ($1, $2, $3, $4, false, 0, $5) ON CONFLICT (id) DO NOTHING";

const CHANGE: &str = "UPDATE deliveries SET record = $3, version = version + 1 \
     WHERE id = $1 AND version = $2";

const CLOSE: &str = "UPDATE deliveries SET open = false WHERE id = $1 AND open";

const LINES: &str = "SELECT n.message, n.room, n.seq, m.body, \
         m.deleted_at IS NOT NULL OR r.deleted AS deleted, \
         coalesce(u.display_name, '') AS sender, r.name AS room_name, \
         r.kind = 'direct' AS direct, x.read_seq >= n.seq AS is_read, p.mode \
     FROM notifications n \
     JOIN messages m ON m.id = n.message \
     JOIN rooms r ON r.id = n.room \
     LEFT JOIN users u ON u.id = m.sender \
     LEFT JOIN members x ON x.room = n.room AND x.user_id = n.user_id \
     LEFT JOIN notify_rooms p ON p.user_id = n.user_id AND p.room = n.room \
     WHERE n.delivery = $1 AND n.state IS NULL ORDER BY n.room, n.seq";

const DROP_LINE: &str = "UPDATE notifications SET state = 'cancelled', reason = $3 \
     WHERE delivery = $1 AND message = $2";

impl Record for DigestLine {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(DigestLine {
            message: row.get("message")?,
            room: row.get("room")?,
            seq: row.get("seq")?,
            body: row.get("body")?,
            deleted: row.get("deleted")?,
            sender: row.get("sender")?,
            room_name: row.get("room_name")?,
            direct: row.get("direct")?,
            read: row.get("is_read")?,
            mode: row.get("mode")?,
        })
    }
}

#[async_trait]
impl<D: Database> DeliveryReads for D {
    async fn delivery(&self, id: Uuid) -> Result<Option<Delivery>> {
        let mut session = self.open(Access::Read).await?;
        session.optional(sql(DELIVERY).bind(id)).await
    }
}

#[async_trait]
impl<D: Database> DeliveryWrites for D {
    async fn put_delivery(&self, delivery: &Delivery) -> Result<()> {
        let record = json(&delivery.record).map_err(D::Dialect::failure)?;
        let mut session = self.open(Access::Background).await?;
        let put = sql(PUT)
            .bind(delivery.id)
            .bind(delivery.user)
            .bind(delivery.channel)
            .bind(delivery.at.millis())
            .bind(record.as_str());
        session.execute(put).await?;
        session.commit().await
    }

    async fn deliveries_to(
        &self,
        user: UserId,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Delivery>> {
        let mut session = self.open(Access::Read).await?;
        let statement = sql(TO_USER)
            .bind(user)
            .bind(after.unwrap_or(Uuid::nil()))
            .bind(i64::from(limit));
        session.all(statement).await
    }

    async fn change_delivery(&self, delivery: &mut Delivery) -> Result<bool> {
        let record = json(&delivery.record).map_err(D::Dialect::failure)?;
        let mut session = self.open(Access::Background).await?;
        let change = sql(CHANGE)
            .bind(delivery.id)
            .bind(delivery.version)
            .bind(record.as_str());
        let changed = session.execute(change).await? == 1;
        session.commit().await?;
        if changed {
            delivery.version += 1;
        }
        Ok(changed)
    }

    async fn close_delivery(&self, id: Uuid) -> Result<Vec<DigestLine>> {
        let mut session = self.open(Access::Background).await?;
        session.execute(sql(CLOSE).bind(id)).await?;
        let lines = session.all(sql(LINES).bind(id)).await?;
        session.commit().await?;
        Ok(lines)
    }

    async fn drop_lines(&self, id: Uuid, lines: &[(MessageId, &'static str)]) -> Result<()> {
        let mut session = self.open(Access::Background).await?;
        for (message, reason) in lines {
            let drop = sql(DROP_LINE).bind(id).bind(*message).bind(*reason);
            session.execute(drop).await?;
        }
        session.commit().await
    }
}
