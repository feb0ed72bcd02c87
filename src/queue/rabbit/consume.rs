//! Consuming: one channel per partition. A consumer ends by closing its channel and never by `basic.cancel`: the successor
//! of a cancelled consumer would receive new payloads before those that are requeued.
//!
//! Acknowledgements are delayed and combined: each is an entry in a quorum queue's log, which at a low rate costs as much as
//! the payload's own entry. Payloads whose acknowledgement is lost with a worker are redelivered, as if the worker had died
//! before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use parking_lot::Mutex;
use tokio::time::timeout;
use tracing::debug;

use super::{
    connection::{Live, ManagedConnection},
    delay::LEVELS,
    failure::{busy, unavailable, within},
    load::LoadProbe,
    settings::RabbitSettings,
    topology::QueueId,
};
use crate::{
    error::{Error, Result},
    queue::{Consumer, Delivery, Depth, Load, Partition, Queue, QueueState, TaskQueue},
};

/// Deadline of `consume`, including the wait for a connection.
const CONSUME_DEADLINE: Duration = Duration::from_secs(10);
const INSPECT_DEADLINE: Duration = Duration::from_secs(5);
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How long an acknowledgement is delayed to be combined with others.
const ACK_DELAY: Duration = Duration::from_millis(20);

/// The consuming side. Its connection closes when it and its consumers are dropped.
pub struct RabbitQueue {
    settings: RabbitSettings,
    connection: ManagedConnection,
    probe: LoadProbe,
}

impl RabbitQueue {
    /// Starts connecting and returns at once. Needs a tokio runtime.
    ///
    /// # Errors
    /// An invalid URL.
    pub fn connect(settings: RabbitSettings) -> Result<RabbitQueue> {
        Ok(RabbitQueue {
            connection: ManagedConnection::start(settings.clone(), "consumer")?,
            settings,
            probe: LoadProbe::default(),
        })
    }

    /// Makes [`Queue::load`] report unacknowledged payloads too, read from RabbitMQ's management API at `api`. The URL may
    /// contain a password: never logged.
    pub fn with_api(mut self, apis: &[String]) -> Result<RabbitQueue> {
        self.probe.use_api(apis, &self.settings)?;
        Ok(self)
    }

    /// Makes [`Queue::load`] report delayed tasks too.
    pub fn with_delays(mut self) -> RabbitQueue {
        self.probe.use_delays();
        self
    }

