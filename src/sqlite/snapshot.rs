//! A consistent copy of a database file that may be in use, and reads of a file that this process does not own.

use std::path::Path;

use sqlx::{
    ConnectOptions, Connection, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{READ_TIMEOUT, TRUSTED_SCHEMA, primary_code};

/// Opens a file for reading. A server may have it open; nothing is changed.
pub async fn open_for_reading(file: &Path) -> sqlx::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .pragma(TRUSTED_SCHEMA.0, TRUSTED_SCHEMA.1)
        .busy_timeout(READ_TIMEOUT);
    options.connect().await
}

/// Opens an existing file that no other process uses, without write-ahead log: when the connection is closed, the file
/// is complete by itself. The journal is in memory, so that no second file is written beside it: after a crash the file
/// is useless.
pub async fn open_alone(file: &Path) -> sqlx::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Memory)
        .synchronous(SqliteSynchronous::Full)
        .pragma(TRUSTED_SCHEMA.0, TRUSTED_SCHEMA.1)
        .busy_timeout(READ_TIMEOUT);
    options.connect().await
}

/// The bytes that a copy of the database will take, at most.
pub async fn size(connection: &mut SqliteConnection) -> sqlx::Result<u64> {
    let row = sqlx::query(
        "SELECT (p.page_count - f.freelist_count) * s.page_size AS size \
         FROM pragma_page_count() AS p, pragma_freelist_count() AS f, pragma_page_size() AS s",
    )
    .fetch_one(connection)
    .await?;
    Ok(u64::try_from(row.try_get::<i64, _>("size")?).unwrap_or_default())
}

/// Copies the database as of now into `to`, which must be missing or empty (sqlite.org/lang_vacuum.html). Writers are
/// not blocked; the write-ahead log grows meanwhile. The copy is not synchronised to disk.
pub async fn copy_into(connection: &mut SqliteConnection, to: &str) -> sqlx::Result<()> {
    let copy = sqlx::query("VACUUM INTO ?").bind(to);
    copy.execute(connection).await.map(drop)
}

/// The first fault in the file's structure and indexes (sqlite.org/pragma.html#pragma_integrity_check).
pub async fn fault(connection: &mut SqliteConnection) -> sqlx::Result<Option<String>> {
    let found: String = sqlx::query_scalar("PRAGMA integrity_check(1)")
        .fetch_one(connection)
        .await?;
    Ok((found != "ok").then_some(found))
}

/// Whether the database has a table of this name.
pub async fn has_table(connection: &mut SqliteConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?)",
    )
    .bind(name)
    .fetch_one(connection)
    .await
}

/// Whether the file is no SQLite database, not even a damaged one: SQLITE_NOTADB (sqlite.org/rescode.html).
pub fn is_no_database(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(26)
}

/// Closes a connection. A failure to do so is of no consequence after a read.
pub async fn close(connection: SqliteConnection) {
    let _ = connection.close().await;
}
