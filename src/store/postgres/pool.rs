//! Connections with deadlines. A frozen server or a network that drops packets costs a caller one deadline and the pool
//! one connection; neither waits for the minutes that TCP takes to notice.

use std::{
    future::Future,
    io,
    ops::{Deref, DerefMut},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    Connection, Executor, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgPoolOptions, PgRow},
};
use tokio::time::timeout;

use super::{
    hosts::{self, Hosts, SEARCH_EVERY, SEARCH_RARELY},
    pooler::{self, State},
};
use crate::{
    error::{Error, Result},
    store::sql::{Session, Statement},
    telemetry::{PoolUse, metrics, watch_pool},
};

/// How long to wait for the answer to a statement: a little longer than the server's own `statement_timeout`, which
/// gives the clearer error.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);

/// How long the test of a returned connection may take before the connection is closed.
const RETURN_WITHIN: Duration = Duration::from_secs(2);

/// How long to wait for a connection before searching for another server.
const SEARCH_AFTER: Duration = Duration::from_millis(250);

/// A connection that was idle for longer than this is tested before use; on a busier one the last statement was the
/// test.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Sent once on each new connection, unless a pooler is in front of the server: then each transaction begins with the
/// same settings (`pooler.rs`).
///
/// - The transaction of a frozen worker is aborted after 2 s, which releases its locks on rooms.
/// - `synchronous_commit=off` would lose acknowledged messages, so it becomes `on`; the stricter settings are kept.
/// - Every statement is to use an index. A plan made while a table was empty does not, and would be kept until the next
///   ANALYZE, through the first million rows; so the other scans and joins are disabled.
/// - No plan depends on the values, so each statement is planned once. By default the server plans statements with
///   short lists anew each time.
const SESSION: &str = "
    SET idle_in_transaction_session_timeout = '2s';
    SET lock_timeout = '30s';
    SET statement_timeout = '30s';
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') = 'off';
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET plan_cache_mode = force_generic_plan;
    SET jit = off";

/// A pool that connects when first used, so that a node starts, and reports the error, while the database is down.
/// New connections go to the server that accepts writes.
pub(super) fn open(hosts: &Arc<Hosts>, size: u32, acquire_timeout: Duration) -> PgPool {
    open_for(hosts, size, acquire_timeout, true)
}

/// The same for reads only: the server may be a standby.
pub(super) fn open_replica(hosts: &Arc<Hosts>, size: u32, acquire_timeout: Duration) -> PgPool {
    open_for(hosts, size, acquire_timeout, false)
}

fn open_for(hosts: &Arc<Hosts>, size: u32, acquire_timeout: Duration, writes: bool) -> PgPool {
    let (current, opened) = (hosts.clone(), hosts.clone());
    let pool = PgPoolOptions::new()
        .max_connections(size.max(1))
        .acquire_timeout(acquire_timeout)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let hosts = opened.clone();
            Box::pin(async move {
                let state = State::read(connection).await?;
                if writes && state.is_read_only {
                    // sqlx retries this as it retries a refused connection.
                    return Err(io::Error::other(hosts::READ_ONLY).into());
                }
                if !hosts.mode.is_pooled() {
                    if state.is_direct {
                        return connection.execute(SESSION).await.map(drop);
                    }
                    hosts.mode.set_pooled();
                }
                Ok(())
            })
        })
        .before_acquire(move |connection, meta| {
            let is_current = current.is_current(meta.age);
            Box::pin(async move {
                if !is_current {
                    return Ok(false);
                }
                if meta.idle_for > TEST_AFTER_IDLE {
                    match timeout(RETURN_WITHIN, connection.ping()).await {
                        Ok(answer) => answer?,
                        Err(_) => return Ok(false),
                    }
                }
                Ok(true)
            })
        })
        .connect_lazy_with(hosts.options());
    hosts.serve(pool.clone());
    let (hosts, max) = (Arc::downgrade(hosts), size);
    watch_pool("postgres", move || {
        let hosts = hosts.upgrade()?;
        let pool = hosts.pool()?;
        let (size, idle) = (u64::from(pool.size()), pool.num_idle() as u64);
        (!pool.is_closed()).then_some(PoolUse {
            in_use: size.saturating_sub(idle),
            idle,
            max: max.into(),
        })
    });
    pool
}

