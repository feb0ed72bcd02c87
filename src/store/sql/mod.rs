//! Tools for the SQL of the subjects, which is written once for both databases.
//!
//! - A statement is one text with `$1` placeholders, which PostgreSQL and SQLite both read ([`statement`]).
//! - A list of rows is one parameter of a statement, whatever its length ([`list`]).
//! - A few words that differ are written in braces ([`template`]). Where more differs, the subject has both texts in
//!   its `postgres.rs` and `sqlite.rs` and picks with [`Dialect::choose`].
//! - Rows are read by column name into [`Record`]s.
//!
//! A subject's code is generic over [`Database`], so that each port is implemented once.

mod columns;
mod dialect;
mod list;
mod record;
mod session;
mod statement;
mod template;

pub use dialect::Dialect;
pub use session::{Access, Database, Session};
pub(super) use {
    columns::Ids,
    list::{Column, Kind, Value},
    record::{Record, Row},
    session::on_replica,
    statement::{Statement, sql},
    template::{ListSql, Sql},
};
