//! The queues, their names and their arguments. The arguments are the same for every version from 3.10 to 4.x and
//! must stay as they are: RabbitMQ refuses to declare a queue again with others.

use std::time::Duration;

use lapin::{
    Channel, Connection,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};

use super::Settings;
use crate::queue::{JobQueue, Partition};

/// A redelivery counts as a delivery, and 4.x discards a message after 20 unless told otherwise; 3.10 knows no
/// "unlimited" (-1). This is as good as unlimited, and fits a signed 32-bit integer.
const DELIVERY_LIMIT: i32 = 1_000_000_000;

pub(super) fn partition_queue(prefix: &str, partition: Partition) -> String {
    format!("{prefix}.p.{partition}")
}

pub(super) fn job_queue(prefix: &str, queue: JobQueue) -> String {
    format!("{prefix}.job.{}", queue.as_str())
}

/// Where jobs of one queue wait for one level's time; see [`super::jobs`].
pub(super) fn delay_queue(prefix: &str, queue: JobQueue, level: Duration) -> String {
    format!("{prefix}.delay.{}.{}", queue.as_str(), level.as_millis())
}

pub(super) fn dead_queue(prefix: &str) -> String {
    format!("{prefix}.dead")
}

/// Declares everything; fails where a queue exists with other arguments.
pub(super) async fn declare(connection: &Connection, settings: &Settings) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    for partition in 0..settings.partitions {
        declare_partition(&channel, &settings.prefix, partition).await?;
    }
    declare_dead(&channel, &settings.prefix).await?;
    for queue in JobQueue::ALL {
        declare_jobs(&channel, &settings.prefix, queue).await?;
    }
    channel.close(200, "done".into()).await
}

pub(super) async fn declare_partition(
    channel: &Channel,
    prefix: &str,
    partition: Partition,
) -> lapin::Result<lapin::Queue> {
    let mut arguments = quorum();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    declare_queue(channel, partition_queue(prefix, partition), arguments).await
}

pub(super) async fn declare_jobs(
    channel: &Channel,
    prefix: &str,
    queue: JobQueue,
) -> lapin::Result<lapin::Queue> {
    declare_queue(channel, job_queue(prefix, queue), quorum()).await
}

/// Messages expire only at a queue's head, so each level is a queue of its own. The broker hands what expired to the
/// job queue and forgets it only when that queue has it (at-least-once, RabbitMQ 3.10).
pub(super) async fn declare_delay(
    channel: &Channel,
    prefix: &str,
    queue: JobQueue,
    level: Duration,
) -> lapin::Result<lapin::Queue> {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let millis = i64::try_from(level.as_millis()).unwrap_or(i64::MAX);
    let mut arguments = quorum();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(millis));
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert(
        "x-dead-letter-routing-key".into(),
        text(&job_queue(prefix, queue)),
    );
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    declare_queue(channel, delay_queue(prefix, queue, level), arguments).await
}

pub(super) async fn declare_dead(channel: &Channel, prefix: &str) -> lapin::Result<lapin::Queue> {
    declare_queue(channel, dead_queue(prefix), quorum()).await
}

/// What is in a queue that exists: `message_count` is the ready ones only. A queue that does not exist closes the
/// channel.
pub(super) async fn look(channel: &Channel, queue: String) -> lapin::Result<lapin::Queue> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::durable()
    };
    channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await
}

async fn declare_queue(
    channel: &Channel,
    queue: String,
    arguments: FieldTable,
) -> lapin::Result<lapin::Queue> {
    channel
        .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
        .await
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    arguments.insert(
        "x-delivery-limit".into(),
        AMQPValue::LongInt(DELIVERY_LIMIT),
    );
    // Spreads the partitions' leaders over a cluster's nodes.
    arguments.insert(
        "x-queue-leader-locator".into(),
        AMQPValue::LongString("balanced".into()),
    );
    arguments
}
