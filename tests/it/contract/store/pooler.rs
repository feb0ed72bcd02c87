//! Poolers in transaction mode: the errors that prepared statements cause there, and what `chat doctor` says.

use std::time::Duration;

use chat::store::{
    postgres::{PreparedStatements, Store},
    *,
};
use futures_util::future::join_all;

use super::fixture::*;
use crate::harness::pgbouncer::PgBouncer;

const WAIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_direct_connection_has_no_pooler() {
    let server = Server::new().await;
    let store = Store::connect(&[&server.url], 2, WAIT).unwrap();
    assert_eq!(store.check_pooler().await.unwrap(), None);
    store.close().await;
    server.drop().await;
}

/// With names, statements meet those of other connections. That is no command's fault: such errors are retryable.
#[tokio::test]
async fn statements_of_other_connections_are_temporary_errors() {
    let Some(pooler) = PgBouncer::start(2, "").await else {
        return;
    };
    let server = Server::new().await;
    let url = pooler.via(&server.url);
    let store = Store::connect(&[&url], 8, WAIT).unwrap();
    store.migrate().await.unwrap();
    let found = store.check_pooler().await.unwrap();
    assert!(found.unwrap().contains("without prepared statements"));

    let named = Store::connect_with(&[&url], 8, WAIT, PreparedStatements::On).unwrap();
    let (mut failures, mut named_ones) = (0, 0);
    for _ in 0..20 {
        let id = chat::model::new_id();
        let (one, two, three) = tokio::join!(
            join_all((0..4).map(|_| named.room(id))),
            join_all((0..4).map(|_| async { named.users(&[id]).await })),
            join_all((0..4).map(|_| async { named.heads(&[id]).await })),
        );
        let errors = one.into_iter().filter_map(Result::err);
        let errors = errors.chain(two.into_iter().filter_map(Result::err));
        let errors = errors.chain(three.into_iter().filter_map(Result::err));
        for error in errors {
            failures += 1;
            let text = error.chain();
            if text.contains("prepared statement") {
                named_ones += 1;
                assert!(error.is_retryable(), "{text}");
            }
        }
    }
    println!("{failures} of 240 statements failed, {named_ones} of them by name");
    assert!(named_ones > 0);
    let error = named.check_pooler().await.unwrap_err();
    assert!(
        error.message.contains("database.prepared_statements"),
        "{error}"
    );
    named.close().await;
    store.close().await;
    server.drop().await;
}
