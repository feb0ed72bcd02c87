//! One batch: decode, store in one transaction, publish, and only then acknowledge.
//!
//! One bad command never fails its batch. A command that cannot be decoded becomes a dead letter; one that is not
//! allowed is refused to its sender; and if the store rejects a batch, the batch is halved until the rejected command
//! stands alone.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{
    commit::commit,
    outcomes::{Outcomes, count_refusal},
    state::Worker,
};
use crate::{
    bus::{Channel, Publications, RoomEvents},
    command::{
        self, Command, Envelope, Notice, Outcome, Refusal, ReplyTo,
        account::{self, AccountCommand, Ran},
        epoch::{self, EpochCommand},
        notify::{self, NotifyCommand},
        room::{self, RoomCommand, RoomEnvelope},
    },
    error::{Code, Error, Result},
    model::{MessageId, RoomId, Timestamp, UserId, new_id},
    queue::{DeadLetter, Delivery, Partition, framing},
    telemetry::metrics,
};

/// Maximum number of tracked rooms whose cached events may lag behind; the cache entries of others expire.
const MAX_STALE: usize = 100_000;

/// Runs a lane's batches.
pub struct Runner {
    pub(super) worker: Arc<Worker>,
    shutdown: CancellationToken,
    rooms: Vec<BatchItem<RoomEnvelope>>,
    singles: Vec<BatchItem<SingleEnvelope>>,
    dead: Vec<(DeadLetter, Bytes)>,
    /// Rooms whose events could not be published: the next publish deletes their cached events first.
    pub(super) stale: HashSet<RoomId>,
    publish_failed: bool,
    /// Stored messages, new ones and edited ones, whose notification tasks are not enqueued yet.
    stored: Vec<MessageId>,
}

/// A command with its origin.
struct BatchItem<T> {
    envelope: T,
    reply: Option<ReplyTo>,
    partition: Partition,
    /// Kept for a dead letter.
    bytes: Bytes,
}

/// A command that runs in a transaction of its own.
struct SingleEnvelope {
    actor: UserId,
    at: Timestamp,
    command: Single,
}

#[derive(Debug)]
enum Single {
    Account(AccountCommand),
    Notify(NotifyCommand),
    Epoch(EpochCommand),
}

impl Runner {
    pub fn new(worker: Arc<Worker>, shutdown: CancellationToken) -> Self {
        Runner {
            worker,
            shutdown,
            rooms: Vec::new(),
            singles: Vec::new(),
            dead: Vec::new(),
            stale: HashSet::new(),
            publish_failed: false,
            stored: Vec::new(),
        }
    }

    /// How many commands wait for [`Runner::run`].
    pub fn len(&self) -> usize {
        self.rooms.len() + self.singles.len() + self.dead.len()
    }

    /// Adds a delivery's commands. If its framing is broken, none of them is run.
    pub fn add(&mut self, partition: Partition, delivery: Delivery) {
        match framing::decode(&delivery.payload) {
            Ok(commands) => {
                for bytes in commands {
                    self.add_command(partition, bytes);
                }
            }
            Err(reason) => {
                let letter = undecoded(partition, delivery.payload, reason);
                self.dead.push(letter);
            }
        }
    }

    fn add_command(&mut self, partition: Partition, bytes: Bytes) {
        let Envelope {
            at,
            actor,
            reply,
            command,
            ..
        } = match command::read(&bytes) {
            Ok(envelope) => envelope,
            Err(reason) => {
                self.dead.push(undecoded(partition, bytes, reason));
                return;
            }
        };
        let command = match command {
            Command::Room(room, command) => {
                let envelope = RoomEnvelope {
                    room,
                    actor,
                    at,
                    command,
                };
                self.rooms.push(BatchItem {
                    envelope,
                    reply,
                    partition,
                    bytes,
                });
                return;
            }
            Command::Account(command) => Single::Account(command),
            Command::Notify(command) => Single::Notify(command),
            Command::Epoch(command) => Single::Epoch(command),
        };
        self.singles.push(BatchItem {
            envelope: SingleEnvelope { actor, at, command },
            reply,
            partition,
            bytes,
        });
    }

