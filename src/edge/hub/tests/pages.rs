//! The newest page: read once, served to members only, and invalidated by every event of the room.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::{
    edge::reactions::SharedMessage,
    error::{Error, Result},
};

/// Counts the checks and reads that the hub requests.
#[derive(Default)]
struct PageSource {
    checks: AtomicUsize,
    reads: AtomicUsize,
}

impl PageSource {
    async fn page(&self, world: &World, room: RoomId, user: UserId) -> Result<Bytes> {
        let check = || async {
            self.checks.fetch_add(1, Ordering::Relaxed);
            Ok(world.store.head(room))
        };
        let read = async |_| {
            let number = self.reads.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(Bytes::from(format!("page {number}")).into())
        };
        let page = world.hub.newest_page(room, user, 50, check, read).await?;
        Ok(page.for_reader_now(user).expect("no reactions"))
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn concurrent_requests_share_one_read() {
    let (world, reader) = one_reader(NEVER, 3).await;
    let (source, user) = (PageSource::default(), new_id());
    let asking = (0..100).map(|_| source.page(&world, reader.room, user));
    for page in futures_util::future::join_all(asking).await {
        assert_eq!(page.unwrap(), "page 0");
    }
    assert_eq!(source.reads(), 1);
    let page = world.hub.page(reader.room, user, 50).unwrap();
    assert_eq!(page.for_reader_now(user).unwrap(), "page 0");
    let other = world.hub.page(reader.room, user, 10);
    assert!(other.is_none(), "another page");
    let page = world.hub.page(reader.room, new_id(), 50);
    assert!(page.is_none(), "a stranger");
}

#[tokio::test]
async fn an_event_of_the_room_invalidates_the_page() {
    let (world, mut reader) = one_reader(NEVER, 3).await;
    let (source, user) = (PageSource::default(), new_id());
    for round in 0..3 {
        let page = source.page(&world, reader.room, user).await.unwrap();
        assert_eq!(page, format!("page {round}"));
        assert!(world.hub.page(reader.room, user, 50).is_some());
        let events = world.store.append(reader.room, 2);
        // The second event alone reveals a missing range: an event is known to exist that was not delivered here.
        world.publish(reader.room, &events[1..]);
        reader.wait_for(events[1].seq).await;
        assert!(world.hub.page(reader.room, user, 50).is_none());
    }
}

#[tokio::test]
async fn without_the_bus_nothing_is_kept() {
    let (world, reader) = one_reader(NEVER, 3).await;
    let (source, user) = (PageSource::default(), new_id());
    source.page(&world, reader.room, user).await.unwrap();
    world.bus.deliver(Incoming::Lost);
    while world.hub.page(reader.room, user, 50).is_some() {
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        source.page(&world, reader.room, user).await.unwrap();
    }
    assert_eq!(source.reads(), 3);
}

#[tokio::test]
async fn a_readers_membership_is_checked_every_second() {
    let (world, reader) = one_reader(NEVER, 3).await;
    let (source, user) = (PageSource::default(), new_id());
    source.page(&world, reader.room, user).await.unwrap();
    let lapsed = async {
        while world.hub.page(reader.room, user, 50).is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let second = Duration::from_secs(2);
    tokio::time::timeout(second, lapsed)
        .await
        .expect("a second");
    let page = source.page(&world, reader.room, user).await.unwrap();
    assert_eq!(page, "page 0", "the page itself is good for longer");
    assert_eq!(source.reads(), 1);
}

#[tokio::test]
async fn a_refused_reader_leaves_no_room_open() {
    let (world, reader) = one_reader(NEVER, 3).await;
    let stranger = new_id();
    let check = || async { Err(Error::not_found("room")) };
    let read = async |_| Ok(Bytes::new().into());
    let page = world
        .hub
        .newest_page(stranger, new_id(), 50, check, read)
        .await;
    assert!(page.is_err());
    assert!(world.hub.find(stranger).is_none());
    assert!(world.hub.find(reader.room).is_some());
}

#[tokio::test]
async fn concurrent_joins_share_one_read_until_an_event() {
    let (world, mut reader) = one_reader(NEVER, 3).await;
    let reads = AtomicUsize::new(0);
    let room = reader.room;
    let newest = async |session| {
        let subscriber = Reader::new(session, room, 0).subscriber;
        let joining = world.hub.join(room, subscriber, None).await.unwrap();
        let read = async {
            let number = reads.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let text = serde_json::value::RawValue::from_string(number.to_string()).unwrap();
            Ok([SharedMessage::from(text)].into())
        };
        let newest = joining.newest(read).await.unwrap();
        (joining.live_from, newest[0].json().to_owned())
    };
    let joining = (10..110).map(&newest);
    for (upto, read) in futures_util::future::join_all(joining).await {
        assert_eq!((upto, read.as_str()), (3, "0"));
    }
    let events = world.store.append(reader.room, 2);
    world.publish(reader.room, &events);
    reader.wait_for(5).await;
    assert_eq!(newest(200).await, (5, "1".to_owned()));
    assert_eq!(newest(201).await, (5, "1".to_owned()));
    // An event is known to exist that no socket here has received, so a page that is read now may lack it: not cached.
    world.store.lock().down = true;
    let events = world.store.append(reader.room, 2);
    world.publish(reader.room, &events[1..]);
    while newest(202).await.1 == "1" {
        tokio::task::yield_now().await;
    }
    let read = reads.load(Ordering::Relaxed);
    assert_eq!(newest(203).await, (5, read.to_string()));
}
