//! The table of tasks: rows with the time at which they are due. Which tasks are delivered and not acknowledged is
//! known to this process only; after a crash they are delivered again.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sqlx::Row as _;
use tokio::{sync::Notify, time::timeout};
use tracing::warn;

use crate::{
    error::Result,
    model::Timestamp,
    queue::{Ack, Delayed, Load, NewTask, TakenTask, TaskConsumer, TaskLoad, TaskQueue},
    sqlite::{Database, failure},
};

/// How long acknowledged tasks wait for others, to be deleted in one commit.
const COMBINE: Duration = Duration::from_millis(20);
/// The longest pause between two reads: another process may have added a task, or the clock may have moved.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failed read.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The table, and what the consumers of this process share.
pub(super) struct TaskTable {
    database: Database,
    state: Mutex<TableState>,
    /// Notified after a task was added.
    added: Notify,
    /// Notified after an acknowledgement.
    done: Notify,
}

#[derive(Default)]
struct TableState {
    /// Delivered, or acknowledged and not deleted yet.
    taken: HashSet<i64>,
    /// Acknowledged and not deleted yet.
    done: Vec<i64>,
    /// The last deletion failed; logged when it changes.
    failing: bool,
}

impl TaskTable {
    pub fn open(database: Database) -> Arc<TaskTable> {
        let table = Arc::new(TaskTable {
            database,
            state: Mutex::default(),
            added: Notify::new(),
            done: Notify::new(),
        });
        let cleaner = Arc::downgrade(&table);
        tokio::spawn(async move {
            while let Some(table) = cleaner.upgrade() {
                // The timeout lets the task end when the last handle is gone.
                let _ = timeout(READ_INTERVAL, table.done.notified()).await;
                tokio::time::sleep(COMBINE).await;
                table.delete_done().await;
            }
        });
        table
    }

    /// Inserts tasks in one transaction.
    pub async fn push(&self, tasks: Vec<NewTask>) -> Result<()> {
        let now = Timestamp::now().millis();
        let mut tx = self.database.write().await?;
        for task in tasks {
            let delay = i64::try_from(task.delay.as_millis()).unwrap_or(i64::MAX >> 1);
            sqlx::query("INSERT INTO jobs (queue, due, payload) VALUES ($1, $2, $3)")
                .bind(task.queue.as_str())
                .bind(now.saturating_add(delay))
                .bind(&task.payload[..])
                .execute(&mut *tx)
                .await
                .map_err(failure)?;
        }
        tx.commit().await.map_err(failure)?;
        self.added.notify_waiters();
        Ok(())
    }

    /// Opens a consumer of one queue.
    pub fn consume(self: &Arc<Self>, queue: TaskQueue, at_once: u16) -> SqliteTaskConsumer {
        SqliteTaskConsumer {
            table: self.clone(),
            permits: Arc::new(tokio::sync::Semaphore::new(usize::from(at_once.max(1)))),
            queue,
            ahead: VecDeque::new(),
        }
    }

    /// Deletes acknowledged tasks. After a failure they are deleted the next time.
    pub async fn delete_done(&self) {
        let done = std::mem::take(&mut self.state.lock().done);
        if done.is_empty() {
            return;
        }
        let deleted = async {
            let mut tx = self.database.write().await?;
            sqlx::query("DELETE FROM jobs WHERE id IN (SELECT value FROM json_each($1))")
                .bind(json_ids(&done))
                .execute(&mut *tx)
                .await
                .map_err(failure)?;
            tx.commit().await.map_err(failure)
        };
        let deleted = deleted.await;
        let mut state = self.state.lock();
        match deleted {
            Ok(()) => {
                state.failing = false;
                for id in done {
                    state.taken.remove(&id);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut state.failing, true) {
                    warn!(
                        error = error.chain(),
                        "completed tasks could not be deleted yet"
                    );
                }
                state.done.extend(done);
            }
        }
    }

