//! A store's connections.

use std::{future::Future, time::Duration};

use tokio::time::timeout;

use super::{Dialect, Record, Row, Statement};
use crate::error::{Error, Result};

/// The purpose of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Statements that only read. Each sees what was committed before it.
    Read,
    /// Statements that write, each of which may be a transaction of its own. Needs [`Session::commit`] like a
    /// transaction.
    Statement,
    /// A transaction.
    Transaction,
    /// A transaction that is not on the path of a message, so that messages go first: where there is one writer, at
    /// most one transaction of this kind waits for it.
    Background,
}

/// A database that the store can run on. Everything that implements it is a store: the ports are implemented for it
/// in the folders of their subjects.
pub trait Database: Send + Sync + 'static {
    type Dialect: Dialect;
    type Session: Session<Dialect = Self::Dialect>;

    fn open(&self, access: Access) -> impl Future<Output = Result<Self::Session>> + Send;

    /// A session on a copy of the database that may lack what was committed within the last second, for reads that can
    /// do without it. `None` if there is no such copy, or none that is current enough. Reads that fail there are
    /// repeated with [`Database::open`].
    fn replica(&self) -> impl Future<Output = Option<Self::Session>> + Send {
        async { None }
    }
}

/// How long a read on a replica may take before the primary is read instead.
const REPLICA_WITHIN: Duration = Duration::from_secs(1);

/// Runs `read` on a replica. `None` if there is none, or if the read fails or takes too long.
pub async fn on_replica<D: Database, T>(
    database: &D,
    read: impl AsyncFnOnce(D::Session) -> Result<Option<T>>,
) -> Option<T> {
    let read = async { read(database.replica().await?).await.ok()? };
    timeout(REPLICA_WITHIN, read).await.ok()?
}

/// One connection on loan. Dropped without `commit`, a transaction changes nothing.
pub trait Session: Send + Sized {
    type Dialect: Dialect;

    /// Runs a statement and returns how many rows it wrote. The inner error is the database's, for callers that expect
    /// one.
    fn attempt(
        &mut self,
        statement: Statement<Self::Dialect>,
    ) -> impl Future<Output = Result<sqlx::Result<u64>>> + Send;

    fn rows(
        &mut self,
        statement: Statement<Self::Dialect>,
    ) -> impl Future<Output = Result<Vec<<Self::Dialect as sqlx::Database>::Row>>> + Send;

    /// The first row.
    fn row(
        &mut self,
        statement: Statement<Self::Dialect>,
    ) -> impl Future<Output = Result<Option<<Self::Dialect as sqlx::Database>::Row>>> + Send;

    /// On an error the transaction may be committed or not.
    fn commit(self) -> impl Future<Output = Result<()>> + Send;

    /// Runs a statement and returns how many rows it wrote.
    fn execute(
        &mut self,
        statement: Statement<Self::Dialect>,
    ) -> impl Future<Output = Result<u64>> + Send {
        async {
            self.attempt(statement)
                .await?
                .map_err(Self::Dialect::failure)
        }
    }

    /// All rows.
    fn all<T: Record>(
        &mut self,
        statement: Statement<Self::Dialect>,
    ) -> impl Future<Output = Result<Vec<T>>> + Send {
        async {
            let rows = self.rows(statement).await?;
            let records = rows.iter().map(|row| T::read::<Self::Dialect>(&Row(row)));
            records
                .collect::<sqlx::Result<_>>()
                .map_err(Self::Dialect::failure)
        }
    }

    /// The first row.
    fn optional<T: Record>(
        &mut self,
        statement: Statement<Self::Dialect>,
    ) -> impl Future<Output = Result<Option<T>>> + Send {
        async {
            let row = self.row(statement).await?;
            row.map(|row| T::read::<Self::Dialect>(&Row(&row)))
                .transpose()
                .map_err(Self::Dialect::failure)
        }
    }

    /// The first row of a statement that always has one.
    fn one<T: Record>(
        &mut self,
        statement: Statement<Self::Dialect>,
    ) -> impl Future<Output = Result<T>> + Send {
        async {
            let row = self.optional(statement).await?;
            row.ok_or_else(|| Error::internal(sqlx::Error::RowNotFound))
        }
    }
}
