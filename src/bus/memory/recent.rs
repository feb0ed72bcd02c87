//! The recent-events cache.

use async_trait::async_trait;

use super::{bus::MemoryBus, state::RecentState};
use crate::{
    bus::{RecentEvents, RoomEvents},
    error::Result,
    model::{FeedEvent, RoomId},
};

impl RecentState {
    pub fn delete(&mut self, room: RoomId) {
        self.rooms.take(&room);
    }

    pub fn append(&mut self, room: &RoomEvents) {
        let keep = self.settings.recent_messages.max(1);
        let mut kept = self.rooms.take(&room.room).unwrap_or_default();
        for event in &room.events {
            if kept.back().is_some_and(|last| last.seq + 1 != event.seq) {
                kept.clear();
            }
            kept.push_back(event.clone());
            if kept.len() > keep {
                kept.pop_front();
            }
        }
        if self.rooms.len() >= self.settings.recent_rooms {
            self.rooms.evict();
        }
        self.rooms.put(room.room, kept, self.settings.recent_ttl);
    }
}

#[async_trait]
impl RecentEvents for MemoryBus {
    async fn get(&self, room: RoomId) -> Result<Vec<FeedEvent>> {
        let mut recent = self.recent.lock();
        let kept = recent.rooms.get(&room);
        Ok(kept
            .map(|kept| kept.iter().cloned().collect())
            .unwrap_or_default())
    }
}
