//! `chat migrate --restored`: the database was restored from a backup.

use sqlx::{Connection, Executor};

use crate::{
    app,
    config::Config,
    error::{Error, Result},
};

/// Replaces the epoch of the store: the numbers of rooms continue at lower ones than clients have seen.
///
/// # Errors
/// `busy` if PostgreSQL does not answer; `internal` without a schema.
pub async fn begin_epoch(config: &Config) -> Result<()> {
    let store = app::postgres(config)?;
    let mut connection = store.connect_without_limits().await?;
    let replaced = connection
        .execute("UPDATE store_epoch SET epoch = gen_random_uuid(), since = now()")
        .await;
    replaced.map_err(Error::internal)?;
    // The statement is committed.
    let _ = connection.close().await;
    store.close().await;
    Ok(())
}
