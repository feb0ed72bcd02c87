//! The durable state of the chat: accounts, rooms, messages, notifications. There are two stores behind one port,
//! PostgreSQL for a cluster and SQLite for one process, and one contract suite (`tests/it/contract/store/`) that both
//! must pass.
//!
//! A subject is a folder: `port.rs` has its traits and values, `record.rs` its rows, the other files its statements,
//! and `postgres.rs` and `sqlite.rs` the statements that differ. `sql/` has the tools to write them; [`postgres`]
//! and [`sqlite`] are the connections. A new subject is a folder and, in `port.rs` here, a trait of [`Reads`] or
//! [`Writes`].
//!
//! Edges are given [`Reads`] only, so they *cannot* write the database; [`Writes`] belongs to workers. The stores
//! decide nothing: commands work out the changes between [`BatchWrites::begin`] and [`Transaction::commit`].

mod accounts;
mod batch;
mod epoch;
mod expire;
mod logins;
mod members;
mod messages;
pub mod notify;
mod port;
pub mod postgres;
mod reactions;
mod rooms;
mod sql;
pub mod sqlite;

pub use accounts::{
    AccountPatch, AccountReads, AccountWrites, Applied, DELETED_DISPLAY_NAME, DELETED_USERNAME,
    NewAccount,
};
pub use batch::{
    AddMembers, BatchWrites, Changes, Facts, FeedEntry, GivenReaction, ReactionDetail, ReactionKey,
    ReactionScope, Scope, Transaction,
};
pub use epoch::{EpochReads, EpochWrites, Replacement};
pub use expire::{EXPIRE_AT_ONCE, Expired, Expiry};
pub use logins::{Login, LoginReads, LoginSession, LoginWrites, NewPassword, Rotation};
pub use members::{MemberReads, MemberRooms, RoomEntry};
pub use messages::{MessageReads, Missed, MissedContent, Window};
pub use port::{Reads, Writes};
pub use reactions::{ReactionReads, Reactor};
pub use rooms::RoomReads;
