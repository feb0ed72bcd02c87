//! User names that look alike.

use std::path::Path;

use chat::{
    model::{username::skeleton, *},
    sqlite::Database,
    store::{self, *},
};
use sqlx::{AssertSqlSafe, Connection, migrate::Migrator};

use super::fixture::*;

on_both! {
    a_name_that_looks_like_another_is_refused,
}

async fn a_name_that_looks_like_another_is_refused(store: Fixture) {
    let first = store.user("Moderator1").await;
    for name in ["rnoderatorl", "MODERAT0R1", "moderatorI"] {
        let other = store.writes.register(&account(name)).await.unwrap();
        assert_eq!(other, Applied::NameConfusable, "{name}");
        assert!(store.reads.credentials(name).await.unwrap().is_none());
    }
    store.user("Moderator2").await;
    // A deleted account has no name to be confused with.
    let erased = store.writes.erase_account(first.id, t0()).await.unwrap();
    assert_eq!(erased, Applied::Done);
    store.user("rnoderatorl").await;
}

/// Names of accounts from before the column, in the order they were created.
const OLDER: [&str; 5] = ["IlIl", "paypal", "PaypaI", "rnike.vvood0", "Mike.W00d0"];

/// Applies the migrations below 15, and nothing after.
async fn before_skeletons(directory: &str, into: &Path) -> Migrator {
    let directory = Path::new(crate::support::ROOT).join(directory);
    for file in std::fs::read_dir(directory).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        if name.as_str() < "0015" {
            std::fs::copy(file.path(), into.join(name)).unwrap();
        }
    }
    Migrator::new(into).await.unwrap()
}

fn insert(at: usize, name: &str, id: &str, time: &str, quote: &str) -> String {
    format!(
        "INSERT INTO users (id, username, username_key, display_name, password_hash, created_at) \
         VALUES ({quote}{id}', '{name}', '{}{at}', 'x', '', {time})",
        name.to_lowercase()
    )
}

fn check(rows: Vec<(String, Option<String>)>) {
    for (name, found) in rows {
        let own = skeleton(&name);
        let later = ["PaypaI", "Mike.W00d0"].contains(&name.as_str());
        assert_eq!(found, (!later).then_some(own), "{name}");
    }
}

const FOUND: &str = "SELECT username, skeleton FROM users ORDER BY created_at";

#[tokio::test]
async fn older_accounts_on_sqlite_get_a_skeleton_unless_they_collide() {
    let directory = std::env::temp_dir().join(format!("chat_test_{}", new_id().simple()));
    std::fs::create_dir_all(directory.join("old")).unwrap();
    let file = directory.join("chat.db");
    let old = before_skeletons("migrations/sqlite", &directory.join("old")).await;
    let url = format!("sqlite://{}?mode=rwc", file.display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    old.run(&mut connection).await.unwrap();
    for (at, name) in OLDER.iter().enumerate() {
        let sql = insert(
            at,
            name,
            &new_id().simple().to_string(),
            &at.to_string(),
            "x'",
        );
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
    let database = Database::open(&file).await.unwrap();
    let rows = sqlx::query_as(FOUND).fetch_all(database.readers()).await;
    check(rows.unwrap());
    database.close().await;
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn older_accounts_on_postgres_get_a_skeleton_unless_they_collide() {
    let directory = std::env::temp_dir().join(format!("chat_test_{}", new_id().simple()));
    std::fs::create_dir(&directory).unwrap();
    let old = before_skeletons("migrations/postgres", &directory).await;
    let server = Server::new().await;
    let mut connection = sqlx::PgConnection::connect(&server.url).await.unwrap();
    old.run(&mut connection).await.unwrap();
    for (at, name) in OLDER.iter().enumerate() {
        let time = format!("to_timestamp({at})");
        let sql = insert(at, name, &new_id().to_string(), &time, "'");
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let wait = std::time::Duration::from_secs(20);
    let store = store::postgres::Store::connect(&[&server.url], 1, wait).unwrap();
    store.migrate().await.unwrap();
    check(
        sqlx::query_as(FOUND)
            .fetch_all(&mut connection)
            .await
            .unwrap(),
    );
    connection.close().await.unwrap();
    store.close().await;
    server.drop().await;
    std::fs::remove_dir_all(&directory).unwrap();
}