/// A connection on loan. When dropped it is rolled back if it is in a transaction, tested, and returned, in the
/// background and within a deadline; so a caller's future may be dropped at any await.
pub struct Lease {
    connection: Option<PoolConnection<Postgres>>,
    in_transaction: bool,
    /// The server answered that it is shutting down or read-only: the connection is not used again.
    is_stale: bool,
    /// Statements are prepared under a name.
    names_statements: bool,
    hosts: Arc<Hosts>,
}

impl Lease {
    /// A connection outside a transaction: behind a pooler, only statements of the simple protocol may run on it.
    pub(super) async fn take(pool: &PgPool, hosts: &Arc<Hosts>) -> Result<Self> {
        let lease = match Lease::acquire(pool, hosts).await {
            Err(error) if pooler::refuses_options(&error) => {
                hosts.found_pooler();
                Lease::acquire(pool, hosts).await
            }
            other => other,
        };
        lease.map_err(failure)
    }

    async fn acquire(pool: &PgPool, hosts: &Arc<Hosts>) -> sqlx::Result<Self> {
        let started = Instant::now();
        let mut acquire = pin!(pool.acquire());
        let mut host = hosts.current_number();
        let connection = loop {
            match timeout(SEARCH_AFTER, &mut acquire).await {
                Ok(acquired) => break acquired,
                Err(_) if hosts.current_number() != host => {
                    // A search has found another server, while the attempt to connect may hang at the last one.
                    host = hosts.current_number();
                    acquire.set(pool.acquire());
                }
                Err(_) => {
                    let size = pool.options().get_max_connections();
                    let is_full = pool.size() >= size && pool.num_idle() == 0;
                    hosts.search(if is_full { SEARCH_RARELY } else { SEARCH_EVERY });
                }
            }
        };
        let waited = metrics().pool_wait_seconds.with_label_values(&["postgres"]);
        waited.observe(started.elapsed().as_secs_f64());
        if let Err(error) = &connection {
            if matches!(error, sqlx::Error::PoolTimedOut) {
                let timeouts = metrics().pool_timeouts.with_label_values(&["postgres"]);
                timeouts.inc();
            }
            hosts.search(SEARCH_EVERY);
        }
        Ok(Lease {
            connection: Some(connection?),
            in_transaction: false,
            is_stale: false,
            names_statements: hosts.mode.names_statements(),
            hosts: hosts.clone(),
        })
    }

    /// For statements that need no transaction of their own.
    pub(super) async fn session(pool: &PgPool, hosts: &Arc<Hosts>) -> Result<Self> {
        let mut lease = Lease::take(pool, hosts).await?;
        if hosts.mode.is_pooled() {
            lease.begin_here().await?;
        }
        Ok(lease)
    }

    /// Opens a transaction in which every statement sees what was committed before that statement.
    pub(super) async fn begin(pool: &PgPool, hosts: &Arc<Hosts>) -> Result<Self> {
        let mut lease = Lease::take(pool, hosts).await?;
        lease.begin_here().await?;
        Ok(lease)
    }

    async fn begin_here(&mut self) -> Result<()> {
        self.in_transaction = true;
        let begin = if self.hosts.mode.is_pooled() {
            pooler::BEGIN_WITH_SETTINGS
        } else {
            pooler::BEGIN
        };
        self.execute(begin).await
    }

    async fn execute(&mut self, sql: &'static str) -> Result<()> {
        let result = answer(async { Ok(Executor::execute(&mut **self, sql).await) }).await?;
        self.checked(result)?;
        Ok(())
    }

    /// If the result is an error that means that the server shuts down or no longer accepts writes: closes the
    /// connection when it is returned, and searches for another server.
    fn note<T>(&mut self, result: &sqlx::Result<T>) {
        if result.as_ref().is_err_and(is_stale) {
            self.is_stale = true;
            self.hosts.search(SEARCH_EVERY);
        }
    }

