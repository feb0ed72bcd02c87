//! Consuming: one channel a partition. A consumer ends by closing its channel and never by `basic.cancel`: a
//! cancelled one's successor would get new payloads before those this one gives back.
//!
//! Acknowledgements are sent a moment later, several as one: to a quorum queue each is an entry of its log, which at
//! a low rate costs as much as the payload's own. Payloads whose acknowledgement is lost with a worker come again, as
//! they would had it died a moment earlier.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::timeout;
use tracing::debug;

use super::{
    Settings, busy,
    jobs::LEVELS,
    link::{Link, Live},
    load::Looker,
    topology, unavailable, within,
};
use crate::{
    error::{Error, Result},
    queue::{Consumer, Delivery, Depth, JobQueue, Load, Partition, Queue, State},
};

/// How long `consume` waits for a connection and the broker's answers.
const CONSUME_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How long an acknowledgement waits for others.
const ACK_WITHIN: Duration = Duration::from_millis(20);

/// The consuming side. Its connection closes when it and its consumers are dropped.
pub struct RabbitQueue {
    settings: Settings,
    link: Link,
    looker: Looker,
}

impl RabbitQueue {
    /// Starts connecting and returns at once. Needs a tokio runtime. Fails only where the URL is none.
    pub fn connect(settings: Settings) -> Result<RabbitQueue> {
        Ok(RabbitQueue {
            link: Link::start(settings.clone(), "consumer")?,
            settings,
            looker: Looker::default(),
        })
    }

    /// Lets [`Queue::load`] see what consumers hold, too, by RabbitMQ's management API at `api`. It may hold a
    /// password: never logged.
    pub fn with_api(mut self, api: &str) -> Result<RabbitQueue> {
        self.looker.use_api(api, &self.settings)?;
        Ok(self)
    }

    /// Lets [`Queue::load`] see what is delayed, too.
    pub fn with_delays(mut self) -> RabbitQueue {
        self.looker.use_delays();
        self
    }

    /// Waits for a connection, at most `patience`; the error says what the last try failed of.
    pub async fn ready(&self, patience: Duration) -> Result<()> {
        self.link.ready(patience).await
    }

    /// Closes the connection in good order. Consumers end; what they hold unacknowledged goes back.
    pub async fn close(&self) {
        self.link.close().await;
    }

    /// What `open` makes of the connection, as soon as there is one. A connection that breaks meanwhile, or had
    /// broken unnoticed, is waited for, too.
    async fn on_connection<T, F>(
        &self,
        patience: Duration,
        open: impl Fn(Arc<Live>) -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = lapin::Result<T>> + Send,
    {
        let opened = async {
            loop {
                let live = self.link.live().await;
                match open(live.clone()).await {
                    Err(_) if !live.connection.status().connected() => {
                        self.link.gone(live.epoch).await;
                    }
                    result => return result.map_err(unavailable),
                }
            }
        };
        match timeout(patience, opened).await {
            Ok(result) => result,
            Err(_) => Err(busy("the queue is not reachable just now; try again")),
        }
    }

    /// A channel of its own.
    pub(super) async fn channel(&self, patience: Duration) -> Result<Channel> {
        let open = |live: Arc<Live>| async move { live.connection.create_channel().await };
        self.on_connection(patience, open).await
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn start(
        &self,
        channel: &Channel,
        partition: Partition,
    ) -> lapin::Result<lapin::Consumer> {
        let prefix = &self.settings.prefix;
        let options = BasicQosOptions::default();
        channel
            .basic_qos(self.settings.prefetch.max(1), options)
            .await?;
        topology::declare_partition(channel, prefix, partition).await?;
        channel
            .basic_consume(
                topology::partition_queue(prefix, partition).into(),
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
        let channel = self.channel(LOOK_DEADLINE).await?;
        let prefix = &self.settings.prefix;
        let names = (0..self.settings.partitions)
            .map(|partition| topology::partition_queue(prefix, partition))
            .chain([topology::dead_queue(prefix)])
            .chain(JobQueue::ALL.map(|queue| topology::job_queue(prefix, queue)));
        let mut depths = Vec::new();
        for queue in names {
            let found = within(LOOK_DEADLINE, topology::look(&channel, queue.clone())).await?;
            depths.push(Depth {
                queue,
                ready: found.message_count().into(),
                consumers: found.consumer_count().into(),
            });
        }
        for queue in JobQueue::ALL {
            for level in LEVELS {
                let name = topology::delay_queue(prefix, queue, level);
                // One that nothing was ever put into is not there, and asking for it closes the channel.
                let channel = self.channel(LOOK_DEADLINE).await?;
                let looked = within(LOOK_DEADLINE, topology::look(&channel, name.clone())).await;
                if let Ok(found) = looked {
                    depths.push(Depth {
                        queue: name,
                        ready: found.message_count().into(),
                        consumers: found.consumer_count().into(),
                    });
                }
            }
        }
        Ok(depths)
    }

    async fn load(&self) -> Result<Load> {
        self.looker.load(&self.link, &self.settings).await
    }

    async fn ping(&self) -> Result<()> {
        if self.link.state() == State::Down {
            return Err(busy("the queue is not reachable just now"));
        }
        // A channel is opened by the broker, and closes when dropped.
        self.channel(LOOK_DEADLINE).await.map(drop)
    }
}

/// lapin cancels a consumer that is dropped while its channel is open; so the channel goes first.
struct RabbitConsumer {
    deliveries: lapin::Consumer,
    lost: bool,
    /// With the channel.
    acks: Arc<Acks>,
    /// So many unacknowledged payloads do not wait: the broker gives no more than `queue.prefetch`.
    most: u64,
}

/// A consumer's acknowledgements on their way.
struct Acks {
    channel: Channel,
    marks: Mutex<Marks>,
}

/// Delivery tags, each meant with all before it.
#[derive(Default)]
struct Marks {
    done: u64,
    sent: u64,
    /// Someone sends what is done, [`ACK_WITHIN`] after the first of it.
    timed: bool,
}

impl Acks {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock()
    }

    /// Under the lock, so that no tag follows a higher one: the broker closes the channel for that.
    fn send(&self) {
        let mut marks = self.marks();
        if marks.sent < marks.done {
            marks.sent = marks.done;
            let options = BasicAckOptions { multiple: true };
            // The first poll sends the frame. If it does not arrive the consumer is lost, and says so.
            let _ = self.channel.basic_ack(marks.done, options).now_or_never();
        }
    }

    async fn send_soon(self: Arc<Self>) {
        tokio::time::sleep(ACK_WITHIN).await;
        self.marks().timed = false;
        self.send();
    }
}

impl RabbitConsumer {
    fn new(deliveries: lapin::Consumer, channel: Channel, prefetch: u16) -> RabbitConsumer {
        let acks = Acks {
            channel,
            marks: Mutex::default(),
        };
        RabbitConsumer {
            deliveries,
            lost: false,
            acks: Arc::new(acks),
            most: u64::from(prefetch / 2),
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
        let (timed, waiting) = {
            let mut marks = self.acks.marks();
            marks.done = tag;
            let waiting = tag - marks.sent;
            (std::mem::replace(&mut marks.timed, true), waiting)
        };
        if waiting >= self.most {
            self.acks.send();
        }
        if !timed {
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
            // The first poll sends the frame, and that is all it takes.
            let _ = self.acks.channel.close(200, "done".into()).now_or_never();
        }
    }
}
