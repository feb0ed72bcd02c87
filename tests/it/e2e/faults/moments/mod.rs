//! A worker that is dropped, or gets an error, at a chosen step of a batch. It runs inside the test on its own runtime.
//! Its successor finishes: every message once, every number once, in order.

mod life;
mod trap;

use std::{collections::HashMap, sync::Arc};

use chat::{
    command::{
        self, Command, Envelope,
        room::{RoomCommand, Send},
    },
    model::*,
    queue::{BatchBuilder, EncodedBatch, Publisher},
    store::*,
    worker::Worker,
};
use life::{Backend, Life, PREFETCH};
use trap::{MOMENTS, Moment};

use crate::{
    harness::{Kind, both_ways},
    support::{soon, until},
};

both_ways!(
    a_worker_dropped_at_any_step_loses_nothing,
    a_lost_response_at_any_step_loses_nothing,
    two_owners_of_a_partition_store_messages_once,
    a_silent_consumer_is_replaced
);

/// The messages of one user in several rooms.
struct Conversation {
    rooms: Vec<RoomId>,
    ada: User,
    partitions: u16,
    sent: HashMap<RoomId, Vec<MessageId>>,
}

impl Conversation {
    async fn new(worker: &Worker) -> Conversation {
        let ada = User {
            id: new_id(),
            username: format!("ada{}", new_id().simple()),
            display_name: "Ada".to_owned(),
        };
        let account = NewAccount {
            account: Account {
                user: ada.clone(),
                email: None,
                phone: None,
                created_at: Timestamp::now(),
            },
            password_hash: "$".to_owned(),
        };
        worker.store.register(&account).await.unwrap();
        let rooms = vec![new_id(), new_id(), new_id()];
        Conversation {
            rooms,
            ada,
            partitions: worker.config.queue.partitions,
            sent: HashMap::new(),
        }
    }

    /// Publishes some batches for each room, with edits among the messages.
    async fn publish_more(&mut self, publisher: &Arc<dyn Publisher>) {
        for _ in 0..3 {
            for room in self.rooms.clone() {
                let mut lines = Vec::new();
                if !self.sent.contains_key(&room) {
                    let (kind, name) = (RoomKind::Private, "room".to_owned());
                    let members = Vec::new();
                    lines.push(self.line(
                        room,
                        RoomCommand::Create {
                            kind,
                            name,
                            members,
                        },
                    ));
                }
                for _ in 0..4 {
                    let number = self.sent.entry(room).or_default().len();
                    let client_msg_id = number.to_string();
                    let id = message_id(room, self.ada.id, &client_msg_id);
                    self.sent.get_mut(&room).unwrap().push(id);
                    let body = format!("message {number}");
                    let (reply_to, metadata) = (None, None);
                    let send = Send {
                        id,
                        client_msg_id,
                        body,
                        reply_to,
                        metadata,
                    };
                    lines.push(self.line(room, RoomCommand::Send(send)));
                }
                let message = self.sent[&room][0];
                let body = format!("edited after {}", self.sent[&room].len());
                lines.push(self.line(room, RoomCommand::Edit { message, body }));
                let partition = command::partition_of(room, self.partitions);
                publisher.publish(partition, batch(&lines)).await.unwrap();
            }
        }
    }

    fn line(&self, room: RoomId, command: RoomCommand) -> String {
        serde_json::to_string(&Envelope {
            v: command::VERSION,
            at: Timestamp::now(),
            actor: self.ada.id,
            reply: None,
            command: Command::Room(room, command),
        })
        .unwrap()
    }

    /// Waits until everything is stored and checks every number.
    async fn assert_complete(&self, reads: &Arc<dyn Reads>) {
        for room in &self.rooms {
            let sent = &self.sent[room];
            let last = *sent.last().unwrap();
            until(
                "the last message is stored",
                async || reads.message(*room, last).await.ok().flatten().is_some(),
                |stored| *stored,
            )
            .await;
            // The last edit is in the same transaction as the last message.
            let head = reads.heads(&[*room]).await.unwrap()[0].1;
            let events = reads.events(*room, 0, head).await.unwrap();
            let seqs: Vec<Seq> = events.iter().map(|event| event.seq).collect();
            assert_eq!(seqs, (1..=head).collect::<Vec<_>>(), "each number once");
            let new = events.iter().filter(|e| e.kind == EventKind::NewMessage);
            let stored = new.map(|e| serde_json::from_str::<Message>(&e.data).unwrap().id);
            assert_eq!(
                &stored.collect::<Vec<_>>(),
                sent,
                "each message once, in order"
            );
        }
    }
}

fn batch(commands: &[String]) -> EncodedBatch {
    let mut batch = BatchBuilder::default();
    for command in commands {
        let added = batch.push(|bytes| {
            bytes.get_mut().extend_from_slice(command.as_bytes());
            Ok(())
        });
        added.unwrap();
    }
    batch.finish()
}

/// A worker with a trap, after the trap has sprung on a published conversation.
async fn trapped_worker(
    backend: &Arc<Backend>,
    moment: Moment,
    deadly: bool,
) -> (Life, Conversation) {
    let (mut life, worker) = Life::start(backend, moment, deadly, true).await;
    let mut talk = Conversation::new(&worker).await;
    talk.publish_more(&life.publisher).await;
    life.work(worker);
    soon("the trap springs", life.trap.sprung.notified()).await;
    (life, talk)
}

