//! Checks what was sent against what was received: finds every message that was lost, duplicated, reordered, misnumbered
//! or delivered to a reader it was not meant for.
//!
//! Pure bookkeeping: no I/O and no clock. It needs a few bytes for each message and about one bit for each delivery, so
//! that it can follow millions of them. The fault tests use it as well as the load generator.
//!
//! A *subscription* is one reader's view of one room; it lasts over any number of connections. Every send must be
//! recorded ([`Judge::sent`]) before it leaves, so that no delivery can be recorded before its send.

mod evaluate;
mod faults;
mod ids;
mod record;
mod state;
mod subscription;
#[cfg(test)]
mod tests;
mod verdict;

pub use self::{
    ids::{ConnectionNo, Key, RoomNo, Seq, SubscriptionNo, UserId},
    state::Judge,
    verdict::Verdict,
};
