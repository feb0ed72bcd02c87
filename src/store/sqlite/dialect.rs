//! SQLite's words and lists. A list is one JSON text: `jsonb_each` (SQLite 3.51, bundled) takes it apart as fast as
//! bound values would arrive.

use std::fmt::Write as _;

use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeSeq},
};
use sqlx::{Arguments, Sqlite, error::BoxDynError, sqlite::SqliteArguments};

use crate::{
    error::Error,
    model::Timestamp,
    sqlite,
    store::sql::{Column, Dialect, Kind, Value},
};

impl Dialect for Sqlite {
    const WORDS: &'static [(&'static str, &'static str)] = &[
        ("{among}", "IN (SELECT unhex(value) FROM jsonb_each($1))"),
        ("{join}", "CROSS JOIN"),
        ("{for update}", ""),
        ("{for share}", ""),
        ("{skip locked}", ""),
        ("{now}", "unixepoch('subsec') * 1000"),
        ("{now millis}", "unixepoch('subsec') * 1000"),
        ("{millis}", ""),
    ];

    fn choose<T>(_postgres: T, sqlite: T) -> T {
        sqlite
    }

    fn rows(columns: &[Column]) -> String {
        let mut values = String::new();
        for (i, Column(name, kind)) in columns.iter().enumerate() {
            let value = match columns.len() {
                1 => "value".to_owned(),
                _ => format!("value ->> {i}"),
            };
            let comma = if i == 0 { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = match kind {
                Kind::Id => write!(values, "{comma}unhex({value}) AS {name}"),
                _ => write!(values, "{comma}{value} AS {name}"),
            };
        }
        format!("(SELECT {values} FROM jsonb_each($1)) AS n")
    }

    fn bind_list<'a, const N: usize>(
        arguments: &mut SqliteArguments,
        _columns: &'static [Column; N],
        rows: impl ExactSizeIterator<Item = [Value<'a>; N]>,
    ) -> Result<(), BoxDynError> {
        let mut text = Vec::with_capacity(4096);
        let mut serializer = serde_json::Serializer::new(&mut text);
        let mut list = serializer.serialize_seq(Some(rows.len()))?;
        for row in rows {
            match row.as_slice() {
                [value] => list.serialize_element(&Json(value))?,
                row => list.serialize_element(&JsonRow(row))?,
            }
        }
        list.end()?;
        arguments.add(String::from_utf8(text)?)
    }

    fn failure(error: sqlx::Error) -> Error {
        sqlite::failure(error)
    }
}

struct JsonRow<'v, 'a>(&'v [Value<'a>]);

impl Serialize for JsonRow<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Json))
    }
}

/// Ids are hexadecimal, times are milliseconds since 1970, and a list within a row is a JSON text.
struct Json<'v, 'a>(&'v Value<'a>);

impl Serialize for Json<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Id(id) => id.map(uuid::Uuid::simple).serialize(serializer),
            Value::Number(number) => number.serialize(serializer),
            Value::Flag(flag) => flag.serialize(serializer),
            Value::Text(text) => text.serialize(serializer),
            Value::Time(time) => time.map(Timestamp::millis).serialize(serializer),
            Value::Ids([]) => serializer.serialize_none(),
            Value::Ids(ids) => serde_json::to_string(ids)
                .map_err(S::Error::custom)?
                .serialize(serializer),
        }
    }
}
