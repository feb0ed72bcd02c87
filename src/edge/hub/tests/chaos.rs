//! Random orders of faults, each from a seed: the bus loses, repeats, swaps and delays events and becomes unavailable,
//! its cache misses publications, the store becomes unavailable and loses contents, sockets join and leave.

use std::{cell::RefCell, time::Duration};

use futures_util::future::join_all;

use super::{reader::Reader, world::World};
use crate::{
    bus::Incoming,
    model::{FeedEvent, RoomId, new_id},
};

const SEEDS: u64 = 300;
const STEPS: usize = 120;
const READERS: u64 = 4;

/// SplitMix64: the same numbers from the same seed, on every machine.
pub(super) struct Dice(pub(super) RefCell<u64>);

impl Dice {
    pub(super) fn below(&self, limit: usize) -> usize {
        let mut state = self.0.borrow_mut();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    /// `true` with this probability.
    pub(super) fn percent(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) async fn pause(&self) {
        match self.below(3) {
            0 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_millis(self.below(12) as u64)).await,
        }
    }
}

/// Prints the seed of a test that fails.
pub(super) struct Seed(pub(super) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[tokio::test]
async fn each_socket_receives_each_number_once_in_order() {
    let outcomes = join_all((0..SEEDS).map(play)).await;
    // Makes sure that the runs delivered events and that gaps occurred.
    let (received, gaps): (Vec<usize>, Vec<usize>) = outcomes.into_iter().unzip();
    assert!(received.iter().sum::<usize>() > 100 * SEEDS as usize);
    assert!(gaps.iter().any(|gaps| *gaps > 0));
}

/// Returns how many events were received live, and how many numbers as gaps.
async fn play(seed: u64) -> (usize, usize) {
    let (_seed, dice) = (Seed(seed), Dice(RefCell::new(seed)));
    let mut world = World::new(Duration::from_millis(100)).await;
    let rooms = [new_id(), new_id()];
    let playing = std::cell::Cell::new(true);
    let readers = join_all((0..READERS).map(|number| {
        let dice = Dice(RefCell::new(seed * 1000 + number));
        let room = rooms[number as usize % rooms.len()];
        read(&world, &playing, dice, Reader::new(number, room, 0))
    }));
    let (readers, ()) = tokio::join!(readers, async {
        disturb(&world, &dice, rooms).await;
        playing.set(false);
    });

    // None of these faults of bus and store is a loss of history.
    assert!(world.reports.try_recv().is_err());
    let mut totals = (0, 0);
    for mut reader in readers {
        reader.join_until_live(&world, async || {}).await;
        reader.wait_for(world.store.head(reader.room)).await;
        let facts = world.store.lock();
        for seq in &reader.gaps {
            let lost = facts.lost.contains(&(reader.room, *seq));
            assert!(lost, "a gap at {seq}, which the store has");
        }
        totals = (
            totals.0 + reader.received.len(),
            totals.1 + reader.gaps.len(),
        );
    }
    totals
}

/// Joins, receives events, leaves, and joins again at its position, repeatedly.
async fn read(
    world: &World,
    playing: &std::cell::Cell<bool>,
    dice: Dice,
    mut reader: Reader,
) -> Reader {
    while playing.get() {
        reader
            .join_until_live(world, async || dice.pause().await)
            .await;
        while playing.get() && dice.percent(95) {
            dice.pause().await;
            reader.read();
        }
        if playing.get() {
            reader.leave(world);
        }
    }
    reader
}

async fn disturb(world: &World, dice: &Dice, rooms: [RoomId; 2]) {
    let mut on_the_way: Vec<(RoomId, Vec<FeedEvent>)> = Vec::new();
    let mut bus_is_up = true;
    for _ in 0..STEPS {
        match dice.below(20) {
            0 if bus_is_up => {
                bus_is_up = false;
                on_the_way.clear();
                world.bus.deliver(Incoming::Lost);
            }
            0..3 if !bus_is_up => {
                bus_is_up = true;
                world.bus.deliver(Incoming::Restored);
            }
            3 => world.store.lock().down = true,
            4..7 => world.store.lock().down = false,
            7..11 => {
                for _ in 0..on_the_way.len().min(1 + dice.below(4)) {
                    // Mostly the oldest one, sometimes one of the first four.
                    let first = if dice.percent(80) { 1 } else { 4 };
                    let at = dice.below(on_the_way.len().min(first));
                    let (room, events) = on_the_way.remove(at);
                    world.publish(room, &events);
                }
            }
            _ => {
                let room = rooms[dice.below(rooms.len())];
                let events = world.store.append(room, 1 + dice.below(4));
                if dice.percent(3) {
                    world.store.lock().lost.insert((room, events[0].seq));
                }
                if bus_is_up && dice.percent(85) {
                    world.bus.keep(room, &events).await;
                }
                for _ in 0..[0, 1, 1, 1, 1, 1, 1, 1, 2, 3][dice.below(10)] {
                    on_the_way.push((room, events.clone()));
                }
                if !bus_is_up {
                    on_the_way.clear();
                }
            }
        }
        dice.pause().await;
    }
    world.store.lock().down = false;
    if !bus_is_up {
        world.bus.deliver(Incoming::Restored);
    }
}