    /// Stores and publishes everything that was added. Returns `false` if the worker must stop while something is not
    /// stored yet: then nothing may be acknowledged.
    pub async fn run(&mut self) -> bool {
        let started = Instant::now();
        let count = self.len();
        let mut outcomes = Outcomes::default();

        let rooms = std::mem::take(&mut self.rooms);
        let singles = std::mem::take(&mut self.singles);
        if let Some(first) = rooms.first() {
            let waited = Timestamp::now().millis() - first.envelope.at.millis();
            // Negative if the accepting edge's clock is ahead.
            let waited = waited.max(0) as f64 / 1000.0;
            metrics().worker_wait_seconds.observe(waited);
        }
        let mut stages = Stages(started);
        let stored = self.store_rooms(rooms, &mut outcomes).await
            && self.run_singles(singles, &mut outcomes).await;
        stages.ended("store");
        // Committed events are published even if the rest of the batch is left to another worker.
        self.publish(outcomes).await;
        stages.ended("publish");
        if !self.enqueue_notifications().await || !stored || !self.put_dead_letters().await {
            self.dead.clear();
            return false;
        }
        stages.ended("finish");
        metrics().worker_batch_messages.observe(count as f64);
        metrics()
            .worker_batch_seconds
            .observe(started.elapsed().as_secs_f64());
        true
    }

    // ---- room commands

