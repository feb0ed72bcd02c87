//! Compares the heads of this edge's rooms with the store: an event that the bus lost and that nothing follows is found here.
//! Also removes rooms without subscriptions.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::hub::{Hub, SETTLE};
use crate::{bus::Channel, model::RoomId, telemetry::metrics};

impl Hub {
    pub(super) async fn reconcile_forever(self: Arc<Self>, interval: Duration) {
        loop {
            // Without the bus, events arrive by this comparison only.
            let pause = if self.bus_lost.load(Ordering::Relaxed) {
                interval.min(Duration::from_millis(500))
            } else {
                interval
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => return,
            }
            self.remove_empty_rooms().await;
            self.reconcile().await;
        }
    }

    /// Compares every room here with the store, and fetches what is missing.
    pub async fn reconcile(self: &Arc<Self>) {
        let rooms: Vec<RoomId> = self.rooms().iter().map(|room| room.id).collect();
        let mut behind = Vec::new();
        for chunk in rooms.chunks(5000) {
            match self.reads.heads(chunk).await {
                Ok(heads) => {
                    for (id, head) in heads {
                        if let Some(room) = self.find(id)
                            && room.is_behind(head)
                        {
                            behind.push((room, head));
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "the heads of rooms could not be compared with the store");
                    return;
                }
            }
        }
        if behind.is_empty() {
            return;
        }
        if !self.bus_lost.load(Ordering::Relaxed) {
            tokio::time::sleep(SETTLE).await;
        }
        for (room, head) in behind {
            if room.is_behind(head) {
                let mut state = room.lock();
                state.target = state.target.max(head);
                drop(state);
                self.settle(&room);
            }
        }
    }

    async fn remove_empty_rooms(&self) {
        if self.rooms().iter().all(|room| !room.is_empty()) {
            return;
        }
        let _closing = self.opening.write().await;
        let mut gone = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|id, room| {
                room.lock().pages.remove_expired();
                // A `joinRoom` holds a reference until its subscription is in the room.
                let keep = !room.is_empty() || Arc::strong_count(room) > 1;
                if !keep {
                    gone.push(Channel::Room(*id));
                }
                keep
            });
        }
        metrics().rooms_subscribed.sub(gone.len() as i64);
        if let Err(error) = self.subscriptions.unsubscribe(&gone).await {
            tracing::debug!(error = %error.chain(), "rooms could not be unsubscribed");
        }
    }
}
