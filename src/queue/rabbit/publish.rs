//! Publishing: default exchange, mandatory, persistent, confirmed. A publish that starts while the broker is away
//! or blocks is refused at once; one that was under way when the connection broke is repeated unchanged.
//!
//! Each partition has a channel of its own with one publish on it at a time: a broker may confirm several at once, and
//! lapin would then report a returned message to the wrong publish.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future;
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::{
    backlog::Backlog,
    connection::{Live, ManagedConnection, Status},
    failure::busy,
    settings::RabbitSettings,
    topology::QueueId,
};
use crate::{
    error::Result,
    model::Timestamp,
    queue::{EncodedBatch, Partition, Publisher, QueueState},
    retry::Policy,
};

/// A broker announces that it blocks only after a publish, which it still accepts. How long the confirm of that publish
/// may follow the announcement.
const LAST_CONFIRM: Duration = Duration::from_secs(1);

/// After this time without a confirm the publish is repeated over another node, if there are several. Longer than the
/// election of a leader takes, shorter than `queue.confirm_timeout`.
const CONFIRM_OF_NODE: Duration = Duration::from_secs(3);

/// Tasks published at the same time.
pub(super) const TASK_SLOTS: usize = 8;

/// Interval of polling the depths while anything waits, and the shortest interval when a poll is requested.
const POLL_EVERY: Duration = Duration::from_millis(500);
const POLL_MIN_INTERVAL: Duration = Duration::from_millis(50);
const POLL_DEADLINE: Duration = Duration::from_secs(3);

/// Pauses after a negative confirm, for example without a majority of a quorum queue's members.
const REFUSED: Policy = Policy {
    initial: Duration::from_millis(50),
    max: Duration::from_secs(1),
    deadline: None,
};

/// The publishing side. Dropping it closes its connection.
pub struct RabbitPublisher {
    inner: Arc<Inner>,
    _poll: AbortOnDropHandle<()>,
}

struct Inner {
    settings: RabbitSettings,
    connection: ManagedConnection,
    /// One per partition, one for dead letters, and [`TASK_SLOTS`] for tasks.
    slots: Vec<Mutex<ChannelSlot>>,
    backlog: Backlog,
    /// Payloads and commands confirmed by the broker.
    confirmed: [AtomicU64; 2],
    poll: Notify,
    next_task: AtomicUsize,
}

/// A channel in confirm mode, with the epoch of its connection. It is taken out during a publish, so that a cancelled
/// publish drops its channel.
#[derive(Default)]
struct ChannelSlot(Option<(u64, Channel)>);

/// A message on its way to a queue.
pub(super) struct Outgoing<'a> {
    pub queue: QueueId,
    pub payload: &'a [u8],
    pub properties: BasicProperties,
}

enum Attempt {
    Confirmed,
    /// The queue was missing and has been declared.
    Unroutable,
    Refused(String),
    /// The connection or the channel is gone: the message may or may not be queued.
    Broken(String),
}

impl RabbitPublisher {
    /// Starts connecting and returns at once; `state()` is `Down` until the connection is up. Needs a tokio runtime.
    ///
    /// # Errors
    /// An invalid URL.
    pub fn connect(settings: RabbitSettings) -> Result<RabbitPublisher> {
        let inner = Arc::new(Inner {
            connection: ManagedConnection::start(settings.clone(), "publisher")?,
            slots: (0..usize::from(settings.partitions) + 1 + TASK_SLOTS)
                .map(|_| Mutex::default())
                .collect(),
            backlog: Backlog::new(settings.partitions),
            confirmed: Default::default(),
            poll: Notify::new(),
            next_task: AtomicUsize::new(0),
            settings,
        });
        let poll = tokio::spawn(poll_while_waiting(inner.clone()));
        Ok(RabbitPublisher {
            inner,
            _poll: AbortOnDropHandle::new(poll),
        })
    }

