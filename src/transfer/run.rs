//! The steps of a transfer.

use std::path::Path;

use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};

use super::{
    drain::drain,
    tables::{Table, plan},
    tasks,
};
use crate::{
    app,
    config::Config,
    data_dir,
    error::{Error, Result},
    output::Progress,
    sqlite::{Database, failure, schema, snapshot},
};

/// The one table that has a row after `chat migrate`; the row of the source replaces it, so that clients resume.
const EPOCH: &str = "store_epoch";

/// A transfer that was committed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    /// The migrations that the target lacked.
    pub migrations: Vec<String>,
    /// The rows of each table.
    pub tables: Vec<Rows>,
    /// Commands that were stored before the copy.
    pub commands: u64,
    /// Tasks that were published to RabbitMQ.
    pub tasks: u64,
    pub secret: SecretState,
}

#[derive(Debug, Serialize)]
pub struct Rows {
    pub table: String,
    pub rows: u64,
}

/// Whether the cluster accepts the tokens of the standalone node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SecretState {
    /// The directory has no secret: the server had `auth.secret`.
    NotInDirectory,
    /// `auth.secret` is not set here.
    ToBeSet,
    Same,
    Different,
}

/// Copies everything in the data directory into the database of `database.url`.
///
/// # Errors
/// `not_found` without a database in `data`; `conflict` if a server runs on it, if it has dead letters, or if the target
/// has rows; `busy` if a server does not answer.
pub async fn from_standalone(config: &Config, data: &Path) -> Result<Transfer> {
    let advice = "--from-standalone names the data directory of a standalone server";
    let file = data_dir::existing_database(data, advice)?;
    let _lock = data_dir::lock(data)?;
    let secret = secret_state(config, data)?;
    refuse_foreign_schema(&file).await?;
    let store = app::postgres(config)?;
    let migrations = store.migrate().await.map_err(|error| Error {
        message: format!("PostgreSQL at {}: {}", config.database.url, error.message),
        ..error
    })?;
    let mut target = store.connect_without_limits().await?;

    let mut progress = Progress::new();
    let database = Database::open(&file).await?;
    let empty = refuse_rows(&database, &mut target).await;
    let drained = match empty {
        Ok(()) => drain(config, &database, &mut progress).await,
        Err(error) => Err(error),
    };
    database.close().await;
    let commands = drained?;

    let opened = snapshot::open_for_reading(&file).await;
    let mut source = opened.map_err(Error::internal)?;
    refuse_dead_letters(&mut source, data).await?;
    let tables = plan(&mut source, &mut target).await?;
    // Rolls back when the connection is dropped.
    execute(&mut target, "BEGIN").await?;
    let mut rows = Vec::new();
    for table in &tables {
        let copied = copy(table, &mut source, &mut target, &mut progress).await?;
        rows.push(Rows {
            table: table.name.clone(),
            rows: copied,
        });
    }
    progress.step("committing");
    let published = tasks::publish(config, &mut source).await?;
    execute(&mut target, "COMMIT").await?;
    analyze(&tables, &mut target).await;
    snapshot::close(source).await;
    // The transfer is complete.
    let _ = target.close().await;
    store.close().await;
    Ok(Transfer {
        migrations,
        tables: rows,
        commands,
        tasks: published,
        secret,
    })
}

/// Before the file is opened as a database: its triggers would run, and its further tables are not copied.
async fn refuse_foreign_schema(file: &Path) -> Result<()> {
    let opened = snapshot::open_for_reading(file).await;
    let mut source = opened.map_err(failure)?;
    let foreign = schema::difference(&mut source, &[]).await;
    snapshot::close(source).await;
    match foreign.map_err(failure)? {
        None => Ok(()),
        Some(foreign) => Err(Error::conflict(format!(
            "{} is no database that chat made: {foreign}",
            file.display()
        ))),
    }
}

/// Without it, the planner knows nothing about the tables until autovacuum has been there. The transfer is complete, so
/// a failure is only reported.
async fn analyze(tables: &[Table], target: &mut PgConnection) {
    let names: Vec<String> = tables
        .iter()
        .map(|table| format!("\"{}\"", table.name))
        .collect();
    if let Err(error) = execute(target, &format!("ANALYZE {}", names.join(", "))).await {
        tracing::warn!(error = %error.chain(), "the data is moved, but not analysed; run ANALYZE");
    }
}

fn secret_state(config: &Config, data: &Path) -> Result<SecretState> {
    let here = &config.auth.secret;
    Ok(match data_dir::existing_secret(data)? {
        None => SecretState::NotInDirectory,
        Some(_) if here.is_empty() => SecretState::ToBeSet,
        Some(secret) if here.iter().any(|known| *known == secret) => SecretState::Same,
        Some(_) => SecretState::Different,
    })
}

async fn execute(target: &mut PgConnection, sql: &str) -> Result<()> {
    let done = target.execute(AssertSqlSafe(sql.to_owned())).await;
    done.map_err(|error| Error::conflict(format!("PostgreSQL: {error}")))?;
    Ok(())
}

/// Checked before anything is changed in the source.
async fn refuse_rows(database: &Database, target: &mut PgConnection) -> Result<()> {
    let mut source = database
        .readers()
        .acquire()
        .await
        .map_err(Error::internal)?;
    for table in plan(&mut source, target).await? {
        refuse_rows_of(&table, target).await?;
    }
    Ok(())
}

async fn refuse_rows_of(table: &Table, target: &mut PgConnection) -> Result<()> {
    let rows = table.target_count(target).await.map_err(Error::internal)?;
    if table.name == EPOCH || rows == 0 {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "the database has {rows} rows in {} already; set database.url to an empty database, of which no server has \
         been started",
        table.name
    )))
}

async fn refuse_dead_letters(source: &mut SqliteConnection, data: &Path) -> Result<()> {
    let letters: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters")
        .fetch_one(source)
        .await
        .map_err(Error::internal)?;
    if letters == 0 {
        return Ok(());
    }
    let shown = data.display();
    Err(Error::conflict(format!(
        "{letters} dead letters are in {shown}: `chat queue --data {shown} dead list` shows them, `dead replay` or \
         `dead purge` with --all removes them"
    )))
}

/// Copies a table and compares the numbers of rows.
async fn copy(
    table: &Table,
    source: &mut SqliteConnection,
    target: &mut PgConnection,
    progress: &mut Progress,
) -> Result<u64> {
    let name = &table.name;
    // Readers continue; a worker that was started in the meantime waits.
    execute(target, &format!("LOCK TABLE \"{name}\" IN EXCLUSIVE MODE")).await?;
    if name == EPOCH {
        execute(target, &format!("DELETE FROM \"{name}\"")).await?;
    }
    refuse_rows_of(table, target).await?;
    let expected = table.source_count(source).await.map_err(Error::internal)?;
    let copied = table.copy(source, target, expected, progress).await?;
    let found = table.target_count(target).await.map_err(Error::internal)?;
    if (copied, found) != (expected, expected) {
        return Err(Error::internal(format!(
            "{name} has {expected} rows in SQLite, {copied} were copied, and PostgreSQL has {found}"
        )));
    }
    Ok(copied)
}
