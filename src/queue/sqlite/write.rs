//! The one task that writes the queue's table. Requests that arrive during a commit form the next commit.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use sqlx::QueryBuilder;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::{info, warn};

use super::state::{Shared, Stored};
use crate::{
    error::{Error, Result},
    queue::Partition,
    sqlite::failure,
};

/// How long acknowledgements wait for a publish to be committed with.
const ACK_DELAY: Duration = Duration::from_millis(50);
/// Requests in one commit.
const BATCH: usize = 1024;
/// Rows in one statement; three values each, far below SQLite's limit of 32,766.
const ROWS: usize = 64;

/// A request to the writer task.
pub(super) enum Write {
    Publish(Publish),
    /// Answered when all payloads acknowledged before are deleted.
    Flush(oneshot::Sender<()>),
}

pub(super) struct Publish {
    pub partition: Partition,
    pub payload: Bytes,
    pub messages: u32,
    pub done: oneshot::Sender<Result<()>>,
}

/// Waits until everything acknowledged so far is deleted.
pub(super) async fn flush(writer: &mpsc::Sender<Write>) {
    let (done, flushed) = oneshot::channel();
    if writer.send(Write::Flush(done)).await.is_ok() {
        // An error means that the writer ended, which includes a flush.
        let _ = flushed.await;
    }
}

/// Ends with a last flush when every handle has been dropped.
pub(super) async fn run(shared: Arc<Shared>, mut requests: mpsc::Receiver<Write>, last_id: i64) {
    let mut writer = Writer {
        deleted: vec![0; shared.partitions.len()],
        shared,
        last_id,
        failing: false,
    };
    let mut batch = Vec::new();
    loop {
        let open = tokio::select! {
            count = requests.recv_many(&mut batch, BATCH) => count > 0,
            () = writer.shared.acked.notified() => {
                // If all senders are gone, the next receive reports it again.
                let _ = timeout(ACK_DELAY, requests.recv_many(&mut batch, BATCH)).await;
                true
            }
        };
        writer.work_off(&mut batch).await;
        if !open {
            return;
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    /// The highest id assigned so far, to detect rows of other processes.
    last_id: i64,
    /// The id up to which each partition's payloads are deleted.
    deleted: Vec<i64>,
    /// Whether the last commit failed; logged when it changes.
    failing: bool,
}

impl Writer {
    async fn work_off(&mut self, batch: &mut Vec<Write>) {
        let mut publishes = Vec::new();
        let mut flushes: Vec<oneshot::Sender<()>> = Vec::new();
        for request in batch.drain(..) {
            match request {
                // The caller timed out and was told that the batch may or may not be queued.
                Write::Publish(publish) if publish.done.is_closed() => {}
                Write::Publish(publish) => publishes.push(publish),
                Write::Flush(done) => flushes.push(done),
            }
        }
        let acked: Vec<i64> = self
            .shared
            .partitions
            .iter()
            .map(|state| state.acked.load(Ordering::Acquire))
            .collect();
        if publishes.is_empty() && acked == self.deleted {
            return;
        }
        match self.commit(&publishes, &acked).await {
            Ok(ids) => {
                if std::mem::replace(&mut self.failing, false) {
                    info!("the queue writes again");
                }
                self.deleted = acked;
                self.announce(publishes, ids);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(error = error.chain(), "the queue cannot write");
                }
                let cause = error.chain();
                for publish in publishes {
                    let answer = Error::unavailable("queue", cause.clone());
                    // The caller may have timed out.
                    let _ = publish.done.send(Err(answer));
                }
                // Acknowledged payloads are deleted with the next commit.
                self.shared.acked.notify_one();
            }
        }
        // Dropping `flushes` answers them in both cases.
    }

    /// Returns the new rows' ids, in the order of `publishes`.
    async fn commit(&self, publishes: &[Publish], acked: &[i64]) -> Result<Vec<i64>> {
        let mut transaction = self.shared.database.write().await?;
        let mut ids: Vec<i64> = Vec::with_capacity(publishes.len());
        for rows in publishes.chunks(ROWS) {
            let mut insert = QueryBuilder::new("INSERT INTO queue (partition, messages, payload) ");
            insert.push_values(rows, |mut row, publish| {
                row.push_bind(i64::from(publish.partition))
                    .push_bind(i64::from(publish.messages))
                    .push_bind(&publish.payload[..]);
            });
            insert.push(" RETURNING id");
            let mut new: Vec<i64> = insert
                .build_query_scalar()
                .fetch_all(&mut *transaction)
                .await
                .map_err(failure)?;
            // Rows are inserted in the order of VALUES; only the order of RETURNING is not promised.
            new.sort_unstable();
            ids.extend(new);
        }
        let done: Vec<(usize, i64)> = (acked.iter().zip(&self.deleted).enumerate())
            .filter(|(_, (acked, deleted))| acked > deleted)
            .map(|(partition, (acked, _))| (partition, *acked))
            .collect();
        if !done.is_empty() {
            // One statement, since each is a round trip to SQLite's thread. CROSS JOIN keeps the list outermost.
            let gone = "DELETE FROM queue WHERE id IN (SELECT q.id FROM json_each(?1) done \
                 CROSS JOIN queue q ON q.partition = done.value ->> 0 AND q.id <= done.value ->> 1)";
            sqlx::query(gone)
                .bind(serde_json::to_string(&done).map_err(Error::internal)?)
                .execute(&mut *transaction)
                .await
                .map_err(failure)?;
        }
        transaction.commit().await.map_err(failure)?;
        Ok(ids)
    }

    fn announce(&mut self, publishes: Vec<Publish>, ids: Vec<i64>) {
        let count = ids.len() as i64;
        let newest = ids.last().copied().unwrap_or(self.last_id);
        let foreign = newest - self.last_id != count;
        if foreign {
            // Another process added rows in between, so the tails are incomplete.
            for state in &self.shared.partitions {
                state.tail.lock().reset(newest);
                state.arrived.notify_one();
            }
        }
        self.last_id = newest;
        let mut touched = BTreeSet::new();
        for (publish, id) in publishes.into_iter().zip(ids) {
            let messages = publish.messages;
            self.shared
                .backlog
                .fetch_add(messages.into(), Ordering::Relaxed);
            // `publish` let only known partitions through.
            let state = &self.shared.partitions[usize::from(publish.partition)];
            if !foreign {
                state.tail.lock().push(Stored {
                    id,
                    messages,
                    payload: publish.payload,
                });
            }
            touched.insert(publish.partition);
            let _ = publish.done.send(Ok(()));
        }
        for partition in touched {
            self.shared.partitions[usize::from(partition)]
                .arrived
                .notify_one();
        }
    }
}
