//! The safety net for memberships that ended: every subscription is compared with the store within `edge.rights_interval`.
//! It ends only subscriptions that neither an event nor the comparison of the rooms' heads has ended; in a healthy
//! deployment there are none.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::hub::{Hub, SETTLE};
use crate::{
    error::Result,
    model::{RoomId, UserId},
    telemetry::metrics,
};

/// Memberships in one read: few enough that it takes milliseconds.
const AT_ONCE: usize = 1000;

/// A live subscription: room, user, and the number of the `joinRoom` it began with.
type Live = (RoomId, UserId, u64);

impl Hub {
    /// Compares all subscriptions repeatedly; the reads of each round are spread over `interval`.
    pub(super) async fn check_rights_forever(self: Arc<Self>, interval: Duration) {
        loop {
            let live = self.live();
            let rounds = live.chunks(AT_ONCE).len().max(1);
            let pause = interval / u32::try_from(rounds).unwrap_or(u32::MAX);
            let mut chunks = live.chunks(AT_ONCE);
            for _ in 0..rounds {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.shutdown.cancelled() => return,
                }
                if let Err(error) = self.check_rights(chunks.next().unwrap_or_default()).await {
                    tracing::debug!(error = %error.chain(), "subscriptions could not be compared with the store");
                }
            }
        }
    }

    fn live(&self) -> Vec<Live> {
        let mut live = Vec::new();
        for room in self.rooms() {
            live.extend(
                room.lock()
                    .live()
                    .map(|(user, joined)| (room.id, user, joined)),
            );
        }
        live
    }

    /// Unsubscribes those of `live` whose users are no members according to the store.
    async fn check_rights(&self, live: &[Live]) -> Result<()> {
        if live.is_empty() {
            return Ok(());
        }
        let asked: HashSet<(RoomId, UserId)> = live.iter().map(|&(r, u, _)| (r, u)).collect();
        let asked: Vec<_> = asked.into_iter().collect();
        let members: HashSet<_> = self.reads.are_members(&asked).await?.into_iter().collect();
        let mut gone: HashMap<RoomId, HashSet<(UserId, u64)>> = HashMap::new();
        for &(room, user, joined) in live {
            if !members.contains(&(room, user)) {
                gone.entry(room).or_default().insert((user, joined));
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        // The event that ends the membership is probably under way; it unsubscribes with its own number.
        tokio::time::sleep(SETTLE).await;
        for (id, users) in gone {
            let Some(room) = self.find(id) else { continue };
            let revoked = room.lock().revoke(&users);
            if revoked > 0 {
                metrics().rights_revoked.inc_by(revoked as u64);
                tracing::warn!(room = %id, sockets = revoked, "unsubscribed sockets whose users are no members of the room any more");
            }
        }
        Ok(())
    }
}
