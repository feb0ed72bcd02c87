//! The pool of command connections, their deadline, and the names of keys.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{self, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult},
};
use deadpool_redis::redis::{
    FromRedisValue, Pipeline, RedisError, aio::MultiplexedConnection, cmd,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::servers::{Dialed, SentinelSettings, Servers};
use crate::{
    error::{Error, Result},
    telemetry::{Dependency, PoolUse, metrics, watch_pool, watch_state},
};

/// Deadline of a command, including the wait for a connection.
const DEADLINE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://` or `rediss://`. May contain a password: never logged.
    pub url: String,
    /// With Sentinels, only the user, the password, the database's number and TLS are taken from `url`.
    pub sentinel: Option<SentinelSettings>,
    /// Begins the name of every key and channel, followed by a colon.
    pub prefix: String,
    /// Cached events per room, at least 1.
    pub recent_messages: usize,
    /// Time to live of a room's cached events after the last append.
    pub recent_ttl: Duration,
    /// Connections for commands, at least 1.
    pub pool: usize,
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("prefix", &self.prefix)
            .field("recent_messages", &self.recent_messages)
            .field("recent_ttl", &self.recent_ttl)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

pub struct RedisBus {
    pub(super) settings: RedisSettings,
    pub(super) servers: Arc<Servers>,
    pool: Arc<Pool<Manager>>,
    /// Whether the last command was answered.
    answers: Arc<AtomicBool>,
}

impl RedisBus {
    /// Does not connect yet: Redis may start later.
    ///
    /// # Errors
    /// An invalid URL.
    pub fn connect(settings: RedisSettings) -> Result<RedisBus> {
        let servers = Servers::new(&settings.url, settings.sentinel.as_ref())?;
        let pool = Pool::builder(Manager(servers.clone()))
            .max_size(settings.pool.max(1))
            .create_timeout(Some(DEADLINE))
            .wait_timeout(Some(DEADLINE))
            .recycle_timeout(Some(DEADLINE))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(Error::internal)?;
        let answers = Arc::new(AtomicBool::new(false));
        let weak = Arc::downgrade(&answers);
        watch_state(Dependency::Bus, move || {
            Some(i64::from(weak.upgrade()?.load(Ordering::Relaxed)))
        });
        let pool = Arc::new(pool);
        let watched = Arc::downgrade(&pool);
        watch_pool("redis", move || {
            let status = watched.upgrade()?.status();
            let idle = status.available;
            Some(PoolUse {
                in_use: status.size.saturating_sub(idle) as u64,
                idle: idle as u64,
                max: status.max_size as u64,
            })
        });
        Ok(RedisBus {
            settings,
            servers,
            pool,
            answers,
        })
    }

    /// One round trip.
    pub(super) async fn run<T: FromRedisValue>(&self, pipeline: Pipeline) -> Result<T> {
        let answer = self.attempt(pipeline).await;
        let answered = self.answers.swap(answer.is_ok(), Ordering::Relaxed);
        if answered && answer.is_err() {
            let (pool, answers) = (Arc::downgrade(&self.pool), self.answers.clone());
            tokio::spawn(probe(pool, answers));
        }
        answer
    }

    async fn attempt<T: FromRedisValue>(&self, pipeline: Pipeline) -> Result<T> {
        let started = Instant::now();
        let end = started + DEADLINE;
        let pooled = timeout_at(end, self.pool.get()).await;
        let waited = metrics().pool_wait_seconds.with_label_values(&["redis"]);
        waited.observe(started.elapsed().as_secs_f64());
        if matches!(&pooled, Err(_) | Ok(Err(PoolError::Timeout(_)))) {
            metrics().pool_timeouts.with_label_values(&["redis"]).inc();
        }
        let mut pooled = match pooled {
            Ok(pooled) => pooled.map_err(unavailable)?,
            Err(elapsed) => return Err(unavailable(elapsed)),
        };
        let answer = pipeline.query_async(&mut pooled.connection);
        let error = match timeout_at(end, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if !is_stale(&error) => return Err(unavailable(error)),
            Ok(Err(error)) => unavailable(error),
            Err(elapsed) => unavailable(elapsed),
        };
        // Closes the connection.
        drop(Object::take(pooled));
        Err(error)
    }

    pub(super) fn key(&self, kind: &str, name: impl fmt::Display) -> String {
        format!("{}:{kind}:{name}", self.settings.prefix)
    }

    /// The key of something that exists once per deployment.
    pub(super) fn single_key(&self, kind: &str) -> String {
        format!("{}:{kind}", self.settings.prefix)
    }
}

/// Asks until there is an answer again: an idle process sends no command that would notice it.
async fn probe(pool: Weak<Pool<Manager>>, answers: Arc<AtomicBool>) {
    while !answers.load(Ordering::Relaxed) {
        tokio::time::sleep(DEADLINE).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let answer = async {
            let mut pooled = pool.get().await.ok()?;
            let ping = cmd("PING");
            let answer = ping.query_async::<String>(&mut pooled.connection).await;
            answer.ok()
        };
        if let Ok(Some(_)) = timeout(DEADLINE, answer).await {
            answers.store(true, Ordering::Relaxed);
        }
    }
}

/// Opens the pool's connections, and tests them before each use.
struct Manager(Arc<Servers>);

impl managed::Manager for Manager {
    type Type = Dialed<MultiplexedConnection>;
    type Error = RedisError;

    async fn create(&self) -> std::result::Result<Self::Type, RedisError> {
        self.0.connect().await
    }

    async fn recycle(&self, pooled: &mut Self::Type, _: &Metrics) -> RecycleResult<RedisError> {
        if !self.0.is_current(pooled.master.as_ref()) {
            return Err(RecycleError::message("another server is the master"));
        }
        cmd("PING")
            .query_async::<()>(&mut pooled.connection)
            .await
            .map_err(RecycleError::Backend)
    }
}

/// Whether the connection must not be used again: it is broken, or its server cannot take commands now, as a replica
/// after a failover. Other errors of the server concern one command.
fn is_stale(error: &RedisError) -> bool {
    match error.clone().into_server_errors() {
        Some(errors) => errors
            .iter()
            .any(|(_, error)| matches!(error.code(), "READONLY" | "LOADING" | "MASTERDOWN")),
        None => true,
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable("cache", error)
}

/// Redis takes a time to live in whole milliseconds and rejects zero.
pub(super) fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis())
        .unwrap_or(u64::MAX >> 12)
        .max(1)
}
