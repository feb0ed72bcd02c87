//! What only a server can do to us: be away, freeze, or lose a worker.

use std::time::{Duration, Instant};

use chat::{
    error::{Code, Result},
    model::*,
    store::{self, *},
};
use sqlx::{Connection, Executor};

use super::fixture::*;

#[tokio::test]
async fn an_absent_server_is_unavailable_in_time() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let url = format!("postgres://nobody@127.0.0.1:{port}/none");
    let store = store::postgres::Store::connect(&url, 2, Duration::from_millis(300)).unwrap();
    let begun = Instant::now();
    let error = store.ping().await.unwrap_err();
    assert!(error.is_retryable(), "{}", error.chain());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_once() {
    let error = store::postgres::Store::connect("mysql:/x", 1, Duration::ZERO).unwrap_err();
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn migrating_twice_at_once_is_harmless() {
    let server = Server::new().await;
    let store = store::postgres::Store::connect(&server.url, 1, Duration::from_secs(20)).unwrap();
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

/// While nodes are updated one by one, the older ones live with the newer schema.
#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let server = Server::new().await;
    let store = store::postgres::Store::connect(&server.url, 1, Duration::from_secs(20)).unwrap();
    store.migrate().await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&server.url).await.unwrap();
    connection.execute(NEWER).await.unwrap();
    connection.close().await.unwrap();
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    store.close().await;
    server.drop().await;
}

/// A worker that stops between `begin` and `commit` holds its rooms for two seconds, no longer.
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

/// A batch that did not lock: it is stored if nothing that it saw has changed, or not at all.
#[tokio::test]
async fn an_optimistic_batch_is_stored_whole_or_refused() {
    on_postgres(async |store: Fixture| {
        let ada = store.user("ada").await;
        let (one, other) = (store.public_room(&ada).await, store.public_room(&ada).await);
        let bodies = async |room| -> Vec<String> {
            let found = store.reads.messages(room, Window::Latest, 9).await.unwrap();
            found.into_iter().map(|message| message.body).collect()
        };
        let asked = Scope {
            members: [(one, ada.id), (other, ada.id)].into(),
            optimistic: true,
            ..scope([one, other])
        };
        let refused = |result: Result<()>| assert_eq!(result.unwrap_err().code, Code::Conflict);
        let both = |first: Message, second: Message| Changes {
            heads: [(one, first.seq), (other, second.seq)].into(),
            new_messages: vec![first, second],
            ..Changes::default()
        };

        let (facts, stored) = store.writes.begin(&asked).await.unwrap();
        assert_eq!(facts.rooms[&one].head, 0);
        assert_eq!(facts.members[&(other, ada.id)].role, Role::Owner);
        // It holds no lock: another batch passes it, and then it is too late for this one.
        let (_, late) = store.writes.begin(&asked).await.unwrap();
        let first = message(one, &ada, 1, "first");
        let changes = both(first.clone(), message(other, &ada, 1, "beside it"));
        stored.commit(changes.clone()).await.unwrap();
        refused(late.commit(changes).await);
        assert_eq!(bodies(one).await, ["first"]);

        // One of two rooms moved, by something that is no message.
        let (_, passed) = store.writes.begin(&asked).await.unwrap();
        let entry = FeedEntry {
            room: other,
            seq: 2,
            kind: EventKind::RoomUpdated,
            message: None,
            data: Some("{}".to_owned()),
            at: Timestamp::now(),
        };
        let moved = Changes {
            heads: [(other, 2)].into(),
            entries: vec![entry],
            ..Changes::default()
        };
        store.commit([other], moved).await.unwrap();
        let changes = both(
            message(one, &ada, 2, "lost"),
            message(other, &ada, 2, "lost"),
        );
        refused(passed.commit(changes).await);
        assert_eq!(bodies(one).await, ["first"]);
        assert_eq!(store.reads.heads(&[one]).await.unwrap(), [(one, 1)]);

        // A message that is there already.
        let (_, repeat) = store.writes.begin(&asked).await.unwrap();
        let again = Message {
            seq: 2,
            change_seq: 2,
            ..first
        };
        refused(
            repeat
                .commit(both(again, message(other, &ada, 3, "lost")))
                .await,
        );
        assert_eq!(bodies(other).await, ["beside it"]);
    })
    .await;
}
