//! The tables and columns of both schemas, compared.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row as _, SqliteConnection};

use crate::error::{Error, Result};

/// Tables of SQLite whose rows are not copied, with the reason.
pub const NOT_COPIED: [(&str, &str); 4] = [
    (
        "_sqlx_migrations",
        "each database records its own migrations",
    ),
    ("queue", "its commands are stored before the copy begins"),
    ("jobs", "its tasks are published to RabbitMQ"),
    (
        "dead_letters",
        "the transfer is refused while there are any",
    ),
];

/// A table of both databases.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

/// A column's type in PostgreSQL, and how SQLite has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// uuid; 16 bytes.
    Id,
    /// uuid[]; a JSON list.
    Ids,
    /// bigint; INTEGER.
    Number,
    /// boolean; 0 or 1.
    Flag,
    /// text, jsonb; TEXT.
    Text,
    /// timestamptz; milliseconds since 1970.
    Time,
    /// bytea; BLOB.
    Bytes,
}

impl Kind {
    /// Of a type as PostgreSQL's catalog names it.
    fn of(postgres: &str) -> Option<Kind> {
        Some(match postgres {
            "uuid" => Kind::Id,
            "_uuid" => Kind::Ids,
            "int8" => Kind::Number,
            "bool" => Kind::Flag,
            "text" | "jsonb" => Kind::Text,
            "timestamptz" => Kind::Time,
            "bytea" => Kind::Bytes,
            _ => return None,
        })
    }
}

/// The tables to copy, in the order of their names.
///
/// # Errors
/// `internal` if the schemas differ: a table or column of one is missing in the other, or a type cannot be converted.
pub async fn plan(source: &mut SqliteConnection, target: &mut PgConnection) -> Result<Vec<Table>> {
    let mut source = source_columns(source).await.map_err(Error::internal)?;
    for (name, _) in NOT_COPIED {
        source.remove(name);
    }
    let mut tables = Vec::new();
    for (name, columns) in target_columns(target).await.map_err(Error::internal)? {
        if NOT_COPIED.iter().any(|(skipped, _)| *skipped == name) {
            continue;
        }
        let Some(mut found) = source.remove(&name) else {
            return Err(differ(format!(
                "the standalone database has no table {name}"
            )));
        };
        let mut converted = Vec::new();
        for (column, of) in columns {
            let Some(kind) = Kind::of(&of) else {
                return Err(differ(format!("{name}.{column} has the type {of}")));
            };
            if !found.contains(&column) {
                return Err(differ(format!(
                    "the standalone database has no {name}.{column}"
                )));
            }
            found.retain(|found| *found != column);
            converted.push(Column { name: column, kind });
        }
        if let Some(column) = found.first() {
            return Err(differ(format!("PostgreSQL has no {name}.{column}")));
        }
        tables.push(Table {
            name,
            columns: converted,
        });
    }
    match source.keys().next() {
        Some(name) => Err(differ(format!("PostgreSQL has no table {name}"))),
        None => Ok(tables),
    }
}

fn differ(how: String) -> Error {
    Error::internal(format!("the schemas of the two databases differ: {how}"))
}

async fn source_columns(
    source: &mut SqliteConnection,
) -> sqlx::Result<BTreeMap<String, Vec<String>>> {
    let rows = sqlx::query(
        "SELECT t.name AS table_name, c.name AS column_name \
         FROM sqlite_schema AS t, pragma_table_info(t.name) AS c \
         WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )
    .fetch_all(source)
    .await?;
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let columns = tables.entry(row.try_get("table_name")?).or_default();
        columns.push(row.try_get("column_name")?);
    }
    Ok(tables)
}

async fn target_columns(
    target: &mut PgConnection,
) -> sqlx::Result<BTreeMap<String, Vec<(String, String)>>> {
    let rows = sqlx::query(
        "SELECT c.table_name::text AS table_name, c.column_name::text AS column_name, c.udt_name::text AS type_name \
         FROM information_schema.columns AS c \
         JOIN information_schema.tables AS t USING (table_schema, table_name) \
         WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE' \
         ORDER BY c.table_name, c.ordinal_position",
    )
    .fetch_all(target)
    .await?;
    let mut tables: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for row in rows {
        let columns = tables.entry(row.try_get("table_name")?).or_default();
        columns.push((row.try_get("column_name")?, row.try_get("type_name")?));
    }
    Ok(tables)
}
