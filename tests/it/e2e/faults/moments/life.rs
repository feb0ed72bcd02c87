//! A worker with its own runtime and connections inside the test, which can be dropped at any point.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use chat::{
    bus::{self, memory::MemoryBus, redis::RedisBus},
    command::notify::Notifier,
    config::{Config, Role as Process, Sources},
    error::Result,
    queue::{
        Publisher,
        rabbit::{RabbitDeadLetters, RabbitPublisher, RabbitQueue, RabbitTasks},
        sqlite::SqliteQueue,
    },
    sqlite::Database,
    store::{self, Reads},
    worker::{self, MembershipCache, Worker},
};
use tokio::{runtime::Runtime, sync::Notify};
use tokio_util::sync::CancellationToken;

use super::trap::{Moment, Trap, Trapped};
use crate::{
    harness::{Kind, deployment, server},
    support::{PATIENCE, TcpProxy, soon, unique},
};

/// Unacknowledged payloads per consumer.
pub const PREFETCH: u16 = 20;

/// The queue and store that workers use.
pub enum Backend {
    Servers(deployment::Database),
    Directory(PathBuf),
}

impl Backend {
    pub async fn new(kind: Kind) -> Backend {
        match kind {
            Kind::Cluster => Backend::Servers(deployment::Database::create().await),
            Kind::Standalone => {
                let directory = std::env::temp_dir().join(unique("moments"));
                std::fs::create_dir(&directory).unwrap();
                Backend::Directory(directory)
            }
        }
    }

    fn config(&self) -> Config {
        let mut config = Config::load(&Sources::default(), Process::Tool).unwrap();
        config.queue.partitions = 2;
        config.worker.heartbeat = Duration::from_millis(100);
        config.worker.heartbeat_ttl = Duration::from_millis(500);
        if let Backend::Servers(database) = self {
            config.queue.prefix = database.name.clone();
        }
        config
    }

    async fn open(&self, broker: &str) -> Parts {
        let config = Arc::new(self.config());
        match self {
            Backend::Servers(database) => {
                let store = store::postgres::Store::connect(&[&database.url], 4, PATIENCE).unwrap();
                store.migrate().await.unwrap();
                let store = Arc::new(store);
                let bus = RedisBus::connect(bus::redis::RedisSettings {
                    url: server("REDIS_URL"),
                    sentinel: None,
                    prefix: database.name.clone(),
                    recent_messages: 200,
                    recent_ttl: Duration::from_secs(60),
                    pool: 2,
                });
                let bus = bus::Handles::new(Arc::new(bus.unwrap()));
                let settings = chat::queue::rabbit::RabbitSettings {
                    urls: vec![broker.to_owned()],
                    prefix: database.name.clone(),
                    partitions: config.queue.partitions,
                    max_backlog: 1_000_000,
                    confirm_timeout: Duration::from_secs(20),
                    prefetch: PREFETCH,
                    declare: true,
                    node: "moments".to_owned(),
                };
                let publisher = Arc::new(RabbitPublisher::connect(settings.clone()).unwrap());
                publisher.ready(PATIENCE).await.unwrap();
                let queue = Arc::new(RabbitQueue::connect(settings).unwrap());
                queue.ready(PATIENCE).await.unwrap();
                let dead = Arc::new(RabbitDeadLetters::new(publisher.clone(), queue.clone()));
                let tasks = Arc::new(RabbitTasks::new(publisher.clone(), queue.clone()));
                let notifier = Notifier::new(
                    config.clone(),
                    store.clone(),
                    tasks,
                    bus.coordination.clone(),
                    bus.presence.clone(),
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
                        pubsub: bus.pubsub,
                        coordination: bus.coordination,
                        notifier: notifier.unwrap(),
                        memberships: MembershipCache::default(),
                    },
                }
            }
            Backend::Directory(directory) => {
                let database = Database::open(&directory.join("chat.db")).await.unwrap();
                let store = Arc::new(store::sqlite::Store::new(database.clone()));
                let settings = chat::queue::sqlite::SqliteQueueSettings {
                    partitions: config.queue.partitions,
                    confirm_timeout: Duration::from_secs(20),
                    prefetch: PREFETCH,
                };
                let queue = Arc::new(SqliteQueue::open(database, settings).await.unwrap());
                let bus = bus::Handles::new(Arc::new(MemoryBus::new(Default::default())));
                let notifier = Notifier::new(
                    config.clone(),
                    store.clone(),
                    queue.clone(),
                    bus.coordination.clone(),
                    bus.presence.clone(),
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
                        pubsub: bus.pubsub,
                        coordination: bus.coordination,
                        notifier: notifier.unwrap(),
                        memberships: MembershipCache::default(),
                    },
                }
            }
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Backend::Directory(directory) = self {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

struct Parts {
    reads: Arc<dyn Reads>,
    publisher: Arc<dyn Publisher>,
    worker: Worker,
}

/// A worker with its own runtime and connections.
pub struct Life {
    runtime: Option<Runtime>,
    proxy: Option<TcpProxy>,
    pub reads: Arc<dyn Reads>,
    pub publisher: Arc<dyn Publisher>,
    pub trap: Arc<Trap>,
    stop: CancellationToken,
    working: Option<tokio::task::JoinHandle<Result<()>>>,
}

impl Life {
    /// Opens everything and sets the trap; [`Life::work`] starts the worker.
    pub async fn start(
        backend: &Arc<Backend>,
        moment: Moment,
        deadly: bool,
        set: bool,
    ) -> (Life, Worker) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (mut broker, mut proxy) = (String::new(), None);
        if let Backend::Servers(_) = **backend {
            let direct = server("AMQP_URL");
            let authority = deployment::authority(&direct);
            let to = TcpProxy::to(&authority).await;
            broker = direct.replacen(&authority, &to.address.to_string(), 1);
            proxy = Some(to);
        }
        let opening = backend.clone();
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
            proxy,
            reads,
            publisher,
            trap,
            stop: CancellationToken::new(),
            working: None,
        };
        (life, worker)
    }

    pub fn work(&mut self, worker: Worker) {
        let runtime = self.runtime.as_ref().unwrap();
        self.working = Some(runtime.spawn(worker::run(worker, self.stop.clone())));
    }

    /// Drops the runtime and breaks the connections, as a process crash does.
    pub fn crash(mut self) {
        if let Some(proxy) = &self.proxy {
            proxy.cut();
        }
        self.end();
    }

    pub async fn stop(mut self) {
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
