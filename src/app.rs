//! The only place that connects parts. Standalone runs an edge and a worker over the embedded ports; `chat edge` and
//! `chat worker` each run one of them over RabbitMQ, PostgreSQL and Redis.

mod monitor;
mod stop;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    autoscale,
    bus::{self, memory::MemoryBus, redis::RedisBus},
    command::notify::Notifier,
    config::{Config, Secrets},
    data_dir, edge,
    error::{Code, Error, Result},
    queue::{
        self,
        rabbit::{RabbitDeadLetters, RabbitPublisher, RabbitQueue, RabbitTasks},
        sqlite::SqliteQueue,
    },
    sqlite::Database,
    store,
    telemetry::{Dependency, UP, watch_state},
    worker::{self, MembershipCache, Worker},
};

pub use stop::{ignore_hangup, serve_parent, shutdown_on_signal};

/// Called once, when the role is ready for work, with the address it listens on (`None` for roles without an edge).
pub type Ready = Box<dyn FnOnce(Option<SocketAddr>) + Send>;

/// Binds the edge's listener.
///
/// # Errors
/// `conflict`, with advice, if the address is in use or not local.
pub async fn listen(config: &Config) -> Result<TcpListener> {
    let (host, port) = (config.edge.host.as_str(), config.edge.port);
    TcpListener::bind((host, port)).await.map_err(|error| {
        Error::new(
            Code::Conflict,
            format!(
                "cannot listen on {host}:{port}: {error}; set edge.host and edge.port (CHAT__EDGE__PORT, --port) to an address that is free"
            ),
        )
    })
}

/// `chat standalone`: edge and worker in one process; all data is kept in the directory `data`, which is created if
/// missing.
pub async fn standalone(
    mut config: Config,
    data: &Path,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: Ready,
) -> Result<()> {
    let _lock = data_dir::lock(data)?;
    reserve_files(&config);
    if config.auth.secret.is_empty() {
        config.auth.secret = Secrets::new([data_dir::secret(data)?]);
    }
    let config = Arc::new(config);
    let operations = listen_for_operations(&config).await?;
    let file = data.join(data_dir::DATABASE);
    let database = Database::open(&file)
        .await
        .map_err(|error| at("the database", file.display().to_string(), error))
        .map_err(|error| Error {
            message: format!(
                "{}; `chat doctor --data {}` checks it: restore a damaged file from a backup, or move it away to start without data",
                error.message,
                data.display()
            ),
            ..error
        })?;
    let store = Arc::new(store::sqlite::Store::new(database.clone()));
    let queue = Arc::new(SqliteQueue::open(database.clone(), sqlite_queue(&config)).await?);
    let bus = bus::Handles::new(Arc::new(MemoryBus::new(bus::memory::MemoryBusSettings {
        recent_messages: config.redis.recent_messages,
        ..Default::default()
    })));

    // The bus is part of this process.
    watch_state(Dependency::Bus, || Some(UP));
    let _monitor = monitor::store(store.clone());

    // The worker stops after the edge, so that the last accepted commands are stored before the process ends.
    let worker_stop = CancellationToken::new();
    let worker = embedded_worker(config.clone(), store.clone(), queue.clone(), &bus)?;
    let worker = worker::run(worker, worker_stop.clone());
    // Without a worker, the edge would only fill the queue, so it stops as well.
    let ended = shutdown.clone().drop_guard();
    let worker = tokio::spawn(async move {
        let result = worker.await;
        drop(ended);
        result
    });
    let result = edge::run(
        edge::Parts {
            config: config.clone(),
            reads: store.clone(),
            deliveries: store,
            bus,
            publisher: queue.clone(),
            operations,
        },
        listener,
        shutdown,
        ready,
    )
    .await;
    worker_stop.cancel();
    let worked = worker.await.map_err(Error::internal)?;
    queue.close().await;
    database.close().await;
    result.and(worked)
}

