//! Rows of a result, read by column name.

use uuid::Uuid;

use super::dialect::{Decodes, Dialect};

/// A row of a result.
pub struct Row<'r, D: Dialect>(pub &'r D::Row);

impl<D: Dialect> Row<'_, D> {
    /// The value of a column.
    pub fn get<T>(&self, column: &str) -> sqlx::Result<T>
    where
        D: Decodes<T>,
    {
        D::read(self.0, column)
    }

    /// A number that counts something.
    pub fn count(&self, column: &str) -> sqlx::Result<u32> {
        let count: i64 = self.get(column)?;
        u32::try_from(count).map_err(|error| sqlx::Error::Decode(error.into()))
    }
}

/// A value that is read from a row, by the names of its columns.
pub trait Record: Sized + Send {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self>;
}

/// Two values of one row; no column of the one has the name of a column of the other.
impl<A: Record, B: Record> Record for (A, B) {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok((A::read(row)?, B::read(row)?))
    }
}

/// A column `id` alone.
impl Record for Uuid {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        row.get("id")
    }
}
