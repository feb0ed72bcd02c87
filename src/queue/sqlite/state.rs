//! The state that publisher, writer and consumers share.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::settings::SqliteQueueSettings;
use crate::{
    error::{Error, Result},
    queue::Partition,
    sqlite::Database,
};

/// Payloads kept in memory per partition, so that a consumer that keeps up reads nothing from the file.
const TAIL_PAYLOADS: usize = 256;
const TAIL_BYTES: usize = 4 << 20;

pub(super) struct Shared {
    pub database: Database,
    pub settings: SqliteQueueSettings,
    pub partitions: Vec<PartitionState>,
    /// Commands published and not acknowledged.
    pub backlog: AtomicU64,
    /// Notified after an acknowledgement.
    pub acked: Notify,
}

/// One partition.
pub(super) struct PartitionState {
    /// Held by the active consumer.
    pub active: Arc<tokio::sync::Mutex<()>>,
    pub consumers: AtomicU64,
    pub arrived: Notify,
    pub tail: Mutex<Tail>,
    /// Every payload up to this id is acknowledged; it may not be deleted yet.
    pub acked: AtomicI64,
    /// Every payload up to this id was delivered, or may have been by an earlier process.
    pub delivered: AtomicI64,
}

pub(super) struct Stored {
    pub id: i64,
    pub messages: u32,
    pub payload: Bytes,
}

/// The partition's newest payloads: exactly those with an id above `after`.
#[derive(Default)]
pub(super) struct Tail {
    after: i64,
    payloads: VecDeque<Stored>,
    bytes: usize,
}

impl Tail {
    /// Empty, with payloads up to `newest` in the file only.
    pub fn after(newest: i64) -> Tail {
        Tail {
            after: newest,
            ..Tail::default()
        }
    }

    pub fn push(&mut self, stored: Stored) {
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

    /// Removes and returns the payloads after `cursor`; `None` if they must be read from the file.
    pub fn take(&mut self, cursor: i64) -> Option<VecDeque<Stored>> {
        if cursor < self.after {
            return None;
        }
        let mut taken = std::mem::take(&mut self.payloads);
        self.bytes = 0;
        self.after = taken.back().map_or(self.after, |newest| newest.id);
        taken.retain(|stored| stored.id > cursor);
        Some(taken)
    }

    /// Empties the tail: payloads up to `newest` must be read from the file.
    pub fn reset(&mut self, newest: i64) {
        *self = Tail::after(newest);
    }
}

impl Shared {
    pub fn partition(&self, partition: Partition) -> Result<&PartitionState> {
        self.partitions.get(usize::from(partition)).ok_or_else(|| {
            Error::conflict(format!(
                "there is no partition {partition}: queue.partitions is {}",
                self.settings.partitions
            ))
        })
    }
}
