//! Lists of rows as one parameter, so that a statement's text, and with it its prepared form, does not depend on how
//! many rows there are.
//!
//! PostgreSQL gets one array per column (`UNNEST`), SQLite one JSON array of rows (`jsonb_each`).

use std::borrow::Cow;

use uuid::Uuid;

use crate::model::Timestamp;

/// The type of a column of a list. Every type allows null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Id,
    Number,
    Flag,
    Text,
    Time,
    /// A list of ids, as a message's mentions are stored.
    Ids,
    /// JSON, as a message's reactions are stored.
    Json,
}

/// A column of a list: its name in the statement, and its type.
#[derive(Debug, Clone, Copy)]
pub struct Column(pub &'static str, pub Kind);

/// A value of a list's row.
pub enum Value<'a> {
    Id(Option<Uuid>),
    Number(Option<i64>),
    Flag(bool),
    Text(Option<Cow<'a, str>>),
    Time(Option<Timestamp>),
    Ids(&'a [Uuid]),
}

impl From<Uuid> for Value<'_> {
    fn from(id: Uuid) -> Self {
        Value::Id(Some(id))
    }
}

impl From<Option<Uuid>> for Value<'_> {
    fn from(id: Option<Uuid>) -> Self {
        Value::Id(id)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Value::Number(Some(number))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        Value::Number(number)
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Value::Flag(flag)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Text(Some(Cow::Borrowed(text)))
    }
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(text: Option<&'a str>) -> Self {
        Value::Text(text.map(Cow::Borrowed))
    }
}

impl From<Option<String>> for Value<'_> {
    fn from(text: Option<String>) -> Self {
        Value::Text(text.map(Cow::Owned))
    }
}

impl From<Timestamp> for Value<'_> {
    fn from(time: Timestamp) -> Self {
        Value::Time(Some(time))
    }
}

impl From<Option<Timestamp>> for Value<'_> {
    fn from(time: Option<Timestamp>) -> Self {
        Value::Time(time)
    }
}

impl<'a> From<&'a [Uuid]> for Value<'a> {
    fn from(ids: &'a [Uuid]) -> Self {
        Value::Ids(ids)
    }
}
