//! Deletion of rows that expired, a bounded number of each kind at a time.

mod port;
mod statements;

pub use port::{EXPIRE_AT_ONCE, Expired, Expiry};
