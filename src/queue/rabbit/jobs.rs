//! Jobs: a quorum queue for each kind, consumed by every worker at once, and a queue for each length of a delay.
//!
//! A delay is put together from levels: a job waits in the queue of the longest level that fits, comes back with what
//! is left of its delay in a header, and goes on to the next. Whoever receives one that has to wait longer publishes
//! it, awaits the confirm, and then acknowledges: it may come twice, and is never lost. No clock is read on the way.

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
    RabbitPublisher, RabbitQueue,
    publish::{JOB_LANES, Outgoing, persistent},
    topology, unavailable, within,
};
use crate::{
    error::Result,
    queue::{Ack, JobConsumer, JobQueue, Jobs, NewJob, TakenJob},
};

/// Each is four times the one before: no delay needs more than three of each but the last.
pub(super) const LEVELS: [Duration; 8] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(16),
    Duration::from_secs(64),
    Duration::from_secs(256),
    Duration::from_secs(1024),
    Duration::from_secs(4096),
];
/// What is left of a delay, in milliseconds.
const LEFT: &str = "left";
const PATIENCE: Duration = Duration::from_secs(10);
/// Before a job is moved on again that could not be.
const AGAIN: Duration = Duration::from_millis(500);

/// The level to wait in next, and what is left after it; `None` where the delay is over. The shortest level is the
/// grain: less than that counts as that.
fn split(delay: Duration) -> Option<(Duration, Duration)> {
    if delay.is_zero() {
        return None;
    }
    let fits = LEVELS.iter().rev().find(|level| **level <= delay);
    let level = *fits.unwrap_or(&LEVELS[0]);
    Some((level, delay.saturating_sub(level)))
}

pub struct RabbitJobs {
    publisher: Arc<RabbitPublisher>,
    queue: Arc<RabbitQueue>,
}

impl RabbitJobs {
    /// Shares the connections of both.
    pub fn new(publisher: Arc<RabbitPublisher>, queue: Arc<RabbitQueue>) -> RabbitJobs {
        RabbitJobs { publisher, queue }
    }
}

async fn publish(
    publisher: &RabbitPublisher,
    prefix: &str,
    queue: JobQueue,
    payload: &[u8],
    delay: Duration,
) -> Result<()> {
    let mut headers = FieldTable::default();
    let name = match split(delay) {
        None => topology::job_queue(prefix, queue),
        Some((level, left)) => {
            let left = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
            headers.insert(LEFT.into(), AMQPValue::LongLongInt(left));
            topology::delay_queue(prefix, queue, level)
        }
    };
    let message = Outgoing {
        queue: name,
        payload,
        properties: persistent("application/json", headers),
    };
    publisher.publish_job(message).await
}

#[async_trait]
impl Jobs for RabbitJobs {
    async fn push(&self, jobs: Vec<NewJob>) -> Result<()> {
        let prefix = &self.queue.settings().prefix;
        stream::iter(jobs.into_iter().map(Ok))
            .try_for_each_concurrent(JOB_LANES, |job| async move {
                publish(&self.publisher, prefix, job.queue, &job.payload, job.delay).await
            })
            .await
    }

    async fn take(&self, queue: JobQueue, at_once: u16) -> Result<Box<dyn JobConsumer>> {
        let prefix = self.queue.settings().prefix.clone();
        let channel = self.queue.channel(PATIENCE).await?;
        let deliveries = within(PATIENCE, async {
            let qos = BasicQosOptions::default();
            channel.basic_qos(at_once.max(1), qos).await?;
            topology::declare_jobs(&channel, &prefix, queue).await?;
            let name = topology::job_queue(&prefix, queue).into();
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
            prefix,
            queue,
        }))
    }
}

struct Consumer {
    deliveries: lapin::Consumer,
    channel: Channel,
    publisher: Arc<RabbitPublisher>,
    prefix: String,
    queue: JobQueue,
}

struct RabbitAck {
    acker: Acker,
    acked: bool,
}

impl Drop for RabbitAck {
    fn drop(&mut self) {
        if !self.acked && self.acker.usable() {
            // Back into its queue at once. The first poll sends the frame, and that is all it takes.
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

/// lapin cancels a consumer that is dropped while its channel is open, and the broker would keep what it holds; so the
/// channel goes first.
impl Drop for Consumer {
    fn drop(&mut self) {
        if self.channel.status().connected() {
            let _ = self.channel.close(200, "done".into()).now_or_never();
        }
    }
}

#[async_trait]
impl JobConsumer for Consumer {
    async fn next(&mut self) -> Option<TakenJob> {
        loop {
            let delivery = match self.deliveries.next().await? {
                Ok(delivery) => delivery,
                Err(error) => {
                    debug!(error = error.to_string(), "job consumer lost");
                    return None;
                }
            };
            let left = left(&delivery);
            if left.is_zero() {
                return Some(TakenJob {
                    payload: Bytes::from(delivery.data),
                    ack: Box::new(RabbitAck {
                        acker: delivery.acker,
                        acked: false,
                    }),
                });
            }
            // In a task of its own: a job that moves on must not be dropped with this future.
            let (publisher, prefix) = (self.publisher.clone(), self.prefix.clone());
            let queue = self.queue;
            tokio::spawn(async move {
                while delivery.acker.usable() {
                    match publish(&publisher, &prefix, queue, &delivery.data, left).await {
                        Ok(()) => {
                            let _ = delivery.acker.ack(BasicAckOptions::default()).await;
                            return;
                        }
                        Err(error) => {
                            debug!(error = error.chain(), "a job could not be moved on yet");
                            sleep(AGAIN).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_the_sum_of_its_levels() {
        for millis in [1, 250, 300, 999, 60_000, 86_400_000, 123_456_789] {
            let delay = Duration::from_millis(millis);
            let (mut left, mut waited, mut hops) = (delay, Duration::ZERO, 0);
            while let Some((level, rest)) = split(left) {
                (left, waited, hops) = (rest, waited + level, hops + 1);
            }
            assert!(
                waited >= delay && waited < delay + LEVELS[0],
                "{millis}: {waited:?}"
            );
            assert!(hops <= 24 + millis / 4_096_000, "{millis}: {hops}");
        }
        assert_eq!(split(Duration::ZERO), None);
    }
}
