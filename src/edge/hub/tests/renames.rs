//! A user's new names: once per socket and change.

use std::time::Duration;

use super::{reader::Reader, world::World};
use crate::{
    edge::{
        registry::Registry,
        renames::{Rename, Renames},
    },
    model::*,
};

#[tokio::test]
async fn a_socket_gets_a_change_once_although_it_arrives_in_parts() {
    let world = World::new(Duration::from_secs(3600)).await;
    let rooms: Vec<RoomId> = (0..4).map(|_| new_id()).collect();
    let mut readers = Vec::new();
    for (session, room) in (1..).zip(&rooms) {
        world.store.append(*room, 1);
        let mut reader = Reader::new(session, *room, 0);
        reader.join_until_live(&world, async || ()).await;
        readers.push(reader);
    }
    // The first socket is live in the third room as well; the fourth room is not the user's.
    let first = readers[0].subscriber.clone();
    let joining = world.hub.join(rooms[2], first, None).await.unwrap();
    super::finish(joining, 1, false, 1);
    readers[0].read();
    let sessions = Registry::new(10);
    let own = Reader::new(9, new_id(), 0);
    let entering = sessions.enter(own.subscriber.user).unwrap();
    entering.add(9, new_id(), own.subscriber.clone());

    let (mut renames, change) = (Renames::default(), new_id());
    let mut deliver = |rooms: &[RoomId], more| {
        let rename = Rename {
            change,
            user: User {
                id: own.subscriber.user,
                username: "ada".into(),
                display_name: "Ada".into(),
            },
            rooms: rooms.to_vec(),
            more,
        };
        renames.deliver(&world.hub, &sessions, rename);
    };
    let received = || {
        let all = readers.iter().map(|reader| &reader.subscriber);
        let all = all.chain([&own.subscriber]);
        let count = |subscriber: &std::sync::Arc<crate::edge::subscriber::Subscriber>| {
            let mut items = std::collections::VecDeque::new();
            subscriber.outbox.take(&mut items);
            items.len()
        };
        all.map(count).collect::<Vec<_>>()
    };
    deliver(&rooms[..1], true);
    assert_eq!(received(), [1, 0, 0, 0, 1]);
    deliver(&rooms[1..2], true);
    assert_eq!(received(), [0, 1, 0, 0, 0]);
    deliver(&rooms[..3], false);
    assert_eq!(received(), [0, 0, 1, 0, 0]);
    // A complete change is dropped.
    deliver(&rooms[..1], false);
    assert_eq!(received(), [1, 0, 0, 0, 1]);
}
