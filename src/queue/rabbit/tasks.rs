//! Tasks: a quorum queue for each kind, consumed by every worker at once, and a queue for each level of a delay.
//!
//! A delay is the sum of levels ([`super::delay`]): a task waits in the queue of the longest level that fits, returns with
//! the remaining delay in a header, and moves on to the next level. A consumer that receives a task with a remaining delay
//! publishes it to the next queue, awaits the confirm, and then acknowledges: a task can arrive twice and is never lost. No
//! clock is read on the way.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use lapin::{
    Acker, Channel,
    options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::sleep;
use tracing::debug;

use super::{
    consume::RabbitQueue,
    delay::split,
    failure::{unavailable, within},
    publish::{Outgoing, RabbitPublisher, TASK_SLOTS, persistent},
    topology::QueueId,
};
use crate::{
    error::Result,
    queue::{Ack, NewTask, TakenTask, TaskConsumer, TaskQueue, Tasks},
};

/// Header with the remaining delay, in milliseconds.
const LEFT: &str = "left";
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause before a failed move to the next queue is retried.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub struct RabbitTasks {
    publisher: Arc<RabbitPublisher>,
    queue: Arc<RabbitQueue>,
}

impl RabbitTasks {
    /// Uses the connections of the publisher and of the queue.
    pub fn new(publisher: Arc<RabbitPublisher>, queue: Arc<RabbitQueue>) -> RabbitTasks {
        RabbitTasks { publisher, queue }
    }
}

async fn publish(
    publisher: &RabbitPublisher,
    queue: TaskQueue,
    payload: &[u8],
    delay: Duration,
) -> Result<()> {
    let mut headers = FieldTable::default();
    let target = match split(delay) {
        None => QueueId::Tasks(queue),
        Some((level, left)) => {
            let left = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
            headers.insert(LEFT.into(), AMQPValue::LongLongInt(left));
            QueueId::Delay(queue, level)
        }
    };
    let message = Outgoing {
        queue: target,
        payload,
        properties: persistent("application/json", headers),
    };
    publisher.publish_task(message).await
}

#[async_trait]
impl Tasks for RabbitTasks {
    async fn push(&self, tasks: Vec<NewTask>) -> Result<()> {
        stream::iter(tasks.into_iter().map(Ok))
            .try_for_each_concurrent(TASK_SLOTS, |task| async move {
                publish(&self.publisher, task.queue, &task.payload, task.delay).await
            })
            .await
    }

    async fn take(&self, queue: TaskQueue, at_once: u16) -> Result<Box<dyn TaskConsumer>> {
        let prefix = self.queue.settings().prefix.clone();
        let channel = self.queue.channel(DEADLINE).await?;
        let deliveries = within(DEADLINE, async {
            let qos = BasicQosOptions::default();
            channel.basic_qos(at_once.max(1), qos).await?;
            let tasks = QueueId::Tasks(queue);
            tasks.declare(&channel, &prefix).await?;
            let name = tasks.name(&prefix).into();
            let options = BasicConsumeOptions::default();
            channel
                .basic_consume(name, "".into(), options, FieldTable::default())
                .await
        })
        .await?;
        Ok(Box::new(Consumer {
            deliveries,
            channel,
            publisher: self.publisher.clone(),
            queue,
        }))
    }
}

struct Consumer {
    deliveries: lapin::Consumer,
    channel: Channel,
    publisher: Arc<RabbitPublisher>,
    queue: TaskQueue,
}

struct RabbitAck {
    acker: Acker,
    acked: bool,
}

impl Drop for RabbitAck {
    fn drop(&mut self) {
        if !self.acked && self.acker.usable() {
            // Requeues at once. The first poll sends the frame; the answer is not awaited.
            let requeue = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            let _ = self.acker.nack(requeue).now_or_never();
        }
    }
}

#[async_trait]
impl Ack for RabbitAck {
    async fn ack(mut self: Box<Self>) -> Result<()> {
        self.acked = true;
        let acked = self.acker.ack(BasicAckOptions::default()).await;
        acked.map(drop).map_err(unavailable)
    }
}

/// lapin cancels a consumer that is dropped while its channel is open, and the broker keeps its deliveries unacknowledged.
/// So the channel is closed first.
impl Drop for Consumer {
    fn drop(&mut self) {
        if self.channel.status().connected() {
            let _ = self.channel.close(200, "done".into()).now_or_never();
        }
    }
}

#[async_trait]
impl TaskConsumer for Consumer {
    async fn next(&mut self) -> Option<TakenTask> {
        loop {
            let delivery = match self.deliveries.next().await? {
                Ok(delivery) => delivery,
                Err(error) => {
                    debug!(error = error.to_string(), "task consumer lost");
                    return None;
                }
            };
            let left = left(&delivery);
            if left.is_zero() {
                return Some(TakenTask {
                    payload: Bytes::from(delivery.data),
                    ack: Box::new(RabbitAck {
                        acker: delivery.acker,
                        acked: false,
                    }),
                });
            }
            // Spawned, so that the move is not cancelled with this future.
            let (publisher, queue) = (self.publisher.clone(), self.queue);
            tokio::spawn(async move {
                while delivery.acker.usable() {
                    match publish(&publisher, queue, &delivery.data, left).await {
                        Ok(()) => {
                            let _ = delivery.acker.ack(BasicAckOptions::default()).await;
                            return;
                        }
                        Err(error) => {
                            debug!(
                                error = error.chain(),
                                "a delayed task could not be moved to its next queue; trying again"
                            );
                            sleep(RETRY_PAUSE).await;
                        }
                    }
                }
            });
        }
    }
}

fn left(delivery: &lapin::message::Delivery) -> Duration {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(LEFT)) {
        Some(AMQPValue::LongLongInt(left)) => {
            Duration::from_millis(u64::try_from(*left).unwrap_or_default())
        }
        _ => Duration::ZERO,
    }
}
