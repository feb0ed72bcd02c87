//! User presence.

use std::time::Duration;

use async_trait::async_trait;

use super::bus::MemoryBus;
use crate::{
    bus::{ACTIVITY_RETENTION, Presence, UserPresence},
    error::Result,
    model::{Timestamp, UserId},
};

#[async_trait]
impl Presence for MemoryBus {
    async fn mark_connected(&self, users: &[(UserId, Timestamp)], ttl: Duration) -> Result<()> {
        let mut state = self.presence.lock();
        for (user, active) in users {
            state.connected.extend(*user, (), ttl);
            let known = state.active.get(user).copied();
            let active = known.map_or(*active, |known| known.max(*active));
            state.active.put(*user, active, ACTIVITY_RETENTION);
        }
        Ok(())
    }

    async fn get(&self, users: &[UserId]) -> Result<Vec<UserPresence>> {
        let mut state = self.presence.lock();
        let presence = users.iter().map(|user| UserPresence {
            connected: state.connected.get(user).is_some(),
            last_active: state.active.get(user).copied(),
        });
        Ok(presence.collect())
    }
}
