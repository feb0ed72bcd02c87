//! The store of a standalone node. It shares the file's single writer with the queue, so a transaction has every lock
//! there is. Reads use the readers: none waits for the writer.

mod dialect;

use std::sync::Arc;

use sqlx::{Sqlite, SqliteConnection, Transaction, pool::PoolConnection};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{
    error::Result,
    sqlite::{self, failure},
    store::sql::{Access, Database, Session, Statement},
};

/// Clones share the same connections.
#[derive(Debug, Clone)]
pub struct Store {
    database: sqlite::Database,
    /// Held by the one [`Access::Background`] transaction that may wait for the writer: a message waits for one of
    /// them, not for all.
    background: Arc<Mutex<()>>,
}

impl Store {
    pub fn new(database: sqlite::Database) -> Self {
        Store {
            database,
            background: Arc::default(),
        }
    }
}

impl Database for Store {
    type Dialect = Sqlite;
    type Session = Lease;

    async fn open(&self, access: Access) -> Result<Lease> {
        let turn = match access {
            Access::Read => {
                let reader = self.database.readers().acquire().await.map_err(failure)?;
                return Ok(Lease::Reader(reader));
            }
            Access::Statement | Access::Transaction => None,
            Access::Background => Some(self.background.clone().lock_owned().await),
        };
        Ok(Lease::Writer(self.database.write().await?, turn))
    }
}

/// A reader, or the writer in a transaction.
pub enum Lease {
    Reader(PoolConnection<Sqlite>),
    Writer(Transaction<'static, Sqlite>, Option<OwnedMutexGuard<()>>),
}

impl Lease {
    fn connection(&mut self) -> &mut SqliteConnection {
        match self {
            Lease::Reader(reader) => reader,
            Lease::Writer(transaction, _) => transaction,
        }
    }
}

impl Session for Lease {
    type Dialect = Sqlite;

    async fn attempt(&mut self, statement: Statement<Sqlite>) -> Result<sqlx::Result<u64>> {
        let result = statement.query()?.execute(self.connection()).await;
        Ok(result.map(|result| result.rows_affected()))
    }

    async fn rows(&mut self, statement: Statement<Sqlite>) -> Result<Vec<sqlx::sqlite::SqliteRow>> {
        let rows = statement.query()?.fetch_all(self.connection()).await;
        rows.map_err(failure)
    }

    async fn row(
        &mut self,
        statement: Statement<Sqlite>,
    ) -> Result<Option<sqlx::sqlite::SqliteRow>> {
        let row = statement.query()?.fetch_optional(self.connection()).await;
        row.map_err(failure)
    }

    async fn commit(self) -> Result<()> {
        match self {
            Lease::Reader(_) => Ok(()),
            Lease::Writer(transaction, _turn) => transaction.commit().await.map_err(failure),
        }
    }
}
