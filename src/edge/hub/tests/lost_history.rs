//! A store that loses its newest events and continues at lower numbers.

use std::time::Duration;

use super::{reader::*, world::World};
use crate::model::*;

const NEVER: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);

impl World {
    /// The first report, as the edge receives it.
    async fn reported(&mut self) -> crate::edge::hub::Report {
        let reported = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        reported.expect("a report").expect("the hub runs")
    }

    /// Handles a report as a worker and the edge do.
    async fn confirm(&self) -> Epoch {
        let epoch = new_id();
        self.store.lock().epoch = epoch;
        assert_eq!(self.hub.read_epoch().await.unwrap(), epoch);
        self.hub.end_lost();
        epoch
    }

    /// Waits until no room is suspected, and every comparison under way has ended.
    async fn until_compared(&self) {
        let compared = async {
            while self.hub.epochs.lock().has_suspects() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            drop(self.hub.comparing.lock().await);
        };
        tokio::time::timeout(PATIENCE, compared)
            .await
            .expect("the rooms are compared");
    }
}

/// A room with `head` messages and a live socket that has them.
pub(super) async fn live(world: &World, session: u64, head: usize) -> (RoomId, Reader) {
    let room = new_id();
    world.store.append(room, head);
    world.hub.read_epoch().await.unwrap();
    let mut reader = Reader::new(session, room, 0);
    reader.join_until_live(world, async || ()).await;
    assert_eq!(reader.position, head as Seq);
    (room, reader)
}

#[tokio::test]
async fn a_lower_head_is_found_by_the_comparison_of_heads() {
    let mut world = World::new(Duration::from_millis(20)).await;
    let (room, mut reader) = live(&world, 1, 10).await;
    let (_, mut other) = live(&world, 2, 5).await;
    world.publish(room, &world.store.append(room, 5));
    reader.wait_for(15).await;
    let before = world.hub.epoch().unwrap();
    world.store.lose(room, 10);
    let report = world.reported().await;
    assert_eq!(report.epoch, before);
    assert_eq!(report.delivered.len(), 1);
    assert_eq!(
        (report.delivered[0].room, report.delivered[0].seq),
        (room, 15)
    );
    assert_eq!(
        report.delivered[0].anchor.map(|anchor| anchor.seq),
        Some(15)
    );
    let epoch = world.confirm().await;
    reader.read();
    assert_eq!((&reader.resets[..], reader.live), (&[epoch][..], false));
    // The next events are delivered to the socket that has joined again, and to no other.
    reader.join_until_live(&world, async || ()).await;
    assert_eq!(reader.position, 10);
    world.publish(room, &world.store.append(room, 5));
    reader.wait_for(15).await;
    other.read();
    assert_eq!((other.resets.len(), other.live), (0, true));
}

#[tokio::test]
async fn new_events_under_old_numbers_are_found_although_the_head_is_higher_again() {
    let mut world = World::new(NEVER).await;
    let (room, mut reader) = live(&world, 1, 10).await;
    world.publish(room, &world.store.append(room, 5));
    reader.wait_for(15).await;
    world.store.lose(room, 10);
    // One publication leads past the position: its first events look like repetitions.
    world.publish(room, &world.store.append(room, 10));
    let report = world.reported().await;
    assert_eq!(
        (report.delivered[0].room, report.delivered[0].seq),
        (room, 15)
    );
    let epoch = world.confirm().await;
    reader.read();
    assert_eq!(reader.resets, [epoch]);
    reader.join_until_live(&world, async || ()).await;
    assert_eq!(reader.position, 20);
}

#[tokio::test]
async fn the_message_at_the_head_counts_although_it_was_never_published_here() {
    let mut world = World::new(NEVER).await;
    let (room, mut reader) = live(&world, 1, 15).await;
    world.store.lose(room, 10);
    world.publish(room, &world.store.append(room, 10));
    assert_eq!(world.reported().await.delivered[0].seq, 15);
    world.confirm().await;
    reader.read();
    assert_eq!(reader.resets.len(), 1);
}

#[tokio::test]
async fn a_loss_that_the_bus_lost_as_well_is_found_when_the_range_is_fetched() {
    let mut world = World::new(NEVER).await;
    let (room, mut reader) = live(&world, 1, 15).await;
    world.store.lose(room, 10);
    // Only the last event arrives: the range before it is fetched.
    let events = world.store.append(room, 10);
    world.publish(room, &events[9..]);
    assert_eq!(world.reported().await.delivered[0].seq, 15);
    world.confirm().await;
    reader.read();
    assert_eq!(reader.resets.len(), 1);
}

