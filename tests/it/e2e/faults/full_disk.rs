//! The disk of PostgreSQL is full for a while.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};

use super::{AT_ONCE, PACE, dead};
use crate::harness::{Kind, load::Load};

/// Answers every insert as a server without space does (SQLSTATE 53100, `disk_full`).
const FULL: &str = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ \
     BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$; \
     CREATE TRIGGER full_disk BEFORE INSERT ON messages EXECUTE FUNCTION full_disk()";

#[tokio::test]
async fn a_full_disk_of_the_database_is_waited_for() {
    let chat = Load::plan(Kind::Cluster).start().await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    load.accepted(200).await;
    let mut database = PgConnection::connect(chat.database_url())
        .await
        .expect("the database");
    database.execute(FULL).await.expect("a trigger");
    // The queue takes the sends meanwhile.
    load.answers_within(AT_ONCE, Duration::from_secs(5)).await;
    let free = "DROP TRIGGER full_disk ON messages";
    database.execute(free).await.expect("no trigger");
    load.accepted(200).await;
    load.end(&chat).await;
    let dead = dead::dead_letters(&chat).await;
    assert!(dead.is_empty(), "{dead:?}");
}
