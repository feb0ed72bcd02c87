//! The bus of one process: the state of each port under a lock of its own.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    expiring::Expiring,
    state::{CoordinationState, Listeners, MemoryBusSettings, PresenceState, RecentState},
};

pub struct MemoryBus {
    pub(super) listeners: Arc<Mutex<Listeners>>,
    pub(super) recent: Mutex<RecentState>,
    pub(super) coordination: Mutex<CoordinationState>,
    pub(super) presence: Mutex<PresenceState>,
}

impl MemoryBus {
    pub fn new(settings: MemoryBusSettings) -> MemoryBus {
        MemoryBus {
            listeners: Arc::default(),
            recent: Mutex::new(RecentState {
                settings,
                rooms: Expiring::default(),
            }),
            coordination: Mutex::default(),
            presence: Mutex::default(),
        }
    }
}
