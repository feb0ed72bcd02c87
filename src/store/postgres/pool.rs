//! Connections that cannot get stuck. A server that froze, or a network that swallows packets, must cost a caller
//! one deadline and the pool one connection, never hold either for the minutes that TCP takes to notice.

use std::{
    future::Future,
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{
    Connection, Executor, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

use crate::error::{Error, Result};

/// A little longer than the server's own `statement_timeout`, which gives the clearer error.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);

/// How long a returned connection may take to show that it is in order before it is given up.
const RETURN_WITHIN: Duration = Duration::from_secs(2);

/// A connection that was idle for this long is tested before use; a busier one would have shown its failure.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Sent once on each new connection.
///
/// - A worker that freezes inside a transaction loses it, and with it the rooms' locks, after two seconds.
/// - `synchronous_commit=off` would lose what someone was told is kept; the stricter settings are left alone.
/// - Every query here is a walk along an index. A plan made while a table was empty says otherwise and would be
///   kept until the next ANALYZE, through the first million rows; so the alternatives are ruled out.
/// - What is left to plan does not depend on the values, so each statement is planned once. Left to itself the server
///   takes small lists for a reason to plan them anew each time.
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

/// A pool that connects when first used: a node starts, and says what is wrong, while the database is away.
pub(super) fn open(options: PgConnectOptions, size: u32, acquire_timeout: Duration) -> PgPool {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(acquire_timeout)
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute(SESSION).await.map(drop) })
        })
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > TEST_AFTER_IDLE {
                    match timeout(RETURN_WITHIN, connection.ping()).await {
                        Ok(answer) => answer?,
                        Err(_) => return Ok(false),
                    }
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}

/// A connection on loan. When dropped it is rolled back if need be, tested, and returned, in the background and
/// within a deadline; so a caller may give up at any await.
pub(super) struct Lease {
    connection: Option<PoolConnection<Postgres>>,
    in_transaction: bool,
}

impl Lease {
    pub async fn take(pool: &PgPool) -> Result<Self> {
        let connection = pool.acquire().await.map_err(failure)?;
        Ok(Lease {
            connection: Some(connection),
            in_transaction: false,
        })
    }

    /// Opens a transaction in which every statement sees what was committed before that statement.
    pub async fn begin(pool: &PgPool) -> Result<Self> {
        let mut lease = Lease::take(pool).await?;
        lease.in_transaction = true;
        answer(lease.execute("BEGIN ISOLATION LEVEL READ COMMITTED")).await?;
        Ok(lease)
    }

    /// On an error the transaction may be committed or not.
    pub async fn commit(mut self) -> Result<()> {
        answer(self.execute("COMMIT")).await?;
        self.in_transaction = false;
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
            // Given up, the future closes the connection's socket and frees its place in the pool.
            let _ = timeout(RETURN_WITHIN, connection.return_to_pool()).await;
        });
    }
}

/// Waits for the server, but not for ever.
pub(super) async fn answer<T>(query: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
    match timeout(ANSWER_WITHIN, query).await {
        Ok(result) => result.map_err(failure),
        Err(elapsed) => Err(Error::unavailable("database", elapsed)),
    }
}

/// What a failed call means to the caller: trouble with the connection, with another transaction or with the
/// server's state passes; anything else is a bug.
pub(super) fn failure(error: sqlx::Error) -> Error {
    let passes = match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| passes(&code)),
        _ => false,
    };
    if passes {
        Error::unavailable("database", error)
    } else {
        Error::internal(error)
    }
}

/// SQLSTATEs (PostgreSQL's appendix A) after which the same transaction may succeed.
fn passes(code: &str) -> bool {
    match code {
        // idle_in_transaction_session_timeout, transaction_timeout, lock_not_available, and a standby that has
        // not taken over yet.
        "25P03" | "25P04" | "55P03" | "25006" => true,
        // Connection exception, rollback (deadlock), resources, operator intervention, system error.
        _ => matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58")),
    }
}
