//! Compares the schema of a file that came from elsewhere with the one that `migrations/sqlite` make. A trigger or view
//! in such a file would run with the rights of the server. Additional indexes are accepted.

use std::collections::BTreeSet;

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor as _, Row as _, SqliteConnection,
    migrate::Migrator, sqlite::SqliteConnectOptions,
};

use super::{MIGRATIONS, TRUSTED_SCHEMA};

/// The table in which sqlx keeps the applied migrations.
const APPLIED: &str = "_sqlx_migrations";
/// The tables that `ANALYZE` makes; a user may have run it.
const STATISTICS: [(&str, &str); 2] = [
    ("sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)"),
    (
        "sqlite_stat4",
        "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
    ),
];
/// More than the migrations make, of objects and of characters in one statement.
const MAX_OBJECTS: i64 = 1_000;
const MAX_TEXT: i64 = 100_000;

/// An object of `sqlite_schema`. Its type and name together identify it: a trigger may have the name of a table.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    kind: String,
    name: String,
    table: String,
    sql: String,
}

/// The first difference between the file's schema and the one that its migrations and `also`, further statements, make;
/// none if the two are equal. A file of a newer version is not compared: [`super::Database::open`] refuses it.
pub async fn difference(
    file: &mut SqliteConnection,
    also: &[&str],
) -> sqlx::Result<Option<String>> {
    let mut found = objects(file).await?;
    let newest: BTreeSet<i64> = MIGRATIONS.iter().map(|one| one.version).collect();
    let mut wanted = made_by(&newest, also).await?;
    let mut applied = BTreeSet::new();
    if found.iter().any(|object| object.name == APPLIED) {
        // Before anything is read from it.
        if !found
            .iter()
            .any(|object| object.name == APPLIED && wanted.contains(object))
        {
            return Ok(Some(format!(
                "its table {APPLIED} is another one than chat's"
            )));
        }
        let select = format!("SELECT version FROM {APPLIED} LIMIT {MAX_OBJECTS}");
        let versions: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(select))
            .fetch_all(file)
            .await?;
        applied = versions.into_iter().collect();
    }
    if !applied.is_subset(&newest) {
        return Ok(None);
    }
    if applied != newest {
        wanted = made_by(&applied, also).await?;
    }
    // An operator may have added an index; with the schema not trusted, its expressions call no dangerous function.
    let known = |object: &Object| wanted.iter().any(|one| one.name == object.name);
    found.retain(|object| match object.kind.as_str() {
        "table" => !STATISTICS.contains(&(object.name.as_str(), object.sql.as_str())),
        "index" => known(object),
        _ => true,
    });
    if let Some(Object { kind, name, .. }) = found.difference(&wanted).next() {
        let is_known = wanted
            .iter()
            .any(|one| (&one.kind, &one.name) == (kind, name));
        return Ok(Some(if is_known {
            format!("its {kind} {name} is another one than chat's")
        } else {
            format!("its {kind} {name} is none of chat's")
        }));
    }
    let missing = wanted.difference(&found).next();
    Ok(missing.map(|object| format!("it lacks the {} {}", object.kind, object.name)))
}

async fn objects(connection: &mut SqliteConnection) -> sqlx::Result<BTreeSet<Object>> {
    let rows = sqlx::query(
        "SELECT type, name, tbl_name, coalesce(substr(sql, 1, ?), '') AS sql FROM sqlite_schema LIMIT ?",
    )
    .bind(MAX_TEXT)
    .bind(MAX_OBJECTS)
    .fetch_all(connection)
    .await?;
    if rows.len() as i64 == MAX_OBJECTS {
        let many = format!("the schema has {MAX_OBJECTS} objects or more");
        return Err(sqlx::Error::Protocol(many));
    }
    let objects = rows.iter().map(|row| {
        // Versions of sqlx differ in the spaces of their own statement.
        let sql: String = row.try_get("sql")?;
        Ok(Object {
            kind: row.try_get("type")?,
            name: row.try_get("name")?,
            table: row.try_get("tbl_name")?,
            sql: sql.split_whitespace().collect::<Vec<_>>().join(" "),
        })
    });
    objects.collect()
}

/// The schema of an empty database after these migrations.
async fn made_by(versions: &BTreeSet<i64>, also: &[&str]) -> sqlx::Result<BTreeSet<Object>> {
    let chosen = MIGRATIONS.iter();
    let chosen = chosen.filter(|migration| versions.contains(&migration.version));
    let mut fresh = "sqlite::memory:"
        .parse::<SqliteConnectOptions>()?
        .pragma(TRUSTED_SCHEMA.0, TRUSTED_SCHEMA.1)
        .connect()
        .await?;
    if !versions.is_empty() {
        Migrator::with_migrations(chosen.cloned().collect())
            .run_direct(None, &mut fresh, false)
            .await?;
    }
    for statement in also {
        fresh
            .execute(AssertSqlSafe((*statement).to_owned()))
            .await?;
    }
    let made = objects(&mut fresh).await?;
    fresh.close().await?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn migrated(versions: usize) -> SqliteConnection {
        let mut file = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let first = MIGRATIONS.iter().take(versions).cloned().collect();
        let first = Migrator::with_migrations(first);
        first.run_direct(None, &mut file, false).await.unwrap();
        file
    }

    #[tokio::test]
    async fn files_of_this_and_earlier_versions_are_accepted() {
        for versions in 1..=MIGRATIONS.iter().count() {
            let mut file = migrated(versions).await;
            file.execute("ANALYZE").await.unwrap();
            assert_eq!(difference(&mut file, &[]).await.unwrap(), None);
            // A migration that is said to have run.
            let insert = format!(
                "INSERT INTO {APPLIED} (version, description, success, checksum, execution_time) \
                 SELECT {}, '', 1, x'', 0 WHERE {versions} > 0",
                MIGRATIONS
                    .iter()
                    .nth(versions)
                    .map_or(9_999, |next| next.version)
            );
            file.execute(AssertSqlSafe(insert)).await.unwrap();
            let found = difference(&mut file, &[]).await.unwrap();
            let is_newest = versions == MIGRATIONS.iter().count();
            assert_eq!(found.is_none(), is_newest, "{versions}: {found:?}");
        }
        let mut empty = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        assert_eq!(difference(&mut empty, &[]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn other_objects_are_named() {
        for (change, found) in [
            (
                "CREATE TRIGGER users AFTER DELETE ON users BEGIN SELECT 1; END",
                "its trigger users is none of chat's",
            ),
            ("CREATE VIEW a AS SELECT 1", "its view a is none of chat's"),
            ("DROP TABLE messages", "it lacks the "),
            (
                "ALTER TABLE users ADD COLUMN a INTEGER AS (1)",
                "its table users is another one than chat's",
            ),
            (
                "ALTER TABLE _sqlx_migrations ADD COLUMN a",
                "its table _sqlx_migrations is another one than chat's",
            ),
        ] {
            let mut file = migrated(usize::MAX).await;
            file.execute(change).await.unwrap();
            let difference = difference(&mut file, &[]).await.unwrap().unwrap();
            assert!(difference.starts_with(found), "{change}: {difference}");
        }
        let mut file = migrated(usize::MAX).await;
        let index = "CREATE INDEX a ON users (display_name)";
        file.execute(index).await.unwrap();
        assert_eq!(difference(&mut file, &[]).await.unwrap(), None);
        for i in 0..MAX_OBJECTS {
            let view = format!("CREATE VIEW a{i} AS SELECT 1");
            file.execute(AssertSqlSafe(view)).await.unwrap();
        }
        difference(&mut file, &[]).await.unwrap_err();
    }
}
