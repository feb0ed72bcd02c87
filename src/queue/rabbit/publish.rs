//! Publishing: default exchange, mandatory, persistent, confirmed. A publish that starts while the broker is away
//! or blocks is refused at once; one that was under way when the connection broke is sent again, as it was.
//!
//! Each partition has a channel of its own with one publish on it at a time: a broker may confirm several at once,
//! and lapin would then tell the wrong one that its message was returned.

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
    Settings,
    backlog::Backlog,
    busy, jobs,
    link::{Link, Live, Status},
    topology,
};
use crate::{
    error::Result,
    model::Timestamp,
    queue::{EncodedBatch, JobQueue, Partition, Publisher, State},
    retry::Policy,
};

/// A broker announces that it blocks only when something was published, which it then still takes: how long that
/// one's confirm may follow the announcement.
const LAST_CONFIRM: Duration = Duration::from_secs(1);

/// Jobs published at the same time.
pub(super) const JOB_LANES: usize = 8;

/// Between polls of the depths while anything waits, and at least between two of any kind.
const POLL_EVERY: Duration = Duration::from_millis(500);
const POLL_AGAIN: Duration = Duration::from_millis(50);
const POLL_DEADLINE: Duration = Duration::from_secs(3);

/// After a refusal by the broker (no majority of a quorum queue's members, say).
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
    settings: Settings,
    link: Link,
    /// One a partition, one for the dead letters, and [`JOB_LANES`] for jobs.
    lanes: Vec<Mutex<Lane>>,
    backlog: Backlog,
    /// Payloads and commands that the broker confirmed.
    confirmed: [AtomicU64; 2],
    poll: Notify,
    next_job: AtomicUsize,
}

/// A channel in confirm mode, if its connection still is the one in use. Taken out while a publish is under way:
/// one that was given up takes its channel with it.
#[derive(Default)]
struct Lane(Option<(u64, Channel)>);

/// A message on its way to a queue.
pub(super) struct Outgoing<'a> {
    pub queue: String,
    pub payload: &'a [u8],
    pub properties: BasicProperties,
}

enum Attempt {
    Confirmed,
    /// Nobody took it, and the queue is there again now.
    Unroutable,
    Refused(String),
    /// The connection or the channel is gone: it may or may not be queued.
    Broken(String),
}

impl RabbitPublisher {
    /// Starts connecting and returns at once, with `state()` `Down` until that worked. Needs a tokio runtime. Fails
    /// only where the URL is none.
    pub fn connect(settings: Settings) -> Result<RabbitPublisher> {
        let inner = Arc::new(Inner {
            link: Link::start(settings.clone(), "publisher")?,
            lanes: (0..usize::from(settings.partitions) + 1 + JOB_LANES)
                .map(|_| Mutex::default())
                .collect(),
            backlog: Backlog::new(settings.partitions),
            confirmed: Default::default(),
            poll: Notify::new(),
            next_job: AtomicUsize::new(0),
            settings,
        });
        let poll = tokio::spawn(keep_polling(inner.clone()));
        Ok(RabbitPublisher {
            inner,
            _poll: AbortOnDropHandle::new(poll),
        })
    }

    /// Waits for a connection, at most `patience`; the error says what the last try failed of.
    pub async fn ready(&self, patience: Duration) -> Result<()> {
        self.inner.link.ready(patience).await
    }

    /// Closes the connection in good order; what is still being published fails.
    pub async fn close(&self) {
        self.inner.link.close().await;
    }

    /// Jobs have no order, so several are published at once.
    pub(super) async fn publish_job(&self, message: Outgoing<'_>) -> Result<()> {
        let lane = self.inner.next_job.fetch_add(1, Ordering::Relaxed) % JOB_LANES;
        let before = usize::from(self.inner.settings.partitions) + 1;
        self.inner.publish(before + lane, message).await
    }

    /// How many payloads this publisher got confirmed, and how many commands were inside.
    pub fn confirmed(&self) -> [u64; 2] {
        self.inner
            .confirmed
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) async fn publish_dead(&self, message: Outgoing<'_>) -> Result<()> {
        let lane = usize::from(self.inner.settings.partitions);
        self.inner.publish(lane, message).await
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
            queue: topology::partition_queue(&settings.prefix, partition),
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
            // Sends are being refused on the strength of this number: find out soon if it still holds.
            self.inner.poll.notify_one();
        }
        total
    }

    fn state(&self) -> State {
        self.inner.link.state()
    }
}

/// Properties of a message that is to survive the broker.
pub(super) fn persistent(content_type: &str, headers: FieldTable) -> BasicProperties {
    let seconds = Timestamp::now().millis() / 1000;
    BasicProperties::default()
        .with_content_type(content_type.into())
        .with_delivery_mode(2)
        .with_timestamp(u64::try_from(seconds).unwrap_or_default())
        .with_headers(headers)
}

