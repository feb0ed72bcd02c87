//! The batch: one transaction over rooms, members, bans, mutes, messages and events, which is how everything in a room
//! is written. **This is the hot path**: its cost is its number of statements.
//!
//! - `scope`: the reads of a batch; `changes`: its writes. The stores decide nothing: `command::room` computes the
//!   changes between [`BatchWrites::begin`] and [`Transaction::commit`].
//! - `transaction`: the order of the statements. `facts`, `reactions` and `writes` are the statements; `append` is the
//!   one that stores new messages.

mod append;
mod changes;
mod facts;
mod port;
mod postgres;
mod reactions;
mod scope;
mod sqlite;
mod transaction;
mod writes;

pub use changes::{Changes, FeedEntry, GivenReaction, ReactionDetail};
pub use port::{BatchWrites, Transaction};
pub use scope::{AddMembers, Facts, ReactionKey, ReactionScope, Scope};
