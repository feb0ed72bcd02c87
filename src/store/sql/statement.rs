//! A statement with its parameters.

use sqlx::error::BoxDynError;

use super::{
    Column, Value,
    dialect::{Binds, Dialect},
};
use crate::error::Result;

/// A statement with its parameters, ready to run in a [`Session`](super::Session).
pub struct Statement<D: Dialect> {
    text: &'static str,
    arguments: std::result::Result<D::Arguments, BoxDynError>,
}

/// A statement whose parameters are `$1`, `$2` ….
pub fn sql<D: Dialect>(text: &'static str) -> Statement<D> {
    Statement {
        text,
        arguments: Ok(D::Arguments::default()),
    }
}

impl<D: Dialect> Statement<D> {
    /// Adds the next parameter.
    pub fn bind<T>(self, value: T) -> Self
    where
        D: Binds<T>,
    {
        self.add(|arguments| D::bind(arguments, value))
    }

    /// Adds a list of rows: as many parameters as the database needs for these columns.
    pub fn bind_list<'a, const N: usize>(
        self,
        columns: &'static [Column; N],
        rows: impl ExactSizeIterator<Item = [Value<'a>; N]>,
    ) -> Self {
        self.add(|arguments| D::bind_list(arguments, columns, rows))
    }

    /// The first failure stays, and is the statement's when it runs.
    fn add(
        mut self,
        add: impl FnOnce(&mut D::Arguments) -> std::result::Result<(), BoxDynError>,
    ) -> Self {
        if let Ok(arguments) = &mut self.arguments
            && let Err(error) = add(arguments)
        {
            self.arguments = Err(error);
        }
        self
    }

    /// For the driver.
    pub fn query(self) -> Result<sqlx::query::Query<'static, D, D::Arguments>>
    where
        D::Arguments: sqlx::IntoArguments<D>,
    {
        let arguments = self.arguments.map_err(sqlx::Error::Encode);
        Ok(sqlx::query_with(self.text, arguments.map_err(D::failure)?))
    }
}
