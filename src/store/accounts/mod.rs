//! Accounts: registration, profile, deletion. Their logins are in [`logins`](super::logins).

mod deletion;
mod port;
mod reads;
mod record;
mod writes;

pub use deletion::{DELETED_DISPLAY_NAME, DELETED_USERNAME};
pub use port::{AccountPatch, AccountReads, AccountWrites, Applied, NewAccount};
pub(super) use record::user;