    async fn store_rooms(
        &mut self,
        lines: Vec<BatchItem<RoomEnvelope>>,
        outcomes: &mut Outcomes,
    ) -> bool {
        // A stack of parts, the next one on top: halving keeps every room's order.
        let mut parts = vec![lines];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let envelopes: Vec<&RoomEnvelope> = part.iter().map(|line| &line.envelope).collect();
            match self
                .until_answered(|| commit(&self.worker, &envelopes))
                .await
            {
                None => return false,
                Some(Ok(mut applied)) => {
                    if self.worker.config.notify.enabled() {
                        self.stored.extend(sent(&part, &applied));
                        self.add_edited(&mut applied.mentions_added);
                    }
                    outcomes.add_applied(&mut applied);
                    for (line, outcome) in part.iter().zip(applied.outcomes) {
                        count_refusal(&outcome);
                        outcomes.answer_room(line.reply, &line.envelope, outcome);
                    }
                }
                Some(Err(error)) if part.len() == 1 => {
                    tracing::error!(error = %error.chain(), "the store rejects a command");
                    let line = &part[0];
                    let reason = format!("the store refuses it: {}", error.chain());
                    self.dead.push(letter(line, reason));
                    let refusal = Refusal::new(
                        Code::Internal,
                        "this could not be stored; it is kept for the operators",
                    );
                    outcomes.answer_room(line.reply, &line.envelope, Outcome::Refused(refusal));
                }
                Some(Err(error)) => {
                    tracing::warn!(commands = part.len(), error = %error.chain(), "the store rejects a batch; halving it");
                    let mut first = part;
                    let second = first.split_off(first.len() / 2);
                    parts.push(second);
                    parts.push(first);
                }
            }
        }
        true
    }

    // ---- other commands

    async fn run_singles(
        &mut self,
        lines: Vec<BatchItem<SingleEnvelope>>,
        outcomes: &mut Outcomes,
    ) -> bool {
        for line in lines {
            let SingleEnvelope { actor, at, command } = &line.envelope;
            let mut old = None;
            if is_rename(command) {
                match self.names(*actor).await {
                    Some(names) => old = names,
                    None => return false,
                }
            }
            let Some(mut ran) = self
                .until_answered(|| self.run_single(&line.envelope))
                .await
            else {
                return false;
            };
            let done = matches!(&ran, Ok(ran) if matches!(ran.outcome, Outcome::Done(_)));
            if done && matches!(command, Single::Account(AccountCommand::Delete)) {
                match self.clean_up_account(*actor, *at).await {
                    None => return false,
                    Some(Ok(())) => {}
                    Some(Err(error)) => ran = Err(error),
                }
            }
            if done && is_rename(command) {
                let Some(new) = self.names(*actor).await else {
                    return false;
                };
                if let Some(new) = new.filter(|new| old.as_ref() != Some(new)) {
                    // First publishes the events of this batch, which may have the old names.
                    self.publish(std::mem::take(outcomes)).await;
                    match self.announce_names(new).await {
                        None => return false,
                        Some(Ok(())) => {}
                        Some(Err(error)) => {
                            tracing::warn!(error = %error.chain(), "new names of a user could not be announced to sockets");
                        }
                    }
                }
            }
            match ran {
                Ok(Ran { outcome, notices }) => {
                    for notice in &notices {
                        // Does not wait for the notice to arrive over the bus.
                        match notice {
                            Notice::AccountChanged { user } => {
                                self.worker.memberships.invalidate_user(*user);
                            }
                            Notice::EpochChanged { epoch } => {
                                self.worker.memberships.enter(*epoch);
                            }
                            _ => {}
                        }
                        outcomes.notify(Channel::Everyone, notice);
                    }
                    count_refusal(&outcome);
                    outcomes.answer(line.reply, outcome);
                }
                Err(error) => {
                    tracing::error!(?command, error = %error.chain(), "the store rejects a command");
                    // The payload may hold a password hash, but the reason shows the command without it.
                    let reason = format!("{command:?}: the store refuses it: {}", error.chain());
                    self.dead.push(letter(&line, reason));
                    let refusal = Refusal::new(Code::Internal, "this could not be stored");
                    outcomes.answer(line.reply, Outcome::Refused(refusal));
                }
            }
        }
        true
    }

    async fn run_single(&self, envelope: &SingleEnvelope) -> Result<Ran> {
        let SingleEnvelope { actor, at, command } = envelope;
        match command {
            Single::Account(command) => {
                account::run(self.worker.store.as_ref(), *actor, *at, command).await
            }
            Single::Notify(command) => Ok(Ran {
                outcome: notify::run_command(&self.worker.notifier, *actor, command).await?,
                notices: Vec::new(),
            }),
            Single::Epoch(command) => epoch::run(self.worker.store.as_ref(), command).await,
        }
    }

    /// Retries retryable errors with pauses until the store answers. `None` if the worker must stop first; `Err` is
    /// final.
    pub(super) async fn until_answered<T, F>(&self, attempt: impl Fn() -> F) -> Option<Result<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let mut pause = Duration::from_millis(20);
        let mut logged = None;
        loop {
            let error = match attempt().await {
                Err(error) if error.is_retryable() => error,
                result => {
                    if let Some(part) = logged {
                        tracing::info!("the {part} answers again");
                    }
                    return Some(result);
                }
            };
            let part = part_of(&error);
            if part == STORE {
                metrics().store_errors.inc();
            }
            if logged.is_none() {
                tracing::warn!(error = %error.chain(), "the {part} does not answer; trying again until it does");
            }
            logged = Some(part);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => return None,
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    // ---- after the commit

    /// Publishes events and notices. After a failure the edges fetch the events, and the rooms' cache entries are
    /// stale.
    pub(super) async fn publish(&mut self, outcomes: Outcomes) {
        let publications = Publications {
            epoch: self.worker.memberships.epoch(),
            rooms: outcomes
                .events
                .into_iter()
                .map(|(room, events)| RoomEvents { room, events })
                .collect(),
            stale: self.stale.iter().copied().collect(),
            notices: outcomes.notices,
        };
        if publications.is_empty() {
            return;
        }
        match self.worker.pubsub.publish(&publications).await {
            Ok(()) => {
                self.stale.clear();
                if std::mem::take(&mut self.publish_failed) {
                    tracing::info!("events are published again");
                }
            }
            Err(error) => {
                // Edges find the missing events by comparing the rooms' heads.
                if !std::mem::replace(&mut self.publish_failed, true) {
                    tracing::warn!(error = %error.chain(), "events are not published; edges fetch them");
                }
                for room in publications.rooms {
                    if self.stale.len() < MAX_STALE {
                        self.stale.insert(room.room);
                    }
                }
            }
        }
    }

    /// Adds edited messages to those whose notification tasks are enqueued; a message sent in the same batch is there
    /// once.
    fn add_edited(&mut self, edited: &mut Vec<MessageId>) {
        if !edited.is_empty() {
            self.stored.append(edited);
            self.stored.sort_unstable();
            self.stored.dedup();
        }
    }

    /// Enqueues the notification tasks of the stored messages, before they are acknowledged.
    async fn enqueue_notifications(&mut self) -> bool {
        let stored = std::mem::take(&mut self.stored);
        if stored.is_empty() {
            return true;
        }
        match self
            .until_answered(|| self.worker.notifier.stored(&stored))
            .await
        {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::error!(error = %error.chain(), "notification tasks could not be enqueued; the batch is redelivered");
                false
            }
            None => false,
        }
    }

    /// Puts commands that cannot succeed into the dead letters, before they are acknowledged.
    async fn put_dead_letters(&mut self) -> bool {
        for (letter, original) in std::mem::take(&mut self.dead) {
            let put = self
                .until_answered(|| self.worker.dead.put(&letter, original.clone()))
                .await;
            match put {
                Some(Ok(())) => {
                    tracing::warn!(id = %letter.id, reason = letter.reason, "a command became a dead letter; `chat queue dead show` prints it");
                    metrics().dead_letters.with_label_values(&["refused"]).inc();
                }
                Some(Err(error)) => {
                    tracing::error!(error = %error.chain(), "a dead letter could not be stored; its command is redelivered");
                    return false;
                }
                None => return false,
            }
        }
        true
    }
}

