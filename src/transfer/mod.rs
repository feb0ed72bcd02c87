//! `chat migrate --restored` begins a new epoch. `chat migrate --from-standalone` moves the data of a standalone node into the empty database of a cluster. All of it
//! is one transaction: after an error the target is as before, and the source always stays.
//!
//! Tables and columns are those of the target's schema; `tables.rs` lists the tables that are not copied, and why.

mod drain;
mod epoch;
mod rows;
mod run;
mod tables;
mod tasks;

pub use epoch::begin_epoch;
pub use run::{SecretState, Transfer, from_standalone};
pub use tables::{NOT_COPIED, Table, plan};
