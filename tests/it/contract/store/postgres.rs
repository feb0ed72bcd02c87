//! Failures that only a server can have: it is down, frozen, or loses a worker.

use std::time::{Duration, Instant};

use chat::store::{self, *};
use sqlx::{Connection, Executor};

use super::fixture::*;

#[tokio::test]
async fn an_absent_server_is_unavailable_in_time() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let url = format!("postgres://nobody@127.0.0.1:{port}/none");
    let store = store::postgres::Store::connect(&[&url], 2, Duration::from_millis(300)).unwrap();
    let begun = Instant::now();
    let error = store.ping().await.unwrap_err();
    assert!(error.is_retryable(), "{}", error.chain());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_invalid_address_is_refused_at_once() {
    let error = store::postgres::Store::connect(&["mysql:/x"], 1, Duration::ZERO).unwrap_err();
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn migrating_twice_at_once_is_harmless() {
    let server = Server::new().await;
    let store =
        store::postgres::Store::connect(&[&server.url], 1, Duration::from_secs(20)).unwrap();
    let error = store.check_schema().await.unwrap_err();
    assert!(
        error.is_retryable() && error.message.contains("chat migrate"),
        "{error}"
    );
    let (a, b) = tokio::join!(store.migrate(), store.migrate());
    a.and(b).unwrap();
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    store.ping().await.unwrap();
    store.close().await;
    server.drop().await;
}

/// During a rolling update, older nodes run on the newer schema.
#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let server = Server::new().await;
    let store =
        store::postgres::Store::connect(&[&server.url], 1, Duration::from_secs(20)).unwrap();
    store.migrate().await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&server.url).await.unwrap();
    connection.execute(NEWER).await.unwrap();
    connection.close().await.unwrap();
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    store.close().await;
    server.drop().await;
}

/// A worker that freezes between `begin` and `commit` holds its locks on rooms for 2 s.
#[tokio::test]
async fn a_frozen_worker_loses_its_locks() {
    on_postgres(async |store: Fixture| {
        let ada = store.user("ada").await;
        let id = store.public_room(&ada).await;
        let (_, frozen) = store.writes.begin(&scope([id])).await.unwrap();
        let begun = Instant::now();
        let (_, next) = store.writes.begin(&scope([id])).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10));

        let changes = |body: &str| Changes {
            heads: [(id, 1)].into(),
            new_messages: vec![message(id, &ada, 1, body)],
            ..Changes::default()
        };
        next.commit(changes("the next one's")).await.unwrap();
        let error = frozen
            .commit(changes("the frozen one's"))
            .await
            .unwrap_err();
        assert!(error.is_retryable(), "{}", error.chain());
        let found = store.reads.messages(id, Window::Latest, 9).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].body, "the next one's");
    })
    .await;
}

/// Two addresses: one whose server becomes read-only, as in a failover, and one whose server accepts writes.
#[tokio::test]
async fn connections_go_to_the_server_that_accepts_writes() {
    let server = Server::new().await;
    let separator = if server.url.contains('?') { '&' } else { '?' };
    let setting = |value: &str| {
        let option = format!("options=-c%20default_transaction_read_only%3D{value}");
        format!("{}{separator}{option}", server.url)
    };
    let (standby, primary) = (setting("on"), setting("off"));
    let wait = Duration::from_secs(20);

    // The first address is a standby from the beginning.
    let started = Instant::now();
    let store = store::postgres::Store::connect(&[&standby, &primary], 2, wait).unwrap();
    store.migrate().await.unwrap();
    store.ping().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{started:?}");
    store.close().await;

    // The first address does not answer, as a host that drops packets: its connections are opened and stay silent.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let lost = format!("postgres://nobody@{}/none", silent.local_addr().unwrap());
    let started = Instant::now();
    let store = store::postgres::Store::connect(&[&lost, &primary], 2, wait).unwrap();
    store.ping().await.unwrap();
    store.ping().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{started:?}");
    store.close().await;

    // The server in use becomes one.
    let store = store::postgres::Store::connect(&[&server.url, &primary], 2, wait).unwrap();
    store.ping().await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&primary).await.unwrap();
    let demote = "DO $$ BEGIN \
            EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); \
            PERFORM pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid(); \
        END $$";
    connection.execute(demote).await.unwrap();
    let demoted = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(error.is_retryable(), "{}", error.chain());
        assert!(
            demoted.elapsed() < Duration::from_secs(10),
            "{}",
            error.chain()
        );
    }
    println!("another server is used after {:?}", demoted.elapsed());
    assert!(demoted.elapsed() < Duration::from_secs(2), "{demoted:?}");
    store.close().await;

    // Without another server, it is unavailable.
    let wait = Duration::from_millis(500);
    let store = store::postgres::Store::connect(&[&server.url], 2, wait).unwrap();
    let error = store.ping().await.unwrap_err();
    assert!(error.is_retryable(), "{}", error.chain());
    store.close().await;
    connection.close().await.unwrap();
    server.drop().await;
}
