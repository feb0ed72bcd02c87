//! Checks for the start and for `chat doctor`: whether the server answers, and whether a pooler is in front of it.

use std::io;

use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use super::{
    Store, hosts, pool,
    pooler::{PreparedStatements, State},
};
use crate::error::{Code, Error, Result};

impl Store {
    /// Whether a new connection reaches a server that accepts writes. The pool repeats attempts until its deadline, and
    /// then does not say why they failed.
    pub(super) async fn reach(&self) -> Result<()> {
        let attempt = async {
            self.hosts.find_writable().await;
            let mut connection = self.hosts.connect().await?;
            let state = State::read(&mut connection).await?;
            // The answer is complete: a failed close changes nothing.
            let _ = connection.close().await;
            if state.is_read_only {
                return Err(io::Error::other(hosts::READ_ONLY).into());
            }
            Ok(())
        };
        let within = self.pool.options().get_acquire_timeout();
        match timeout(within, attempt).await {
            Ok(reached) => reached.map_err(pool::failure),
            Err(_) => Err(Error::unavailable(
                "database",
                format!("no answer within {within:?}"),
            )),
        }
    }

    /// Whether a connection pooler is between this process and the server, and how statements are sent then; `None`
    /// without one. For `chat doctor`.
    ///
    /// # Errors
    /// No connection, or `database.prepared_statements = "on"` although the pooler does not support them.
    pub async fn check_pooler(&self) -> Result<Option<String>> {
        let mut one = self.hosts.connect().await.map_err(pool::failure)?;
        let mode = &self.hosts.mode;
        if !mode.is_pooled() || mode.setting() == PreparedStatements::Off {
            return Ok(None);
        }
        if !mode.names_statements() {
            let text = "in front of PostgreSQL; statements are sent without prepared statements";
            return Ok(Some(text.to_owned()));
        }
        let mut two = self.hosts.connect().await.map_err(pool::failure)?;
        match meet(&mut one, &mut two).await {
            Ok(()) => Ok(Some(
                "in front of PostgreSQL; it supports prepared statements".to_owned(),
            )),
            Err(error) => Err(Error::new(
                Code::Internal,
                format!(
                    "the pooler in front of PostgreSQL does not support prepared statements ({error}): \
                     set database.prepared_statements to \"auto\", or use PgBouncer 1.21 or newer with \
                     max_prepared_statements"
                ),
            )),
        }
    }
}

/// Prepares statements under the same names on two connections. They end up on the same server connection, since a
/// pooler hands out the one that was returned last.
async fn meet(one: &mut PgConnection, two: &mut PgConnection) -> sqlx::Result<()> {
    for _ in 0..3 {
        for (connection, sql) in [
            (&mut *one, "SELECT $1::int8"),
            (&mut *two, "SELECT $1::int8 + 1"),
        ] {
            let mut transaction = connection.begin().await?;
            let query = sqlx::query_scalar::<_, i64>(sql).bind(1_i64);
            query.fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
        }
    }
    Ok(())
}