/// A running worker without a trap.
async fn running_worker(backend: &Arc<Backend>) -> Life {
    let (mut life, worker) = Life::start(backend, Moment::Told, false, false).await;
    life.work(worker);
    life
}

async fn a_worker_dropped_at_any_step_loses_nothing(kind: Kind) {
    let backend = Arc::new(Backend::new(kind).await);
    for moment in MOMENTS {
        let (first, mut talk) = trapped_worker(&backend, moment, true).await;
        if moment == Moment::Taken {
            // If the worker acknowledged too early, these payloads would be lost.
            talk.publish_more(&first.publisher).await;
        }
        first.crash();
        let second = running_worker(&backend).await;
        talk.assert_complete(&second.reads).await;
        talk.publish_more(&second.publisher).await;
        talk.assert_complete(&second.reads).await;
        second.stop().await;
    }
}

/// The worker gets an error for the step, whether or not it was executed.
async fn a_lost_response_at_any_step_loses_nothing(kind: Kind) {
    let backend = Arc::new(Backend::new(kind).await);
    for moment in MOMENTS {
        let (life, mut talk) = trapped_worker(&backend, moment, false).await;
        talk.publish_more(&life.publisher).await;
        talk.assert_complete(&life.reads).await;
        life.stop().await;
        // Unacknowledged payloads are redelivered and change nothing.
        let next = running_worker(&backend).await;
        talk.publish_more(&next.publisher).await;
        talk.assert_complete(&next.reads).await;
        next.stop().await;
    }
}

/// Both partitions hold messages of one room, some of them in both: two lanes store them at the same time, as two
/// workers would that both consider themselves the owner. The database serializes them.
async fn two_owners_of_a_partition_store_messages_once(kind: Kind) {
    const ROUNDS: usize = 60;
    let backend = Arc::new(Backend::new(kind).await);
    let (mut life, mut worker) = Life::start(&backend, Moment::Told, false, false).await;
    let mut config = (*worker.config).clone();
    // Many small transactions, so that they collide.
    config.worker.batch_messages = 3;
    worker.config = Arc::new(config);
    let mut talk = Conversation::new(&worker).await;
    talk.rooms.truncate(1);
    let room = talk.rooms[0];
    talk.publish_more(&life.publisher).await;
    // The room exists before the second lane writes to it.
    life.work(worker);
    talk.assert_complete(&life.reads).await;
    let line = |name: String| {
        let id = message_id(room, talk.ada.id, &name);
        let (body, reply_to, metadata) = (name.clone(), None, None);
        let client_msg_id = name;
        let send = Send {
            id,
            client_msg_id,
            body,
            reply_to,
            metadata,
        };
        talk.line(room, RoomCommand::Send(send))
    };
    let publishing = (0..ROUNDS).flat_map(|round| {
        let (a, b) = (line(format!("a {round}")), line(format!("b {round}")));
        // Partition 0 holds `a`, partition 1 holds `a` and `b`.
        let both = [a.clone(), b];
        [
            life.publisher.publish(0, batch(&both[..1])),
            life.publisher.publish(1, batch(&both)),
        ]
    });
    let published = futures_util::future::join_all(publishing).await;
    assert!(published.iter().all(Result::is_ok));
    let (before, expected) = (talk.sent[&room].len(), 2 * ROUNDS);
    let stored = async || {
        let head = life.reads.heads(&[room]).await.unwrap()[0].1;
        let events = life.reads.events(room, 0, head).await.unwrap();
        let seqs: Vec<Seq> = events.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (1..=head).collect::<Vec<_>>(), "each number once");
        let new = events.iter().filter(|e| e.kind == EventKind::NewMessage);
        let names = new.map(|e| {
            serde_json::from_str::<Message>(&e.data)
                .unwrap()
                .client_msg_id
        });
        names.skip(before).collect::<Vec<_>>()
    };
    let stored = until("all is stored", stored, |names| names.len() >= expected).await;
    for who in ["a", "b"] {
        let of: Vec<&String> = stored.iter().filter(|name| name.starts_with(who)).collect();
        let all: Vec<String> = (0..ROUNDS).map(|round| format!("{who} {round}")).collect();
        assert_eq!(of, all.iter().collect::<Vec<_>>(), "each once, in order");
    }
    life.stop().await;
}

/// The queue has payloads and a consumer, but the consumer receives nothing.
async fn a_silent_consumer_is_replaced(kind: Kind) {
    let backend = Arc::new(Backend::new(kind).await);
    let (mut life, mut worker) = Life::start(&backend, Moment::Silent, false, true).await;
    // More than one prefetch window. The silent consumer holds no payloads yet.
    let mut config = (*worker.config).clone();
    config.worker.concurrency = 1;
    worker.config = Arc::new(config);
    let mut talk = Conversation::new(&worker).await;
    for _ in 0..PREFETCH {
        talk.publish_more(&life.publisher).await;
    }
    life.work(worker);
    talk.assert_complete(&life.reads).await;
    life.stop().await;
}
