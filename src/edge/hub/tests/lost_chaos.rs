//! Random losses of history, each from a seed: the store loses its newest messages and gives their numbers to others,
//! while publications are lost, late and repeated. In the end each socket has what the store has: no event is skipped
//! silently.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use serde_json::Value;

use super::{
    chaos::{Dice, Seed},
    reader::Reader,
    world::World,
};
use crate::model::*;

const SEEDS: u64 = 100;
const STEPS: usize = 60;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn each_socket_has_the_events_of_the_store() {
    let resets = join_all((0..SEEDS).map(play)).await;
    assert!(resets.iter().sum::<usize>() > 5 * SEEDS as usize);
}

/// Handles the reports as a worker does.
async fn handle_reports(world: &mut World) {
    while let Ok(report) = world.reports.try_recv() {
        let current = world.store.lock().epoch;
        if report.epoch == current {
            world.store.lock().epoch = new_id();
        }
        world.hub.read_epoch().await.unwrap();
        world.hub.end_lost();
    }
}

/// Reads both sockets and lets them join again after a reset.
async fn go_on(world: &mut World, readers: &mut [Reader]) {
    handle_reports(world).await;
    for reader in readers {
        reader.read();
        if !reader.live {
            // Refused while the room's loss is not handled.
            let _ = reader.join(world, async || ()).await;
        }
    }
}

/// The data of a room's events as sockets get it.
fn stored(world: &World, room: RoomId) -> BTreeMap<Seq, Value> {
    let feed = world.store.feed(room).into_iter();
    feed.map(|event| (event.seq, parsed(&event.data))).collect()
}

fn parsed(data: &str) -> Value {
    serde_json::from_str(data).unwrap()
}

fn held(reader: &Reader) -> BTreeMap<Seq, Value> {
    let held = reader.held.iter();
    held.map(|(seq, data)| (*seq, parsed(data))).collect()
}

async fn until_equal(world: &mut World, readers: &mut [Reader], room: RoomId) {
    let equal = async {
        loop {
            go_on(world, readers).await;
            let expected = stored(world, room);
            let (hub, head) = (world.hub.find(room), world.store.head(room));
            let is_whole = hub.is_some_and(|hub| hub.lock().last == head);
            if is_whole
                && world.bus.is_empty()
                && readers
                    .iter()
                    .all(|reader| reader.live && held(reader) == expected)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, equal).await.is_err() {
        for reader in readers {
            let (held, expected) = (held(reader), stored(world, room));
            let differs = expected
                .iter()
                .find(|(seq, data)| held.get(seq) != Some(data));
            eprintln!(
                "live {}, at {}, differs at {differs:?}",
                reader.live, reader.position
            );
        }
        panic!("a socket has something else than the store");
    }
}

async fn play(seed: u64) -> usize {
    let (_seed, dice) = (Seed(seed), Dice(RefCell::new(seed)));
    let mut world = World::new(Duration::from_millis(50)).await;
    let room = new_id();
    world.store.append(room, 5);
    world.hub.read_epoch().await.unwrap();
    let mut readers = [Reader::new(1, room, 0), Reader::new(2, room, 0)];
    let mut late: Vec<Vec<FeedEvent>> = Vec::new();
    for _ in 0..STEPS {
        match dice.below(10) {
            0 => {
                // The loss of events that were never delivered is not detected.
                until_equal(&mut world, &mut readers, room).await;
                world.hub.reconcile().await;
                // No late publication of a lost event.
                late.clear();
                let head = world.store.head(room);
                let lost = 1 + dice.below(usize::try_from(head).unwrap().min(8));
                world.store.lose(room, head - lost as Seq);
                let events = world.store.append(room, dice.below(12));
                publish(&world, &dice, room, events, &mut late);
            }
            1 if !late.is_empty() => {
                let events = late.remove(dice.below(late.len()));
                world.publish(room, &events);
            }
            2 => {
                // The second socket leaves, and resumes some time later.
                readers[1].leave(&world);
            }
            3..6 => go_on(&mut world, &mut readers).await,
            _ => {
                let events = world.store.append(room, 1 + dice.below(3));
                publish(&world, &dice, room, events, &mut late);
            }
        }
        dice.pause().await;
    }
    let last = world.store.append(room, 1);
    world.publish(room, &last);
    until_equal(&mut world, &mut readers, room).await;
    readers.iter().map(|reader| reader.resets.len()).sum()
}

fn publish(
    world: &World,
    dice: &Dice,
    room: RoomId,
    events: Vec<FeedEvent>,
    late: &mut Vec<Vec<FeedEvent>>,
) {
    match dice.below(8) {
        0 => {}
        1 => late.push(events),
        2 => world.publish(room, &events[events.len().saturating_sub(1)..]),
        3 => {
            world.publish(room, &events);
            world.publish(room, &events);
        }
        4..6 => events
            .iter()
            .for_each(|event| world.publish(room, std::slice::from_ref(event))),
        _ => world.publish(room, &events),
    }
}
