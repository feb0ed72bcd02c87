//! The SQLite file of a standalone node. Store and queue share its one write connection and its read connections; this
//! module opens them and knows no tables.
//!
//! SQLite allows one writer at a time. With exactly one write connection, for which callers queue in order, "database
//! is locked" means that another process holds the write lock: a bounded wait, then `busy`. Readers see the last commit
//! (WAL) and never block.

mod contention;
pub mod schema;
pub mod snapshot;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    Connection, Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use self::contention::Contention;
use crate::{
    data_dir,
    error::{Code, Error, Result},
    telemetry::{PoolUse, metrics, watch_pool},
};

/// Number of read-only connections.
const READERS: u32 = 4;

/// How long the start waits for a lock held by another process.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one attempt of the write connection waits for a lock held by another process. The connection is free for
/// the next caller in between, so that all of them give up soon after [`LOCK_WAIT`].
const ATTEMPT: Duration = Duration::from_millis(25);

/// How long another process may hold the write lock before writes are answered `busy`. Transactions of this program,
/// such as those of `chat queue dead replay`, take milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// How long a read waits for an exclusive lock; a process that opens the file after a crash holds one for a moment.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a caller waits for a connection.
const WRITER_TIMEOUT: Duration = Duration::from_secs(30);

/// Every migration of the schema.
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// For every connection: a schema that was changed by others may not call functions that have side effects
/// (sqlite.org/pragma.html#pragma_trusted_schema).
const TRUSTED_SCHEMA: (&str, &str) = ("trusted_schema", "OFF");

/// An open database. Clones share the same connections.
#[derive(Debug, Clone)]
pub struct Database {
    writer: Arc<SqlitePool>,
    readers: Arc<SqlitePool>,
    contention: Arc<Contention>,
}

impl Database {
    /// Opens `file` and applies pending `migrations/sqlite`. Creates the file if missing (its directory must exist) and
    /// restricts it to its owner. Returns `conflict` for a file of a newer version.
    pub async fn open(file: &Path) -> Result<Self> {
        data_dir::database_file(file).map_err(|error| {
            Error::new(
                Code::Conflict,
                format!("cannot use {}: {error}", file.display()),
            )
        })?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit must be on disk when it returns: a client gets "accepted" on the strength of it.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(OPEN_TIMEOUT)
            // No foreign keys are declared; migrations/postgres/0001_store.sql gives the reason.
            .foreign_keys(false)
            .pragma(TRUSTED_SCHEMA.0, TRUSTED_SCHEMA.1)
            // At most 16 MiB of page cache per connection; negative values are KiB (sqlite.org/pragma.html).
            .pragma("cache_size", "-16384")
            .pragma("temp_store", "memory")
            // A checkpoint copies each changed page once, however often it changed: run one per 32 MiB of log instead
            // of 4.
            .pragma("wal_autocheckpoint", "8192")
            .pragma("journal_size_limit", "67108864")
            // Rows are passed from SQLite's thread to the caller's; a full buffer costs a thread switch.
            .row_buffer_size(4096);
        let mut migrator = SqliteConnection::connect_with(&options)
            .await
            .map_err(failure)?;
        MIGRATIONS
            .run(&mut migrator)
            .await
            .map_err(|error| match error {
                MigrateError::VersionMissing(_) => Error::new(
                    Code::Conflict,
                    format!("{} was written by a newer version of chat", file.display()),
                ),
                error => failure(error.into()),
            })?;
        let options = options.busy_timeout(ATTEMPT);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(WRITER_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            // SQLite ends a transaction by itself when the disk is full or fails (sqlite.org/lang_transaction.html), and
            // sqlx counts it as open: such a connection would refuse every further transaction.
            .after_release(|connection, _| {
                Box::pin(async move {
                    if connection.is_in_transaction() {
                        // Waits for a rollback in progress.
                        connection.ping().await?;
                    }
                    Ok(!connection.is_in_transaction())
                })
            })
            // Message ids are spread over their whole index: cached pages save the writer from reading them again.
            .connect_with(options.clone().pragma("cache_size", "-65536"))
            .await
            .map_err(failure)?;
        // Not before: closing the last connection would checkpoint and delete the write-ahead log.
        migrator.close().await.map_err(failure)?;
        let options = options.busy_timeout(READ_TIMEOUT);
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(WRITER_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options.read_only(true).create_if_missing(false));
        let (writer, readers) = (Arc::new(writer), Arc::new(readers));
        for (name, pool) in [("sqlite", &writer), ("sqlite_read", &readers)] {
            let pool = Arc::downgrade(pool);
            watch_pool(name, move || {
                let pool = pool.upgrade()?;
                let (size, idle) = (u64::from(pool.size()), pool.num_idle() as u64);
                (!pool.is_closed()).then_some(PoolUse {
                    in_use: size.saturating_sub(idle),
                    idle,
                    max: pool.options().get_max_connections().into(),
                })
            });
        }
        Ok(Database {
            writer,
            readers,
            contention: Arc::new(Contention::new(file)),
        })
    }

    /// Connections for queries; a statement that writes fails on them.
    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Waits for the write connection and opens a transaction, which rolls back if dropped without `commit`.
    ///
    /// # Errors
    /// `busy` if another process has held the write lock for a second, however many callers wait.
    pub async fn write(&self) -> Result<Transaction<'static, Sqlite>> {
        let started = Instant::now();
        loop {
            // IMMEDIATE takes the file's write lock at once. A deferred transaction that reads first could find at its
            // first write that another process has committed since, and would have to start again.
            match self.writer.begin_with("BEGIN IMMEDIATE").await {
                Ok(transaction) => {
                    self.contention.ended();
                    let waited = metrics().pool_wait_seconds.with_label_values(&["sqlite"]);
                    waited.observe(started.elapsed().as_secs_f64());
                    return Ok(transaction);
                }
                Err(error) if is_locked(&error) && self.contention.locked_for() < LOCK_WAIT => {}
                Err(error) => {
                    if matches!(error, sqlx::Error::PoolTimedOut) {
                        metrics().pool_timeouts.with_label_values(&["sqlite"]).inc();
                    }
                    if is_locked(&error) {
                        self.contention.report();
                    }
                    return Err(failure(error));
                }
            }
        }
    }

