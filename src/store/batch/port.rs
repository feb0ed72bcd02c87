//! The port of batches.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{Changes, Facts, Scope};
use crate::{
    error::Result,
    model::{RoomId, Seq},
};

#[async_trait]
pub trait BatchWrites: Send + Sync {
    /// Opens a transaction, locks the scope's rooms in id order, and reads the scope under those locks (the
    /// reads must see what was committed while waiting for a lock).
    ///
    /// A room that does not exist yet cannot be locked. When two transactions create the same one, the second
    /// `commit` fails with a retryable error; run again, it finds the room.
    async fn begin(&self, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)>;

    /// Reads a scope's `members`, with their rooms, its `messages` and its `named`, and locks nothing.
    async fn preview(&self, scope: &Scope) -> Result<Facts>;

    /// Stores new messages, which are expected to be new, and the heads that they move, all or nothing. `before` has
    /// the head of each room from which the messages were numbered.
    ///
    /// Every change that affects the right to write in a room moves its head. So if the heads are still the previewed
    /// ones, all other previewed facts are still true, except the names of users.
    ///
    /// # Errors
    /// [`Code::Conflict`](crate::error::Code) where a head has moved or a message is already stored.
    async fn append(&self, before: &HashMap<RoomId, Seq>, changes: &Changes) -> Result<()>;
}

/// An open transaction that holds the locks of its [`Scope`]. Dropped without `commit`, it changes nothing.
#[async_trait]
pub trait Transaction: Send {
    /// Writes everything or nothing; durable when it returns `Ok`.
    async fn commit(self: Box<Self>, changes: Changes) -> Result<()>;
}
