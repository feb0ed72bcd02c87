//! Jobs of a standalone node: rows with the time from which they may be taken. What is in someone's hands is known to
//! this process only; after a crash it is simply there again.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use sqlx::Row as _;
use tokio::{sync::Notify, time::timeout};
use tracing::warn;

use super::{SqliteQueue, json_ids};
use crate::{
    error::Result,
    model::Timestamp,
    queue::{Ack, Delayed, JobConsumer, JobLoad, JobQueue, Jobs, Load, NewJob, TakenJob},
    sqlite::{Database, failure},
};

/// How long done jobs wait for more of them, to be deleted in one commit.
const GATHER: Duration = Duration::from_millis(20);
/// The longest sleep between two looks: another process may have added a job, or the clock may have moved.
const LOOK: Duration = Duration::from_secs(1);
/// After the file could not be read.
const AGAIN: Duration = Duration::from_millis(200);

/// What the consumers of this process share.
pub(super) struct Desk {
    database: Database,
    state: Mutex<State>,
    /// A job was added.
    added: Notify,
    /// A job was done.
    done: Notify,
}

#[derive(Default)]
struct State {
    /// In someone's hands, or done and not deleted yet.
    taken: HashSet<i64>,
    done: Vec<i64>,
}

impl Desk {
    pub fn open(database: Database) -> Arc<Desk> {
        let desk = Arc::new(Desk {
            database,
            state: Mutex::default(),
            added: Notify::new(),
            done: Notify::new(),
        });
        let cleaner = Arc::downgrade(&desk);
        tokio::spawn(async move {
            while let Some(desk) = cleaner.upgrade() {
                // Woken by done jobs, and from time to time to find out that nobody is left.
                let _ = timeout(LOOK, desk.done.notified()).await;
                tokio::time::sleep(GATHER).await;
                desk.clean().await;
            }
        });
        desk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Deletes what is done. On a failure it stays done, and is deleted next time.
    pub async fn clean(&self) {
        let done = std::mem::take(&mut self.lock().done);
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
        let mut state = self.lock();
        match deleted {
            Ok(()) => {
                for id in done {
                    state.taken.remove(&id);
                }
            }
            Err(error) => {
                warn!(error = error.chain(), "done jobs could not be deleted yet");
                state.done.extend(done);
            }
        }
    }

    /// Adds what waits of every queue.
    pub async fn load(&self, load: &mut Load) -> Result<()> {
        let now = Timestamp::now().millis();
        let taken: Vec<i64> = self.lock().taken.iter().copied().collect();
        let mut delayed = Vec::new();
        for queue in JobQueue::ALL {
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
            load.jobs.push(JobLoad {
                queue,
                ready: number(0),
                unacked: Some(number(1)),
                // Any number of them, and who asks is in the same process.
                consumers: 0,
            });
            delayed.push(Delayed {
                queue,
                within: Duration::from_millis(number(3).saturating_sub(now.unsigned_abs())),
                jobs: number(2),
            });
        }
        load.delayed = Some(delayed);
        Ok(())
    }

    /// Jobs that are due and in nobody's hands, and how long until the next one is.
    async fn look(&self, queue: JobQueue, most: usize) -> Result<(Vec<(i64, Bytes)>, Duration)> {
        let now = Timestamp::now().millis();
        let taken: Vec<i64> = self.lock().taken.iter().copied().collect();
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
        let mut state = self.lock();
        for row in rows {
            let (id, at): (i64, i64) = (row.get(0), row.get(1));
            if at > now {
                let wait = u64::try_from(at - now).unwrap_or_default();
                return Ok((due, Duration::from_millis(wait)));
            }
            // Deleted, or given to another, between the reading and here.
            if state.taken.insert(id) {
                due.push((id, Bytes::from(row.get::<Vec<u8>, _>(2))));
            }
        }
        Ok((due, LOOK))
    }
}

#[async_trait]
impl Jobs for SqliteQueue {
    async fn push(&self, jobs: Vec<NewJob>) -> Result<()> {
        let now = Timestamp::now().millis();
        let desk = &self.desk;
        let mut tx = desk.database.write().await?;
        for job in jobs {
            let delay = i64::try_from(job.delay.as_millis()).unwrap_or(i64::MAX >> 1);
            sqlx::query("INSERT INTO jobs (queue, due, payload) VALUES ($1, $2, $3)")
                .bind(job.queue.as_str())
                .bind(now.saturating_add(delay))
                .bind(&job.payload[..])
                .execute(&mut *tx)
                .await
                .map_err(failure)?;
        }
        tx.commit().await.map_err(failure)?;
        desk.added.notify_waiters();
        Ok(())
    }

    async fn take(&self, queue: JobQueue, at_once: u16) -> Result<Box<dyn JobConsumer>> {
        Ok(Box::new(Consumer {
            desk: self.desk.clone(),
            hands: Arc::new(tokio::sync::Semaphore::new(usize::from(at_once.max(1)))),
            queue,
            ahead: VecDeque::new(),
        }))
    }
}

struct Consumer {
    desk: Arc<Desk>,
    /// Frees a place with each acknowledgement.
    hands: Arc<tokio::sync::Semaphore>,
    queue: JobQueue,
    /// Taken and not handed out.
    ahead: VecDeque<(i64, Bytes)>,
}

struct SqliteAck {
    desk: Arc<Desk>,
    id: i64,
    acked: bool,
    _place: tokio::sync::OwnedSemaphorePermit,
}

#[async_trait]
impl Ack for SqliteAck {
    async fn ack(mut self: Box<Self>) -> Result<()> {
        self.acked = true;
        self.desk.lock().done.push(self.id);
        self.desk.done.notify_one();
        Ok(())
    }
}

impl Drop for SqliteAck {
    fn drop(&mut self) {
        if !self.acked {
            self.desk.lock().taken.remove(&self.id);
            self.desk.added.notify_waiters();
        }
    }
}

#[async_trait]
impl JobConsumer for Consumer {
    async fn next(&mut self) -> Option<TakenJob> {
        // Closed by nobody.
        let place = self.hands.clone().acquire_owned().await.ok()?;
        loop {
            if let Some((id, payload)) = self.ahead.pop_front() {
                return Some(TakenJob {
                    payload,
                    ack: Box::new(SqliteAck {
                        desk: self.desk.clone(),
                        id,
                        acked: false,
                        _place: place,
                    }),
                });
            }
            let desk = self.desk.clone();
            let mut added = std::pin::pin!(desk.added.notified());
            // From here on nothing that is added goes unnoticed.
            added.as_mut().enable();
            let most = self.hands.available_permits() + 1;
            match desk.look(self.queue, most).await {
                Ok((due, _)) if !due.is_empty() => self.ahead.extend(due),
                Ok((_, wait)) => {
                    let _ = timeout(wait.min(LOOK), added).await;
                }
                Err(error) => {
                    warn!(error = error.chain(), "jobs could not be read");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let mut state = self.desk.lock();
        for (id, _) in self.ahead.drain(..) {
            state.taken.remove(&id);
        }
    }
}