/// A worker over the embedded ports.
pub(crate) fn embedded_worker(
    config: Arc<Config>,
    store: Arc<store::sqlite::Store>,
    queue: Arc<SqliteQueue>,
    bus: &bus::Handles,
) -> Result<Worker> {
    let notifier = Notifier::new(
        config.clone(),
        store.clone(),
        queue.clone(),
        bus.coordination.clone(),
        bus.presence.clone(),
        queue.clone(),
    )?;
    Ok(Worker {
        config,
        queue: queue.clone(),
        dead: queue,
        store,
        pubsub: bus.pubsub.clone(),
        coordination: bus.coordination.clone(),
        notifier,
        memberships: MembershipCache::default(),
    })
}

/// `chat edge`: serves clients over RabbitMQ, PostgreSQL (reads only) and Redis.
pub async fn edge(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: Ready,
) -> Result<()> {
    let config = Arc::new(config);
    reserve_files(&config);
    let operations = listen_for_operations(&config).await?;
    let servers = Servers::connect(&config)?;
    let publisher = Arc::new(RabbitPublisher::connect(servers.rabbit.clone())?);
    servers
        .wait(&config, publisher.ready(config.start.timeout))
        .await?;
    let _monitor = monitor::store(servers.store.clone());
    let report_stop = CancellationToken::new();
    let report = tokio::spawn(autoscale::report::run(
        servers.bus.coordination.clone(),
        publisher.clone(),
        report_stop.clone(),
    ));
    let result = edge::run(
        edge::Parts {
            config,
            reads: servers.store.clone(),
            deliveries: servers.store.clone(),
            bus: servers.bus.clone(),
            publisher: publisher.clone(),
            operations,
        },
        listener,
        shutdown,
        ready,
    )
    .await;
    report_stop.cancel();
    report.await.map_err(Error::internal)?;
    publisher.close().await;
    servers.store.close().await;
    result
}

/// `chat worker`: consumes commands and tasks from RabbitMQ, writes to PostgreSQL, publishes to the edges over Redis.
pub async fn worker(config: Config, shutdown: CancellationToken, ready: Ready) -> Result<()> {
    let config = Arc::new(config);
    let mut servers = Servers::connect(&config)?;
    if let Some(name) = &config.worker.id {
        servers.rabbit.node = format!("chat-{name}");
    }
    let queue = Arc::new(RabbitQueue::connect(servers.rabbit.clone())?);
    // For dead letters and tasks, which the worker publishes.
    let publisher = Arc::new(RabbitPublisher::connect(servers.rabbit.clone())?);
    let broker = async {
        queue.ready(config.start.timeout).await?;
        publisher.ready(config.start.timeout).await
    };
    servers.wait(&config, broker).await?;
    let _monitor = monitor::store(servers.store.clone());
    let dead = Arc::new(RabbitDeadLetters::new(publisher.clone(), queue.clone()));
    let operations = operations(&config, shutdown.clone()).await?;
    let notifier = Notifier::new(
        config.clone(),
        servers.store.clone(),
        Arc::new(RabbitTasks::new(publisher.clone(), queue.clone())),
        servers.bus.coordination.clone(),
        servers.bus.presence.clone(),
        dead.clone(),
    )?;
    ready(None);
    let result = worker::run(
        Worker {
            config,
            queue: queue.clone(),
            dead,
            store: servers.store.clone(),
            pubsub: servers.bus.pubsub.clone(),
            coordination: servers.bus.coordination.clone(),
            notifier,
            memberships: MembershipCache::default(),
        },
        shutdown,
    )
    .await;
    queue.close().await;
    publisher.close().await;
    servers.store.close().await;
    drop(operations);
    result
}