    fn checked<T>(&mut self, result: sqlx::Result<T>) -> Result<T> {
        self.note(&result);
        result.map_err(failure)
    }
}

impl Session for Lease {
    type Dialect = Postgres;

    async fn attempt(&mut self, statement: Statement<Postgres>) -> Result<sqlx::Result<u64>> {
        let query = statement.query()?.persistent(self.names_statements);
        let result = answer(async { Ok(query.execute(&mut **self).await) }).await?;
        self.note(&result);
        Ok(result.map(|result| result.rows_affected()))
    }

    async fn rows(&mut self, statement: Statement<Postgres>) -> Result<Vec<PgRow>> {
        let query = statement.query()?.persistent(self.names_statements);
        let rows = answer(async { Ok(query.fetch_all(&mut **self).await) }).await?;
        self.checked(rows)
    }

    async fn row(&mut self, statement: Statement<Postgres>) -> Result<Option<PgRow>> {
        let query = statement.query()?.persistent(self.names_statements);
        let row = answer(async { Ok(query.fetch_optional(&mut **self).await) }).await?;
        self.checked(row)
    }

    async fn commit(mut self) -> Result<()> {
        if self.in_transaction {
            self.execute("COMMIT").await?;
            self.in_transaction = false;
        }
        Ok(())
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("taken only by drop")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("taken only by drop")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.is_stale {
            connection.close_on_drop();
            return;
        }
        let in_transaction = self.in_transaction;
        runtime.spawn(async move {
            if in_transaction
                && !matches!(
                    timeout(RETURN_WITHIN, connection.execute("ROLLBACK")).await,
                    Ok(Ok(_))
                )
            {
                connection.close_on_drop();
                return;
            }
            // Dropping the future closes the connection's socket and frees its slot in the pool.
            let _ = timeout(RETURN_WITHIN, connection.return_to_pool()).await;
        });
    }
}

/// Waits for the server for [`ANSWER_WITHIN`].
pub(super) async fn answer<T>(query: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
    match timeout(ANSWER_WITHIN, query).await {
        Ok(result) => result.map_err(failure),
        Err(_) => Err(Error::unavailable(
            "database",
            format!("no answer within {ANSWER_WITHIN:?}"),
        )),
    }
}

/// The error for a failed call. Failures of the connection, conflicts with other transactions and states of the server
/// are temporary (`unavailable`); anything else is a bug (`internal`).
pub(super) fn failure(error: sqlx::Error) -> Error {
    let temporary = match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| is_temporary(&code)),
        _ => false,
    };
    if temporary {
        Error::unavailable("database", error)
    } else {
        Error::internal(error)
    }
}

/// Whether the connection must not be used again: its server shuts down, has crashed, is starting, ended the
/// connection, or became read-only in a failover; or its prepared statements are not those that this process knows,
/// because a pooler gave it another server connection.
fn is_stale(error: &sqlx::Error) -> bool {
    if matches!(error, sqlx::Error::Protocol(_)) {
        return true;
    }
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(
        code.as_deref(),
        Some(
            "25006" | "25P03" | "57P01" | "57P02" | "57P03" | "42P05" | "26000" | "08P01" | "22P03"
        )
    )
}

/// SQLSTATEs (PostgreSQL's appendix A) after which the same transaction may succeed.
fn is_temporary(code: &str) -> bool {
    match code {
        // idle_in_transaction_session_timeout, transaction_timeout, lock_not_available, and a standby that has
        // not taken over yet.
        "25P03" | "25P04" | "55P03" | "25006" => true,
        // duplicate_prepared_statement, invalid_sql_statement_name, and invalid_binary_representation, as the driver
        // encodes all parameters: another server connection of a pooler, with another statement under the name.
        "42P05" | "26000" | "22P03" => true,
        // Connection exception, rollback (deadlock), resources, operator intervention, system error.
        _ => matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58")),
    }
}