    /// Closes all connections; closing the last one checkpoints the write-ahead log.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Checks the structure of a database file (sqlite.org/pragma.html#pragma_quick_check) without changing it. A server
/// may have it open. Returns the version of SQLite.
///
/// # Errors
/// `conflict` with the first fault; `busy` or `internal` if the file cannot be read.
pub async fn quick_check(file: &Path) -> Result<String> {
    let opened = snapshot::open_for_reading(file).await;
    let mut connection = opened.map_err(failure)?;
    let found: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(&mut connection)
        .await
        .map_err(failure)?;
    let version = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut connection)
        .await
        .map_err(failure)?;
    connection.close().await.map_err(failure)?;
    match found.as_str() {
        "ok" => Ok(version),
        fault => Err(Error::conflict(format!("{}: {fault}", file.display()))),
    }
}

/// Whether another process holds a lock: SQLITE_BUSY (sqlite.org/rescode.html).
fn is_locked(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(5)
}

/// The primary result code of a failed SQLite call is the low byte (sqlite.org/rescode.html).
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<u32>().ok().map(|code| code & 0xff)
}

/// Maps a failed SQLite call: `busy` for a full or failing disk, a lock held by another process or a pool timeout, all
/// of which a retry may pass; `internal` otherwise.
pub fn failure(error: sqlx::Error) -> Error {
    let passes = match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // BUSY 5, LOCKED 6, NOMEM 7, READONLY 8, INTERRUPT 9, IOERR 10, FULL 13, CANTOPEN 14, PROTOCOL 15.
        error => matches!(
            primary_code(error),
            Some(5 | 6 | 7 | 8 | 9 | 10 | 13 | 14 | 15)
        ),
    };
    if passes {
        Error::unavailable("database", error)
    } else {
        Error::internal(error)
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Executor;

    use super::*;

    #[tokio::test]
    async fn no_connection_trusts_the_schema() {
        let directory = std::env::temp_dir().join(format!("chat_trust_{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).unwrap();
        let file = directory.join("chat.db");
        let database = Database::open(&file).await.unwrap();
        let trusts = "PRAGMA trusted_schema";
        let mut transaction = database.write().await.unwrap();
        let mut found: Vec<i64> = vec![
            sqlx::query_scalar(trusts)
                .fetch_one(&mut *transaction)
                .await
                .unwrap(),
        ];
        drop(transaction);
        let reader = sqlx::query_scalar(trusts).fetch_one(database.readers());
        found.push(reader.await.unwrap());
        database.close().await;
        for alone in [false, true] {
            let opened = if alone {
                snapshot::open_alone(&file).await
            } else {
                snapshot::open_for_reading(&file).await
            };
            let mut opened = opened.unwrap();
            let trusts = sqlx::query_scalar(trusts).fetch_one(&mut opened);
            found.push(trusts.await.unwrap());
            snapshot::close(opened).await;
        }
        assert_eq!(found, [0; 4]);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// SQLite has rolled the transaction back when the file cannot grow, and the next one works.
    #[tokio::test]
    async fn writes_work_again_after_a_full_disk() {
        let directory = std::env::temp_dir().join(format!("chat_full_{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).unwrap();
        let database = Database::open(&directory.join("chat.db")).await.unwrap();
        let mut transaction = database.write().await.unwrap();
        transaction
            .execute("CREATE TABLE t (x BLOB)")
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        for _ in 0..3 {
            let mut transaction = database.write().await.unwrap();
            // As small as the file is now.
            transaction
                .execute("PRAGMA max_page_count = 1")
                .await
                .unwrap();
            let full = transaction
                .execute("INSERT INTO t VALUES (zeroblob(10000000))")
                .await
                .unwrap_err();
            let full = failure(full);
            assert!(full.is_retryable(), "{}", full.chain());
            drop(transaction);
            let mut transaction = database.write().await.unwrap();
            transaction
                .execute("PRAGMA max_page_count = 1000000")
                .await
                .unwrap();
            transaction
                .execute("INSERT INTO t VALUES (1)")
                .await
                .unwrap();
            transaction.commit().await.unwrap();
        }
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM t")
            .fetch_one(database.readers())
            .await
            .unwrap();
        assert_eq!(count, 3);
        database.close().await;
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
