//! The state behind the four ports.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::expiring::Expiring;
use crate::{
    bus::{Channel, Incoming, WorkerId},
    model::{Epoch, FeedEvent, RoomId, Timestamp, UserId},
};

#[derive(Debug, Clone)]
pub struct MemoryBusSettings {
    /// Cached events per room, at least 1.
    pub recent_messages: usize,
    /// Time to live of a room's cached events after the last append.
    pub recent_ttl: Duration,
    /// Rooms with cached events.
    pub recent_rooms: usize,
}

impl Default for MemoryBusSettings {
    fn default() -> Self {
        MemoryBusSettings {
            recent_messages: 200,
            recent_ttl: Duration::from_secs(3600),
            recent_rooms: 10_000,
        }
    }
}

#[derive(Default)]
pub(super) struct Listeners {
    pub(super) listeners: HashMap<u64, Listener>,
    pub(super) next: u64,
    pub(super) channels: HashMap<Channel, HashSet<u64>>,
}

pub(super) struct Listener {
    pub(super) sender: mpsc::Sender<Incoming>,
    pub(super) channels: HashSet<Channel>,
    /// The queue was full: nothing more is sent until `restore` has run.
    pub(super) behind: bool,
}

pub(super) struct RecentState {
    pub(super) settings: MemoryBusSettings,
    pub(super) rooms: Expiring<RoomId, (Epoch, VecDeque<FeedEvent>)>,
}

#[derive(Default)]
pub(super) struct CoordinationState {
    pub(super) values: Expiring<String, String>,
    /// Of [`crate::bus::Coordination::increment`].
    pub(super) windows: Expiring<String, u64>,
    /// Of [`crate::bus::Coordination::add`].
    pub(super) counters: Expiring<String, u64>,
    pub(super) leases: Expiring<String, Uuid>,
    pub(super) semaphores: HashMap<String, Expiring<Uuid, ()>>,
    pub(super) reports: HashMap<String, Expiring<Uuid, String>>,
    pub(super) workers: Expiring<WorkerId, ()>,
}

#[derive(Default)]
pub(super) struct PresenceState {
    pub(super) connected: Expiring<UserId, ()>,
    pub(super) active: Expiring<UserId, Timestamp>,
}
