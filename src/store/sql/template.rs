//! Statements that both databases share but for a few words, which stand in braces:
//!
//! | word | PostgreSQL | SQLite |
//! |---|---|---|
//! | `{rows}` | the list's rows, as the table `n` | the same |
//! | `{among}` | `= ANY($1)`: the value before it is in the list, which has one column of ids | `IN (…)` |
//! | `{join}` | `JOIN` | `CROSS JOIN`, which keeps the left side as the outer loop |
//! | `{for update}`, `{for share}` | locks the rows found | nothing: the writer has everything locked |
//! | `{skip locked}` | leaves rows that others have locked | nothing |
//! | `{now}`, `{now millis}` | the server's clock, as the columns of either representation have it | milliseconds |
//! | `{millis}` | turns milliseconds into what can be added to `{now}` | nothing |
//!
//! The text for a database is made once, when it is first used.

use std::sync::OnceLock;

use super::{Column, Dialect, Statement, Value, statement::sql};

/// A statement without a list.
pub struct Sql(ListSql<0>);

impl Sql {
    pub const fn new(template: &'static str) -> Self {
        Sql(ListSql::new([], template))
    }

    /// The statement, without its parameters.
    pub fn statement<D: Dialect>(&'static self) -> Statement<D> {
        sql(self.0.text::<D>())
    }
}

/// A statement whose first parameter is a list of rows, each with these columns.
pub struct ListSql<const N: usize> {
    columns: [Column; N],
    postgres: Text,
    sqlite: Text,
}

struct Text {
    template: &'static str,
    expanded: OnceLock<String>,
}

impl Text {
    const fn new(template: &'static str) -> Self {
        Text {
            template,
            expanded: OnceLock::new(),
        }
    }
}

impl<const N: usize> ListSql<N> {
    pub const fn new(columns: [Column; N], template: &'static str) -> Self {
        Self::each(columns, template, template)
    }

    /// A statement that each database has its own template for.
    pub const fn each(columns: [Column; N], postgres: &'static str, sqlite: &'static str) -> Self {
        ListSql {
            columns,
            postgres: Text::new(postgres),
            sqlite: Text::new(sqlite),
        }
    }

    /// The statement with its list: a row for each item.
    pub fn list<'a, D: Dialect, T>(
        &'static self,
        items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        row: impl Fn(T) -> [Value<'a>; N],
    ) -> Statement<D> {
        sql(self.text::<D>()).bind_list(&self.columns, items.into_iter().map(row))
    }

    fn text<D: Dialect>(&'static self) -> &'static str {
        let text = D::choose(&self.postgres, &self.sqlite);
        text.expanded.get_or_init(|| {
            let mut expanded = text.template.to_owned();
            if N > 0 {
                expanded = expanded.replace("{rows}", &D::rows(&self.columns));
            }
            for (word, meaning) in D::WORDS {
                expanded = expanded.replace(word, meaning);
            }
            expanded
        })
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Postgres, Sqlite};

    use super::*;
    use crate::store::sql::Kind;

    static ROWS: ListSql<3> = ListSql::new(
        [
            Column("id", Kind::Id),
            Column("at", Kind::Time),
            Column("mentions", Kind::Ids),
        ],
        "SELECT n.id FROM {rows} {join} x ON x.id = n.id",
    );

    static IDS: ListSql<1> = ListSql::new(
        [Column("id", Kind::Id)],
        "SELECT 1 FROM x WHERE x.id {among} {for update}",
    );

    #[test]
    fn words_are_replaced_for_each_database() {
        assert_eq!(
            ROWS.text::<Postgres>(),
            "SELECT n.id FROM (SELECT n.id AS id, n.at AS at, n.mentions::uuid[] AS mentions \
             FROM UNNEST($1::uuid[], $2::timestamptz[], $3::text[]) AS n (id, at, mentions)) AS n \
             JOIN x ON x.id = n.id"
        );
        assert_eq!(
            ROWS.text::<Sqlite>(),
            "SELECT n.id FROM (SELECT unhex(value ->> 0) AS id, value ->> 1 AS at, \
             value ->> 2 AS mentions FROM jsonb_each($1)) AS n CROSS JOIN x ON x.id = n.id"
        );
        assert_eq!(
            IDS.text::<Postgres>(),
            "SELECT 1 FROM x WHERE x.id = ANY($1) FOR NO KEY UPDATE"
        );
        assert_eq!(
            IDS.text::<Sqlite>(),
            "SELECT 1 FROM x WHERE x.id IN (SELECT unhex(value) FROM jsonb_each($1)) "
        );
    }
}
