//! Dead letters: a quorum queue whose messages are the original bytes, with the metadata in headers.
//!
//! A queue can only be read by consuming. Reading consumes all letters on a channel of its own and then closes it: a part
//! of them would be requeued behind the rest. (Rejected one by one, 40 letters were requeued out of order, RabbitMQ 3.10.8.)
//! Two concurrent readers may see a part each and mix up the order; nothing is lost.

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
    consume::RabbitQueue,
    failure::{unavailable, within},
    publish::{Outgoing, RabbitPublisher, persistent},
    topology::QueueId,
};
use crate::{
    error::Result,
    model::Timestamp,
    queue::{DeadLetter, DeadLetters, EncodedBatch, Partition, Publisher, Selection},
};

/// Letters read at once: they are held in memory.
const MAX_HELD: u16 = 10_000;
const DEADLINE: Duration = Duration::from_secs(5);
const REQUEUE_DEADLINE: Duration = Duration::from_secs(2);

pub struct RabbitDeadLetters {
    publisher: Arc<RabbitPublisher>,
    queue: Arc<RabbitQueue>,
}

impl RabbitDeadLetters {
    /// Uses the connections of the publisher and of the queue.
    pub fn new(publisher: Arc<RabbitPublisher>, queue: Arc<RabbitQueue>) -> RabbitDeadLetters {
        RabbitDeadLetters { publisher, queue }
    }

    /// Consumes all letters, in order.
    async fn hold(&self) -> Result<Held> {
        let channel = self.queue.channel(DEADLINE).await?;
        let prefix = &self.queue.settings().prefix;
        let inspected = QueueId::DeadLetters.inspect(&channel, prefix);
        let found = within(DEADLINE, inspected).await?;
        let count = u16::try_from(found.message_count())
            .unwrap_or(MAX_HELD)
            .min(MAX_HELD);
        let mut letters = Vec::new();
        if count == 0 {
            return Ok(Held { channel, letters });
        }
        within(
            DEADLINE,
            channel.basic_qos(count, BasicQosOptions::default()),
        )
        .await?;
        let consume = channel.basic_consume(
            QueueId::DeadLetters.name(prefix).into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut deliveries = within(DEADLINE, consume).await?;
        while letters.len() < usize::from(count) {
            match timeout(DEADLINE, deliveries.next()).await {
                Ok(Some(delivery)) => letters.push(delivery.map_err(unavailable)?),
                // Another reader holds the rest.
                Ok(None) | Err(_) => break,
            }
        }
        Ok(Held { channel, letters })
    }

    /// Requeues what was not acknowledged: RabbitMQ requeues the messages of a closed channel in one step and in order, but
    /// only after it has confirmed the close.
    async fn release(&self, held: Held) -> Result<()> {
        within(DEADLINE, held.channel.close(200, "done".into())).await?;
        let channel = self.queue.channel(DEADLINE).await?;
        let prefix = &self.queue.settings().prefix;
        let end = Instant::now() + REQUEUE_DEADLINE;
        loop {
            let inspected = QueueId::DeadLetters.inspect(&channel, prefix);
            let found = within(DEADLINE, inspected).await?;
            // After the deadline the consumer belongs to another reader.
            if found.consumer_count() == 0 || Instant::now() > end {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Letters consumed and not yet settled. They are requeued when the channel closes.
struct Held {
    channel: Channel,
    letters: Vec<Delivery>,
}

impl Held {
    async fn acknowledge(&self, letter: &Delivery) -> Result<()> {
        let ack = self
            .channel
            .basic_ack(letter.delivery_tag, BasicAckOptions::default());
        within(DEADLINE, ack).await
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
            queue: QueueId::DeadLetters,
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
    /// Publishes (`replay`) and removes the selected letters; the others stay. Stops at the first failure; letters settled
    /// before it stay settled.
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
            // There may be more than can be held at once.
            if all < usize::from(MAX_HELD) || which != Selection::All {
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
        held.acknowledge(delivery).await
    }
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Decodes a letter. Missing or foreign headers become defaults.
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
