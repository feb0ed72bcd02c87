//! The queue as a table of the standalone node's SQLite file. Publishes that come together are committed together
//! (one fsync); acknowledgements are deleted with the next commit, or a moment later. One process at a time
//! consumes; another one may add (`chat queue dead replay`) and is noticed within a second.

mod consume;
mod dead;
mod jobs;
mod write;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use sqlx::Row as _;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};

use super::{
    Consumer, Depth, EncodedBatch, JobQueue, Load, Partition, PartitionLoad, Publisher, Queue,
    State,
};
use crate::{
    error::{Error, Result},
    model::Timestamp,
    sqlite::{Database, failure},
};

/// How often a consumer without work looks for what another process added.
const FOREIGN: Duration = Duration::from_secs(1);

/// Payloads kept in memory a partition, so that a consumer that keeps up reads nothing from the file.
const TAIL_PAYLOADS: usize = 256;
const TAIL_BYTES: usize = 4 << 20;

#[derive(Debug, Clone)]
pub struct Settings {
    /// At least 1.
    pub partitions: Partition,
    /// The longest a publish takes.
    pub confirm_timeout: Duration,
    /// Payloads a consumer reads from the file at once, at least 1.
    pub prefetch: u16,
}

/// Publisher, queue and dead letters in one; callers are handed the port they need.
pub struct SqliteQueue {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Write>,
    desk: Arc<jobs::Desk>,
}

/// What the writer task is asked to do.
enum Write {
    Publish(Publish),
    /// Answered when everything acknowledged before is deleted.
    Flush(oneshot::Sender<()>),
}

struct Publish {
    partition: Partition,
    payload: Bytes,
    messages: u32,
    done: oneshot::Sender<Result<()>>,
}

struct Shared {
    database: Database,
    settings: Settings,
    lanes: Vec<Lane>,
    /// Commands published and not acknowledged.
    backlog: AtomicU64,
    /// Something was acknowledged.
    acked: Notify,
}

/// One partition.
struct Lane {
    /// Who consumes it holds this.
    active: Arc<tokio::sync::Mutex<()>>,
    consumers: AtomicU64,
    arrived: Notify,
    tail: Mutex<Tail>,
    /// Everything up to here is acknowledged, if not deleted yet.
    acked: AtomicI64,
    /// Everything up to here was handed out, or may have been before this process.
    delivered: AtomicI64,
}

struct Stored {
    id: i64,
    messages: u32,
    payload: Bytes,
}

/// The partition's newest payloads: exactly those with an id above `after`.
#[derive(Default)]
struct Tail {
    after: i64,
    payloads: VecDeque<Stored>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, stored: Stored) {
        self.bytes += stored.payload.len();
        self.payloads.push_back(stored);
        while self.payloads.len() > TAIL_PAYLOADS || self.bytes > TAIL_BYTES {
            let Some(oldest) = self.payloads.pop_front() else {
                return;
            };
            self.bytes -= oldest.payload.len();
            self.after = oldest.id;
        }
    }

    /// What follows `cursor`, taken out; `None` where only the file knows.
    fn take(&mut self, cursor: i64) -> Option<VecDeque<Stored>> {
        if cursor < self.after {
            return None;
        }
        let mut taken = std::mem::take(&mut self.payloads);
        self.bytes = 0;
        self.after = taken.back().map_or(self.after, |newest| newest.id);
        taken.retain(|stored| stored.id > cursor);
        Some(taken)
    }

    /// Forgets everything: up to `newest` only the file knows.
    fn reset(&mut self, newest: i64) {
        *self = Tail {
            after: newest,
            ..Tail::default()
        };
    }
}

impl Lane {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock()
    }
}

impl Shared {
    fn lane(&self, partition: Partition) -> Result<&Lane> {
        self.lanes.get(usize::from(partition)).ok_or_else(|| {
            Error::conflict(format!(
                "there is no partition {partition}: queue.partitions is {}",
                self.settings.partitions
            ))
        })
    }
}

impl SqliteQueue {
    /// Takes up what an earlier process left. Needs a tokio runtime, on which it starts the writer.
    pub async fn open(database: Database, settings: Settings) -> Result<SqliteQueue> {
        let row = sqlx::query(
            "SELECT coalesce(sum(messages), 0), coalesce(max(id), 0), \
             (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'queue') FROM queue",
        )
        .fetch_one(database.readers())
        .await
        .map_err(failure)?;
        let (backlog, newest, last_id): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let lanes = (0..settings.partitions).map(|_| Lane {
            active: Arc::default(),
            consumers: AtomicU64::new(0),
            arrived: Notify::new(),
            tail: Mutex::new(Tail {
                after: newest,
                ..Tail::default()
            }),
            acked: AtomicI64::new(0),
            delivered: AtomicI64::new(newest),
        });
        let desk = jobs::Desk::open(database.clone());
        let shared = Arc::new(Shared {
            database,
            lanes: lanes.collect(),
            backlog: AtomicU64::new(u64::try_from(backlog).unwrap_or_default()),
            acked: Notify::new(),
            settings,
        });
        // Bounded only so that a bug cannot eat the memory: the edge has one publish a partition outstanding.
        let (writer, requests) = mpsc::channel(4096);
        tokio::spawn(write::run(shared.clone(), requests, last_id));
        Ok(SqliteQueue {
            shared,
            writer,
            desk,
        })
    }

