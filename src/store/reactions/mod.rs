//! Reactions: a row for each user, message and emoji, and a bounded summary of them in the message's row, which is what
//! pages, events and new reactions read. They are written by [batches](crate::store::BatchWrites).

mod port;
mod postgres;
mod reads;
mod sqlite;
mod summary;

pub use port::{ReactionReads, Reactor};
pub(super) use summary::{Unsummarised, summarise};
