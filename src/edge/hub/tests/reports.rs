//! Reports of lost history while workers answer, refuse or are away.

use std::{
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    lost_history::live,
    reader::Reader,
    world::{FakeStore, World},
};
use crate::{
    command::{
        self, Command, Envelope, Outcome, Refusal,
        epoch::{EpochCommand, MAX_REPORTED},
    },
    edge::{
        epoch::submit_reports,
        hub::lost_history::with_position,
        submit::{Limits, Submitter},
    },
    error::{Code, Error, Result},
    model::*,
    queue::{EncodedBatch, Partition, Publisher, QueueState, framing},
};

const NEVER: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);

/// The reaction of the queue and its worker to a command.
#[derive(Clone, Copy)]
enum Answer {
    /// The queue refuses it.
    Busy,
    /// The queue does not confirm it.
    Never,
    /// The worker replaces the epoch.
    Done,
    /// The worker finds no loss.
    Refuted,
}

struct FakeQueue {
    submitter: OnceLock<Weak<Submitter>>,
    store: Arc<FakeStore>,
    answer: Mutex<Answer>,
    commands: Mutex<Vec<EpochCommand>>,
}

impl FakeQueue {
    fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// The epochs and the rooms of the last command.
    fn last(&self) -> (Epoch, Epoch, Vec<RoomId>) {
        let commands = self.commands.lock().unwrap();
        let EpochCommand::Replace {
            from,
            to,
            delivered,
        } = commands.last().expect("a command");
        let rooms = delivered.iter().map(|one| one.room).collect();
        (*from, *to, rooms)
    }
}

#[async_trait]
impl Publisher for FakeQueue {
    async fn publish(&self, _: Partition, batch: EncodedBatch) -> Result<()> {
        let answer = *self.answer.lock().unwrap();
        for command in framing::decode(batch.payload()).unwrap() {
            let envelope: Envelope = command::read(&command).unwrap();
            let Command::Epoch(command) = envelope.command else {
                panic!("another command");
            };
            let EpochCommand::Replace { to, .. } = &command;
            let to = *to;
            self.commands.lock().unwrap().push(command);
            let outcome = match answer {
                Answer::Busy => return Err(Error::busy("no worker", Duration::from_secs(1))),
                Answer::Never => return std::future::pending().await,
                Answer::Done => {
                    self.store.lock().epoch = to;
                    Outcome::Done(None)
                }
                Answer::Refuted => {
                    Outcome::Refused(Refusal::new(Code::Conflict, "nothing is lost"))
                }
            };
            let submitter = self.submitter.get().unwrap().upgrade().unwrap();
            submitter.answered(envelope.reply.unwrap().number, outcome);
        }
        Ok(())
    }
    fn backlog(&self) -> u64 {
        0
    }
    fn state(&self) -> QueueState {
        QueueState::Up
    }
}

/// Submits the reports of a world to a queue.
fn submit(world: &mut World, answer: Answer) -> Arc<FakeQueue> {
    let queue = Arc::new(FakeQueue {
        submitter: OnceLock::new(),
        store: world.store.clone(),
        answer: Mutex::new(answer),
        commands: Mutex::default(),
    });
    let limits = Limits {
        partitions: 1,
        max_backlog: 1000,
        batch_messages: 10,
        batch_bytes: 1 << 20,
        wait: PATIENCE,
    };
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let submitter = Submitter::start(new_id(), limits, queue.clone(), &tasks, shutdown.clone());
    queue.submitter.set(Arc::downgrade(&submitter)).unwrap();
    let reports = std::mem::replace(&mut world.reports, mpsc::channel(1).1);
    tokio::spawn(submit_reports(
        reports,
        submitter,
        world.hub.clone(),
        shutdown,
    ));
    queue
}

/// A room loses messages, and a join that finds this waits until the report is handled.
async fn lose_and_join(world: &World, room: RoomId) {
    world.store.lose(room, 10);
    let joins = Reader::new(100, room, 0);
    let joining = world.hub.join(room, joins.subscriber.clone(), None).await;
    world.hub.report_lost(joining.unwrap()).await.unwrap();
}

/// Waits until the hub has another epoch.
async fn until_replaced(world: &World, before: Epoch) {
    let replaced = async {
        let mut handled = world.hub.handled();
        while world.hub.epoch() == Some(before) {
            handled.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, replaced).await.unwrap();
}

#[tokio::test]
async fn a_later_loss_does_not_wait_for_a_worker_that_is_away() {
    let mut world = World::new(NEVER).await;
    let (first, mut one) = live(&world, 1, 15).await;
    let (second, mut two) = live(&world, 2, 15).await;
    let queue = submit(&mut world, Answer::Busy);
    lose_and_join(&world, first).await;
    one.read();
    two.read();
    assert_eq!((one.resets.len(), two.resets.len()), (1, 0));
    // The second attempt does not end.
    queue.set(Answer::Never);
    lose_and_join(&world, second).await;
    two.read();
    assert_eq!((two.resets.len(), two.live), (1, false));
}

#[tokio::test]
async fn later_losses_are_part_of_the_next_attempt() {
    let mut world = World::new(NEVER).await;
    let (first, _one) = live(&world, 1, 15).await;
    let (second, _two) = live(&world, 2, 15).await;
    let before = world.hub.epoch().unwrap();
    let queue = submit(&mut world, Answer::Busy);
    lose_and_join(&world, first).await;
    lose_and_join(&world, second).await;
    let (_, attempted, _) = queue.last();
    queue.set(Answer::Done);
    until_replaced(&world, before).await;
    assert_eq!(queue.last(), (before, attempted, vec![second, first]));
    assert_eq!(world.hub.epoch(), Some(attempted));
}

/// Another edge's report may be answered during the pause.
#[tokio::test]
async fn a_report_ends_when_the_epoch_changes() {
    let mut world = World::new(NEVER).await;
    let (first, _one) = live(&world, 1, 15).await;
    let (second, _two) = live(&world, 2, 15).await;
    let queue = submit(&mut world, Answer::Busy);
    lose_and_join(&world, first).await;
    let epoch = new_id();
    world.store.lock().epoch = epoch;
    world.hub.read_epoch().await.unwrap();
    queue.set(Answer::Done);
    lose_and_join(&world, second).await;
    until_replaced(&world, epoch).await;
    let (from, to, rooms) = queue.last();
    assert_eq!((from, rooms), (epoch, vec![second]));
    assert_eq!(world.hub.epoch(), Some(to));
}

#[tokio::test]
async fn a_refuted_report_clears_also_the_rooms_that_were_not_sent() {
    let mut world = World::new(NEVER).await;
    let mut rooms = Vec::new();
    let mut readers = Vec::new();
    for session in 0..MAX_REPORTED + 5 {
        let (room, reader) = live(&world, session as u64 + 1, 2).await;
        rooms.push(room);
        readers.push(reader);
    }
    let queue = submit(&mut world, Answer::Refuted);
    let mut handled = world.hub.handled();
    // The reads come from a standby that is behind. All rooms are compared at once.
    for room in rooms {
        world.store.lose(room, 1);
        let (room, delivered) = with_position(world.hub.find(room).unwrap());
        world.hub.suspect(&room, delivered);
    }
    tokio::time::timeout(PATIENCE, handled.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(queue.last().2.len(), MAX_REPORTED);
    assert!(world.hub.epochs.lock().lost.is_empty());
    world.hub.end_lost();
    for reader in &mut readers {
        reader.read();
        assert_eq!((reader.resets.len(), reader.live), (0, true));
    }
}