    /// Waits for a connection, at most `limit`. The error carries the reason of the last failed attempt.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        self.inner.connection.ready(limit).await
    }

    /// As `ready`, but gives up as soon as every node has failed once. For commands.
    pub async fn tried(&self, limit: Duration) -> Result<()> {
        self.inner.connection.tried(limit).await
    }

    /// Closes the connection in order; publishes under way fail.
    pub async fn close(&self) {
        self.inner.connection.close().await;
    }

    /// Tasks have no order, so several are published at once.
    pub(super) async fn publish_task(&self, message: Outgoing<'_>) -> Result<()> {
        let slot = self.inner.next_task.fetch_add(1, Ordering::Relaxed) % TASK_SLOTS;
        let before = usize::from(self.inner.settings.partitions) + 1;
        self.inner.publish(before + slot, message).await
    }

    /// The number of payloads confirmed to this publisher, and of the commands in them.
    pub fn confirmed(&self) -> [u64; 2] {
        self.inner
            .confirmed
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) async fn publish_dead(&self, message: Outgoing<'_>) -> Result<()> {
        let slot = usize::from(self.inner.settings.partitions);
        self.inner.publish(slot, message).await
    }
}

#[async_trait]
impl Publisher for RabbitPublisher {
    async fn publish(&self, partition: Partition, batch: EncodedBatch) -> Result<()> {
        let messages = batch.commands();
        let Inner { settings, .. } = &*self.inner;
        settings.check(partition)?;
        let mut headers = FieldTable::default();
        headers.insert("messages".into(), AMQPValue::LongLongInt(messages.into()));
        let message = Outgoing {
            queue: QueueId::Partition(partition),
            payload: batch.payload(),
            properties: persistent("application/vnd.chat.batch", headers),
        };
        self.inner.publish(usize::from(partition), message).await?;
        self.inner.backlog.published(partition, messages);
        let [payloads, commands] = &self.inner.confirmed;
        payloads.fetch_add(1, Ordering::Relaxed);
        commands.fetch_add(messages.into(), Ordering::Relaxed);
        Ok(())
    }

    fn backlog(&self) -> u64 {
        let total = self.inner.backlog.total();
        if total >= self.inner.settings.max_backlog {
            // Sends are refused because of this number: refresh it soon.
            self.inner.poll.notify_one();
        }
        total
    }

    fn state(&self) -> QueueState {
        self.inner.connection.state()
    }
}

/// Properties of a message that survives a restart of the broker.
pub(super) fn persistent(content_type: &str, headers: FieldTable) -> BasicProperties {
    let seconds = Timestamp::now().millis() / 1000;
    BasicProperties::default()
        .with_content_type(content_type.into())
        .with_delivery_mode(2)
        .with_timestamp(u64::try_from(seconds).unwrap_or_default())
        .with_headers(headers)
}

impl Inner {
    async fn publish(&self, slot: usize, message: Outgoing<'_>) -> Result<()> {
        match self.connection.state() {
            QueueState::Up => {}
            QueueState::Blocked => return Err(busy("the queue takes nothing just now; try again")),
            QueueState::Down => return Err(busy("the queue is not reachable just now; try again")),
        }
        let deadline = Instant::now() + self.settings.confirm_timeout;
        match timeout_at(deadline, self.until_confirmed(slot, message)).await {
            Ok(result) => result,
            Err(_) => Err(busy("the queue did not confirm in time; try again")),
        }
    }

