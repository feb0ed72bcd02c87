//! The bus may lose, repeat and swap events: each socket gets each number once and in order, or as part of a gap.

mod chaos;
mod lost_chaos;
mod lost_history;
mod pages;
mod reader;
mod renames;
mod reports;
mod rights;
mod world;

use std::time::Duration;

use reader::{Reader, finish};
use serde_json::json;
use world::World;

use crate::{
    bus::{Channel, Incoming},
    model::*,
};

/// Heads are compared only when the bus is restored.
const NEVER: Duration = Duration::from_secs(3600);

/// A world with one live reader that has all existing events.
async fn one_reader(reconcile: Duration, events: usize) -> (World, Reader) {
    let world = World::new(reconcile).await;
    let room = new_id();
    world.store.append(room, events);
    let mut reader = Reader::new(1, room, 0);
    reader.join_until_live(&world, async || {}).await;
    assert_eq!(reader.position, events as Seq);
    (world, reader)
}

#[tokio::test]
async fn repeats_are_dropped_and_swaps_put_right() {
    let (world, mut reader) = one_reader(NEVER, 3).await;
    let events = world.store.append(reader.room, 6);
    // There is no missing range, so the store is not read.
    world.store.lock().down = true;
    for order in [[1, 0], [1, 0], [3, 2], [2, 3], [5, 5], [4, 0]] {
        for at in order {
            world.publish(reader.room, &events[at..=at]);
        }
    }
    reader.wait_for(9).await;
    assert_eq!(reader.received, (4..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_missing_range_is_filled_before_what_follows_it() {
    let (world, mut reader) = one_reader(NEVER, 3).await;
    let events = world.store.append(reader.room, 2000);
    world.publish(reader.room, &events[..1]);
    // The missing range is longer than one page of repair.
    world.publish(reader.room, &events[1999..]);
    reader.wait_for(2003).await;
    assert!(reader.gaps.is_empty());
    assert_eq!(reader.received.len(), 2000);
}

#[tokio::test]
async fn a_missing_range_waits_for_a_store_that_is_away() {
    let (world, mut reader) = one_reader(NEVER, 3).await;
    world.store.lock().down = true;
    let events = world.store.append(reader.room, 5);
    world.publish(reader.room, &events[4..]);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    reader.read();
    assert_eq!(reader.position, 3, "nothing overtakes the missing range");
    world.store.lock().down = false;
    reader.wait_for(8).await;
    assert!(reader.gaps.is_empty());
}

#[tokio::test]
async fn a_missing_range_that_nothing_follows_is_found_by_the_heads() {
    let (world, mut reader) = one_reader(Duration::from_millis(20), 3).await;
    world.store.append(reader.room, 4);
    reader.wait_for(7).await;
    // An event that this version cannot decode counts as a missing range.
    world.store.append(reader.room, 1);
    let payload = b"8 somethingNew {}".as_slice().into();
    world.bus.send(Channel::Room(reader.room), payload);
    reader.wait_for(8).await;
}

#[tokio::test]
async fn heads_are_compared_when_the_bus_comes_back() {
    let (world, mut reader) = one_reader(NEVER, 3).await;
    world.bus.deliver(Incoming::Lost);
    world.store.append(reader.room, 4);
    world.bus.deliver(Incoming::Restored);
    reader.wait_for(7).await;
}

#[tokio::test]
async fn numbers_without_content_are_sent_as_a_gap() {
    let (world, mut reader) = one_reader(NEVER, 3).await;
    let events = world.store.append(reader.room, 10);
    for seq in [5, 6, 8, 12, 13] {
        world.store.lock().lost.insert((reader.room, seq));
    }
    // Event 11 reveals that 4 to 10 are missing; 12 and 13 are not announced at all.
    world.publish(reader.room, &events[7..8]);
    reader.wait_for(11).await;
    assert_eq!(reader.gaps, [5, 6, 8].into());
    assert_eq!(reader.received, [4, 7, 9, 10, 11]);
    world.bus.deliver(Incoming::Restored);
    reader.wait_for(13).await;
    assert_eq!(reader.gaps, [5, 6, 8, 12, 13].into());
    // Live delivery continues.
    let next = world.store.append(reader.room, 1);
    world.publish(reader.room, &next);
    reader.wait_for(14).await;
}

/// Events between the read and the answer are delivered after the answer, except those that the answer contains.
#[tokio::test]
async fn a_join_while_the_room_is_busy() {
    let (world, mut other) = one_reader(NEVER, 3).await;
    let room = other.room;
    let mut reader = Reader::new(2, room, 1);
    let brought = std::cell::Cell::new(0);
    let busy = async || {
        // Runs before the missed events are read and again after it: two events are published, one of them twice.
        let events = world.store.append(room, 2);
        world.publish(room, &events);
        world.publish(room, &events[1..]);
        brought.set(brought.get() + 2);
        while world.hub.find(room).unwrap().lock().last < 3 + brought.get() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    reader.join(&world, busy).await.unwrap();
    assert!(reader.live);
    reader.wait_for(7).await;
    assert_eq!(reader.received, [4, 5, 6, 7], "2 and 3 were in the answer");
    other.wait_for(7).await;
    assert_eq!(other.received, [4, 5, 6, 7]);
}

#[tokio::test]
async fn a_slow_join_in_a_busy_room_must_be_repeated() {
    let (world, mut other) = one_reader(NEVER, 3).await;
    let room = other.room;
    let mut reader = Reader::new(2, room, 3);
    let joining = world
        .hub
        .join(room, reader.subscriber.clone(), None)
        .await
        .unwrap();
    let events = world.store.append(room, 5000);
    for part in events.chunks(500) {
        world.publish(room, part);
    }
    other.wait_for(5003).await;
    finish(joining, 3, false, 3);
    reader.read();
    assert!(!reader.live, "4 and what follows would be missing");
    reader.join_until_live(&world, async || {}).await;
    assert_eq!(reader.position, 5003);
}

fn member(room: RoomId, user: UserId, event: &str) -> serde_json::Value {
    let user = json!({"id": user, "username": "ada", "displayName": "Ada"});
    let at = "2026-01-01T00:00:00.000Z";
    json!({"room": room, "changeSeq": 0, "user": user, "role": "member", "by": new_id(), "at": at, "_": event})
}

#[tokio::test]
async fn a_member_who_leaves_gets_that_event_and_no_more() {
    let (world, mut stays) = one_reader(NEVER, 3).await;
    let room = stays.room;
    let mut leaves = Reader::new(2, room, 3);
    leaves.join_until_live(&world, async || {}).await;
    let left = member(room, leaves.subscriber.user, "left");
    let events = [
        world.store.append(room, 1).remove(0),
        world.store.add(room, EventKind::MemberLeft, left),
        world.store.append(room, 1).remove(0),
    ];
    // The bus loses the event of the leave: the later event reveals the missing range.
    world.publish(room, &events[2..]);
    stays.wait_for(6).await;
    leaves.read();
    assert_eq!(leaves.received, [4, 5]);
    assert!(leaves.subscriber.rooms().is_empty());
}

/// The store is ahead of the bus: a user left and joined again before the bus delivers the event of the leave.
#[tokio::test]
async fn a_late_leave_event_does_not_unsubscribe_a_rejoined_member() {
    let (world, mut stays) = one_reader(NEVER, 3).await;
    let room = stays.room;
    let mut back = Reader::new(2, room, 3);
    let user = back.subscriber.user;
    let events = [
        world
            .store
            .add(room, EventKind::MemberLeft, member(room, user, "left")),
        world
            .store
            .add(room, EventKind::MemberJoined, member(room, user, "joined")),
    ];
    back.join_until_live(&world, async || {}).await;
    assert_eq!(back.position, 5);
    world.publish(room, &events);
    stays.wait_for(5).await;
    let next = world.store.append(room, 1);
    world.publish(room, &next);
    back.wait_for(6).await;
    assert_eq!(back.received, [6]);
}
