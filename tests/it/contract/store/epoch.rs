//! The epoch of a store.

use chat::{model::*, store::*};

use super::fixture::*;

on_both! {
    a_new_store_has_an_epoch,
    an_epoch_is_replaced_once_and_for_a_loss_only,
    positions_have_the_head_and_the_event,
    names_are_those_of_an_account_that_exists,
}

fn delivered(room: RoomId, seq: Seq, anchor: Option<(Seq, MessageId)>) -> Delivered {
    Delivered {
        room,
        seq,
        anchor: anchor.map(|(seq, message)| Anchor { seq, message }),
    }
}

async fn a_new_store_has_an_epoch(store: Fixture) {
    let epoch = store.reads.epoch().await.unwrap();
    assert!(!epoch.is_nil());
    assert_eq!(store.writes.epoch().await.unwrap(), epoch);
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let who = [(id, ada.id), (new_id(), ada.id)];
    let entries = store.reads.entries(&who).await.unwrap();
    assert_eq!(entries[0].as_ref().unwrap().epoch, epoch);
    assert!(entries[1].is_none());
}

async fn an_epoch_is_replaced_once_and_for_a_loss_only(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let messages = store.say(id, &ada, 1..=5).await;
    let (first, second, third) = (
        store.reads.epoch().await.unwrap(),
        Epoch::new_v4(),
        Epoch::new_v4(),
    );
    let replace = async |from, to, delivered: &[Delivered]| {
        let replaced = store.writes.replace_epoch(from, to, delivered).await;
        replaced.unwrap()
    };
    let stored = [
        delivered(id, 5, None),
        delivered(id, 5, Some((5, messages[4].id))),
        delivered(id, 4, Some((2, messages[1].id))),
    ];
    assert_eq!(replace(first, second, &stored).await, Replacement::Refuted);
    assert_eq!(replace(first, second, &[]).await, Replacement::Refuted);
    assert_eq!(store.reads.epoch().await.unwrap(), first);

    // One of many suffices.
    let gone = new_id();
    let lost = [stored[0], delivered(id, 7, None), delivered(gone, 3, None)];
    let found = |room, delivered, head| LostHistory {
        room,
        delivered,
        head,
    };
    let done = Replacement::Done(vec![found(id, 7, 5), found(gone, 3, 0)]);
    assert_eq!(replace(first, second, &lost).await, done);
    assert_eq!(store.reads.epoch().await.unwrap(), second);
    // A redelivered command, the same report of another edge, and a report that is refuted.
    assert_eq!(replace(first, second, &lost).await, Replacement::Repeated);
    assert_eq!(replace(first, second, &stored).await, Replacement::Repeated);
    assert_eq!(store.reads.epoch().await.unwrap(), second);
    let superseded = Replacement::Superseded(second);
    assert_eq!(replace(first, third, &lost).await, superseded);
    assert_eq!(replace(second, third, &stored).await, Replacement::Refuted);
    // Another message has the number now.
    let other = [delivered(id, 5, Some((5, new_id())))];
    let done = Replacement::Done(vec![found(id, 5, 5)]);
    assert_eq!(replace(second, third, &other).await, done);
    assert_eq!(store.reads.epoch().await.unwrap(), third);
}

async fn positions_have_the_head_and_the_event(store: Fixture) {
    let ada = store.user("ada").await;
    let (id, empty) = (store.public_room(&ada).await, store.public_room(&ada).await);
    let messages = store.say(id, &ada, 1..=2).await;
    let changes = Changes {
        heads: [(id, 3)].into(),
        entries: vec![entry(id, 3, EventKind::MemberJoined, None)],
        ..Changes::default()
    };
    store.commit([id], changes).await.unwrap();
    let position = |room, head, number, occupant| Position {
        room,
        head,
        number,
        occupant,
    };
    let message = messages[1].id;
    let asked = [
        delivered(id, 3, Some((2, message))),
        delivered(id, 3, None),
        delivered(id, 9, None),
        delivered(empty, 0, None),
        delivered(new_id(), 1, None),
    ];
    let mut found = store.reads.positions(&asked).await.unwrap();
    let mut expected = vec![
        position(id, 3, 2, Occupant::Message(message)),
        position(id, 3, 3, Occupant::Other),
        position(id, 3, 9, Occupant::Nothing),
        position(empty, 0, 0, Occupant::Nothing),
    ];
    let key = |one: &Position| (one.room, one.number);
    found.sort_by_key(key);
    expected.sort_by_key(key);
    assert_eq!(found, expected);
    assert_eq!(store.reads.positions(&[]).await.unwrap(), []);

    let mut tips = store.reads.tips(&[id, empty, new_id()]).await.unwrap();
    tips.sort_by_key(key);
    let mut expected = vec![
        position(id, 3, 3, Occupant::Other),
        position(empty, 0, 0, Occupant::Nothing),
    ];
    expected.sort_by_key(key);
    assert_eq!(tips, expected);
    // A deleted room still has its position.
    let room = store.reads.room(id).await.unwrap().unwrap();
    let changes = Changes {
        rooms: vec![Room {
            deleted: true,
            head: 4,
            ..room
        }],
        heads: [(id, 4)].into(),
        new_messages: vec![super::fixture::message(id, &ada, 4, "last")],
        ..Changes::default()
    };
    store.commit([id], changes).await.unwrap();
    let tip = store.reads.tips(&[id]).await.unwrap()[0];
    assert_eq!(tip.head, 4);
    assert!(matches!(tip.occupant, Occupant::Message(_)));
    let found = store.reads.positions(&[delivered(id, 4, None)]).await;
    assert_eq!(found.unwrap()[0].head, 4);
}

async fn names_are_those_of_an_account_that_exists(store: Fixture) {
    let ada = store.user("ada").await;
    assert_eq!(store.writes.names(ada.id).await.unwrap(), Some(ada.clone()));
    let patch = AccountPatch {
        display_name: Some("Countess".to_owned()),
        ..AccountPatch::default()
    };
    store.writes.update_account(ada.id, &patch).await.unwrap();
    let renamed = store.writes.names(ada.id).await.unwrap().unwrap();
    assert_eq!(renamed.display_name, "Countess");
    store.writes.erase_account(ada.id, t0()).await.unwrap();
    assert_eq!(store.writes.names(ada.id).await.unwrap(), None);
    assert_eq!(store.writes.names(new_id()).await.unwrap(), None);
}
