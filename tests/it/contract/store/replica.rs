//! Reads on a streaming replica (`database.read_url`), also while its replay is paused and after it was killed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chat::store::{postgres::Store, *};

use super::fixture::*;
use crate::{harness::postgres::PostgresServer, support::until};

/// How often the replica has read messages. Servers update it once a second.
const ASKED: &str = "SELECT coalesce(sum(idx_scan + seq_scan), 0)::bigint \
     FROM pg_stat_user_tables WHERE relname = 'messages'";

#[tokio::test]
async fn a_replica_never_hides_what_is_needed() {
    let primary = PostgresServer::primary().await;
    let mut standby = primary.standby().await;
    let wait = Duration::from_secs(20);
    let store = Store::connect(&[primary.url()], 4, wait).unwrap();
    let store = store.with_replicas(&[standby.url()], 4).unwrap();
    store.migrate().await.unwrap();
    let fixture = Fixture {
        reads: Arc::new(store.clone()),
        writes: Arc::new(store.clone()),
        notify: Arc::new(store.clone()),
        raw: Raw::Postgres(primary.url()),
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
    // The replica is used once it is known to be current.
    let used = async || {
        assert_eq!(page(4).await, 3);
        standby.number(ASKED).await
    };
    until("the replica is asked", used, |asked| *asked > 0).await;
    let listed = async || fixture.reads.public_rooms(None, 50).await.unwrap().len();
    assert_eq!(listed().await, 1);

    standby.execute("SELECT pg_wal_replay_pause()").await;
    let paused = Instant::now();
    // At any time after that, a message that was stored is in the page below the next number.
    while paused.elapsed() < Duration::from_secs(3) {
        let seq = say().await;
        let below = Window::Before(seq + 1);
        let page = fixture.reads.messages(room, below, 5).await.unwrap();
        assert_eq!(page.last().map(|message| message.seq), Some(seq));
    }
    // What the paused replica does not know is seen, at the latest when it counts as too old.
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

    standby.execute("SELECT pg_wal_replay_resume()").await;
    let before = standby.number(ASKED).await;
    let used = async || {
        assert_eq!(page(4).await, 3);
        standby.number(ASKED).await
    };
    until("the replica is asked again", used, |asked| *asked > before).await;

    standby.kill9().await;
    for _ in 0..20 {
        assert_eq!(page(4).await, 3);
        assert_eq!(listed().await, 2);
    }
    store.close().await;
}
