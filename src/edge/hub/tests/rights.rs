//! A membership that ends at each moment of a join and after it: the answer to the socket, and that no event follows.

use super::*;
use crate::edge::hub::Intervals;

/// A world with a live reader at number 3, and another reader that has not joined yet.
async fn two() -> (World, Reader, Reader) {
    let (world, stays) = one_reader(NEVER, 3).await;
    let joins = Reader::new(2, stays.room, 3);
    (world, stays, joins)
}

impl World {
    /// Ends the reader's membership and appends a message; the bus delivers both events.
    fn left(&self, reader: &Reader) {
        self.change(reader, EventKind::MemberLeft, "left");
    }

    fn joined(&self, reader: &Reader) {
        self.change(reader, EventKind::MemberJoined, "joined");
    }

    fn change(&self, reader: &Reader, kind: EventKind, name: &str) {
        let (room, user) = (reader.room, reader.subscriber.user);
        let change = self.store.add(room, kind, member(room, user, name));
        let after = self.store.append(room, 1);
        self.publish(room, &[change, after[0].clone()]);
    }
}

/// Appends a message and delivers it: `gone` must not receive it.
async fn receives_nothing_more(world: &World, stays: &mut Reader, gone: &mut Reader) {
    let events = world.store.append(stays.room, 1);
    world.publish(stays.room, &events);
    stays.wait_for(events[0].seq).await;
    let before = gone.received.len();
    gone.read();
    assert_eq!(gone.received.len(), before, "an event after the end");
    assert!(!gone.live);
    assert!(gone.subscriber.rooms().is_empty());
}

#[tokio::test]
async fn a_removal_between_the_check_and_the_subscription() {
    let (world, mut stays, mut joins) = two().await;
    let member_at = world
        .store
        .member_at(joins.room, joins.subscriber.user)
        .unwrap();
    world.left(&joins);
    stays.wait_for(5).await;
    let joining = world
        .hub
        .join(joins.room, joins.subscriber.clone(), None)
        .await
        .unwrap();
    assert!(
        joining.live_from > member_at,
        "the membership must be read again"
    );
    // A session that does not read the membership again is refused as well.
    finish(joining, 5, false, member_at);
    joins.read();
    assert_eq!(joins.refused, 1);
    receives_nothing_more(&world, &mut stays, &mut joins).await;
    // A complete join is refused, too.
    assert!(joins.join(&world, async || {}).await.is_err());
    receives_nothing_more(&world, &mut stays, &mut joins).await;
}

#[tokio::test]
async fn a_removal_between_the_subscription_and_the_answer() {
    let (world, mut stays, mut joins) = two().await;
    let joining = world
        .hub
        .join(joins.room, joins.subscriber.clone(), None)
        .await
        .unwrap();
    world.left(&joins);
    stays.wait_for(5).await;
    finish(joining, 3, false, 3);
    joins.read();
    assert_eq!(joins.refused, 1, "and nothing of what came meanwhile");
    receives_nothing_more(&world, &mut stays, &mut joins).await;
}

#[tokio::test]
async fn a_live_socket_that_joins_again_while_it_is_removed() {
    let (world, mut stays, mut joins) = two().await;
    joins.join_until_live(&world, async || {}).await;
    let joining = world
        .hub
        .join(joins.room, joins.subscriber.clone(), None)
        .await
        .unwrap();
    world.left(&joins);
    stays.wait_for(5).await;
    finish(joining, 3, false, 3);
    joins.read();
    assert_eq!(joins.refused, 1);
    receives_nothing_more(&world, &mut stays, &mut joins).await;
}

#[tokio::test]
async fn a_rejoin_before_the_answer_loses_no_event() {
    let (world, mut stays, mut joins) = two().await;
    let joining = world
        .hub
        .join(joins.room, joins.subscriber.clone(), None)
        .await
        .unwrap();
    world.left(&joins);
    world.joined(&joins);
    let member_at = world
        .store
        .member_at(joins.room, joins.subscriber.user)
        .unwrap();
    stays.wait_for(7).await;
    finish(joining, 3, false, member_at);
    joins.read();
    assert_eq!(
        (joins.refused, joins.received.as_slice()),
        (0, &[4, 5, 6, 7][..])
    );
    // The membership ends again, now that the socket is live.
    world.left(&joins);
    joins.wait_for(8).await;
    joins.live = false;
    receives_nothing_more(&world, &mut stays, &mut joins).await;
}

#[tokio::test]
async fn a_room_that_is_deleted_during_a_join() {
    let (world, mut stays, mut joins) = two().await;
    let joining = world
        .hub
        .join(joins.room, joins.subscriber.clone(), None)
        .await
        .unwrap();
    let data =
        json!({"room": joins.room, "changeSeq": 0, "name": "", "kind": "private", "deleted": true});
    let deleted = world.store.add(joins.room, EventKind::RoomUpdated, data);
    world.publish(joins.room, &[deleted]);
    stays.wait_for(4).await;
    finish(joining, 3, false, 3);
    joins.read();
    assert_eq!(joins.refused, 1);
    assert!(stays.subscriber.rooms().is_empty() && joins.subscriber.rooms().is_empty());
}

#[tokio::test]
async fn a_socket_that_leaves_during_its_join_does_not_come_back() {
    let (world, mut stays, mut joins) = two().await;
    let joining = world
        .hub
        .join(joins.room, joins.subscriber.clone(), None)
        .await
        .unwrap();
    world.hub.leave(joins.room, &joins.subscriber);
    finish(joining, 3, false, 3);
    joins.read();
    assert_eq!(joins.refused, 1);
    receives_nothing_more(&world, &mut stays, &mut joins).await;
}

/// The event that ended a membership is lost: neither the bus nor the feed has it.
#[tokio::test]
async fn reconciliation_removes_members_whose_leave_event_was_lost() {
    let intervals = Intervals {
        reconcile: Duration::from_millis(20),
        rights: Duration::from_millis(20),
    };
    let world = World::comparing(intervals).await;
    let room = new_id();
    world.store.append(room, 3);
    let (mut stays, mut gone) = (Reader::new(1, room, 3), Reader::new(2, room, 3));
    stays.join_until_live(&world, async || {}).await;
    gone.join_until_live(&world, async || {}).await;
    world.store.lock().lost.insert((room, 4));
    let left = member(room, gone.subscriber.user, "left");
    world.store.add(room, EventKind::MemberLeft, left);
    stays.wait_for(4).await;
    let unsubscribed = async {
        while !gone.subscriber.rooms().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, unsubscribed).await.unwrap();
    gone.read();
    assert!(gone.gaps.contains(&5), "the gap makes it join again");
    gone.live = false;
    receives_nothing_more(&world, &mut stays, &mut gone).await;
    assert!(stays.live && !stays.subscriber.rooms().is_empty());
}