    async fn until_confirmed(&self, slot: usize, message: Outgoing<'_>) -> Result<()> {
        // `check` accepts only partitions that have a slot.
        let mut slot = self.slots[slot].lock().await;
        let mut retry = REFUSED.start();
        loop {
            let live = match self.connection.established().await {
                Status::Up(live) => live,
                _ => return Err(busy("the queue takes nothing just now; try again")),
            };
            let attempt = tokio::select! {
                attempt = self.attempt(&mut slot, &live, &message) => attempt,
                () = self.connection.gone(live.epoch) => Attempt::Broken("connection lost".into()),
                () = sleep(CONFIRM_OF_NODE), if self.settings.urls.len() > 1 => {
                    self.connection.leave(live.epoch);
                    self.connection.gone(live.epoch).await;
                    Attempt::Broken("no confirm from this node".into())
                }
                () = self.blocked_for_good() => {
                    return Err(busy("the queue takes nothing just now; try again"));
                }
            };
            match attempt {
                Attempt::Confirmed => return Ok(()),
                Attempt::Unroutable => {
                    debug!(queue = ?message.queue, "queue was missing, declared");
                }
                Attempt::Refused(reason) => {
                    warn!(
                        queue = ?message.queue,
                        error = reason,
                        "RabbitMQ refused a message, trying again"
                    );
                }
                Attempt::Broken(reason) => {
                    debug!(
                        queue = ?message.queue,
                        error = reason,
                        "publish broken off, trying again"
                    );
                }
            }
            retry.pause().await;
        }
    }

    async fn blocked_for_good(&self) {
        self.connection.blocked().await;
        sleep(LAST_CONFIRM).await;
    }

    async fn attempt(
        &self,
        slot: &mut ChannelSlot,
        live: &Live,
        message: &Outgoing<'_>,
    ) -> Attempt {
        match self.try_once(slot, live, message).await {
            Ok(attempt) => attempt,
            Err(error) => Attempt::Broken(error.to_string()),
        }
    }

    async fn try_once(
        &self,
        slot: &mut ChannelSlot,
        live: &Live,
        message: &Outgoing<'_>,
    ) -> lapin::Result<Attempt> {
        let channel = match slot.0.take() {
            Some((epoch, channel)) if epoch == live.epoch && channel.status().connected() => {
                channel
            }
            _ => {
                let channel = live.connection.create_channel().await?;
                channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await?;
                channel
            }
        };
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let confirmation = channel
            .basic_publish(
                "".into(),
                message.queue.name(&self.settings.prefix).into(),
                options,
                message.payload,
                message.properties.clone(),
            )
            .await?
            .await?;
        let attempt = match confirmation {
            Confirmation::Ack(None) => Attempt::Confirmed,
            // RabbitMQ confirms an unroutable message too, after returning it.
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                let prefix = &self.settings.prefix;
                message.queue.declare(&channel, prefix).await?;
                Attempt::Unroutable
            }
            Confirmation::Nack(None) => Attempt::Refused("negative confirm".into()),
            Confirmation::NotRequested => Attempt::Refused("channel without confirms".into()),
        };
        slot.0 = Some((live.epoch, channel));
        Ok(attempt)
    }

    async fn poll_depths(&self, channel: &Channel) -> lapin::Result<()> {
        let mark = self.backlog.mark();
        let prefix = &self.settings.prefix;
        let queues = (0..self.settings.partitions)
            .map(|partition| QueueId::Partition(partition).inspect(channel, prefix));
        let queues = future::try_join_all(queues).await?;
        let ready: Vec<u64> = queues.iter().map(|q| q.message_count().into()).collect();
        self.backlog.polled(mark, &ready);
        Ok(())
    }
}

/// Refreshes the estimate of the backlog while anything waits.
async fn poll_while_waiting(inner: Arc<Inner>) {
    let mut channel: Option<Channel> = None;
    let mut due = true;
    loop {
        if due
            && let Status::Up(live) = inner.connection.status()
            && let Ok(Err(error)) = timeout(POLL_DEADLINE, async {
                let open = match channel.take() {
                    Some(open) if open.status().connected() => open,
                    _ => live.connection.create_channel().await?,
                };
                inner.poll_depths(&open).await?;
                channel = Some(open);
                lapin::Result::Ok(())
            })
            .await
        {
            debug!(error = error.to_string(), "depths unknown");
        }
        sleep(POLL_MIN_INTERVAL).await;
        let _ = timeout(POLL_EVERY - POLL_MIN_INTERVAL, inner.poll.notified()).await;
        due = inner.backlog.total() > 0 || channel.is_none();
    }
}
