//! `chat backup`: copies the database of a data directory while a server may be running on it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;
use sqlx::{Row as _, SqliteConnection};

use super::{CREATE_TABLE, TABLE, partial::Partial};
use crate::{
    data_dir,
    error::{Code, Error, Result},
    model::Timestamp,
    output::Progress,
    sqlite::{schema, snapshot},
};

/// Between two looks at the size of the copy.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A backup that was written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    pub file: PathBuf,
    pub bytes: u64,
    pub users: i64,
    pub rooms: i64,
    pub messages: i64,
    /// Accepted commands that are not stored yet; a server that starts on the restored copy stores them.
    pub queued: i64,
    /// Whether it holds the secret that signs the tokens. It does not if the server gets one from `auth.secret`.
    pub with_secret: bool,
    pub seconds: f64,
}

/// Copies the data directory into one file, with everything that was acknowledged before the call. The file appears
/// when it is complete, on disk and checked.
///
/// # Errors
/// `not_found` without a database; `conflict` if the file exists and `force` is not set, if it cannot be written, or if
/// the copy is damaged.
pub async fn make(data: &Path, file: &Path, force: bool) -> Result<Backup> {
    let started = Instant::now();
    let source = data_dir::existing_database(data, data_dir::NAME_IT_WITH_DATA)?;
    if file.is_dir() {
        return Err(Error::new(
            Code::Invalid,
            format!("{} is a directory; name a file in it", file.display()),
        ));
    }
    if file.exists() && !force {
        return Err(Error::conflict(format!(
            "{} exists; choose another name, or replace it with --force",
            file.display()
        )));
    }
    let secret = data_dir::existing_secret(data)?;
    let partial = Partial::create(file)?;
    let failed = |error: sqlx::Error| written(file, error);
    let mut progress = Progress::new();
    let mut source = snapshot::open_for_reading(&source).await.map_err(failed)?;
    let copied = copy(&mut source, &partial, &mut progress).await;
    snapshot::close(source).await;
    copied.map_err(failed)?;

    progress.step("checking the copy");
    partial.check()?;
    let mut copy = snapshot::open_alone(partial.path()).await.map_err(failed)?;
    let foreign = schema::difference(&mut copy, &[]).await;
    if let Some(foreign) = foreign.map_err(failed)? {
        return Err(Error::conflict(format!(
            "no backup was written, since it could not be restored: the database is not as chat made it, {foreign}"
        )));
    }
    let with_secret = secret.is_some();
    let secret = secret.as_ref().map(|secret| secret.expose());
    mark(&mut copy, secret).await.map_err(failed)?;
    if let Some(fault) = snapshot::fault(&mut copy).await.map_err(failed)? {
        return Err(Error::conflict(format!(
            "the copy is damaged ({fault}), so no backup was written. `chat doctor --data {}` checks the original",
            data.display()
        )));
    }
    let counts = count(&mut copy).await.map_err(failed)?;
    snapshot::close(copy).await;
    let bytes = partial.keep(file, force)?;
    Ok(Backup {
        file: file.to_owned(),
        bytes,
        with_secret,
        seconds: started.elapsed().as_secs_f64(),
        ..counts
    })
}

/// The error for a call of SQLite: nearly always the disk of the backup.
fn written(file: &Path, error: sqlx::Error) -> Error {
    Error::conflict(format!(
        "no backup was written to {}: {error}",
        file.display()
    ))
}

async fn copy(
    source: &mut SqliteConnection,
    partial: &Partial,
    progress: &mut Progress,
) -> sqlx::Result<()> {
    let total = snapshot::size(source).await?;
    let copying = snapshot::copy_into(source, partial.text()?);
    tokio::pin!(copying);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            copied = &mut copying => return copied,
            _ = looks.tick() => {
                let done = partial.size() >> 20;
                progress.show("copying the database", done, total >> 20, "MiB");
            }
        }
    }
}

async fn mark(copy: &mut SqliteConnection, secret: Option<&str>) -> sqlx::Result<()> {
    sqlx::query(CREATE_TABLE).execute(&mut *copy).await?;
    let insert = format!("INSERT INTO {TABLE} (at, version, secret) VALUES (?, ?, ?)");
    sqlx::query(sqlx::AssertSqlSafe(insert))
        .bind(Timestamp::now().millis())
        .bind(env!("CARGO_PKG_VERSION"))
        .bind(secret)
        .execute(copy)
        .await
        .map(drop)
}

async fn count(copy: &mut SqliteConnection) -> sqlx::Result<Backup> {
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM rooms) AS rooms, \
         (SELECT count(*) FROM messages) AS messages, \
         (SELECT coalesce(sum(messages), 0) FROM queue) AS queued",
    )
    .fetch_one(copy)
    .await?;
    Ok(Backup {
        file: PathBuf::new(),
        bytes: 0,
        users: row.try_get("users")?,
        rooms: row.try_get("rooms")?,
        messages: row.try_get("messages")?,
        queued: row.try_get("queued")?,
        with_secret: false,
        seconds: 0.0,
    })
}
