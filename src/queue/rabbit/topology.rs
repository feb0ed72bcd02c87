//! The queues, their names and their arguments. The arguments are the same for every RabbitMQ version from 3.10 to 4.x and
//! must not change: RabbitMQ refuses to declare an existing queue with other arguments.

use std::time::Duration;

use lapin::{
    Channel, Connection,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};

use super::settings::RabbitSettings;
use crate::queue::{Partition, TaskQueue};

/// A redelivery counts as a delivery, and 4.x discards a message after 20 unless told otherwise; 3.10 does not accept
/// "unlimited" (-1). This limit is never reached and fits a signed 32-bit integer.
const DELIVERY_LIMIT: i32 = 1_000_000_000;

/// One queue of a deployment.
#[derive(Debug, Clone, Copy)]
pub(super) enum QueueId {
    Partition(Partition),
    /// Tasks that are due.
    Tasks(TaskQueue),
    /// Tasks that wait for one level of a delay; see [`super::delay`].
    Delay(TaskQueue, Duration),
    DeadLetters,
}

impl QueueId {
    pub fn name(self, prefix: &str) -> String {
        match self {
            QueueId::Partition(partition) => format!("{prefix}.p.{partition}"),
            QueueId::Tasks(queue) => format!("{prefix}.job.{}", queue.as_str()),
            QueueId::Delay(queue, level) => {
                format!("{prefix}.delay.{}.{}", queue.as_str(), level.as_millis())
            }
            QueueId::DeadLetters => format!("{prefix}.dead"),
        }
    }

    /// Creates the queue if it does not exist; fails if it exists with other arguments.
    pub async fn declare(self, channel: &Channel, prefix: &str) -> lapin::Result<lapin::Queue> {
        let options = QueueDeclareOptions::durable();
        channel
            .queue_declare(self.name(prefix).into(), options, self.arguments(prefix))
            .await
    }

    /// Reads the state of an existing queue by a passive declaration; its `message_count` is the number of ready messages.
    /// For a queue that does not exist the broker closes the channel.
    pub async fn inspect(self, channel: &Channel, prefix: &str) -> lapin::Result<lapin::Queue> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::durable()
        };
        channel
            .queue_declare(self.name(prefix).into(), options, FieldTable::default())
            .await
    }

    fn arguments(self, prefix: &str) -> FieldTable {
        let mut arguments = quorum();
        match self {
            QueueId::Partition(_) => {
                arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
            }
            // The broker moves expired messages to the task queue and deletes them only when that queue has confirmed
            // (at-least-once, RabbitMQ 3.10).
            QueueId::Delay(queue, level) => {
                let millis = i64::try_from(level.as_millis()).unwrap_or(i64::MAX);
                let target = QueueId::Tasks(queue).name(prefix);
                arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(millis));
                arguments.insert("x-dead-letter-exchange".into(), text(""));
                arguments.insert("x-dead-letter-routing-key".into(), text(&target));
                arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
                arguments.insert("x-overflow".into(), text("reject-publish"));
            }
            QueueId::Tasks(_) | QueueId::DeadLetters => {}
        }
        arguments
    }
}

/// Declares all queues except those of delays, which are declared when first used.
pub(super) async fn declare(
    connection: &Connection,
    settings: &RabbitSettings,
) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    let queues = (0..settings.partitions)
        .map(QueueId::Partition)
        .chain([QueueId::DeadLetters])
        .chain(TaskQueue::ALL.map(QueueId::Tasks));
    for queue in queues {
        queue.declare(&channel, &settings.prefix).await?;
    }
    channel.close(200, "done".into()).await
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert(
        "x-delivery-limit".into(),
        AMQPValue::LongInt(DELIVERY_LIMIT),
    );
    // Spreads the partitions' leaders over a cluster's nodes.
    arguments.insert("x-queue-leader-locator".into(), text("balanced"));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two versions share the queues during an update.
    #[test]
    fn names_are_the_same_in_every_version() {
        let name = |queue: QueueId| queue.name("chat");
        assert_eq!(name(QueueId::Partition(7)), "chat.p.7");
        assert_eq!(name(QueueId::Tasks(TaskQueue::Email)), "chat.job.email");
        assert_eq!(
            name(QueueId::Delay(TaskQueue::Notify, Duration::from_secs(4))),
            "chat.delay.notify.4000"
        );
        assert_eq!(name(QueueId::DeadLetters), "chat.dead");
    }
}
