//! Publishes commands to the queue with group commit.
//!
//! Each partition has a buffer and at most one batch awaiting its publisher confirm. Commands that arrive meanwhile
//! form the next batch: an idle partition publishes single commands without delay, a busy one hundreds in one AMQP
//! message. One batch at a time also preserves order: a failed batch is sent again before any later one. The cost of a
//! batch hardly depends on its size, so the partitions publish one after another, which lets the batches of waiting
//! partitions grow.
//!
//! Submission never waits for buffer space: above the limits a command fails immediately with `busy`.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::recent_sends::RecentSends;
use crate::{
    bus::EdgeId,
    command::{self, Command, Envelope, Outcome, ReplyTo, room::RoomCommand},
    error::{Error, Result},
    model::{MessageId, Timestamp, UserId},
    queue::{BatchBuilder, Publisher, QueueState},
    telemetry::metrics,
};

/// How long an unconfirmed batch holds back the batches of other partitions. A broker that confirms faster gets one
/// batch at a time; a distant broker gets concurrent batches from several partitions.
const ALONE: Duration = Duration::from_millis(2);

/// Called once: `Ok` when the queue holds the command, `Err` when it was not accepted.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// Limits of the buffers.
#[derive(Debug, Clone)]
pub struct Limits {
    pub partitions: u16,
    /// Commands in the queue above which submissions fail with `busy`.
    pub max_backlog: u64,
    /// Commands in one batch, and its size in bytes.
    pub batch_messages: usize,
    pub batch_bytes: usize,
    /// How long a caller waits for the worker's reply before the result is [`SubmitResult::Accepted`].
    pub wait: Duration,
}

/// The result of a command.
#[derive(Debug)]
pub enum SubmitResult {
    /// Done; the resource as JSON, if the command has one.
    Done(Option<Box<RawValue>>),
    /// Enqueued; the worker did not reply within `edge.wait`.
    Accepted,
}

/// The only write path of an edge: commands are submitted to the queue.
pub struct Submitter {
    edge: EdgeId,
    limits: Limits,
    publisher: Arc<dyn Publisher>,
    partitions: Vec<Partition>,
    under_way: Semaphore,
    pending: Mutex<HashMap<u64, oneshot::Sender<Outcome>>>,
    numbers: AtomicU64,
    /// The last batch was not accepted; logged when it changes.
    failing: AtomicBool,
    recent_sends: RecentSends,
}

#[derive(Default)]
struct Partition {
    buffer: Mutex<Buffer>,
    filled: Notify,
}

/// Serialized commands and their completion callbacks.
#[derive(Default)]
struct Buffer {
    batches: std::collections::VecDeque<Batch>,
    waiting: usize,
    closed: bool,
}

#[derive(Default)]
struct Batch {
    commands: BatchBuilder,
    done: Vec<Done>,
    /// Sends of the batch that are not repetitions of recent sends.
    new_sends: Vec<MessageId>,
}

impl Submitter {
    /// Starts one task per partition. A task ends when `shutdown` is cancelled and its buffer is empty.
    pub fn start(
        edge: EdgeId,
        limits: Limits,
        publisher: Arc<dyn Publisher>,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let submitter = Arc::new(Submitter {
            edge,
            partitions: (0..limits.partitions)
                .map(|_| Partition::default())
                .collect(),
            limits,
            publisher,
            under_way: Semaphore::new(1),
            pending: Mutex::default(),
            numbers: AtomicU64::new(1),
            failing: AtomicBool::new(false),
            recent_sends: RecentSends::default(),
        });
        for partition in 0..submitter.limits.partitions {
            tasks.spawn(submitter.clone().run(partition, shutdown.clone()));
        }
        submitter
    }

    pub fn edge_id(&self) -> EdgeId {
        self.edge
    }

