//! The servers of one database: a primary and its standbys. Connections go to the one that accepts writes. After a
//! failover another one does, and a connection that was opened before may still be open, to a server that is read-only
//! now and answers every write with 25006.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::pooler::{self, Mode, State};

/// Time limit for connecting to a server and reading its state.
const PROBE_WITHIN: Duration = Duration::from_secs(1);
/// Minimum time between two searches.
pub(super) const SEARCH_EVERY: Duration = Duration::from_millis(500);
/// The same while all connections are in use, which an overload can be the reason for as well.
pub(super) const SEARCH_RARELY: Duration = Duration::from_secs(5);

/// The error of a connection to a server that does not accept writes.
pub(super) const READ_ONLY: &str =
    "the server accepts no writes (a standby, or default_transaction_read_only)";

/// The servers, and which of them is in use.
pub(super) struct Hosts {
    pub mode: Mode,
    all: Vec<PgConnectOptions>,
    current: AtomicUsize,
    /// When the server in use changed. Older connections are closed.
    changed: Mutex<Option<Instant>>,
    searched: Mutex<Option<Instant>>,
    searching: AtomicBool,
    pool: OnceLock<PgPool>,
}

impl Hosts {
    /// At least one server.
    pub fn new(all: Vec<PgConnectOptions>, mode: Mode) -> Arc<Self> {
        Arc::new(Hosts {
            mode,
            all,
            current: AtomicUsize::new(0),
            changed: Mutex::default(),
            searched: Mutex::default(),
            searching: AtomicBool::new(false),
            pool: OnceLock::new(),
        })
    }

    /// The pool whose new connections go to the server in use.
    pub fn serve(&self, pool: PgPool) {
        let _ = self.pool.set(pool);
    }

    pub fn pool(&self) -> Option<&PgPool> {
        self.pool.get()
    }

    pub fn current(&self) -> &PgConnectOptions {
        &self.all[self.current.load(Ordering::Acquire)]
    }

    /// The number of the server in use.
    pub fn current_number(&self) -> usize {
        self.current.load(Ordering::Acquire)
    }

    /// The options of a new connection to the server in use.
    pub fn options(&self) -> PgConnectOptions {
        self.mode.options(self.current())
    }

    /// A pooler refused the options.
    pub fn found_pooler(&self) {
        self.mode.set_pooled();
        if let Some(pool) = self.pool.get() {
            pool.set_connect_options(self.options());
        }
    }

    /// A connection outside the pool, to the server in use. Finds out whether a pooler is in front of it.
    pub async fn connect(&self) -> sqlx::Result<PgConnection> {
        let mut connection = match self.options().connect().await {
            Err(error) if pooler::refuses_options(&error) => {
                self.found_pooler();
                return self.options().connect().await;
            }
            other => other?,
        };
        if !self.mode.is_pooled() && !State::read(&mut connection).await?.is_direct {
            self.mode.set_pooled();
        }
        Ok(connection)
    }

    /// Whether a connection of this age goes to the server in use.
    pub fn is_current(&self, age: Duration) -> bool {
        let changed = *self.changed.lock();
        changed.is_none_or(|changed| age < changed.elapsed())
    }

    /// Starts to search for the server that accepts writes, in the background. Does nothing while a search is in
    /// progress, or if the last one began less than `interval` ago.
    pub fn search(self: &Arc<Self>, interval: Duration) {
        if self.all.len() < 2 {
            return;
        }
        {
            let mut searched = self.searched.lock();
            if searched.is_some_and(|at| at.elapsed() < interval)
                || self.searching.swap(true, Ordering::AcqRel)
            {
                return;
            }
            *searched = Some(Instant::now());
        }
        let search = Search(self.clone());
        tokio::spawn(async move { search.0.find_writable().await });
    }

    /// Uses the first server that answers and accepts writes; the one in use, if it does.
    pub async fn find_writable(&self) {
        if self.all.len() < 2 {
            return;
        }
        let current = self.current.load(Ordering::Acquire);
        let mut probes: FuturesUnordered<_> = (0..self.all.len())
            .map(|host| async move { (host, accepts_writes(&self.all[host]).await) })
            .collect();
        let mut found = None;
        while let Some((host, writable)) = probes.next().await {
            if !writable {
                continue;
            }
            if host == current {
                return;
            }
            found.get_or_insert(host);
        }
        if let Some(host) = found {
            self.change_to(host);
        }
    }

    fn change_to(&self, host: usize) {
        let options = &self.all[host];
        self.current.store(host, Ordering::Release);
        *self.changed.lock() = Some(Instant::now());
        if let Some(pool) = self.pool.get() {
            pool.set_connect_options(self.mode.options(options));
        }
        tracing::warn!(
            host = options.get_host(),
            port = options.get_port(),
            "another PostgreSQL server accepts the writes now; connections go there"
        );
    }
}

/// A search in progress, until it is dropped.
struct Search(Arc<Hosts>);

impl Drop for Search {
    fn drop(&mut self) {
        self.0.searching.store(false, Ordering::Release);
    }
}

async fn accepts_writes(options: &PgConnectOptions) -> bool {
    let probe = async {
        let mut connection = options.connect().await?;
        let state = State::read(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(!state.is_read_only)
    };
    matches!(timeout(PROBE_WITHIN, probe).await, Ok(Ok(true)))
}
