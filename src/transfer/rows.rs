//! Copies the rows of one table, as text for `COPY` (postgresql.org/docs/current/sql-copy.html).

use std::fmt::Write as _;

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection, Row as _, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::tables::{Column, Kind, Table};
use crate::{
    error::{Error, Result},
    model::Timestamp,
    output::Progress,
};

/// Bytes that are sent at once.
const CHUNK: usize = 1 << 20;

impl Table {
    /// The number of rows in SQLite.
    pub(super) async fn source_count(&self, source: &mut SqliteConnection) -> sqlx::Result<u64> {
        let count = AssertSqlSafe(self.count());
        let count: i64 = sqlx::query_scalar(count).fetch_one(source).await?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// The number of rows in PostgreSQL.
    pub(super) async fn target_count(&self, target: &mut PgConnection) -> sqlx::Result<u64> {
        let count = AssertSqlSafe(self.count());
        let count: i64 = sqlx::query_scalar(count).fetch_one(target).await?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    fn count(&self) -> String {
        format!("SELECT count(*) FROM \"{}\"", self.name)
    }

    fn columns(&self) -> String {
        let names: Vec<String> = self
            .columns
            .iter()
            .map(|c| format!("\"{}\"", c.name))
            .collect();
        names.join(", ")
    }

    /// Copies all rows; returns their number.
    pub(super) async fn copy(
        &self,
        source: &mut SqliteConnection,
        target: &mut PgConnection,
        total: u64,
        progress: &mut Progress,
    ) -> Result<u64> {
        let failed = |error: sqlx::Error| at(&self.name, error);
        let columns = self.columns();
        let select = format!("SELECT {columns} FROM \"{}\"", self.name);
        let copy = format!("COPY \"{}\" ({columns}) FROM STDIN", self.name);
        let what = format!("copying {}", self.name);
        let mut sink = target.copy_in_raw(&copy).await.map_err(failed)?;
        let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(source);
        let (mut text, mut done) = (String::with_capacity(CHUNK + CHUNK / 4), 0);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            encode(&row, &self.columns, &mut text).map_err(failed)?;
            done += 1;
            if text.len() >= CHUNK {
                sink.send(text.as_bytes()).await.map_err(failed)?;
                text.clear();
                progress.show(&what, done, total, "rows");
            }
        }
        sink.send(text.as_bytes()).await.map_err(failed)?;
        sink.finish().await.map_err(failed)
    }
}

/// An error of either database, with the table.
fn at(table: &str, error: sqlx::Error) -> Error {
    Error::conflict(format!("{table} cannot be copied: {error}"))
}

/// Appends a row as a line.
fn encode(row: &SqliteRow, columns: &[Column], text: &mut String) -> sqlx::Result<()> {
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            text.push('\t');
        }
        let name = column.name.as_str();
        let is_some = match column.kind {
            Kind::Id => write(text, row.try_get::<Option<Uuid>, _>(name)?),
            Kind::Number => write(text, row.try_get::<Option<i64>, _>(name)?),
            Kind::Flag => write(
                text,
                row.try_get::<Option<i64>, _>(name)?.map(|flag| flag != 0),
            ),
            Kind::Time => {
                let millis = row.try_get::<Option<i64>, _>(name)?;
                write(text, millis.map(Timestamp::from_millis))
            }
            Kind::Text => {
                let value = row.try_get::<Option<&str>, _>(name)?;
                value.map(|value| escape(value, text)).is_some()
            }
            Kind::Bytes => {
                let value = row.try_get::<Option<&[u8]>, _>(name)?;
                value.map(|bytes| hexadecimal(bytes, text)).is_some()
            }
            Kind::Ids => {
                let list = row.try_get::<Option<&str>, _>(name)?;
                let ids = list.map(serde_json::from_str::<Vec<Uuid>>).transpose();
                let ids = ids.map_err(|error| sqlx::Error::Decode(error.into()))?;
                ids.map(|ids| array(&ids, text)).is_some()
            }
        };
        if !is_some {
            text.push_str("\\N");
        }
    }
    text.push('\n');
    Ok(())
}

/// Appends a value whose text needs no escapes; returns whether there is one.
fn write(text: &mut String, value: Option<impl std::fmt::Display>) -> bool {
    // Writing to a string cannot fail.
    value.is_some_and(|value| write!(text, "{value}").is_ok())
}

fn escape(value: &str, text: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c => text.push(c),
        }
    }
}

fn hexadecimal(bytes: &[u8], text: &mut String) {
    text.push_str("\\\\x");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
}

fn array(ids: &[Uuid], text: &mut String) {
    text.push('{');
    for (i, id) in ids.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{id}");
    }
    text.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_bytes_and_lists_are_written_as_copy_reads_them() {
        let mut text = String::new();
        escape("a\\b\nc\rd\te \\. \\N ü", &mut text);
        assert_eq!(text, "a\\\\b\\nc\\rd\\te \\\\. \\\\N ü");
        text.clear();
        hexadecimal(&[0, 10, 255], &mut text);
        assert_eq!(text, "\\\\x000aff");
        text.clear();
        array(&[Uuid::nil(), Uuid::max()], &mut text);
        assert_eq!(
            text,
            "{00000000-0000-0000-0000-000000000000,ffffffff-ffff-ffff-ffff-ffffffffffff}"
        );
        text.clear();
        assert!(write(&mut text, Some(Timestamp::from_millis(1))));
        assert!(!write(&mut text, None::<i64>));
        assert_eq!(text, "1970-01-01T00:00:00.001Z");
    }
}