#[tokio::test]
async fn repetitions_are_no_loss() {
    let mut world = World::new(Duration::from_millis(20)).await;
    let (room, mut reader) = live(&world, 1, 3).await;
    let events = world.store.append(room, 10);
    world.publish(room, &events);
    reader.wait_for(13).await;
    for part in [&events[..], &events[..4], &events[9..]] {
        world.publish(room, part);
    }
    // An event without an identity at the end, and one whose row was deleted by hand.
    let edited = world
        .store
        .add(room, EventKind::MessageUpdated, serde_json::json!({}));
    world.publish(room, std::slice::from_ref(&edited));
    reader.wait_for(14).await;
    world.store.lock().lost.insert((room, 13));
    world.publish(room, &[edited]);
    world.until_compared().await;
    world.hub.reconcile().await;
    world.until_compared().await;
    reader.read();
    assert!(world.reports.try_recv().is_err());
    assert_eq!((reader.resets.len(), reader.live), (0, true));
}

#[tokio::test]
async fn a_refuted_report_changes_nothing() {
    let mut world = World::new(Duration::from_millis(20)).await;
    let (room, mut reader) = live(&world, 1, 10).await;
    let events = world.store.append(room, 5);
    world.publish(room, &events);
    reader.wait_for(15).await;
    // The reads come from a standby that is behind.
    world.store.lose(room, 12);
    let report = world.reported().await;
    for event in &events[2..] {
        world.store.restore(room, event.clone());
    }
    world.hub.refuted(&report);
    world.hub.end_lost();
    world.publish(room, &world.store.append(room, 1));
    reader.wait_for(16).await;
    assert_eq!((reader.resets.len(), reader.live), (0, true));
}

#[tokio::test]
async fn a_join_that_finds_a_loss_waits_until_it_is_handled() {
    let mut world = World::new(NEVER).await;
    let (room, _reader) = live(&world, 1, 15).await;
    world.store.lose(room, 10);
    let second = Reader::new(2, room, 0);
    let joining = world.hub.join(room, second.subscriber.clone(), None).await;
    let joining = joining.unwrap();
    assert_eq!(joining.live_from, 15);
    let hub = world.hub.clone();
    let waiting = tokio::spawn(async move { hub.report_lost(joining).await });
    world.reported().await;
    world.confirm().await;
    waiting.await.unwrap().unwrap();
    let joining = world.hub.join(room, second.subscriber.clone(), None).await;
    assert_eq!(joining.unwrap().live_from, 10);
}

#[tokio::test]
async fn a_join_under_way_is_answered_and_then_reset() {
    let world = World::new(NEVER).await;
    let (room, _reader) = live(&world, 1, 15).await;
    let mut second = Reader::new(2, room, 0);
    let joining = world.hub.join(room, second.subscriber.clone(), None).await;
    world.store.lose(room, 10);
    let epoch = world.confirm().await;
    finish(joining.unwrap(), 15, false, 15);
    second.read();
    assert_eq!((second.live, &second.resets[..]), (false, &[epoch][..]));
    assert!(second.subscriber.rooms().is_empty());
}

#[tokio::test]
async fn sockets_that_resumed_lately_start_anew_in_every_room() {
    let world = World::new(NEVER).await;
    let (room, mut fresh) = live(&world, 1, 5).await;
    let mut resumed = Reader::new(2, room, 3);
    resumed.join_until_live(&world, async || ()).await;
    let epoch = world.confirm().await;
    resumed.read();
    fresh.read();
    assert_eq!(resumed.resets, [epoch]);
    assert_eq!((fresh.resets.len(), fresh.live), (0, true));
}

#[tokio::test]
async fn a_room_that_does_not_exist_any_more_is_lost() {
    let mut world = World::new(Duration::from_millis(20)).await;
    let (room, _reader) = live(&world, 1, 5).await;
    world.store.remove(room);
    assert_eq!(world.reported().await.delivered[0].room, room);
}

#[tokio::test]
async fn an_epoch_that_comes_back_is_reported() {
    let mut world = World::new(NEVER).await;
    let (room, _reader) = live(&world, 1, 5).await;
    let first = world.hub.epoch().unwrap();
    world.confirm().await;
    world.store.lose(room, 3);
    world.store.lock().epoch = first;
    world.hub.read_epoch().await.unwrap();
    let report = world.reported().await;
    assert_eq!((report.epoch, report.delivered[0].room), (first, room));
}
