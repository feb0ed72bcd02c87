//! The two databases, as far as statements must know which one they are for.

use sqlx::{Arguments, ColumnIndex, Decode, Encode, Row, Type, error::BoxDynError, types::Json};
use uuid::Uuid;

use super::{Column, Ids, Value};
use crate::{
    error::Error,
    model::{
        EventKind, Role, RoomKind, StoredReaction, Timestamp,
        notify::{Cause, ChannelKind, DeliveryState, RoomMode},
    },
};

/// PostgreSQL or SQLite.
///
/// The supertraits list every type that a statement binds or a row holds: a bound on a trait's own name reaches
/// generic code, a `where` clause on it would have to be repeated at each use.
pub trait Dialect:
    sqlx::Database
    // Binds
    + for<'q> Binds<&'q str>
    + for<'q> Binds<&'q [u8]>
    + for<'q> Binds<Option<&'q str>>
    + Binds<Uuid>
    + Binds<Option<Uuid>>
    + Binds<i64>
    + Binds<Timestamp>
    + Binds<RoomMode>
    + Binds<ChannelKind>
    + Binds<Cause>
    + Binds<Option<DeliveryState>>
    // Decodes
    + Decodes<Uuid>
    + Decodes<Option<Uuid>>
    + Decodes<i64>
    + Decodes<bool>
    + Decodes<Option<bool>>
    + Decodes<String>
    + Decodes<Option<String>>
    + Decodes<Vec<u8>>
    + Decodes<Option<Vec<u8>>>
    + Decodes<Timestamp>
    + Decodes<Option<Timestamp>>
    + Decodes<Option<Ids>>
    + Decodes<Option<Json<Vec<StoredReaction>>>>
    + Decodes<RoomKind>
    + Decodes<Role>
    + Decodes<Option<Role>>
    + Decodes<EventKind>
    + Decodes<ChannelKind>
    + Decodes<RoomMode>
    + Decodes<Option<RoomMode>>
    + Decodes<Cause>
    + Decodes<Option<DeliveryState>>
{
    /// The words that a [template](super::template) may have in braces, and what they are in this database.
    const WORDS: &'static [(&'static str, &'static str)];

    /// Returns the one of the two that is for this database.
    fn choose<T>(postgres: T, sqlite: T) -> T;

    /// The list that begins at `$1`, as a table `n` with the list's columns.
    fn rows(columns: &[Column]) -> String;

    /// Adds a list to a statement's arguments. Each of the rows has a value for each of the columns, in their order.
    fn bind_list<'a, const N: usize>(
        arguments: &mut Self::Arguments,
        columns: &'static [Column; N],
        rows: impl ExactSizeIterator<Item = [Value<'a>; N]>,
    ) -> Result<(), BoxDynError>;

    /// The error that the caller gets for a failed call.
    fn failure(error: sqlx::Error) -> Error;
}

/// A value of this type can be a parameter.
pub trait Binds<T>: sqlx::Database {
    fn bind(arguments: &mut Self::Arguments, value: T) -> Result<(), BoxDynError>;
}

impl<'q, D, T> Binds<T> for D
where
    D: sqlx::Database,
    T: Encode<'q, D> + Type<D>,
{
    fn bind(arguments: &mut Self::Arguments, value: T) -> Result<(), BoxDynError> {
        arguments.add(value)
    }
}

/// A value of this type can be a column.
pub trait Decodes<T>: sqlx::Database {
    fn read(row: &Self::Row, column: &str) -> sqlx::Result<T>;
}

impl<D, T> Decodes<T> for D
where
    D: sqlx::Database,
    T: for<'r> Decode<'r, D> + Type<D>,
    for<'n> &'n str: ColumnIndex<D::Row>,
{
    fn read(row: &Self::Row, column: &str) -> sqlx::Result<T> {
        row.try_get(column)
    }
}
