//! One batch: parse, store in one transaction, tell the edges, and only then let it be acknowledged.
//!
//! One bad command never fails its batch. One that cannot be read goes to the dead letters; a command that is not
//! allowed is refused to its sender; and where the store itself chokes on a batch, the batch is halved until the
//! command that does it stands alone.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::{
    bus::{Channel, Publications, RoomEvents, encode_ephemeral, encode_events},
    error::{Code, Result},
    job::{
        self, Command, Job, Notice, Outcome, ReplyTo,
        account::{self, AccountCommand, Ran},
        notify::{self, NotifyCommand},
        room::{self, RoomCommand, RoomJob},
    },
    model::{
        EphemeralEvent, EphemeralKind, FeedEvent, MessageId, Room, RoomId, Timestamp, UserId,
        new_id,
    },
    protocol::{ReadUpdated, raw},
    queue::{DeadLetter, Delivery, Partition, framing},
    store::{AddMembers, Facts, Scope},
    telemetry::metrics,
};

/// Rooms remembered for which the cache may be behind; beyond it their cache entries run out by themselves.
const MAX_STALE: usize = 100_000;

/// A lane's batches.
pub struct Runner {
    pub(super) worker: Arc<Worker>,
    shutdown: CancellationToken,
    rooms: Vec<Line<RoomJob>>,
    singles: Vec<Line<SingleJob>>,
    dead: Vec<(DeadLetter, Bytes)>,
    /// Rooms whose events could not be published: their cached events are forgotten first when it works again.
    pub(super) stale: HashSet<RoomId>,
    bus_failed: bool,
    /// Messages stored and not yet handed on to be notified of.
    stored: Vec<MessageId>,
}

/// A job with where it came from.
struct Line<T> {
    job: T,
    reply: Option<ReplyTo>,
    partition: Partition,
    /// For the dead letters.
    bytes: Bytes,
}

/// A command that runs on its own, one after the other.
struct SingleJob {
    actor: UserId,
    at: Timestamp,
    command: Single,
}

#[derive(Debug)]
enum Single {
    Account(AccountCommand),
    Notify(NotifyCommand),
}

