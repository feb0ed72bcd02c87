//! A cluster behind PgBouncer in transaction mode, with fewer server connections than clients.

use super::{PACE, dead};
use crate::harness::{Kind, load::Load, pgbouncer::PgBouncer};

/// Everything is stored and delivered, and nothing becomes a dead letter.
async fn a_cluster_works(lines: &str, prepared: &str) {
    let Some(pooler) = PgBouncer::start(4, lines).await else {
        return;
    };
    // `chat migrate` goes through it as well.
    let mut chat = Load::plan(Kind::Cluster)
        .via("DATABASE_URL", pooler.address)
        .set("database.prepared_statements", prepared)
        .start()
        .await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    load.accepted(600).await;
    // A process that starts later gets server connections that others have used.
    chat.add_worker().await;
    chat.workers[0].kill9().await;
    chat.workers[0].restart().await;
    load.accepted(600).await;
    load.end(&chat).await;
    assert_eq!(
        dead::dead_letters(&chat).await,
        Vec::<serde_json::Value>::new()
    );
    let again = chat.program("migrate again", &["migrate"]).run().await;
    assert_eq!(again.code, Some(0), "{}", again.stderr);
}

/// PgBouncer refuses startup options that it does not know.
#[tokio::test]
async fn a_pooler_is_detected_by_its_refusal() {
    a_cluster_works("", "auto").await;
}

/// Or drops them.
#[tokio::test]
async fn a_pooler_is_detected_by_what_it_drops() {
    let lines = "ignore_startup_parameters = extra_float_digits,options";
    a_cluster_works(lines, "auto").await;
}

#[tokio::test]
async fn prepared_statements_are_switched_off() {
    a_cluster_works("", "off").await;
}