    /// Submits a command. Fails immediately if the queue is unavailable or full; otherwise `done` is called with the
    /// result, in the order of submission within a partition.
    ///
    /// # Errors
    /// `busy`; `conflict` for a send with the `clientMsgId` of a recent one with another content.
    pub fn submit(&self, envelope: &Envelope, done: Done) -> Result<()> {
        self.check_room()?;
        let new_send = match &envelope.command {
            Command::Room(_, RoomCommand::Send(send)) => {
                self.recent_sends.admit(send)?.then_some(send.id)
            }
            Command::Room(
                _,
                RoomCommand::Edit { message, .. } | RoomCommand::Delete { message },
            ) => {
                self.recent_sends.remove(*message);
                None
            }
            _ => None,
        };
        let submitted = self.buffer(envelope, done, new_send);
        if submitted.is_err()
            && let Some(send) = new_send
        {
            self.recent_sends.remove(send);
        }
        submitted
    }

    fn buffer(&self, envelope: &Envelope, done: Done, new_send: Option<MessageId>) -> Result<()> {
        let key = envelope.command.key(envelope.actor);
        let partition =
            &self.partitions[usize::from(command::partition_of(key, self.limits.partitions))];
        let mut buffer = partition.buffer.lock();
        // A few batches keep the queue busy; a larger buffer would only be a second backlog.
        if buffer.closed || buffer.waiting >= self.limits.batch_messages * 64 {
            metrics().commands_busy.inc();
            return Err(busy());
        }
        let full = buffer.batches.back().is_none_or(|batch| {
            batch.done.len() >= self.limits.batch_messages
                || batch.commands.size() >= self.limits.batch_bytes
        });
        if full {
            buffer.batches.push_back(Batch::default());
        }
        if let Some(batch) = buffer.batches.back_mut() {
            let pushed = batch
                .commands
                .push(|bytes| serde_json::to_writer(bytes, envelope).map_err(Error::internal));
            if let Err(error) = pushed {
                if batch.commands.is_empty() {
                    buffer.batches.pop_back();
                }
                return Err(error);
            }
            batch.done.push(done);
            batch.new_sends.extend(new_send);
            buffer.waiting += 1;
        }
        drop(buffer);
        partition.filled.notify_one();
        Ok(())
    }

    /// Resolves when the queue holds the command.
    pub async fn accept(
        &self,
        actor: UserId,
        command: Command,
        reply: Option<ReplyTo>,
    ) -> Result<()> {
        let (tx, rx) = oneshot::channel();
        self.submit(
            &Envelope {
                v: command::VERSION,
                at: Timestamp::now(),
                actor,
                reply,
                command,
            },
            Box::new(move |result| {
                let _ = tx.send(result);
            }),
        )?;
        rx.await.unwrap_or_else(|_| Err(busy()))
    }

    /// Submits a command and waits for the worker's reply, at most `edge.wait` after the command was enqueued.
    pub async fn call(&self, actor: UserId, command: Command) -> Result<SubmitResult> {
        let number = self.next_number();
        let (tx, mut rx) = oneshot::channel();
        self.pending.lock().insert(number, tx);
        let _guard = PendingReplyGuard(self, number);
        let reply = ReplyTo {
            edge: self.edge,
            number,
            wait: true,
        };
        let send = match &command {
            Command::Room(_, RoomCommand::Send(send)) => Some(send.id),
            _ => None,
        };
        self.accept(actor, command, Some(reply)).await?;
        match tokio::time::timeout(self.limits.wait, &mut rx).await {
            Ok(Ok(Outcome::Done(resource))) => Ok(SubmitResult::Done(resource)),
            Ok(Ok(Outcome::Refused(refusal))) => {
                if let Some(message) = send {
                    self.refused(message);
                }
                Err(refusal.into())
            }
            Ok(Err(_)) | Err(_) => Ok(SubmitResult::Accepted),
        }
    }

    /// Submits a send and resolves when the queue holds it, without waiting for the worker.
    pub async fn accept_send(&self, actor: UserId, command: Command) -> Result<()> {
        // The number is not that of a session: only this edge receives a refusal, not a client.
        let reply = ReplyTo {
            edge: self.edge,
            number: self.next_number(),
            wait: false,
        };
        self.accept(actor, command, Some(reply)).await
    }

