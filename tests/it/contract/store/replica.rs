//! Reads on a streaming replica (`database.read_url`), also while its replay is paused and after it was killed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chat::store::{postgres::Store, *};

use super::fixture::*;
use crate::{harness::engines::Postgres, support::until};

/// Texts that only the statements of a page of messages and of the list of public rooms contain.
const PAGE: &str = "FROM messages m";
const LIST: &str = "FROM rooms r WHERE r.kind = 'public'";

#[tokio::test]
async fn a_replica_never_hides_what_is_needed() {
    let mut postgres = Postgres::start().await;
    let (primary, standby) = (postgres.primary(), postgres.standby());
    postgres.log_statements(standby).await;
    let wait = Duration::from_secs(20);
    let store = Store::connect(&[postgres.url(primary)], 4, wait).unwrap();
    let replica = postgres.url(standby);
    let store = store.with_replicas(&[replica], 4).unwrap();
    store.migrate().await.unwrap();
    let fixture = Fixture {
        reads: Arc::new(store.clone()),
        writes: Arc::new(store.clone()),
        notify: Arc::new(store.clone()),
        raw: Raw::Postgres(postgres.url(primary)),
    };
    let ada = fixture.user("ada").await;
    let room = fixture.public_room(&ada).await;
    let mut written = 0;
    let mut say = async || {
        written += 1;
        fixture.say(room, &ada, written..=written).await;
        written
    };
    for _ in 0..3 {
        say().await;
    }
    let page = async |before| {
        let page = fixture
            .reads
            .messages(room, Window::Before(before), 50)
            .await;
        page.unwrap().len() as i64
    };
    let listed = async || fixture.reads.public_rooms(None, 50).await.unwrap().len();
    // The replica is used once it is known to be current.
    let served = async |text: &str| {
        let before = postgres.statements(standby, text);
        assert_eq!(page(4).await, 3);
        assert_eq!(listed().await, 1);
        postgres.statements(standby, text) > before
    };
    until("it serves a page", async || served(PAGE).await, |is| *is).await;
    until("it serves the list", async || served(LIST).await, |is| *is).await;

    let sql = "SELECT pg_wal_replay_pause()";
    postgres.execute(standby, sql).await;
    let paused = Instant::now();
    // At any time after that, a message that was stored is in the page below the next number.
    while paused.elapsed() < Duration::from_secs(3) {
        let seq = say().await;
        let below = Window::Before(seq + 1);
        let page = fixture.reads.messages(room, below, 5).await.unwrap();
        assert_eq!(page.last().map(|message| message.seq), Some(seq));
    }
    // Messages that the paused replica lacks are visible, at the latest when it counts as too old.
    let other = fixture.public_room(&ada).await;
    until("the new room is listed", listed, |rooms| *rooms == 2).await;
    assert!(fixture.reads.room(other).await.unwrap().is_some());
    assert_eq!(
        fixture
            .reads
            .are_members(&[(other, ada.id)])
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(fixture.reads.heads(&[other]).await.unwrap().len() == 1);

    let sql = "SELECT pg_wal_replay_resume()";
    postgres.execute(standby, sql).await;
    let served = async || {
        let before = postgres.statements(standby, PAGE);
        assert_eq!(page(4).await, 3);
        postgres.statements(standby, PAGE) > before
    };
    until("it serves a page again", served, |is| *is).await;

    postgres.kill9(standby);
    for _ in 0..20 {
        assert_eq!(page(4).await, 3);
        assert_eq!(listed().await, 2);
    }
    store.close().await;
}
