//! PostgreSQL's words and lists.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use sqlx::{Arguments, Postgres, error::BoxDynError, postgres::PgArguments};
use uuid::Uuid;

use super::pool;
use crate::{
    error::Error,
    model::Timestamp,
    store::sql::{Column, Dialect, Kind, Value},
};

impl Dialect for Postgres {
    const WORDS: &'static [(&'static str, &'static str)] = &[
        ("{among}", "= ANY($1)"),
        ("{join}", "JOIN"),
        ("{for update}", "FOR NO KEY UPDATE"),
        ("{for share}", "FOR KEY SHARE"),
        ("{skip locked}", "FOR UPDATE SKIP LOCKED"),
        ("{now}", "now()"),
        ("{now millis}", "(extract(epoch FROM now()) * 1000)::bigint"),
        ("{millis}", "* interval '1 millisecond'"),
    ];

    fn choose<T>(postgres: T, _sqlite: T) -> T {
        postgres
    }

    /// `UNNEST` flattens nested arrays, so a list within a column is passed as text.
    fn rows(columns: &[Column]) -> String {
        let names: Vec<&str> = columns.iter().map(|column| column.0).collect();
        let names = names.join(", ");
        let arrays: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(i, Column(_, kind))| format!("${}::{}[]", i + 1, array_of(*kind)))
            .collect();
        let list = format!("UNNEST({}) AS n ({names})", arrays.join(", "));
        if columns.iter().all(|column| cast(column.1).is_empty()) {
            return list;
        }
        let values: Vec<String> = columns
            .iter()
            .map(|&Column(name, kind)| format!("n.{name}{} AS {name}", cast(kind)))
            .collect();
        format!("(SELECT {} FROM {list}) AS n", values.join(", "))
    }

    fn bind_list<'a, const N: usize>(
        arguments: &mut PgArguments,
        columns: &'static [Column; N],
        rows: impl ExactSizeIterator<Item = [Value<'a>; N]>,
    ) -> Result<(), BoxDynError> {
        let mut arrays = columns.map(|column| Array::new(column.1, rows.len()));
        for row in rows {
            for ((array, value), column) in arrays.iter_mut().zip(row).zip(columns) {
                if !array.push(value) {
                    return Err(format!("{} is not of the kind of its value", column.0).into());
                }
            }
        }
        for array in arrays {
            match array {
                Array::Ids(ids) => arguments.add(ids),
                Array::Numbers(numbers) => arguments.add(numbers),
                Array::Flags(flags) => arguments.add(flags),
                Array::Texts(texts) => arguments.add(texts),
                Array::Times(times) => arguments.add(times),
            }?;
        }
        Ok(())
    }

    fn failure(error: sqlx::Error) -> Error {
        pool::failure(error)
    }
}

fn array_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Id => "uuid",
        Kind::Number => "bigint",
        Kind::Flag => "bool",
        Kind::Text | Kind::Ids | Kind::Json => "text",
        Kind::Time => "timestamptz",
    }
}

fn cast(kind: Kind) -> &'static str {
    match kind {
        Kind::Ids => "::uuid[]",
        Kind::Json => "::jsonb",
        Kind::Id | Kind::Number | Kind::Flag | Kind::Text | Kind::Time => "",
    }
}

/// A column's values.
enum Array<'a> {
    Ids(Vec<Option<Uuid>>),
    Numbers(Vec<Option<i64>>),
    Flags(Vec<bool>),
    Texts(Vec<Option<Cow<'a, str>>>),
    Times(Vec<Option<DateTime<Utc>>>),
}

impl<'a> Array<'a> {
    fn new(kind: Kind, rows: usize) -> Self {
        match kind {
            Kind::Id => Array::Ids(Vec::with_capacity(rows)),
            Kind::Number => Array::Numbers(Vec::with_capacity(rows)),
            Kind::Flag => Array::Flags(Vec::with_capacity(rows)),
            Kind::Text | Kind::Ids | Kind::Json => Array::Texts(Vec::with_capacity(rows)),
            Kind::Time => Array::Times(Vec::with_capacity(rows)),
        }
    }

    /// `false` for a value of another kind.
    fn push(&mut self, value: Value<'a>) -> bool {
        match (self, value) {
            (Array::Ids(ids), Value::Id(id)) => ids.push(id),
            (Array::Numbers(numbers), Value::Number(number)) => numbers.push(number),
            (Array::Flags(flags), Value::Flag(flag)) => flags.push(flag),
            (Array::Texts(texts), Value::Text(text)) => texts.push(text),
            (Array::Texts(texts), Value::Ids(ids)) => texts.push(array_text(ids).map(Cow::Owned)),
            (Array::Times(times), Value::Time(time)) => times.push(time.map(Timestamp::datetime)),
            _ => return false,
        }
        true
    }
}

/// An array of ids as PostgreSQL writes one; `None` where it is empty.
fn array_text(ids: &[Uuid]) -> Option<String> {
    if ids.is_empty() {
        return None;
    }
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    Some(format!("{{{}}}", ids.join(",")))
}