/// `chat autoscale`: runs as many `chat worker` processes on this machine as the queue needs. `worker` is the command
/// that starts one; with `dry_run`, decisions are printed and no process is started.
pub async fn autoscale(
    config: Config,
    worker: autoscale::WorkerCommand,
    dry_run: bool,
    shutdown: CancellationToken,
    ready: Ready,
) -> Result<()> {
    let bus = redis(&config)?;
    let mut queue = RabbitQueue::connect(rabbit(&config))?;
    if let Some(api) = &config.autoscale.api_url {
        queue = queue.with_api(&api.expose())?;
    }
    if config.notify.enabled() {
        queue = queue.with_delays();
    }
    let (cache, broker) = tokio::join!(
        patiently("Redis", config.start.timeout, || bus.pubsub.ping()),
        queue.ready(config.start.timeout)
    );
    cache.map_err(|error| at("Redis", redis_address(&config), error))?;
    broker.map_err(|error| at("RabbitMQ", config.queue.url.to_string(), error))?;
    let operations = operations(&config, shutdown.clone()).await?;
    ready(None);
    let queue = Arc::new(queue);
    let parts = autoscale::Parts {
        settings: config.autoscale.clone(),
        roles: config.worker.jobs.clone(),
        notify: config.notify.enabled(),
        partitions: config.queue.partitions,
        queue: queue.clone(),
        coordination: bus.coordination,
        worker,
    };
    let result = if dry_run {
        autoscale::watch(parts, shutdown).await;
        Ok(())
    } else {
        autoscale::run(parts, shutdown).await
    };
    queue.close().await;
    drop(operations);
    result
}

/// `chat migrate`. Returns the migrations that were missing.
pub async fn migrate(config: &Config) -> Result<Vec<String>> {
    let store = postgres(config)?;
    let attempt = crate::retry::until(config.start.timeout, || store.migrate()).await;
    attempt.map_err(|error| at("PostgreSQL", config.database.url.to_string(), error))
}

/// Connections that edges and workers have in common.
struct Servers {
    store: Arc<store::postgres::Store>,
    bus: bus::Handles,
    rabbit: queue::rabbit::RabbitSettings,
}

impl Servers {
    fn connect(config: &Config) -> Result<Servers> {
        Ok(Servers {
            store: Arc::new(postgres(config)?),
            bus: redis(config)?,
            rabbit: rabbit(config),
        })
    }

    /// Waits for all servers concurrently, each up to `start.timeout`. The error lists each unavailable server on its
    /// own line.
    async fn wait(&self, config: &Config, rabbit: impl Future<Output = Result<()>>) -> Result<()> {
        let timeout = config.start.timeout;
        let (database, cache, broker) = tokio::join!(
            patiently("PostgreSQL", timeout, || self.store.check_schema()),
            patiently("Redis", timeout, || self.bus.pubsub.ping()),
            rabbit,
        );
        let problems: Vec<String> = [
            ("PostgreSQL", config.database.url.to_string(), database),
            ("Redis", redis_address(config), cache),
            ("RabbitMQ", config.queue.url.to_string(), broker),
        ]
        .into_iter()
        .filter_map(|(name, url, result)| Some(at(name, url, result.err()?).message))
        .collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::new(Code::Busy, problems.join("\n")))
    }
}

/// Retries until success or `timeout`; logs the first failure only.
async fn patiently<F: Future<Output = Result<()>>>(
    name: &str,
    timeout: Duration,
    mut what: impl FnMut() -> F,
) -> Result<()> {
    let logged = AtomicBool::new(false);
    crate::retry::until(timeout, || {
        let attempt = what();
        async {
            let result = attempt.await;
            if let Err(error) = &result
                && !logged.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(server = name, error = %error.reason(), timeout_s = timeout.as_secs(), "server not ready; retrying");
            }
            result
        }
    })
    .await
}

fn at(name: &str, url: String, error: Error) -> Error {
    let reason = error.reason();
    let advice = match name {
        // SQLSTATE 3D000.
        _ if reason.contains("database \"") && reason.contains("does not exist") => {
            "; create it (`createdb`), or correct database.url"
        }
        "PostgreSQL" if error.source.is_some() => "; check that it runs, and database.url",
        "Redis" if error.source.is_some() => "; check that it runs, and redis.url",
        _ => "",
    };
    Error::new(error.code, format!("{name} at {url}: {reason}{advice}"))
}

pub(crate) fn postgres(config: &Config) -> Result<store::postgres::Store> {
    use crate::config::PreparedStatements as Setting;
    use store::postgres::PreparedStatements;
    let prepared = match config.database.prepared_statements {
        Setting::Auto => PreparedStatements::Auto,
        Setting::On => PreparedStatements::On,
        Setting::Off => PreparedStatements::Off,
    };
    let database = &config.database;
    let store = store::postgres::Store::connect_with(
        &database.url.expose(),
        database.max_connections,
        database.acquire_timeout,
        prepared,
    )?;
    match &database.read_url {
        Some(replicas) => store.with_replicas(&replicas.expose(), database.max_connections),
        None => Ok(store),
    }
}

