//! The pool of command connections, their deadline, and the names of keys.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::{
    Connection, Manager, Pool, PoolError, Runtime,
    redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, cmd},
};
use tokio::time::timeout;

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
    pool: Arc<Pool>,
    pub(super) client: Client,
    /// Whether the last command was answered.
    answers: Arc<AtomicBool>,
}

impl RedisBus {
    /// Does not connect yet: Redis may start later.
    ///
    /// # Errors
    /// An invalid URL.
    pub fn connect(settings: RedisSettings) -> Result<RedisBus> {
        let invalid = |error: RedisError| Error::field("redis.url", error.to_string());
        let client = Client::open(settings.url.as_str()).map_err(invalid)?;
        let connection = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let manager =
            Manager::new_with_config(settings.url.as_str(), connection).map_err(invalid)?;
        let pool = Pool::builder(manager)
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
            pool,
            client,
            answers,
        })
    }

    /// One round trip.
    pub(super) async fn run<T: FromRedisValue>(&self, pipeline: Pipeline) -> Result<T> {
        let started = Instant::now();
        let answer = async {
            let connection = self.pool.get().await;
            let waited = metrics().pool_wait_seconds.with_label_values(&["redis"]);
            waited.observe(started.elapsed().as_secs_f64());
            if matches!(&connection, Err(PoolError::Timeout(_))) {
                metrics().pool_timeouts.with_label_values(&["redis"]).inc();
            }
            let mut connection: Connection = connection.map_err(unavailable)?;
            pipeline
                .query_async(&mut connection)
                .await
                .map_err(unavailable)
        };
        let answer = timeout(DEADLINE, answer)
            .await
            .unwrap_or_else(|elapsed| Err(unavailable(elapsed)));
        let answered = self.answers.swap(answer.is_ok(), Ordering::Relaxed);
        if answered && answer.is_err() {
            let (pool, answers) = (Arc::downgrade(&self.pool), self.answers.clone());
            tokio::spawn(probe(pool, answers));
        }
        answer
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
async fn probe(pool: Weak<Pool>, answers: Arc<AtomicBool>) {
    while !answers.load(Ordering::Relaxed) {
        tokio::time::sleep(DEADLINE).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let answer = async {
            let mut connection = pool.get().await.ok()?;
            let ping: Option<String> = cmd("PING").query_async(&mut connection).await.ok();
            ping
        };
        if let Ok(Some(_)) = timeout(DEADLINE, answer).await {
            answers.store(true, Ordering::Relaxed);
        }
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
