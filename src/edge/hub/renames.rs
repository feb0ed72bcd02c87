//! Users with new names: the sockets that see them.

use std::{collections::HashMap, sync::Arc};

use super::hub::Hub;
use crate::{edge::subscriber::Subscriber, model::RoomId};

impl Hub {
    /// The sockets that are live in any of these rooms, by session. The rooms' cached pages, which contain the old
    /// name, are invalidated.
    pub fn live_in(&self, rooms: &[RoomId]) -> HashMap<u64, Arc<Subscriber>> {
        let mut sockets = HashMap::new();
        for room in rooms.iter().filter_map(|room| self.find(*room)) {
            let mut state = room.lock();
            state.pages.end();
            for subscriber in state.live_subscribers() {
                sockets
                    .entry(subscriber.session)
                    .or_insert_with(|| subscriber.clone());
            }
        }
        sockets
    }
}
