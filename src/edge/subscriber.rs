//! The part of a session that the hub and the registry use: the outbox for its events, and its subscriptions.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};

use super::outbound::Outbox;
use crate::model::{RoomId, Timestamp, UserId};

/// A session that can be subscribed to rooms.
pub struct Subscriber {
    pub session: u64,
    pub user: UserId,
    pub outbox: Arc<Outbox>,
    rooms: Mutex<HashSet<RoomId>>,
    /// The time of the client's last request, in milliseconds since 1970.
    active: AtomicI64,
}

impl Subscriber {
    pub fn new(session: u64, user: UserId, outbox: Arc<Outbox>) -> Self {
        Subscriber {
            session,
            user,
            outbox,
            rooms: Mutex::default(),
            active: AtomicI64::new(Timestamp::now().millis()),
        }
    }

    /// The time of the client's last request.
    pub fn last_active(&self) -> Timestamp {
        Timestamp::from_millis(self.active.load(Ordering::Relaxed))
    }

    /// Records that the client makes a request now.
    pub fn touch(&self) {
        self.active
            .store(Timestamp::now().millis(), Ordering::Relaxed);
    }

    /// The rooms that it is subscribed to.
    pub fn rooms(&self) -> MutexGuard<'_, HashSet<RoomId>> {
        self.rooms.lock()
    }
}