    /// Adds the figures of every task queue.
    pub async fn load(&self, load: &mut Load) -> Result<()> {
        let now = Timestamp::now().millis();
        let taken: Vec<i64> = self.state.lock().taken.iter().copied().collect();
        let mut delayed = Vec::new();
        for queue in TaskQueue::ALL {
            let row = sqlx::query(
                "SELECT coalesce(sum(due <= $2 AND id NOT IN (SELECT value FROM json_each($3))), 0), \
                 coalesce(sum(id IN (SELECT value FROM json_each($3))), 0), \
                 coalesce(sum(due > $2), 0), coalesce(max(due), 0) FROM jobs WHERE queue = $1",
            )
            .bind(queue.as_str())
            .bind(now)
            .bind(json_ids(&taken))
            .fetch_one(self.database.readers())
            .await
            .map_err(failure)?;
            let number = |column| u64::try_from(row.get::<i64, _>(column)).unwrap_or_default();
            load.tasks.push(TaskLoad {
                queue,
                ready: number(0),
                unacked: Some(number(1)),
                // Not counted: only this process consumes.
                consumers: 0,
            });
            delayed.push(Delayed {
                queue,
                within: Duration::from_millis(number(3).saturating_sub(now.unsigned_abs())),
                tasks: number(2),
            });
        }
        load.delayed = Some(delayed);
        Ok(())
    }

    /// Takes tasks that are due, or returns how long it is until the next one is due.
    async fn take_due(
        &self,
        queue: TaskQueue,
        most: usize,
    ) -> Result<(Vec<(i64, Bytes)>, Duration)> {
        let now = Timestamp::now().millis();
        let taken: Vec<i64> = self.state.lock().taken.iter().copied().collect();
        let rows = sqlx::query(
            "SELECT id, due, payload FROM jobs \
             WHERE queue = $1 AND id NOT IN (SELECT value FROM json_each($2)) \
             ORDER BY due LIMIT $3",
        )
        .bind(queue.as_str())
        .bind(json_ids(&taken))
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(self.database.readers())
        .await
        .map_err(failure)?;
        let mut due = Vec::new();
        let mut state = self.state.lock();
        for row in rows {
            let (id, at): (i64, i64) = (row.get(0), row.get(1));
            if at > now {
                let wait = u64::try_from(at - now).unwrap_or_default();
                return Ok((due, Duration::from_millis(wait)));
            }
            // Another consumer may have taken it since the read.
            if state.taken.insert(id) {
                due.push((id, Bytes::from(row.get::<Vec<u8>, _>(2))));
            }
        }
        Ok((due, READ_INTERVAL))
    }
}

/// For `json_each`.
fn json_ids(ids: &[i64]) -> String {
    let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
    format!("[{}]", ids.join(","))
}

pub(super) struct SqliteTaskConsumer {
    table: Arc<TaskTable>,
    /// Releases a permit with each acknowledgement.
    permits: Arc<tokio::sync::Semaphore>,
    queue: TaskQueue,
    /// Taken and not delivered.
    ahead: VecDeque<(i64, Bytes)>,
}

struct SqliteAck {
    table: Arc<TaskTable>,
    id: i64,
    acked: bool,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

#[async_trait]
impl Ack for SqliteAck {
    async fn ack(mut self: Box<Self>) -> Result<()> {
        self.acked = true;
        self.table.state.lock().done.push(self.id);
        self.table.done.notify_one();
        Ok(())
    }
}

impl Drop for SqliteAck {
    fn drop(&mut self) {
        if !self.acked {
            self.table.state.lock().taken.remove(&self.id);
            self.table.added.notify_waiters();
        }
    }
}

#[async_trait]
impl TaskConsumer for SqliteTaskConsumer {
    async fn next(&mut self) -> Option<TakenTask> {
        // Never closed.
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        loop {
            if let Some((id, payload)) = self.ahead.pop_front() {
                return Some(TakenTask {
                    payload,
                    ack: Box::new(SqliteAck {
                        table: self.table.clone(),
                        id,
                        acked: false,
                        _permit: permit,
                    }),
                });
            }
            let table = self.table.clone();
            let mut added = std::pin::pin!(table.added.notified());
            // Registered before reading, so that no addition is missed.
            added.as_mut().enable();
            let most = self.permits.available_permits() + 1;
            match table.take_due(self.queue, most).await {
                Ok((due, _)) if !due.is_empty() => self.ahead.extend(due),
                Ok((_, wait)) => {
                    let _ = timeout(wait.min(READ_INTERVAL), added).await;
                }
                Err(error) => {
                    warn!(error = error.chain(), "tasks could not be read");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for SqliteTaskConsumer {
    fn drop(&mut self) {
        let mut state = self.table.state.lock();
        for (id, _) in self.ahead.drain(..) {
            state.taken.remove(&id);
        }
    }
}
