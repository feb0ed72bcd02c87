//! A worker that dies at a chosen moment of its batch, or is told at that moment that something failed: it runs inside
//! the test, on a runtime of its own that is dropped where it stands. Whoever comes after it finishes: every message
//! once, every number once, in order.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chat::{
    bus::{Bus, memory::MemoryBus, redis::RedisBus},
    config::{Config, Role as Process, Sources},
    error::{Error, Result},
    job::{
        self, Command, Job,
        notify::Notifier,
        room::{RoomCommand, Send},
    },
    model::*,
    queue::{
        Consumer, Delivery, Depth, Load, Partition, Publisher, Queue,
        rabbit::{RabbitDeadLetters, RabbitJobs, RabbitPublisher, RabbitQueue},
        sqlite::SqliteQueue,
    },
    sqlite::Database,
    store::{self, *},
    worker::{self, Worker},
};
use tokio::{runtime::Runtime, sync::Notify};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{Kind, both_ways, deployment, server},
    support::{Line, PATIENCE, soon, unique, until},
};

both_ways!(
    a_worker_that_dies_at_any_moment,
    an_answer_that_is_lost_at_any_moment,
    two_owners_at_once
);

/// After which step of a batch it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The rooms are locked.
    Locked,
    /// The transaction is about to be committed.
    BeforeCommit,
    Committed,
    Told,
    Acknowledged,
}

const MOMENTS: [Moment; 5] = [
    Moment::Locked,
    Moment::BeforeCommit,
    Moment::Committed,
    Moment::Told,
    Moment::Acknowledged,
];

/// Springs once.
struct Trap {
    moment: Moment,
    /// Otherwise the caller hears of a failure.
    deadly: bool,
    set: AtomicBool,
    sprung: Notify,
}

impl Trap {
    async fn pass(&self, moment: Moment) -> Result<()> {
        if moment != self.moment || !self.set.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        self.sprung.notify_one();
        if self.deadly {
            std::future::pending::<()>().await;
        }
        Err(Error::busy("the answer was lost", Duration::ZERO))
    }
}

struct Trapped<T: ?Sized> {
    inner: Arc<T>,
    trap: Arc<Trap>,
}

struct TrappedTransaction(Box<dyn Transaction>, Arc<Trap>);

#[async_trait]
impl Transaction for TrappedTransaction {
    async fn commit(self: Box<Self>, changes: Changes) -> Result<()> {
        self.1.pass(Moment::BeforeCommit).await?;
        self.0.commit(changes).await?;
        self.1.pass(Moment::Committed).await
    }
}

#[async_trait]
impl Writes for Trapped<dyn Writes> {
    async fn begin(&self, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)> {
        let (facts, transaction) = self.inner.begin(scope).await?;
        self.trap.pass(Moment::Locked).await?;
        Ok((
            facts,
            Box::new(TrappedTransaction(transaction, self.trap.clone())),
        ))
    }
    async fn register(&self, new: &NewAccount) -> Result<store::Applied> {
        self.inner.register(new).await
    }
    async fn update_account(&self, user: UserId, patch: &AccountPatch) -> Result<store::Applied> {
        self.inner.update_account(user, patch).await
    }
    async fn open_login(&self, login: &Login) -> Result<store::Applied> {
        self.inner.open_login(login).await
    }
    async fn rotate_login(&self, rotation: &Rotation) -> Result<store::Applied> {
        self.inner.rotate_login(rotation).await
    }
    async fn close_login(&self, login: LoginId) -> Result<store::Applied> {
        self.inner.close_login(login).await
    }
}

#[async_trait]
impl Queue for Trapped<dyn Queue> {
    async fn consume(&self, partition: Partition) -> Result<Box<dyn Consumer>> {
        let consumer = self.inner.consume(partition).await?;
        Ok(Box::new(TrappedConsumer(consumer, self.trap.clone())))
    }
    async fn depths(&self) -> Result<Vec<Depth>> {
        self.inner.depths().await
    }
    async fn load(&self) -> Result<Load> {
        self.inner.load().await
    }
    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
}

struct TrappedConsumer(Box<dyn Consumer>, Arc<Trap>);

#[async_trait]
impl Consumer for TrappedConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        self.0.next().await
    }
    fn try_next(&mut self) -> Option<Delivery> {
        self.0.try_next()
    }
    /// What is told is told before this.
    async fn ack_through(&mut self, tag: u64) -> Result<()> {
        self.1.pass(Moment::Told).await?;
        self.0.ack_through(tag).await?;
        self.1.pass(Moment::Acknowledged).await
    }
    async fn close(self: Box<Self>) {
        self.0.close().await;
    }
}

/// Where the queue and the store are.
enum Place {
    Servers(deployment::Database),
    Directory(PathBuf),
}

impl Place {
    async fn new(kind: Kind) -> Place {
        match kind {
            Kind::Cluster => Place::Servers(deployment::Database::create().await),
            Kind::Standalone => {
                let directory = std::env::temp_dir().join(unique("moments"));
                std::fs::create_dir(&directory).unwrap();
                Place::Directory(directory)
            }
        }
    }

