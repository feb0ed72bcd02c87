//! The implementation of the publishing and consuming ports.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::Row as _;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};

use super::{
    consume::SqliteConsumer,
    settings::SqliteQueueSettings,
    state::{PartitionState, Shared, Tail},
    task_table::TaskTable,
    write::{self, Publish, Write, flush},
};
use crate::{
    error::{Error, Result},
    model::Timestamp,
    queue::{
        Consumer, Depth, EncodedBatch, Load, Partition, PartitionLoad, Publisher, Queue,
        QueueState, TaskQueue,
    },
    sqlite::{Database, failure},
    telemetry::{DOWN, Dependency, UP, watch_state},
};

/// Implements every port of the queue; callers are handed the ports that they use.
pub struct SqliteQueue {
    pub(super) shared: Arc<Shared>,
    writer: mpsc::Sender<Write>,
    pub(super) tasks: Arc<TaskTable>,
}

impl SqliteQueue {
    /// Continues with what an earlier process left. Needs a tokio runtime, on which it starts the writer.
    pub async fn open(database: Database, settings: SqliteQueueSettings) -> Result<SqliteQueue> {
        let row = sqlx::query(
            "SELECT coalesce(sum(messages), 0), coalesce(max(id), 0), \
             (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'queue') FROM queue",
        )
        .fetch_one(database.readers())
        .await
        .map_err(failure)?;
        let (backlog, newest, last_id): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let partitions = (0..settings.partitions).map(|_| PartitionState {
            active: Arc::default(),
            consumers: AtomicU64::new(0),
            arrived: Notify::new(),
            tail: Mutex::new(Tail::after(newest)),
            acked: AtomicI64::new(0),
            delivered: AtomicI64::new(newest),
        });
        let tasks = TaskTable::open(database.clone());
        let shared = Arc::new(Shared {
            database,
            partitions: partitions.collect(),
            backlog: AtomicU64::new(u64::try_from(backlog).unwrap_or_default()),
            acked: Notify::new(),
            settings,
        });
        // The edge has one publish per partition outstanding; the bound only guards against a bug.
        let (writer, requests) = mpsc::channel(4096);
        tokio::spawn(write::run(shared.clone(), requests, last_id));
        let watched = writer.downgrade();
        watch_state(Dependency::Queue, move || {
            let closed = watched.upgrade()?.is_closed();
            Some(if closed { DOWN } else { UP })
        });
        Ok(SqliteQueue {
            shared,
            writer,
            tasks,
        })
    }

    /// Deletes acknowledged payloads and tasks. Without it a later process receives them again.
    pub async fn close(&self) {
        flush(&self.writer).await;
        self.tasks.delete_done().await;
    }
}

#[async_trait]
impl Publisher for SqliteQueue {
    async fn publish(&self, partition: Partition, batch: EncodedBatch) -> Result<()> {
        self.shared.partition(partition)?;
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

    fn state(&self) -> QueueState {
        if self.writer.is_closed() {
            QueueState::Down
        } else {
            QueueState::Up
        }
    }
}

fn gone() -> Error {
    Error::unavailable("queue", "its writer is gone")
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn consume(&self, partition: Partition) -> Result<Box<dyn Consumer>> {
        self.shared.partition(partition)?;
        Ok(Box::new(SqliteConsumer::new(
            self.shared.clone(),
            self.writer.clone(),
            partition,
        )))
    }

    async fn depths(&self) -> Result<Vec<Depth>> {
        let mut depths = Vec::new();
        for (partition, state) in self.shared.partitions.iter().enumerate() {
            let count =
                sqlx::query_scalar("SELECT count(*) FROM queue WHERE partition = ? AND id > ?")
                    .bind(partition as i64)
                    .bind(state.acked.load(Ordering::Relaxed));
            depths.push(Depth {
                queue: format!("p.{partition}"),
                ready: self.count(count).await?,
                consumers: state.consumers.load(Ordering::Relaxed),
            });
        }
        let count = sqlx::query_scalar("SELECT count(*) FROM dead_letters");
        depths.push(Depth {
            queue: "dead".to_owned(),
            ready: self.count(count).await?,
            consumers: 0,
        });
        for queue in TaskQueue::ALL {
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
        for (partition, state) in self.shared.partitions.iter().enumerate() {
            let delivered = state.delivered.load(Ordering::Relaxed);
            let row = sqlx::query(
                "SELECT coalesce(sum(id > ?), 0), coalesce(sum(id <= ?), 0), coalesce(sum(messages), 0) \
                 FROM queue WHERE partition = ? AND id > ?",
            )
            .bind(delivered)
            .bind(delivered)
            .bind(partition as i64)
            .bind(state.acked.load(Ordering::Relaxed))
            .fetch_one(self.shared.database.readers())
            .await
            .map_err(failure)?;
            let number = |column| u64::try_from(row.get::<i64, _>(column)).unwrap_or_default();
            load.partitions.push(PartitionLoad {
                ready: number(0),
                unacked: Some(number(1)),
                messages: Some(number(2)),
                consumers: state.consumers.load(Ordering::Relaxed),
            });
        }
        self.tasks.load(&mut load).await?;
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