    /// Waits for a connection, at most `limit`. The error carries the reason of the last failed attempt.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        self.connection.ready(limit).await
    }

    /// As `ready`, but gives up as soon as every node has failed once. For commands.
    pub async fn tried(&self, limit: Duration) -> Result<()> {
        self.connection.tried(limit).await
    }

    /// Closes the connection in order. Consumers end; their unacknowledged payloads are requeued.
    pub async fn close(&self) {
        self.connection.close().await;
    }

    /// Runs `open` on the connection as soon as there is one, and again on the next one if the connection breaks meanwhile.
    async fn on_connection<T, F>(
        &self,
        limit: Duration,
        open: impl Fn(Arc<Live>) -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = lapin::Result<T>> + Send,
    {
        let last = AtomicU64::new(0);
        let opened = async {
            loop {
                let live = self.connection.live().await;
                last.store(live.epoch, Ordering::Relaxed);
                match open(live.clone()).await {
                    Err(_) if !live.connection.status().connected() => {
                        self.connection.gone(live.epoch).await;
                    }
                    result => return result.map_err(unavailable),
                }
            }
        };
        match timeout(limit, opened).await {
            Ok(result) => result,
            Err(_) => {
                // Another node may do it.
                self.connection.leave(last.into_inner());
                Err(busy("the queue is not reachable just now; try again"))
            }
        }
    }

    /// Opens a new channel.
    pub(super) async fn channel(&self, limit: Duration) -> Result<Channel> {
        let open = |live: Arc<Live>| async move { live.connection.create_channel().await };
        self.on_connection(limit, open).await
    }

    pub(super) fn settings(&self) -> &RabbitSettings {
        &self.settings
    }

    async fn start(
        &self,
        channel: &Channel,
        partition: Partition,
    ) -> lapin::Result<lapin::Consumer> {
        let (prefix, queue) = (&self.settings.prefix, QueueId::Partition(partition));
        let options = BasicQosOptions::default();
        channel
            .basic_qos(self.settings.prefetch.max(1), options)
            .await?;
        queue.declare(channel, prefix).await?;
        channel
            .basic_consume(
                queue.name(prefix).into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
    }
}

#[async_trait]
impl Queue for RabbitQueue {
    async fn consume(&self, partition: Partition) -> Result<Box<dyn Consumer>> {
        self.settings.check(partition)?;
        let open = |live: Arc<Live>| async move {
            let channel = live.connection.create_channel().await?;
            let deliveries = self.start(&channel, partition).await?;
            Ok(RabbitConsumer::new(
                deliveries,
                channel,
                self.settings.prefetch,
            ))
        };
        let consumer = self.on_connection(CONSUME_DEADLINE, open).await?;
        Ok(Box::new(consumer))
    }

    async fn depths(&self) -> Result<Vec<Depth>> {
        let channel = self.channel(INSPECT_DEADLINE).await?;
        let prefix = &self.settings.prefix;
        let depth = |queue: QueueId, found: lapin::Queue| Depth {
            queue: queue.name(prefix),
            ready: found.message_count().into(),
            consumers: found.consumer_count().into(),
        };
        let queues = (0..self.settings.partitions)
            .map(QueueId::Partition)
            .chain([QueueId::DeadLetters])
            .chain(TaskQueue::ALL.map(QueueId::Tasks));
        let mut depths = Vec::new();
        for queue in queues {
            let found = within(INSPECT_DEADLINE, queue.inspect(&channel, prefix)).await?;
            depths.push(depth(queue, found));
        }
        for queue in TaskQueue::ALL {
            for level in LEVELS {
                let queue = QueueId::Delay(queue, level);
                // A level that was never used has no queue, and inspecting it closes the channel.
                let channel = self.channel(INSPECT_DEADLINE).await?;
                let inspected = within(INSPECT_DEADLINE, queue.inspect(&channel, prefix)).await;
                if let Ok(found) = inspected {
                    depths.push(depth(queue, found));
                }
            }
        }
        Ok(depths)
    }

    async fn load(&self) -> Result<Load> {
        self.probe.load(&self.connection, &self.settings).await
    }

    async fn ping(&self) -> Result<()> {
        if self.connection.state() == QueueState::Down {
            return Err(busy("the queue is not reachable just now"));
        }
        // Opening a channel is a round trip; the channel closes when dropped.
        self.channel(INSPECT_DEADLINE).await.map(drop)
    }
}

/// lapin cancels a consumer that is dropped while its channel is open, so the channel is closed first.
struct RabbitConsumer {
    deliveries: lapin::Consumer,
    lost: bool,
    acks: Arc<PendingAcks>,
    /// From this many pending acknowledgements on they are sent at once, since the broker delivers no more than
    /// `queue.prefetch` unacknowledged payloads.
    max_pending: u64,
}

/// A consumer's pending acknowledgements, with its channel.
struct PendingAcks {
    channel: Channel,
    marks: Mutex<Marks>,
}

/// Delivery tags; each stands for all tags up to it.
#[derive(Default)]
struct Marks {
    done: u64,
    sent: u64,
    /// A task is waiting for [`ACK_DELAY`] to send `done`.
    scheduled: bool,
}

impl PendingAcks {
    /// Sends under the lock, so that no tag follows a higher one: the broker closes the channel for that.
    fn send(&self) {
        let mut marks = self.marks.lock();
        if marks.sent < marks.done {
            marks.sent = marks.done;
            let options = BasicAckOptions { multiple: true };
            // The first poll sends the frame. If it is lost, so is the consumer, which reports that.
            let _ = self.channel.basic_ack(marks.done, options).now_or_never();
        }
    }

    async fn send_soon(self: Arc<Self>) {
        tokio::time::sleep(ACK_DELAY).await;
        self.marks.lock().scheduled = false;
        self.send();
    }
}

impl RabbitConsumer {
    fn new(deliveries: lapin::Consumer, channel: Channel, prefetch: u16) -> RabbitConsumer {
        let acks = PendingAcks {
            channel,
            marks: Mutex::default(),
        };
        RabbitConsumer {
            deliveries,
            lost: false,
            acks: Arc::new(acks),
            max_pending: u64::from(prefetch / 2),
        }
    }

    fn take(&mut self, next: Option<lapin::Result<lapin::message::Delivery>>) -> Option<Delivery> {
        match next {
            Some(Ok(delivery)) => {
                return Some(Delivery {
                    payload: Bytes::from(delivery.data),
                    tag: delivery.delivery_tag,
                    redelivered: delivery.redelivered,
                });
            }
            Some(Err(error)) => debug!(error = error.to_string(), "consumer lost"),
            None => {}
        }
        self.lost = true;
        None
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        if self.lost {
            return None;
        }
        let next = self.deliveries.next().await;
        self.take(next)
    }

    fn try_next(&mut self) -> Option<Delivery> {
        if self.lost {
            return None;
        }
        let next = self.deliveries.next().now_or_never()?;
        self.take(next)
    }

    async fn ack_through(&mut self, tag: u64) -> Result<()> {
        if self.lost || !self.acks.channel.status().connected() {
            return Err(Error::unavailable("queue", "the consumer is lost"));
        }
        let (scheduled, pending) = {
            let mut marks = self.acks.marks.lock();
            marks.done = tag;
            let pending = tag - marks.sent;
            (std::mem::replace(&mut marks.scheduled, true), pending)
        };
        if pending >= self.max_pending {
            self.acks.send();
        }
        if !scheduled {
            tokio::spawn(self.acks.clone().send_soon());
        }
        Ok(())
    }

    async fn close(self: Box<Self>) {
        if self.acks.channel.status().connected() {
            self.acks.send();
            let closed = self.acks.channel.close(200, "done".into());
            let _ = timeout(CLOSE_DEADLINE, closed).await;
        }
    }
}

impl Drop for RabbitConsumer {
    fn drop(&mut self) {
        if self.acks.channel.status().connected() {
            self.acks.send();
            // The first poll sends the frame; the answer is not awaited.
            let _ = self.acks.channel.close(200, "done".into()).now_or_never();
        }
    }
}