    fn config(&self) -> Config {
        let mut config = Config::load(&Sources::default(), Process::Tool).unwrap();
        config.queue.partitions = 2;
        config.worker.heartbeat = Duration::from_millis(100);
        config.worker.heartbeat_ttl = Duration::from_millis(500);
        if let Place::Servers(database) = self {
            config.queue.prefix = database.name.clone();
        }
        config
    }

    async fn open(&self, broker: &str) -> Parts {
        let config = Arc::new(self.config());
        match self {
            Place::Servers(database) => {
                let store = store::postgres::Store::connect(&database.url, 4, PATIENCE).unwrap();
                store.migrate().await.unwrap();
                let store = Arc::new(store);
                let bus = RedisBus::connect(chat::bus::redis::Settings {
                    url: server("REDIS_URL"),
                    prefix: database.name.clone(),
                    recent_messages: 200,
                    recent_ttl: Duration::from_secs(60),
                    pool: 2,
                });
                let bus: Arc<dyn Bus> = Arc::new(bus.unwrap());
                let settings = chat::queue::rabbit::Settings {
                    url: broker.to_owned(),
                    prefix: database.name.clone(),
                    partitions: config.queue.partitions,
                    max_backlog: 1_000_000,
                    confirm_timeout: Duration::from_secs(20),
                    prefetch: 100,
                    node: "moments".to_owned(),
                };
                let publisher = Arc::new(RabbitPublisher::connect(settings.clone()).unwrap());
                publisher.ready(PATIENCE).await.unwrap();
                let queue = Arc::new(RabbitQueue::connect(settings).unwrap());
                queue.ready(PATIENCE).await.unwrap();
                let dead = Arc::new(RabbitDeadLetters::new(publisher.clone(), queue.clone()));
                let jobs = Arc::new(RabbitJobs::new(publisher.clone(), queue.clone()));
                let notifier = Notifier::new(
                    config.clone(),
                    store.clone(),
                    jobs,
                    bus.clone(),
                    dead.clone(),
                );
                Parts {
                    reads: store.clone(),
                    publisher,
                    worker: Worker {
                        config,
                        queue,
                        dead,
                        store,
                        bus,
                        notifier: notifier.unwrap(),
                    },
                }
            }
            Place::Directory(directory) => {
                let database = Database::open(&directory.join("chat.db")).await.unwrap();
                let store = Arc::new(store::sqlite::Store::new(database.clone()));
                let settings = chat::queue::sqlite::Settings {
                    partitions: config.queue.partitions,
                    confirm_timeout: Duration::from_secs(20),
                    prefetch: 100,
                };
                let queue = Arc::new(SqliteQueue::open(database, settings).await.unwrap());
                let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new(Default::default()));
                let notifier = Notifier::new(
                    config.clone(),
                    store.clone(),
                    queue.clone(),
                    bus.clone(),
                    queue.clone(),
                );
                Parts {
                    reads: store.clone(),
                    publisher: queue.clone(),
                    worker: Worker {
                        config,
                        queue: queue.clone(),
                        dead: queue,
                        store,
                        bus,
                        notifier: notifier.unwrap(),
                    },
                }
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Place::Directory(directory) = self {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

struct Parts {
    reads: Arc<dyn Reads>,
    publisher: Arc<dyn Publisher>,
    worker: Worker,
}

/// A worker with everything that a process has of its own.
struct Life {
    runtime: Option<Runtime>,
    line: Option<Line>,
    reads: Arc<dyn Reads>,
    publisher: Arc<dyn Publisher>,
    trap: Arc<Trap>,
    stop: CancellationToken,
    working: Option<tokio::task::JoinHandle<Result<()>>>,
}

impl Life {
    /// It does not work yet.
    async fn start(place: &Arc<Place>, moment: Moment, deadly: bool, set: bool) -> (Life, Worker) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (mut broker, mut line) = (String::new(), None);
        if let Place::Servers(_) = **place {
            let direct = server("AMQP_URL");
            let authority = deployment::authority(&direct);
            let to = Line::to(&authority).await;
            broker = direct.replacen(&authority, &to.address.to_string(), 1);
            line = Some(to);
        }
        let opening = place.clone();
        let handle = runtime.handle().clone();
        let opened = tokio::task::spawn_blocking(move || handle.block_on(opening.open(&broker)));
        let Parts {
            reads,
            publisher,
            mut worker,
        } = soon("everything is open", opened).await.unwrap();
        let trap = Arc::new(Trap {
            moment,
            deadly,
            set: AtomicBool::new(set),
            sprung: Notify::new(),
        });
        worker.store = Arc::new(Trapped {
            inner: worker.store,
            trap: trap.clone(),
        });
        worker.queue = Arc::new(Trapped {
            inner: worker.queue,
            trap: trap.clone(),
        });
        let life = Life {
            runtime: Some(runtime),
            line,
            reads,
            publisher,
            trap,
            stop: CancellationToken::new(),
            working: None,
        };
        (life, worker)
    }

    fn work(&mut self, worker: Worker) {
        let runtime = self.runtime.as_ref().unwrap();
        self.working = Some(runtime.spawn(worker::run(worker, self.stop.clone())));
    }

    /// Where it stands. Its connections break, as they do when a process ends.
    fn die(mut self) {
        if let Some(line) = &self.line {
            line.cut();
        }
        self.end();
    }

    async fn stop(mut self) {
        self.stop.cancel();
        let working = self.working.take().unwrap();
        soon("the worker stops", working).await.unwrap().unwrap();
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.end();
    }
}

/// What was sent to two rooms by one person.
struct Conversation {
    rooms: Vec<RoomId>,
    ada: User,
    sent: HashMap<RoomId, Vec<MessageId>>,
}

impl Conversation {
    async fn new(writes: &Arc<dyn Writes>) -> Conversation {
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
        writes.register(&account).await.unwrap();
        let rooms = vec![new_id(), new_id(), new_id()];
        Conversation {
            rooms,
            ada,
            sent: HashMap::new(),
        }
    }

    /// Some batches in each partition, with edits and reactions among the messages.
    async fn go_on(&mut self, publisher: &Arc<dyn Publisher>, partitions: u16) {
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
                let partition = job::partition_of(room, partitions);
                let payload = lines.join("\n").into();
                publisher
                    .publish(partition, payload, lines.len() as u32)
                    .await
                    .unwrap();
            }
        }
    }

    fn line(&self, room: RoomId, command: RoomCommand) -> String {
        serde_json::to_string(&Job {
            v: job::VERSION,
            at: Timestamp::now(),
            actor: self.ada.id,
            reply: None,
            command: Command::Room(room, command),
        })
        .unwrap()
    }

    /// Waits until all of it is stored, and looks at every number.
    async fn is_whole(&self, reads: &Arc<dyn Reads>) {
        for room in &self.rooms {
            let sent = &self.sent[room];
            let last = *sent.last().unwrap();
            until(
                "the last message is stored",
                async || reads.message(*room, last).await.ok().flatten().is_some(),
                |stored| *stored,
            )
            .await;
            // The last edit of the last batch is in the same transaction as the last message.
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

async fn a_worker_that_dies_at_any_moment(kind: Kind) {
    let place = Arc::new(Place::new(kind).await);
    for moment in MOMENTS {
        let (mut first, worker) = Life::start(&place, moment, true, true).await;
        let mut talk = Conversation::new(&worker.store).await;
        let partitions = worker.config.queue.partitions;
        talk.go_on(&first.publisher, partitions).await;
        first.work(worker);
        soon("the moment comes", first.trap.sprung.notified()).await;
        first.die();
        let (mut second, worker) = Life::start(&place, moment, true, false).await;
        second.work(worker);
        talk.is_whole(&second.reads).await;
        talk.go_on(&second.publisher, partitions).await;
        talk.is_whole(&second.reads).await;
        second.stop().await;
    }
}

/// The step was done, or not, and the worker hears that it was not.
async fn an_answer_that_is_lost_at_any_moment(kind: Kind) {
    let place = Arc::new(Place::new(kind).await);
    for moment in MOMENTS {
        let (mut life, worker) = Life::start(&place, moment, false, true).await;
        let mut talk = Conversation::new(&worker.store).await;
        let partitions = worker.config.queue.partitions;
        talk.go_on(&life.publisher, partitions).await;
        life.work(worker);
        soon("the moment comes", life.trap.sprung.notified()).await;
        talk.go_on(&life.publisher, partitions).await;
        talk.is_whole(&life.reads).await;
        life.stop().await;
        // What was not acknowledged comes again, and changes nothing.
        let (mut next, worker) = Life::start(&place, moment, false, false).await;
        next.work(worker);
        talk.go_on(&next.publisher, partitions).await;
        talk.is_whole(&next.reads).await;
        next.stop().await;
    }
}

/// Both partitions hold one room's messages, in part the same ones: two lanes store them at the same time, as two workers
/// would that both take themselves for the owner. The database decides.
async fn two_owners_at_once(kind: Kind) {
    const ROUNDS: usize = 60;
    let place = Arc::new(Place::new(kind).await);
    let (mut life, mut worker) = Life::start(&place, Moment::Told, false, false).await;
    let mut config = (*worker.config).clone();
    // Many small transactions, so that they meet.
    config.worker.batch_messages = 3;
    worker.config = Arc::new(config);
    let mut talk = Conversation::new(&worker.store).await;
    talk.rooms.truncate(1);
    let room = talk.rooms[0];
    talk.go_on(&life.publisher, worker.config.queue.partitions)
        .await;
    // The room is there before anyone else writes to it.
    life.work(worker);
    talk.is_whole(&life.reads).await;
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
        // One has its own and the other's, the other its own.
        let both = [a.clone(), b].join("\n");
        [
            life.publisher.publish(0, a.into(), 1),
            life.publisher.publish(1, both.into(), 2),
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
