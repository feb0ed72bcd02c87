//! Dead letters: a quorum queue whose messages are the original bytes, with what is known of them in headers.
//!
//! A queue cannot be read without taking. What is looked at is consumed on a channel of its own, which is then
//! closed: all of it, since a part would come back behind the rest. (Rejected one by one, 40 letters came back out
//! of order, RabbitMQ 3.10.8.) Two who look at the same time may see a part each, and mix up the order; nothing is
//! lost.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use lapin::{
    Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;
use uuid::Uuid;

use super::{
    RabbitPublisher, RabbitQueue,
    publish::{Outgoing, persistent},
    topology, unavailable, within,
};
use crate::{
    error::Result,
    model::Timestamp,
    queue::{DeadLetter, DeadLetters, EncodedBatch, Partition, Publisher, Selection},
};

/// The most letters looked at: they are held in memory.
const HOLD: u16 = 10_000;
const PATIENCE: Duration = Duration::from_secs(5);
const GIVEN_BACK: Duration = Duration::from_secs(2);

pub struct RabbitDeadLetters {
    publisher: Arc<RabbitPublisher>,
    queue: Arc<RabbitQueue>,
}

impl RabbitDeadLetters {
    /// Shares the connections of both.
    pub fn new(publisher: Arc<RabbitPublisher>, queue: Arc<RabbitQueue>) -> RabbitDeadLetters {
        RabbitDeadLetters { publisher, queue }
    }

    /// Takes what is there, in order.
    async fn hold(&self) -> Result<Held> {
        let channel = self.queue.channel(PATIENCE).await?;
        let name = topology::dead_queue(&self.queue.settings().prefix);
        let found = within(PATIENCE, topology::look(&channel, name.clone())).await?;
        let count = u16::try_from(found.message_count())
            .unwrap_or(HOLD)
            .min(HOLD);
        let mut letters = Vec::new();
        if count == 0 {
            return Ok(Held { channel, letters });
        }
        within(
            PATIENCE,
            channel.basic_qos(count, BasicQosOptions::default()),
        )
        .await?;
        let consume = channel.basic_consume(
            name.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut deliveries = within(PATIENCE, consume).await?;
        while letters.len() < usize::from(count) {
            match timeout(PATIENCE, deliveries.next()).await {
                Ok(Some(delivery)) => letters.push(delivery.map_err(unavailable)?),
                // Someone else took them meanwhile.
                Ok(None) | Err(_) => break,
            }
        }
        Ok(Held { channel, letters })
    }

    /// Gives back what was not forgotten: RabbitMQ returns what a closed channel held in one step and in order,
    /// but a moment after it confirmed the closing.
    async fn release(&self, held: Held) -> Result<()> {
        within(PATIENCE, held.channel.close(200, "done".into())).await?;
        let channel = self.queue.channel(PATIENCE).await?;
        let end = Instant::now() + GIVEN_BACK;
        loop {
            let name = topology::dead_queue(&self.queue.settings().prefix);
            let found = within(PATIENCE, topology::look(&channel, name)).await?;
            // Or someone else is looking at the letters, too.
            if found.consumer_count() == 0 || Instant::now() > end {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Letters taken from the queue and not yet decided about. They go back when the channel closes.
struct Held {
    channel: Channel,
    letters: Vec<Delivery>,
}

impl Held {
    async fn forget(&self, letter: &Delivery) -> Result<()> {
        let ack = self
            .channel
            .basic_ack(letter.delivery_tag, BasicAckOptions::default());
        within(PATIENCE, ack).await
    }
}

#[async_trait]
impl DeadLetters for RabbitDeadLetters {
    async fn put(&self, letter: &DeadLetter, original: Bytes) -> Result<()> {
        let mut headers = FieldTable::default();
        headers.insert("id".into(), text(&letter.id.to_string()));
        headers.insert("at".into(), AMQPValue::LongLongInt(letter.at.millis()));
        headers.insert("reason".into(), text(&letter.reason));
        headers.insert(
            "partition".into(),
            AMQPValue::LongInt(letter.partition.into()),
        );
        let message = Outgoing {
            queue: topology::dead_queue(&self.queue.settings().prefix),
            payload: &original,
            properties: persistent("application/json", headers),
        };
        self.publisher.publish_dead(message).await
    }

    async fn list(&self, limit: u32) -> Result<Vec<DeadLetter>> {
        let mut held = self.hold().await?;
        let deliveries = std::mem::take(&mut held.letters);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let letters = deliveries.iter().take(limit).map(read).collect();
        self.release(held).await?;
        Ok(letters)
    }

    async fn replay(&self, which: Selection) -> Result<u64> {
        self.each(which, true).await
    }

    async fn purge(&self, which: Selection) -> Result<u64> {
        self.each(which, false).await
    }
}

impl RabbitDeadLetters {
    /// Publishes (`replay`) and forgets what `which` names; the others are as before. The first failure ends it,
    /// with what was done so far done.
    async fn each(&self, which: Selection, replay: bool) -> Result<u64> {
        let mut done = 0;
        loop {
            let mut held = self.hold().await?;
            let deliveries = std::mem::take(&mut held.letters);
            let all = deliveries.len();
            let mut settled = Ok(());
            for delivery in deliveries {
                let letter = read(&delivery);
                if let Selection::One(id) = which
                    && letter.id != id
                {
                    continue;
                }
                settled = self.settle(&held, &delivery, &letter, replay).await;
                if settled.is_err() {
                    break;
                }
                done += 1;
            }
            let released = self.release(held).await;
            settled.and(released)?;
            // More than can be held at once: the next ones.
            if all < usize::from(HOLD) || which != Selection::All {
                return Ok(done);
            }
        }
    }

    async fn settle(
        &self,
        held: &Held,
        delivery: &Delivery,
        letter: &DeadLetter,
        replay: bool,
    ) -> Result<()> {
        if replay {
            let batch = EncodedBatch::again(Bytes::copy_from_slice(&delivery.data))?;
            self.publisher.publish(letter.partition, batch).await?;
        }
        held.forget(delivery).await
    }
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// A message of ours; what someone else put there is shown as well as it can be.
fn read(delivery: &Delivery) -> DeadLetter {
    let header = |name: &str| {
        let headers = delivery.properties.headers().as_ref()?;
        headers.inner().get(name)
    };
    let string = |name| match header(name) {
        Some(AMQPValue::LongString(value)) => {
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        }
        _ => None,
    };
    let number = |name| match header(name) {
        Some(AMQPValue::LongLongInt(value)) => Some(*value),
        Some(AMQPValue::LongInt(value)) => Some(i64::from(*value)),
        _ => None,
    };
    let id = string("id").and_then(|id| Uuid::parse_str(&id).ok());
    if id.is_none() {
        warn!("a dead letter without an id");
    }
    DeadLetter {
        id: id.unwrap_or_default(),
        at: Timestamp::from_millis(number("at").unwrap_or_default()),
        reason: string("reason").unwrap_or_else(|| "unknown".to_owned()),
        partition: number("partition")
            .and_then(|n| Partition::try_from(n).ok())
            .unwrap_or_default(),
        payload: String::from_utf8_lossy(&delivery.data).into_owned(),
    }
}
