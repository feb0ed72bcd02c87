//! The port of the epoch.

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{Delivered, Epoch, LostHistory, Position},
};

#[async_trait]
pub trait EpochReads: Send + Sync {
    async fn epoch(&self) -> Result<Epoch>;
    /// The position of each room that exists, deleted ones included, with the event that has [`Delivered::number`]; in
    /// any order and number.
    async fn positions(&self, delivered: &[Delivered]) -> Result<Vec<Position>>;
}

#[async_trait]
pub trait EpochWrites: Send + Sync {
    /// Replaces the epoch `from` by `to` if the store has lost one of `delivered`, which is read in the same
    /// transaction: a caller whose own reads came from a standby that is behind replaces nothing. Repeating a
    /// replacement changes nothing.
    async fn replace_epoch(
        &self,
        from: Epoch,
        to: Epoch,
        delivered: &[Delivered],
    ) -> Result<Replacement>;
}

/// The outcome of [`EpochWrites::replace_epoch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replacement {
    /// The epoch is `to` now. Has the rooms whose history is lost.
    Done(Vec<LostHistory>),
    /// The epoch was `to` already: this replacement has been done before.
    Repeated,
    /// The store has everything that was delivered.
    Refuted,
    /// `from` had been replaced before, by this other epoch.
    Superseded(Epoch),
}
