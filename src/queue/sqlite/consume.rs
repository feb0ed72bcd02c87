//! Consuming: from memory while the consumer keeps up, from the file otherwise. The consumer that holds the partition's lock
//! is the active one; when it ends, the next one acquires the lock.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Row as _;
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    time::timeout,
};
use tracing::warn;

use super::{
    state::{PartitionState, Shared, Stored},
    write::{Write, flush},
};
use crate::{
    error::Result,
    queue::{Consumer, Delivery, Partition},
    sqlite::failure,
};

/// Interval at which an idle consumer looks for payloads of another process.
const FOREIGN_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct SqliteConsumer {
    shared: Arc<Shared>,
    /// Also keeps the writer alive.
    writer: mpsc::Sender<Write>,
    partition: Partition,
    active: Option<OwnedMutexGuard<()>>,
    /// Payloads that were read and are not delivered yet.
    ahead: VecDeque<Stored>,
    /// The id of the newest payload read.
    cursor: i64,
    /// Payloads that are delivered and not acknowledged: id and number of commands.
    unacked: VecDeque<(i64, u32)>,
}

impl SqliteConsumer {
    pub fn new(
        shared: Arc<Shared>,
        writer: mpsc::Sender<Write>,
        partition: Partition,
    ) -> SqliteConsumer {
        let consumer = SqliteConsumer {
            shared,
            writer,
            partition,
            active: None,
            ahead: VecDeque::new(),
            cursor: 0,
            unacked: VecDeque::new(),
        };
        consumer.state().consumers.fetch_add(1, Ordering::Relaxed);
        consumer
    }

    fn state(&self) -> &PartitionState {
        // `consume` accepts only existing partitions.
        &self.shared.partitions[usize::from(self.partition)]
    }

    fn activate(&mut self, guard: OwnedMutexGuard<()>) {
        self.cursor = self.state().acked.load(Ordering::Acquire);
        self.active = Some(guard);
    }

    fn deliver(&mut self) -> Option<Delivery> {
        if self.ahead.is_empty() {
            let taken = self.state().tail.lock().take(self.cursor)?;
            self.cursor = taken.back().map_or(self.cursor, |newest| newest.id);
            self.ahead = taken;
        }
        let stored = self.ahead.pop_front()?;
        self.unacked.push_back((stored.id, stored.messages));
        let before = self
            .state()
            .delivered
            .fetch_max(stored.id, Ordering::Relaxed);
        Some(Delivery {
            payload: stored.payload,
            tag: stored.id.unsigned_abs(),
            redelivered: stored.id <= before,
        })
    }

    /// Reads the next payloads from the file.
    async fn read(&mut self) -> Result<()> {
        let rows = sqlx::query(
            "SELECT id, messages, payload FROM queue WHERE partition = ? AND id > ? ORDER BY id LIMIT ?",
        )
        .bind(i64::from(self.partition))
        .bind(self.cursor)
        .bind(i64::from(self.shared.settings.prefetch.max(1)))
        .fetch_all(self.shared.database.readers())
        .await
        .map_err(failure)?;
        for row in rows {
            let id = row.get(0);
            self.ahead.push_back(Stored {
                id,
                messages: row.get::<i64, _>(1).try_into().unwrap_or(u32::MAX),
                payload: Bytes::from(row.get::<Vec<u8>, _>(2)),
            });
            self.cursor = id;
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        if self.active.is_none() {
            let active = self.state().active.clone();
            let guard = active.lock_owned().await;
            self.activate(guard);
        }
        loop {
            if let Some(delivery) = self.deliver() {
                return Some(delivery);
            }
            let shared = self.shared.clone();
            let mut arrived = pin!(
                shared.partitions[usize::from(self.partition)]
                    .arrived
                    .notified()
            );
            // Registered before reading, so that no arrival is missed.
            arrived.as_mut().enable();
            if let Err(error) = self.read().await {
                warn!(
                    partition = self.partition,
                    error = error.chain(),
                    "the queue could not read"
                );
                return None;
            }
            if self.ahead.is_empty() {
                let _ = timeout(FOREIGN_INTERVAL, arrived).await;
            }
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        if self.active.is_none() {
            let guard = self.state().active.clone().try_lock_owned().ok()?;
            self.activate(guard);
        }
        self.deliver()
    }

    async fn ack_through(&mut self, tag: u64) -> Result<()> {
        let tag = i64::try_from(tag).unwrap_or(i64::MAX);
        let mut newest = None;
        let mut commands = 0;
        while let Some((id, messages)) = self.unacked.front().copied()
            && id <= tag
        {
            newest = Some(id);
            commands += u64::from(messages);
            self.unacked.pop_front();
        }
        if let Some(newest) = newest {
            self.state().acked.fetch_max(newest, Ordering::Release);
            let backlog = &self.shared.backlog;
            // Payloads of another process were never counted.
            let _ = backlog.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
                Some(before.saturating_sub(commands))
            });
            self.shared.acked.notify_one();
        }
        Ok(())
    }

    async fn close(mut self: Box<Self>) {
        self.active = None;
        flush(&self.writer).await;
    }
}

impl Drop for SqliteConsumer {
    fn drop(&mut self) {
        self.state().consumers.fetch_sub(1, Ordering::Relaxed);
    }
}
