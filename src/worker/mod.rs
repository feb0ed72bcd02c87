//! A worker: consumes commands from the queue, stores them, publishes the events, acknowledges. All its state is in the
//! queue and the store, so it may be killed at any moment.

mod account_deletion;
mod batch;
mod commit;
mod consumers;
mod epoch;
mod held;
mod lane;
mod maintenance;
mod membership_cache;
mod outcomes;
mod partitions;
mod renames;
mod run;
mod state;
mod tasks;

pub use membership_cache::MembershipCache;
pub use run::run;
pub use state::Worker;
