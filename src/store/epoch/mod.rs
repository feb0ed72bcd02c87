//! The epoch of the store: see [`model::epoch`](crate::model::epoch).

mod port;
mod statements;

pub use port::{EpochReads, EpochWrites, Replacement};
pub(super) use statements::epoch_column;
