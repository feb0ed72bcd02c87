//! Replicas for reads of older data (`database.read_url`). A replica is used while it lacks nothing that the primary had
//! committed a second ago. That is found out by comparing positions in the write-ahead log with the primary's, so a
//! replica whose replay is paused, or which is cut off from its primary, is not used, whatever its own clock says.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use sqlx::{Executor, PgPool, Row, postgres::PgConnectOptions};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    Store,
    hosts::Hosts,
    pool::{self, Lease},
    pooler::{Mode, PreparedStatements},
};
use crate::error::Result;

/// A replica may lack the transactions of this time.
const MAX_LAG: Duration = Duration::from_secs(1);
/// Interval of comparing the positions.
const COMPARE_EVERY: Duration = Duration::from_millis(200);
/// Deadline of a position.
const POSITION_WITHIN: Duration = Duration::from_secs(1);
/// Positions of the primary that are kept: those of a little more than [`MAX_LAG`].
const SAMPLES: usize = 8;

const OF_PRIMARY: &str = "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint";
/// Null on a server that is no standby.
const OF_REPLICA: &str = "SELECT (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint \
     WHERE pg_is_in_recovery()";

pub(super) struct Replicas {
    all: Vec<Replica>,
    next: AtomicUsize,
    is_compared: AtomicBool,
}

struct Replica {
    pool: PgPool,
    hosts: Arc<Hosts>,
    /// It has everything that the primary had committed at this time.
    current_at: Mutex<Option<Instant>>,
    /// Whether it was current at the last comparison; for the log.
    was_current: AtomicBool,
}

impl Replica {
    /// Logs when it is left and when it is used again.
    fn note(&self, is_current: bool) {
        let was_current = self.was_current.swap(is_current, Ordering::Relaxed);
        let (host, port) = (
            self.hosts.current().get_host(),
            self.hosts.current().get_port(),
        );
        if was_current && !is_current {
            tracing::warn!(
                host,
                port,
                "a replica of database.read_url does not answer, is no standby or lags; its reads go to the others"
            );
        } else if is_current && !was_current {
            tracing::info!(host, port, "the replica is current and used again");
        }
    }
}

impl Replicas {
    /// Opens no connection yet. `size` is the most connections to each of them.
    pub fn new(all: Vec<PgConnectOptions>, size: u32, prepared: PreparedStatements) -> Arc<Self> {
        let replica = |options| {
            let hosts = Hosts::new(vec![options], Mode::new(prepared));
            Replica {
                pool: pool::open_replica(&hosts, size, POSITION_WITHIN),
                hosts,
                current_at: Mutex::default(),
                was_current: AtomicBool::new(true),
            }
        };
        Arc::new(Replicas {
            all: all.into_iter().map(replica).collect(),
            next: AtomicUsize::new(0),
            is_compared: AtomicBool::new(false),
        })
    }

    /// A session on the next replica that is current.
    pub async fn session(self: &Arc<Self>, primary: &Store) -> Option<Lease> {
        if self.all.is_empty() {
            return None;
        }
        if !self.is_compared.swap(true, Ordering::AcqRel) {
            let (pool, hosts) = (primary.pool.clone(), primary.hosts.clone());
            tokio::spawn(compare(Arc::downgrade(self), pool, hosts));
        }
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let replicas =
            (0..self.all.len()).map(|i| &self.all[first.wrapping_add(i) % self.all.len()]);
        for replica in replicas {
            let at = *replica.current_at.lock();
            if at.is_some_and(|at| at.elapsed() < MAX_LAG)
                && let Ok(lease) = Lease::session(&replica.pool, &replica.hosts).await
            {
                return Some(lease);
            }
        }
        None
    }

    pub async fn close(&self) {
        for replica in &self.all {
            replica.pool.close().await;
        }
    }
}

/// Compares the replicas' positions with the primary's until they are dropped.
async fn compare(replicas: Weak<Replicas>, primary: PgPool, hosts: Arc<Hosts>) {
    let mut ticks = interval(COMPARE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Positions of the primary, and when each of them had been reached.
    let mut samples: VecDeque<(Instant, i64)> = VecDeque::new();
    loop {
        ticks.tick().await;
        let Some(replicas) = replicas.upgrade() else {
            return;
        };
        if primary.is_closed() {
            return;
        }
        let asked = Instant::now();
        let Some(position) = position(&primary, &hosts, OF_PRIMARY).await else {
            continue;
        };
        if samples.back().is_some_and(|(_, last)| *last > position) {
            // Another primary, which has less.
            samples.clear();
        }
        samples.push_back((asked, position));
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
        let positions = replicas
            .all
            .iter()
            .map(|replica| self::position(&replica.pool, &replica.hosts, OF_REPLICA));
        let positions = join_all(positions).await;
        // A replica that is ahead of the primary follows another one.
        let Some(limit) = self::position(&primary, &hosts, OF_PRIMARY).await else {
            continue;
        };
        for (replica, position) in replicas.all.iter().zip(positions) {
            let reached = position
                .filter(|position| *position <= limit)
                .and_then(|position| {
                    let mut newest_first = samples.iter().rev();
                    newest_first.find(|(_, sample)| *sample <= position)
                });
            *replica.current_at.lock() = reached.map(|(at, _)| *at);
            let is_current = reached.is_some_and(|(at, _)| at.elapsed() < MAX_LAG);
            // The first positions are too few to tell that one lags.
            if is_current || samples.len() >= SAMPLES {
                replica.note(is_current);
            }
        }
    }
}

async fn position(pool: &PgPool, hosts: &Arc<Hosts>, sql: &'static str) -> Option<i64> {
    let read = async {
        let mut lease = Lease::take(pool, hosts).await.ok()?;
        let row = lease.fetch_optional(sql).await.ok()??;
        row.try_get(0).ok()?
    };
    timeout(POSITION_WITHIN, read).await.ok()?
}

impl Store {
    /// The same store with replicas for the reads of older data, each with at most `max_connections`.
    ///
    /// # Errors
    /// An address that cannot be parsed.
    pub fn with_replicas(mut self, urls: &[String], max_connections: u32) -> Result<Self> {
        let options: Result<Vec<_>> = urls.iter().map(|url| super::options(url)).collect();
        self.replicas = Replicas::new(options?, max_connections, self.hosts.mode.setting());
        Ok(self)
    }
}