    /// Deletes what is acknowledged. Without it a later process sees those payloads again.
    pub async fn close(&self) {
        flush(&self.writer).await;
        self.desk.clean().await;
    }
}

/// For `json_each`.
fn json_ids(ids: &[i64]) -> String {
    let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
    format!("[{}]", ids.join(","))
}

async fn flush(writer: &mpsc::Sender<Write>) {
    let (done, flushed) = oneshot::channel();
    if writer.send(Write::Flush(done)).await.is_ok() {
        // An error means that the writer ended, which it does with a flush.
        let _ = flushed.await;
    }
}

#[async_trait]
impl Publisher for SqliteQueue {
    async fn publish(&self, partition: Partition, batch: EncodedBatch) -> Result<()> {
        self.shared.lane(partition)?;
        let (done, answer) = oneshot::channel();
        let publish = Publish {
            partition,
            payload: batch.payload().clone(),
            messages: batch.commands(),
            done,
        };
        let stored = async {
            if self.writer.send(Write::Publish(publish)).await.is_err() {
                return Err(gone());
            }
            answer.await.unwrap_or_else(|_| Err(gone()))
        };
        timeout(self.shared.settings.confirm_timeout, stored)
            .await
            .unwrap_or_else(|elapsed| Err(Error::unavailable("queue", elapsed)))
    }

    fn backlog(&self) -> u64 {
        self.shared.backlog.load(Ordering::Relaxed)
    }

    fn state(&self) -> State {
        if self.writer.is_closed() {
            State::Down
        } else {
            State::Up
        }
    }
}

fn gone() -> Error {
    Error::unavailable("queue", "its writer is gone")
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn consume(&self, partition: Partition) -> Result<Box<dyn Consumer>> {
        self.shared.lane(partition)?;
        Ok(Box::new(consume::SqliteConsumer::new(
            self.shared.clone(),
            self.writer.clone(),
            partition,
        )))
    }

    async fn depths(&self) -> Result<Vec<Depth>> {
        let mut depths = Vec::new();
        for (partition, lane) in self.shared.lanes.iter().enumerate() {
            let count =
                sqlx::query_scalar("SELECT count(*) FROM queue WHERE partition = ? AND id > ?")
                    .bind(partition as i64)
                    .bind(lane.acked.load(Ordering::Relaxed));
            depths.push(Depth {
                queue: format!("p.{partition}"),
                ready: self.count(count).await?,
                consumers: lane.consumers.load(Ordering::Relaxed),
            });
        }
        let count = sqlx::query_scalar("SELECT count(*) FROM dead_letters");
        depths.push(Depth {
            queue: "dead".to_owned(),
            ready: self.count(count).await?,
            consumers: 0,
        });
        for queue in JobQueue::ALL {
            let due = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE queue = ? AND due <= ?")
                .bind(queue.as_str())
                .bind(Timestamp::now().millis());
            depths.push(Depth {
                queue: format!("job.{}", queue.as_str()),
                ready: self.count(due).await?,
                consumers: 0,
            });
            let later = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE queue = ? AND due > ?")
                .bind(queue.as_str())
                .bind(Timestamp::now().millis());
            depths.push(Depth {
                queue: format!("delay.{}", queue.as_str()),
                ready: self.count(later).await?,
                consumers: 0,
            });
        }
        Ok(depths)
    }

    async fn load(&self) -> Result<Load> {
        let mut load = Load::default();
        for (partition, lane) in self.shared.lanes.iter().enumerate() {
            let delivered = lane.delivered.load(Ordering::Relaxed);
            let row = sqlx::query(
                "SELECT coalesce(sum(id > ?), 0), coalesce(sum(id <= ?), 0), coalesce(sum(messages), 0) \
                 FROM queue WHERE partition = ? AND id > ?",
            )
            .bind(delivered)
            .bind(delivered)
            .bind(partition as i64)
            .bind(lane.acked.load(Ordering::Relaxed))
            .fetch_one(self.shared.database.readers())
            .await
            .map_err(failure)?;
            let number = |column| u64::try_from(row.get::<i64, _>(column)).unwrap_or_default();
            load.partitions.push(PartitionLoad {
                ready: number(0),
                unacked: Some(number(1)),
                messages: Some(number(2)),
                consumers: lane.consumers.load(Ordering::Relaxed),
            });
        }
        self.desk.load(&mut load).await?;
        Ok(load)
    }

    async fn ping(&self) -> Result<()> {
        if self.writer.is_closed() {
            return Err(gone());
        }
        sqlx::query("SELECT 1")
            .execute(self.shared.database.readers())
            .await
            .map_err(failure)?;
        Ok(())
    }
}

impl SqliteQueue {
    async fn count(
        &self,
        query: sqlx::query::QueryScalar<'_, sqlx::Sqlite, i64, sqlx::sqlite::SqliteArguments>,
    ) -> Result<u64> {
        let count = query
            .fetch_one(self.shared.database.readers())
            .await
            .map_err(failure)?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}