const STORE: &str = "store";

/// The server that failed, for the log. Most temporary errors are the store's.
fn part_of(error: &Error) -> &'static str {
    match error.dependency {
        Some(part @ ("queue" | "cache")) => part,
        _ => STORE,
    }
}

/// Measures the stages of a batch, one after the other. Holds the start of the current one.
struct Stages(Instant);

impl Stages {
    fn ended(&mut self, stage: &str) {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.0, now);
        let stage = metrics().worker_stage_seconds.with_label_values(&[stage]);
        stage.observe(took.as_secs_f64());
    }
}

/// Whether the command changes a name that other users see.
fn is_rename(command: &Single) -> bool {
    let named = |command: &AccountCommand| match command {
        AccountCommand::Update { display_name, .. } => display_name.is_some(),
        _ => false,
    };
    matches!(command, Single::Account(command) if named(command))
}

/// The messages of successful sends. This includes repeats: the worker that stored them may have died before it
/// enqueued their notification tasks.
fn sent(lines: &[BatchItem<RoomEnvelope>], applied: &room::Applied) -> Vec<MessageId> {
    let lines = lines.iter().zip(&applied.outcomes);
    let sent = lines.filter_map(|(line, outcome)| match (&line.envelope.command, outcome) {
        (RoomCommand::Send(send), Outcome::Done(_)) => Some(send.id),
        _ => None,
    });
    sent.collect()
}

fn letter<T>(line: &BatchItem<T>, reason: String) -> (DeadLetter, Bytes) {
    undecoded(line.partition, line.bytes.clone(), reason)
}

fn undecoded(partition: Partition, bytes: Bytes, reason: String) -> (DeadLetter, Bytes) {
    let letter = DeadLetter {
        id: new_id(),
        at: Timestamp::now(),
        reason,
        partition,
        payload: String::from_utf8_lossy(&bytes).into_owned(),
    };
    (letter, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_server_that_failed() {
        let busy = Error {
            dependency: Some("queue"),
            ..Error::busy(
                "the queue is not reachable just now; try again",
                Duration::ZERO,
            )
        };
        assert_eq!(part_of(&busy), "queue");
        assert_eq!(part_of(&Error::unavailable("cache", "refused")), "cache");
        assert_eq!(part_of(&Error::unavailable("database", "refused")), STORE);
    }
}
