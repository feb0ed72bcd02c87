//! The only place that connects parts. Every role is some of the same parts: standalone is an edge and a worker over
//! embedded ones, `chat edge` and `chat worker` are each one of them over servers.

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
    config::Config,
    data_dir, edge,
    error::{Code, Error, Result},
    job::notify::Notifier,
    queue::{
        self,
        rabbit::{RabbitDeadLetters, RabbitPublisher, RabbitQueue, RabbitTasks},
        sqlite::SqliteQueue,
    },
    sqlite::Database,
    store,
    worker::{self, MembershipCache, Worker},
};

/// Told once, when the role is ready for work, with the address it serves on.
pub type Ready = Box<dyn FnOnce(Option<SocketAddr>) + Send>;

/// Takes the edge's address.
///
/// # Errors
/// `conflict` with what to do, where the address is taken or not ours.
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

/// `chat standalone`: edge and worker in one process, everything kept in `data`, which is created if missing.
pub async fn standalone(
    mut config: Config,
    data: &Path,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: Ready,
) -> Result<()> {
    let _lock = data_dir::lock(data)?;
    if config.auth.secret.is_empty() {
        config.auth.secret = data_dir::secret(data)?;
    }
    let config = Arc::new(config);
    let operations = listen_for_operations(&config).await?;
    let database = Database::open(&data.join(data_dir::DATABASE)).await?;
    let store = Arc::new(store::sqlite::Store::new(database.clone()));
    let queue = Arc::new(SqliteQueue::open(database.clone(), sqlite_queue(&config)).await?);
    let bus = bus::Handles::new(Arc::new(MemoryBus::new(bus::memory::Settings {
        recent_messages: config.redis.recent_messages,
        ..Default::default()
    })));

    // The worker outlives the edge: what the edge accepted last is stored before the process ends.
    let worker_stop = CancellationToken::new();
    let worker = tokio::spawn(worker::run(
        Worker {
            config: config.clone(),
            queue: queue.clone(),
            dead: queue.clone(),
            store: store.clone(),
            pubsub: bus.pubsub.clone(),
            coordination: bus.coordination.clone(),
            notifier: Notifier::new(
                config.clone(),
                store.clone(),
                queue.clone(),
                bus.coordination.clone(),
                bus.presence.clone(),
                queue.clone(),
            )?,
            memberships: MembershipCache::default(),
        },
        worker_stop.clone(),
    ));
    let result = edge::run(
        edge::Parts {
            config: config.clone(),
            reads: store.clone(),
            ledger: store,
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

/// `chat edge`: clients on one side, RabbitMQ, PostgreSQL (for reading) and Redis on the other.
pub async fn edge(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: Ready,
) -> Result<()> {
    let config = Arc::new(config);
    let operations = listen_for_operations(&config).await?;
    let servers = Servers::connect(&config)?;
    let publisher = Arc::new(RabbitPublisher::connect(servers.rabbit.clone())?);
    servers
        .wait(&config, publisher.ready(config.start.timeout))
        .await?;
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
            ledger: servers.store.clone(),
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

/// `chat worker`: consumes from RabbitMQ, writes to PostgreSQL, publishes over Redis.
pub async fn worker(config: Config, shutdown: CancellationToken, ready: Ready) -> Result<()> {
    let config = Arc::new(config);
    let mut servers = Servers::connect(&config)?;
    if let Some(name) = &config.worker.id {
        servers.rabbit.node = format!("chat-{name}");
    }
    let queue = Arc::new(RabbitQueue::connect(servers.rabbit.clone())?);
    servers
        .wait(&config, queue.ready(config.start.timeout))
        .await?;
    // Publishes dead letters and tasks.
    let publisher = Arc::new(RabbitPublisher::connect(servers.rabbit.clone())?);
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

/// `chat autoscale`: as many `chat worker` processes on this machine as the queue needs. `worker` is how one is started;
/// with `dry_run` none is, and each decision is printed.
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
        queue = queue.with_api(api.expose())?;
    }
    if config.notify.enabled() {
        queue = queue.with_delays();
    }
    let (cache, broker) = tokio::join!(
        patiently("Redis", config.start.timeout, || bus.pubsub.ping()),
        queue.ready(config.start.timeout)
    );
    cache.map_err(|error| at("Redis", config.redis.url.to_string(), error))?;
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

/// `chat migrate`.
pub async fn migrate(config: &Config) -> Result<()> {
    let store = postgres(config)?;
    let attempt = crate::retry::until(config.start.timeout, || store.migrate()).await;
    attempt.map_err(|error| at("PostgreSQL", config.database.url.to_string(), error))
}

/// What edges and workers both use.
struct Servers {
    store: Arc<store::postgres::Store>,
    bus: bus::Handles,
    rabbit: queue::rabbit::Settings,
}

impl Servers {
    fn connect(config: &Config) -> Result<Servers> {
        Ok(Servers {
            store: Arc::new(postgres(config)?),
            bus: redis(config)?,
            rabbit: rabbit(config),
        })
    }

    /// Waits for all of them at once, each up to `start.timeout`; says which did not come, each in one line.
    async fn wait(&self, config: &Config, rabbit: impl Future<Output = Result<()>>) -> Result<()> {
        let timeout = config.start.timeout;
        let (database, cache, broker) = tokio::join!(
            patiently("PostgreSQL", timeout, || self.store.check_schema()),
            patiently("Redis", timeout, || self.bus.pubsub.ping()),
            rabbit,
        );
        let problems: Vec<String> = [
            ("PostgreSQL", config.database.url.to_string(), database),
            ("Redis", config.redis.url.to_string(), cache),
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

/// Tries until it works or `timeout` is over, and says once that it is waiting.
async fn patiently<F: Future<Output = Result<()>>>(
    name: &str,
    timeout: Duration,
    mut what: impl FnMut() -> F,
) -> Result<()> {
    let told = AtomicBool::new(false);
    crate::retry::until(timeout, || {
        let attempt = what();
        async {
            let result = attempt.await;
            if let Err(error) = &result
                && !told.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(server = name, error = %error.chain(), timeout_s = timeout.as_secs(), "not ready; trying again");
            }
            result
        }
    })
    .await
}

fn at(name: &str, url: String, error: Error) -> Error {
    Error::new(error.code, format!("{name} at {url}: {}", error.chain()))
}

pub(crate) fn postgres(config: &Config) -> Result<store::postgres::Store> {
    store::postgres::Store::connect(
        config.database.url.expose(),
        config.database.max_connections,
        config.database.acquire_timeout,
    )
}

pub(crate) fn redis(config: &Config) -> Result<bus::Handles> {
    let bus = RedisBus::connect(bus::redis::Settings {
        url: config.redis.url.expose().to_owned(),
        prefix: config.queue.prefix.clone(),
        recent_messages: config.redis.recent_messages,
        recent_ttl: config.redis.recent_ttl,
        pool: config.redis.pool,
    })?;
    Ok(bus::Handles::new(Arc::new(bus)))
}

pub(crate) fn rabbit(config: &Config) -> queue::rabbit::Settings {
    queue::rabbit::Settings {
        url: config.queue.url.expose().to_owned(),
        prefix: config.queue.prefix.clone(),
        partitions: config.queue.partitions,
        max_backlog: config.queue.max_backlog,
        confirm_timeout: config.queue.confirm_timeout,
        prefetch: config.queue.prefetch,
        node: format!("chat-{}", std::process::id()),
    }
}

pub(crate) fn sqlite_queue(config: &Config) -> queue::sqlite::Settings {
    queue::sqlite::Settings {
        partitions: config.queue.partitions,
        confirm_timeout: config.queue.confirm_timeout,
        prefetch: config.queue.prefetch,
    }
}

/// `/healthz` and `/metrics` of a process that serves nothing else.
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

/// Takes `metrics.port`, if it is set.
///
/// # Errors
/// `conflict`, where the address is taken.
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

/// Cancels `token` when standard input ends: whoever started this process with a pipe wants it to stop, or is gone.
pub fn stop_with_stdin(token: CancellationToken) {
    // A thread, since the runtime would wait for a read that never ends; the process's end does not wait for it.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        token.cancel();
    });
}

/// A token that SIGTERM or SIGINT cancels; a second signal ends the process at once.
pub fn shutdown_on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancel = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping; a second signal stops at once");
        cancel.cancel();
        next().await;
        tracing::warn!("stopped at once by a second signal");
        std::process::exit(1);
    });
    Ok(token)
}
