//! The recent-events cache.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::{bus::MemoryBus, state::RecentState};
use crate::{
    bus::{RecentEvents, RoomEvents},
    error::Result,
    model::{Epoch, FeedEvent, RoomId},
};

impl RecentState {
    pub fn delete(&mut self, room: RoomId) {
        self.rooms.take(&room);
    }

    pub fn append(&mut self, epoch: Epoch, room: &RoomEvents) {
        let keep = self.settings.recent_messages.max(1);
        let mut kept = match self.rooms.take(&room.room) {
            Some((of, kept)) if of == epoch => kept,
            _ => VecDeque::new(),
        };
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
        let (key, ttl) = (room.room, self.settings.recent_ttl);
        self.rooms.put(key, (epoch, kept), ttl);
    }
}

#[async_trait]
impl RecentEvents for MemoryBus {
    async fn get(&self, epoch: Epoch, room: RoomId) -> Result<Vec<FeedEvent>> {
        let mut recent = self.recent.lock();
        let kept = recent.rooms.get(&room).filter(|(of, _)| *of == epoch);
        Ok(kept
            .map(|(_, kept)| kept.iter().cloned().collect())
            .unwrap_or_default())
    }
}