impl Inner {
    async fn publish(&self, lane: usize, message: Outgoing<'_>) -> Result<()> {
        match self.link.state() {
            State::Up => {}
            State::Blocked => return Err(busy("the queue takes nothing just now; try again")),
            State::Down => return Err(busy("the queue is not reachable just now; try again")),
        }
        let deadline = Instant::now() + self.settings.confirm_timeout;
        match timeout_at(deadline, self.until_confirmed(lane, message)).await {
            Ok(result) => result,
            Err(_) => Err(busy("the queue did not confirm in time; try again")),
        }
    }

    async fn until_confirmed(&self, lane: usize, message: Outgoing<'_>) -> Result<()> {
        // There is a lane for each partition that `check` lets through, one more, and those of the jobs.
        let mut lane = self.lanes[lane].lock().await;
        let mut retry = REFUSED.start();
        loop {
            let live = match self.link.established().await {
                Status::Up(live) => live,
                _ => return Err(busy("the queue takes nothing just now; try again")),
            };
            let attempt = tokio::select! {
                attempt = self.attempt(&mut lane, &live, &message) => attempt,
                () = self.link.gone(live.epoch) => Attempt::Broken("connection lost".into()),
                () = self.blocked_for_good() => {
                    return Err(busy("the queue takes nothing just now; try again"));
                }
            };
            match attempt {
                Attempt::Confirmed => return Ok(()),
                Attempt::Unroutable => {
                    debug!(queue = message.queue, "queue was missing, declared")
                }
                Attempt::Refused(reason) => {
                    warn!(
                        queue = message.queue,
                        error = reason,
                        "RabbitMQ refused a message, trying again"
                    );
                }
                Attempt::Broken(reason) => {
                    debug!(
                        queue = message.queue,
                        error = reason,
                        "publish broken off, trying again"
                    );
                }
            }
            retry.pause().await;
        }
    }

    async fn blocked_for_good(&self) {
        self.link.blocked().await;
        sleep(LAST_CONFIRM).await;
    }

    async fn attempt(&self, lane: &mut Lane, live: &Live, message: &Outgoing<'_>) -> Attempt {
        match self.try_once(lane, live, message).await {
            Ok(attempt) => attempt,
            Err(error) => Attempt::Broken(error.to_string()),
        }
    }

    async fn try_once(
        &self,
        lane: &mut Lane,
        live: &Live,
        message: &Outgoing<'_>,
    ) -> lapin::Result<Attempt> {
        let channel = match lane.0.take() {
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
                message.queue.as_str().into(),
                options,
                message.payload,
                message.properties.clone(),
            )
            .await?
            .await?;
        let attempt = match confirmation {
            Confirmation::Ack(None) => Attempt::Confirmed,
            // An unroutable message is confirmed all the same.
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                self.declare(&channel, &message.queue).await?;
                Attempt::Unroutable
            }
            Confirmation::Nack(None) => Attempt::Refused("negative confirm".into()),
            Confirmation::NotRequested => Attempt::Refused("channel without confirms".into()),
        };
        lane.0 = Some((live.epoch, channel));
        Ok(attempt)
    }

    async fn declare(&self, channel: &Channel, queue: &str) -> lapin::Result<()> {
        let prefix = &self.settings.prefix;
        for partition in 0..self.settings.partitions {
            if topology::partition_queue(prefix, partition) == queue {
                topology::declare_partition(channel, prefix, partition).await?;
                return Ok(());
            }
        }
        for kind in JobQueue::ALL {
            if topology::job_queue(prefix, kind) == queue {
                return topology::declare_jobs(channel, prefix, kind)
                    .await
                    .map(drop);
            }
            for level in jobs::LEVELS {
                if topology::delay_queue(prefix, kind, level) == queue {
                    let declared = topology::declare_delay(channel, prefix, kind, level).await;
                    return declared.map(drop);
                }
            }
        }
        topology::declare_dead(channel, prefix).await.map(drop)
    }

    async fn poll_depths(&self, channel: &Channel) -> lapin::Result<()> {
        let mark = self.backlog.mark();
        let prefix = &self.settings.prefix;
        let looks = (0..self.settings.partitions)
            .map(|partition| topology::look(channel, topology::partition_queue(prefix, partition)));
        let queues = future::try_join_all(looks).await?;
        let ready: Vec<u64> = queues.iter().map(|q| q.message_count().into()).collect();
        self.backlog.polled(mark, &ready);
        Ok(())
    }
}

/// Keeps the estimate near the truth while there is anything to estimate.
async fn keep_polling(inner: Arc<Inner>) {
    let mut channel: Option<Channel> = None;
    let mut due = true;
    loop {
        if due
            && let Status::Up(live) = inner.link.status()
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
        sleep(POLL_AGAIN).await;
        let _ = timeout(POLL_EVERY - POLL_AGAIN, inner.poll.notified()).await;
        due = inner.backlog.total() > 0 || channel.is_none();
    }
}