    /// A worker refused a send: its `clientMsgId` may be sent again with another content.
    pub fn refused(&self, message: MessageId) {
        self.recent_sends.remove(message);
    }

    /// A reply number that is unique on this edge.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Passes a worker's reply to the caller that waits for it.
    pub fn answered(&self, number: u64, outcome: Outcome) {
        if let Some(reply) = self.pending.lock().remove(&number) {
            let _ = reply.send(outcome);
        }
    }

    fn check_room(&self) -> Result<()> {
        let backlog = self.publisher.backlog();
        if self.publisher.state() == QueueState::Up && backlog < self.limits.max_backlog {
            return Ok(());
        }
        metrics().commands_busy.inc();
        Err(busy())
    }

    async fn run(self: Arc<Self>, partition: u16, shutdown: CancellationToken) {
        let queue = &self.partitions[usize::from(partition)];
        loop {
            let is_empty = {
                let mut buffer = queue.buffer.lock();
                let is_empty = buffer.batches.is_empty();
                if is_empty && shutdown.is_cancelled() {
                    buffer.closed = true;
                    return;
                }
                is_empty
            };
            if is_empty {
                tokio::select! {
                    () = queue.filled.notified() => {}
                    () = shutdown.cancelled() => {}
                }
                continue;
            }
            // The semaphore is never closed. Commands that arrive while waiting for the permit join the batch.
            let permit = self.under_way.acquire().await.ok();
            let next = {
                let mut buffer = queue.buffer.lock();
                let next = buffer.batches.pop_front();
                buffer.waiting -= next.as_ref().map_or(0, |batch| batch.done.len());
                next
            };
            if let Some(batch) = next {
                self.publish(partition, batch, permit).await;
            }
        }
    }

    async fn publish(&self, partition: u16, batch: Batch, mut permit: Option<SemaphorePermit<'_>>) {
        let count = batch.done.len();
        let commands = batch.commands.finish();
        let started = Instant::now();
        let mut publishing = pin!(self.publisher.publish(partition, commands));
        let result = match tokio::time::timeout(ALONE, &mut publishing).await {
            Ok(result) => result,
            Err(_) => {
                permit = None;
                publishing.await
            }
        };
        drop(permit);
        metrics().publish_batch_messages.observe(count as f64);
        metrics()
            .publish_confirm_seconds
            .observe(started.elapsed().as_secs_f64());
        match result {
            Ok(()) => {
                if self.failing.load(Ordering::Relaxed)
                    && self.failing.swap(false, Ordering::Relaxed)
                {
                    tracing::info!("the queue accepts batches again");
                }
                metrics().commands_accepted.inc_by(count as u64);
                batch.done.into_iter().for_each(|done| done(Ok(())));
            }
            Err(error) => {
                metrics().commands_busy.inc_by(count as u64);
                // Once per outage, not per batch.
                if self.failing.swap(true, Ordering::Relaxed) {
                    tracing::debug!(partition, commands = count, error = %error.chain(), "batch not accepted by the queue");
                } else {
                    tracing::warn!(partition, commands = count, error = %error.chain(), "batch not accepted by the queue");
                }
                let retry_after = error.retry_after.unwrap_or(RETRY_AFTER);
                for send in batch.new_sends {
                    self.recent_sends.remove(send);
                }
                for done in batch.done {
                    done(Err(Error::busy(error.message.clone(), retry_after)));
                }
            }
        }
    }
}

/// `Retry-After` of `busy`.
const RETRY_AFTER: Duration = Duration::from_millis(500);

fn busy() -> Error {
    Error::busy(
        "the queue accepts no commands at the moment; send it again",
        RETRY_AFTER,
    )
}

/// Removes the pending reply when its caller is dropped.
struct PendingReplyGuard<'a>(&'a Submitter, u64);

impl Drop for PendingReplyGuard<'_> {
    fn drop(&mut self) {
        self.0.pending.lock().remove(&self.1);
    }
}