/// What is told to the edges after the commit.
#[derive(Default)]
pub(super) struct Told {
    pub events: BTreeMap<RoomId, Vec<FeedEvent>>,
    pub notices: Vec<(Channel, Bytes)>,
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
            bus_failed: false,
            stored: Vec::new(),
        }
    }

    /// How many commands wait for [`Runner::run`].
    pub fn len(&self) -> usize {
        self.rooms.len() + self.singles.len() + self.dead.len()
    }

    /// Reads a delivery's commands. Where it cannot be taken apart, none of it is run.
    pub fn add(&mut self, partition: Partition, delivery: Delivery) {
        match framing::decode(&delivery.payload) {
            Ok(commands) => {
                for bytes in commands {
                    self.add_command(partition, bytes);
                }
            }
            Err(reason) => {
                let bytes = delivery.payload;
                self.dead.push((letter(partition, &bytes, reason), bytes));
            }
        }
    }

    fn add_command(&mut self, partition: Partition, bytes: Bytes) {
        let Job {
            at,
            actor,
            reply,
            command,
            ..
        } = match job::read(&bytes) {
            Ok(job) => job,
            Err(reason) => {
                self.dead.push((letter(partition, &bytes, reason), bytes));
                return;
            }
        };
        let command = match command {
            Command::Room(room, command) => {
                let job = RoomJob {
                    room,
                    actor,
                    at,
                    command,
                };
                self.rooms.push(Line {
                    job,
                    reply,
                    partition,
                    bytes,
                });
                return;
            }
            Command::Account(command) => Single::Account(command),
            Command::Notify(command) => Single::Notify(command),
        };
        self.singles.push(Line {
            job: SingleJob { actor, at, command },
            reply,
            partition,
            bytes,
        });
    }

    /// Stores and tells everything that was added. `false` if the worker must stop while something is not stored
    /// yet: then nothing may be acknowledged.
    pub async fn run(&mut self) -> bool {
        let started = Instant::now();
        let count = self.len();
        let mut told = Told::default();

        let rooms = std::mem::take(&mut self.rooms);
        let singles = std::mem::take(&mut self.singles);
        let stored =
            self.store_rooms(rooms, &mut told).await && self.run_singles(singles, &mut told).await;
        // What is committed is told, even if the rest has to wait for another worker.
        self.tell(told).await;
        if !self.remember().await || !stored || !self.bury().await {
            self.dead.clear();
            return false;
        }
        metrics().worker_batch_messages.observe(count as f64);
        metrics()
            .worker_batch_seconds
            .observe(started.elapsed().as_secs_f64());
        true
    }

    // ---- rooms

    async fn store_rooms(&mut self, lines: Vec<Line<RoomJob>>, told: &mut Told) -> bool {
        // A stack of parts, the next one on top: halving keeps every room's order.
        let mut parts = vec![lines];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let jobs: Vec<&RoomJob> = part.iter().map(|line| &line.job).collect();
            match self.patiently(|| commit(&self.worker, &jobs)).await {
                None => return false,
                Some(Ok(applied)) => {
                    if self.worker.config.notify.enabled() {
                        self.stored.extend(sent(&part, &applied));
                    }
                    settle(&part, applied, told);
                }
                Some(Err(error)) if part.len() == 1 => {
                    tracing::error!(error = %error.chain(), "a command that the store refuses");
                    let line = &part[0];
                    let reason = format!("the store refuses it: {}", error.chain());
                    self.dead.push((
                        letter(line.partition, &line.bytes, reason),
                        line.bytes.clone(),
                    ));
                    let refusal = job::Refusal::new(
                        Code::Internal,
                        "this could not be stored; it is kept for the operators",
                    );
                    answer(
                        line.reply,
                        &line.job,
                        Outcome::Refused(refusal),
                        &mut told.notices,
                    );
                }
                Some(Err(error)) => {
                    tracing::warn!(commands = part.len(), error = %error.chain(), "a batch that the store refuses is halved");
                    let mut first = part;
                    let second = first.split_off(first.len() / 2);
                    parts.push(second);
                    parts.push(first);
                }
            }
        }
        true
    }

    // ---- accounts

    async fn run_singles(&mut self, lines: Vec<Line<SingleJob>>, told: &mut Told) -> bool {
        for line in lines {
            let SingleJob { actor, at, command } = &line.job;
            let (store, notifier) = (&self.worker.store, &self.worker.notifier);
            let mut applied = self
                .patiently(|| async move {
                    match command {
                        Single::Account(command) => {
                            account::run(store.as_ref(), *actor, *at, command).await
                        }
                        Single::Notify(command) => {
                            let outcome = notify::run_command(notifier, *actor, command).await?;
                            Ok(Ran {
                                outcome,
                                notice: None,
                            })
                        }
                    }
                })
                .await;
            let done = matches!(&applied, Some(Ok(ran)) if matches!(ran.outcome, Outcome::Done(_)));
            if done && matches!(command, Single::Account(AccountCommand::Delete)) {
                match self.farewell(*actor, *at).await {
                    None => return false,
                    Some(Ok(())) => {}
                    Some(Err(error)) => applied = Some(Err(error)),
                }
            }
            match applied {
                None => return false,
                Some(Ok(Ran { outcome, notice })) => {
                    if let Some(Notice::AccountChanged { user }) = notice {
                        // This worker's memory need not wait for the bus.
                        self.worker.memory.forget_user(user);
                    }
                    told.notices
                        .extend(notice.map(|notice| (Channel::Everyone, encode(&notice))));
                    if let Outcome::Refused(refusal) = &outcome {
                        count_refusal(refusal);
                    }
                    reply(line.reply, outcome, &mut told.notices);
                }
                Some(Err(error)) => {
                    tracing::error!(?command, error = %error.chain(), "a command that the store refuses");
                    // Passwords' hashes do not belong in a letter that operators read: its reason says enough.
                    let reason = format!("{command:?}: the store refuses it: {}", error.chain());
                    self.dead.push((
                        letter(line.partition, &line.bytes, reason),
                        line.bytes.clone(),
                    ));
                    let refusal = job::Refusal::new(Code::Internal, "this could not be stored");
                    reply(line.reply, Outcome::Refused(refusal), &mut told.notices);
                }
            }
        }
        true
    }

    /// Tries until the store answers, with pauses; `None` when the worker must stop first. `Err` is final.
    pub(super) async fn patiently<T, F>(&self, attempt: impl Fn() -> F) -> Option<Result<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let mut pause = Duration::from_millis(20);
        let mut told = false;
        loop {
            let error = match attempt().await {
                Err(error) if error.is_retryable() => error,
                result => {
                    if told {
                        tracing::info!("the store answers again");
                    }
                    return Some(result);
                }
            };
            metrics().store_errors.inc();
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(error = %error.chain(), "the store does not answer; trying again until it does");
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => return None,
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    // ---- afterwards

    pub(super) async fn tell(&mut self, told: Told) {
        let publications = Publications {
            rooms: told
                .events
                .into_iter()
                .map(|(room, events)| RoomEvents { room, events })
                .collect(),
            stale: self.stale.iter().copied().collect(),
            notices: told.notices,
        };
        if publications.rooms.is_empty()
            && publications.notices.is_empty()
            && publications.stale.is_empty()
        {
            return;
        }
        match self.worker.bus.publish(&publications).await {
            Ok(()) => {
                self.stale.clear();
                if std::mem::take(&mut self.bus_failed) {
                    tracing::info!("events are published again");
                }
            }
            Err(error) => {
                // The edges find out by the rooms' heads.
                if !std::mem::replace(&mut self.bus_failed, true) {
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

    /// Leaves word of the messages that were stored, before they are acknowledged.
    async fn remember(&mut self) -> bool {
        let stored = std::mem::take(&mut self.stored);
        if stored.is_empty() {
            return true;
        }
        match self
            .patiently(|| self.worker.notifier.stored(&stored))
            .await
        {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::error!(error = %error.chain(), "stored messages could not be handed on; they come again");
                false
            }
            None => false,
        }
    }

    /// Puts what cannot succeed where people find it, before it is acknowledged.
    async fn bury(&mut self) -> bool {
        for (letter, original) in std::mem::take(&mut self.dead) {
            let put = self
                .patiently(|| self.worker.dead.put(&letter, original.clone()))
                .await;
            match put {
                Some(Ok(())) => {
                    metrics().dead_letters.with_label_values(&["refused"]).inc();
                }
                Some(Err(error)) => {
                    tracing::error!(error = %error.chain(), "a dead letter could not be put away; it comes again");
                    return false;
                }
                None => return false,
            }
        }
        true
    }
}

/// One transaction.
pub(super) async fn commit(worker: &Worker, jobs: &[&RoomJob]) -> Result<room::Applied> {
    let mut scope = room::scope(jobs.iter().copied());
    let add_members = worker.config.rooms.add_members;
    if add_members != AddMembers::SharedRooms {
        scope.acquaintances.clear();
    }
    let is_send = |job: &&RoomJob| matches!(job.command, RoomCommand::Send(_));
    if jobs.iter().all(is_send)
        && let Some(applied) = append(worker, &scope, jobs).await?
    {
        return Ok(applied);
    }
    let (mut facts, transaction) = worker.store.begin(&scope).await?;
    facts.add_members = add_members;
    let mut applied = room::apply(facts, jobs.iter().copied());
    let changes = std::mem::take(&mut applied.changes);
    let stored = changes.new_messages.len();
    if !changes.is_empty() {
        worker.memory.forget(&scope.rooms);
        transaction.commit(changes).await?;
    }
    count(stored, &applied);
    Ok(applied)
}

/// New messages, without locks. `None` where the rooms moved on meanwhile, or a command comes again.
async fn append(
    worker: &Worker,
    scope: &Scope,
    jobs: &[&RoomJob],
) -> Result<Option<room::Applied>> {
    let (store, memory) = (&worker.store, &worker.memory);
    let since = Instant::now();
    let (mut facts, unknown) = memory.recall(&scope.members);
    let asked = Scope {
        members: unknown,
        messages: scope.messages.clone(),
        named: scope.named.clone(),
        ..Scope::default()
    };
    let seen = match asked.is_empty() {
        true => Facts::default(),
        false => store.preview(&asked).await?,
    };
    let moved_on = |room: &Room| {
        let known = facts.rooms.get(&room.id);
        known.is_some_and(|known| known.head != room.head)
    };
    if seen.rooms.values().any(moved_on) {
        memory.forget(&scope.rooms);
        return Ok(None);
    }
    facts.add(seen.clone());
    let before = facts.rooms.values().map(|room| (room.id, room.head));
    let before = before.collect();
    let mut applied = room::apply(facts, jobs.iter().copied());
    let changes = std::mem::take(&mut applied.changes);
    if !changes.is_empty()
        && let Err(error) = store.append(&before, &changes).await
    {
        memory.forget(&scope.rooms);
        return match error.code {
            Code::Conflict => Ok(None),
            _ => Err(error),
        };
    }
    memory.stored(seen, since, &changes.heads);
    count(changes.new_messages.len(), &applied);
    Ok(Some(applied))
}

fn count(stored: usize, applied: &room::Applied) {
    metrics().messages_stored.inc_by(stored as u64);
    let repeats = applied.repeats.len();
    metrics().messages_duplicate.inc_by(repeats as u64);
}

/// The messages that are stored now, or were already: whoever stored them may have died before it left word of them.
fn sent(lines: &[Line<RoomJob>], applied: &room::Applied) -> Vec<MessageId> {
    let lines = lines.iter().zip(&applied.outcomes);
    let sent = lines.filter_map(|(line, outcome)| match (&line.job.command, outcome) {
        (RoomCommand::Send(send), Outcome::Done(_)) => Some(send.id),
        _ => None,
    });
    sent.collect()
}

fn settle(lines: &[Line<RoomJob>], applied: room::Applied, told: &mut Told) {
    for (room, mut events) in applied.events {
        told.events.entry(room).or_default().append(&mut events);
    }
    for (room, event) in applied.repeats {
        let payload = encode_events(&[event]);
        told.notices.push((Channel::Room(room), payload.into()));
    }
    for ((room, user), seq) in applied.reads {
        let event = EphemeralEvent {
            kind: EphemeralKind::ReadUpdated,
            data: raw(&ReadUpdated { room, user, seq }).get().to_owned(),
        };
        let payload = encode_ephemeral(&event);
        told.notices.push((Channel::Room(room), payload.into()));
    }
    for (line, outcome) in lines.iter().zip(applied.outcomes) {
        if let Outcome::Refused(refusal) = &outcome {
            count_refusal(refusal);
        }
        answer(line.reply, &line.job, outcome, &mut told.notices);
    }
}

/// Tells a waiting request its outcome, or a session that its send was refused.
fn answer(
    to: Option<ReplyTo>,
    job: &RoomJob,
    outcome: Outcome,
    notices: &mut Vec<(Channel, Bytes)>,
) {
    match (to, &job.command, outcome) {
        (Some(to), _, outcome) if to.wait => reply(Some(to), outcome, notices),
        (Some(to), RoomCommand::Send(send), Outcome::Refused(refusal)) => {
            let notice = Notice::SendFailed {
                session: to.number,
                client_msg_id: send.client_msg_id.clone(),
                room: job.room,
                refusal,
            };
            notices.push((Channel::Edge(to.edge), encode(&notice)));
        }
        _ => {}
    }
}

fn reply(to: Option<ReplyTo>, outcome: Outcome, notices: &mut Vec<(Channel, Bytes)>) {
    if let Some(to) = to.filter(|to| to.wait) {
        let notice = Notice::Outcome {
            number: to.number,
            outcome,
        };
        notices.push((Channel::Edge(to.edge), encode(&notice)));
    }
}

fn count_refusal(refusal: &job::Refusal) {
    metrics()
        .commands_refused
        .with_label_values(&[refusal.code.as_str()])
        .inc();
}

pub(super) fn encode(notice: &Notice) -> Bytes {
    crate::protocol::raw(notice).get().to_owned().into()
}

fn letter(partition: Partition, bytes: &Bytes, reason: String) -> DeadLetter {
    DeadLetter {
        id: new_id(),
        at: Timestamp::now(),
        reason,
        partition,
        payload: String::from_utf8_lossy(bytes).into_owned(),
    }
}