/// The Sentinels of `redis.sentinels`, if there are any.
pub(crate) fn sentinels(config: &Config) -> Option<bus::redis::SentinelSettings> {
    let redis = &config.redis;
    let addresses = redis.sentinels.iter().map(|url| url.expose().to_owned());
    (!redis.sentinels.is_empty()).then(|| bus::redis::SentinelSettings {
        addresses: addresses.collect(),
        password: redis.sentinel_password.expose().to_owned(),
        master: redis.master.clone(),
    })
}

pub(crate) fn redis(config: &Config) -> Result<bus::Handles> {
    let bus = RedisBus::connect(bus::redis::RedisSettings {
        url: config.redis.url.expose().to_owned(),
        sentinel: sentinels(config),
        prefix: config.queue.prefix.clone(),
        recent_messages: config.redis.recent_messages,
        recent_ttl: config.redis.recent_ttl,
        pool: config.redis.pool,
    })?;
    Ok(bus::Handles::new(Arc::new(bus)))
}

/// Without passwords.
fn redis_address(config: &Config) -> String {
    let redis = &config.redis;
    if redis.sentinels.is_empty() {
        return redis.url.to_string();
    }
    let sentinels: Vec<String> = redis.sentinels.iter().map(ToString::to_string).collect();
    format!(
        "{:?} of the Sentinels {}",
        redis.master,
        sentinels.join(", ")
    )
}

pub(crate) fn rabbit(config: &Config) -> queue::rabbit::RabbitSettings {
    queue::rabbit::RabbitSettings {
        urls: config.queue.url.expose(),
        prefix: config.queue.prefix.clone(),
        partitions: config.queue.partitions,
        max_backlog: config.queue.max_backlog,
        confirm_timeout: config.queue.confirm_timeout,
        prefetch: config.queue.prefetch,
        declare: true,
        node: format!("chat-{}", std::process::id()),
    }
}

pub(crate) fn sqlite_queue(config: &Config) -> queue::sqlite::SqliteQueueSettings {
    queue::sqlite::SqliteQueueSettings {
        partitions: config.queue.partitions,
        confirm_timeout: config.queue.confirm_timeout,
        prefetch: config.queue.prefetch,
    }
}

/// Serves `/healthz` and `/metrics` in a process that has no other HTTP server.
async fn operations(
    config: &Config,
    shutdown: CancellationToken,
) -> Result<Option<tokio::task::JoinHandle<()>>> {
    let listener = listen_for_operations(config).await?;
    let edge = config.edge.clone();
    Ok(listener.map(|listener| {
        tokio::spawn(async move { edge::operations(listener, &edge, shutdown).await })
    }))
}

/// Binds the listener of `metrics.port`, if that is set.
///
/// # Errors
/// `conflict` if the address cannot be bound.
async fn listen_for_operations(config: &Config) -> Result<Option<TcpListener>> {
    let (host, port) = (config.edge.host.as_str(), config.metrics.port);
    if port == 0 {
        return Ok(None);
    }
    match TcpListener::bind((host, port)).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => Err(Error::new(
            Code::Conflict,
            format!("cannot listen on {host}:{port} (metrics.port): {error}"),
        )),
    }
}

/// Open files beside the connections of clients: connections to servers, the database, listeners.
const OTHER_FILES: u64 = 256;

/// The limit of open files of this process, after raising it as far as the system allows.
pub fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// The open files that an edge with these settings may need.
pub fn wanted_files(config: &Config) -> u64 {
    config.edge.max_connections as u64 + OTHER_FILES
}

/// Raises the limit of open files, and warns if `edge.max_connections` does not fit into it.
fn reserve_files(config: &Config) {
    let wanted = wanted_files(config);
    if let Some(limit) = raise_open_files().filter(|limit| *limit < wanted) {
        tracing::warn!(
            limit,
            wanted,
            "edge.max_connections does not fit into the limit of open files; raise `ulimit -n`, or lower the setting"
        );
    }
}
