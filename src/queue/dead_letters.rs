//! The port for dead letters: commands that cannot succeed, kept with their reason.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::partitions::Partition;
use crate::{error::Result, model::Timestamp};

/// A command that cannot succeed, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    pub id: Uuid,
    pub at: Timestamp,
    pub reason: String,
    pub partition: Partition,
    /// The command, or the whole payload if it could not be decoded, as text; lossy where it is not UTF-8 (the original bytes
    /// are kept beside it).
    pub payload: String,
}

/// The dead letters that an operation applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    All,
    One(Uuid),
}

#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Durable when it returns `Ok`.
    async fn put(&self, letter: &DeadLetter, original: Bytes) -> Result<()>;
    /// Lists letters without removing them, the oldest first.
    async fn list(&self, limit: u32) -> Result<Vec<DeadLetter>>;
    /// Publishes the originals to their partitions again ([`EncodedBatch::again`](super::EncodedBatch::again)) and removes the
    /// letters. Returns their number.
    async fn replay(&self, which: Selection) -> Result<u64>;
    /// Removes letters. Returns their number.
    async fn purge(&self, which: Selection) -> Result<u64>;
}
