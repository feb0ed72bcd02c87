//! The state behind the four ports, each part under a lock of its own.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    coordination::CoordinationState, presence::PresenceState, pubsub::Listeners,
    recent::RecentState,
};

#[derive(Debug, Clone)]
pub struct Settings {
    /// Cached events per room, at least 1.
    pub recent_messages: usize,
    /// Time to live of a room's cached events after the last append.
    pub recent_ttl: Duration,
    /// Rooms with cached events.
    pub recent_rooms: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            recent_messages: 200,
            recent_ttl: Duration::from_secs(3600),
            recent_rooms: 10_000,
        }
    }
}

pub struct MemoryBus {
    pub(super) listeners: Arc<Mutex<Listeners>>,
    pub(super) recent: Mutex<RecentState>,
    pub(super) coordination: Mutex<CoordinationState>,
    pub(super) presence: Mutex<PresenceState>,
}

impl MemoryBus {
    pub fn new(settings: Settings) -> MemoryBus {
        MemoryBus {
            listeners: Arc::default(),
            recent: Mutex::new(RecentState::new(settings)),
            coordination: Mutex::default(),
            presence: Mutex::default(),
        }
    }
}
