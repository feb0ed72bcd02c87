//! The one SQLite file of a standalone node. Store and queue share its single writer and its readers; this module
//! opens them, and knows no table.
//!
//! SQLite lets one connection write at a time. There is exactly one writer, for which callers queue in order, so they
//! wait instead of failing with "database is locked". Readers see the last commit (WAL) and never wait for the writer.

use std::{path::Path, time::Duration};

use sqlx::{
    Sqlite, SqlitePool, Transaction,
    migrate::MigrateError,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    data_dir,
    error::{Code, Error, Result},
};

/// Connections that only read.
const READERS: u32 = 4;

/// How long to wait for another process that holds the file, such as a backup or `chat user`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a caller waits for the writer.
const WRITER_TIMEOUT: Duration = Duration::from_secs(30);

/// An open database. Clones share the same connections.
#[derive(Debug, Clone)]
pub struct Database {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Database {
    /// Opens `file`, creating it where it is missing (its directory must exist), and applies what is new in
    /// `migrations/sqlite`. Only its owner may read it from then on. A file of a newer version is refused.
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
            // A commit is on disk when it returns: the client is then told that its message was accepted.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            // None are declared; see migrations/postgres/0001_store.sql for the reason.
            .foreign_keys(false)
            // At most 16 MiB of pages a connection; negative numbers are KiB (sqlite.org/pragma.html).
            .pragma("cache_size", "-16384")
            .pragma("temp_store", "memory")
            // A checkpoint copies each changed page once, however often it changed: every 32 MiB, not every 4.
            .pragma("wal_autocheckpoint", "8192")
            .pragma("journal_size_limit", "67108864")
            // Rows cross from SQLite's thread to ours; a full buffer costs a switch between them.
            .row_buffer_size(4096);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(WRITER_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            // Message ids are spread over their whole index, so a larger cache saves reads of its pages.
            .connect_with(options.clone().pragma("cache_size", "-65536"))
            .await
            .map_err(failure)?;
        sqlx::migrate!("migrations/sqlite")
            .run(&writer)
            .await
            .map_err(|error| match error {
                MigrateError::VersionMissing(_) => Error::new(
                    Code::Conflict,
                    format!("{} was written by a newer version of chat", file.display()),
                ),
                error => failure(error.into()),
            })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(WRITER_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options.read_only(true).create_if_missing(false));
        Ok(Database { writer, readers })
    }

    /// For queries. A statement that writes fails here.
    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Waits for the writer and opens a transaction. Dropped without `commit`, it changes nothing.
    pub async fn write(&self) -> Result<Transaction<'static, Sqlite>> {
        // IMMEDIATE takes the file's write lock now. A transaction that reads first and writes later fails where
        // another process has written in between, and would have to be retried.
        self.writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(failure)
    }

    /// Closes every connection; the last one folds the write-ahead log into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// What a failed SQLite call means to the caller: a full or failing disk, a lock held elsewhere and a timeout are
/// temporary (`unavailable`); anything else is a bug (`internal`).
pub fn failure(error: sqlx::Error) -> Error {
    let temporary = match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) => {
            // The low byte is the primary result code (sqlite.org/rescode.html): BUSY 5, LOCKED 6, NOMEM 7,
            // READONLY 8, INTERRUPT 9, IOERR 10, FULL 13, CANTOPEN 14, PROTOCOL 15.
            let code = database.code().and_then(|code| code.parse::<u32>().ok());
            matches!(
                code.map(|code| code & 0xff),
                Some(5 | 6 | 7 | 8 | 9 | 10 | 13 | 14 | 15)
            )
        }
        _ => false,
    };
    if temporary {
        Error::unavailable("database", error)
    } else {
        Error::internal(error)
    }
}
