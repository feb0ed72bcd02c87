//! The store of a cluster: connections to PostgreSQL, and its words for the statements of the subjects.

mod address;
mod check;
mod dialect;
mod hosts;
mod pool;
mod pooler;
mod replica;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool, Postgres, Row,
    migrate::{Migration, Migrator},
    postgres::PgConnectOptions,
};

pub use self::pooler::PreparedStatements;
use self::{
    hosts::Hosts,
    pool::{Lease, answer},
    pooler::Mode,
    replica::Replicas,
};
use crate::{
    error::{Code, Error, Result},
    store::sql::{Access, Database},
};

/// PostgreSQL 14 or later. Clones share the same connections.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    hosts: Arc<Hosts>,
    replicas: Arc<Replicas>,
}

/// Without the password.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("host", &self.hosts.current().get_host())
            .field("database", &self.hosts.current().get_database())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Prepares at most `max_connections` to the servers in `urls`, at least one: a primary and its standbys.
    /// Connections go to the one that accepts writes. None is opened before it is needed, so this fails only if an
    /// address cannot be parsed. `acquire_timeout` is how long a call waits for a free or new connection before it
    /// fails as unavailable. Needs a Tokio runtime.
    pub fn connect(
        urls: &[impl AsRef<str>],
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> Result<Self> {
        let prepared = PreparedStatements::Auto;
        Store::connect_with(urls, max_connections, acquire_timeout, prepared)
    }

    /// As [`Store::connect`], with the setting `database.prepared_statements`.
    pub fn connect_with(
        urls: &[impl AsRef<str>],
        max_connections: u32,
        acquire_timeout: Duration,
        prepared: PreparedStatements,
    ) -> Result<Self> {
        let options: Result<Vec<_>> = urls.iter().map(|url| options(url.as_ref())).collect();
        let hosts = Hosts::new(options?, Mode::new(prepared));
        Ok(Store {
            pool: pool::open(&hosts, max_connections, acquire_timeout),
            hosts,
            replicas: Replicas::new(Vec::new(), 0, prepared),
        })
    }

    /// A connection of its own to the server that accepts writes, without the deadlines of those of the pool.
    pub async fn connect_without_limits(&self) -> Result<PgConnection> {
        self.hosts.find_writable().await;
        self.hosts.connect().await.map_err(pool::failure)
    }

    /// Applies pending `migrations/postgres`. Several nodes may call this at once: one applies them, the others wait.
    /// A schema newer than this binary is left alone. Returns the migrations that were missing, such as `0003 notify`.
    pub async fn migrate(&self) -> Result<Vec<String>> {
        let mut migrator = sqlx::migrate!("migrations/postgres");
        // Migrations only go forward, and each serves the version before it as well.
        migrator.set_ignore_missing(true);
        // An index may take an hour.
        let mut connection = self.connect_without_limits().await?;
        let before = applied(&mut connection).await.map_err(pool::failure)?;
        let result = if self.hosts.mode.is_pooled() {
            migrate_in_transaction(&mut connection, &mut migrator).await
        } else {
            let result = migrator.run(&mut connection).await;
            result.map_err(sqlx::Error::from)
        };
        result.map_err(pool::failure)?;
        connection.close().await.map_err(pool::failure)?;
        let missing = migrator.iter().filter(|m| !before.contains(&m.version));
        let name = |m: &Migration| format!("{:04} {}", m.version, m.description);
        Ok(missing.map(name).collect())
    }

    /// `Ok` when every migration of this binary was applied. Until then it fails with a retryable error that says what
    /// to do: another process may be migrating just now.
    pub async fn check_schema(&self) -> Result<()> {
        let needed = sqlx::migrate!("migrations/postgres")
            .iter()
            .map(|migration| migration.version)
            .max();
        self.reach().await?;
        let mut lease = Lease::take(&self.pool, &self.hosts).await?;
        let found = answer(async {
            let versions = applied(&mut lease).await?;
            Ok(versions.into_iter().max().unwrap_or(0))
        })
        .await?;
        if Some(found) >= needed {
            return Ok(());
        }
        Err(Error::busy(
            format!(
                "its schema is older than this version of chat ({}); run `chat migrate`",
                match found {
                    0 => "it is empty".to_owned(),
                    found => format!("at {found}"),
                }
            ),
            Duration::from_secs(1),
        ))
    }

    /// Closes every connection; connections in use are closed when they are returned.
    pub async fn close(&self) {
        self.pool.close().await;
        self.replicas.close().await;
    }
}

/// The address of one server.
pub fn options(url: &str) -> Result<PgConnectOptions> {
    let refused = |why: &str| {
        Error::new(
            Code::Invalid,
            format!("expected postgres://user:password@host:5432/database: {why}"),
        )
    };
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(refused("this address begins otherwise"));
    }
    let (url, unknown) = address::known(url);
    if !unknown.is_empty() {
        tracing::warn!(
            parameters = unknown.join(", "),
            "database.url has parameters that are not known here; they are ignored"
        );
    }
    Ok(PgConnectOptions::from_str(&url)
        .map_err(|e| refused(&e.to_string()))?
        .application_name("chat")
        // No column is a float, and PgBouncer refuses this parameter unless it is told not to.
        .extra_float_digits(None))
}

/// Behind a pooler only a transaction is sure to stay on one server connection: all migrations are in one, and it holds
/// the lock that excludes other processes.
async fn migrate_in_transaction(
    connection: &mut PgConnection,
    migrator: &mut Migrator,
) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    transaction.execute(pooler::BEGIN_MIGRATION).await?;
    let database = transaction.fetch_one("SELECT current_database()::text");
    let lock = pooler::migration_lock(&database.await?.try_get::<String, _>(0)?);
    let lock = AssertSqlSafe(format!("SELECT pg_advisory_xact_lock({lock})"));
    transaction.execute(lock).await?;
    migrator.set_locking(false);
    migrator.run(&mut *transaction).await?;
    // Its statements have names, and the server connection will be another client's.
    transaction.execute("DEALLOCATE ALL").await?;
    transaction.commit().await
}

/// The versions of the migrations that were applied. By the simple protocol, which needs no session.
async fn applied(connection: &mut PgConnection) -> sqlx::Result<Vec<i64>> {
    const SQL: &str = "SELECT version FROM _sqlx_migrations WHERE success";
    match connection.fetch_all(SQL).await {
        // undefined_table: no migration was ever applied.
        Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("42P01") => Ok(Vec::new()),
        rows => rows?.iter().map(|row| row.try_get(0)).collect(),
    }
}

impl Database for Store {
    type Dialect = Postgres;
    type Session = Lease;

    /// A single statement needs no transaction of its own: the server commits it before it answers.
    async fn open(&self, access: Access) -> Result<Lease> {
        match access {
            Access::Read | Access::Statement => Lease::session(&self.pool, &self.hosts).await,
            Access::Transaction | Access::Background => Lease::begin(&self.pool, &self.hosts).await,
        }
    }

    async fn replica(&self) -> Option<Lease> {
        self.replicas.session(self).await
    }
}
