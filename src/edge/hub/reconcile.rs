//! Compares the heads of this edge's rooms with the store: an event that the bus lost and that nothing follows is found
//! here. Also removes rooms without subscriptions.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    hub::{Hub, SETTLE},
    lost_history::with_position,
};
use crate::{
    bus::Channel,
    model::{RoomId, Seq},
    telemetry::metrics,
};

/// Quiet rooms that are compared closely in each round.
const IN_TURN: usize = 200;
/// Pause until the epoch is read again at the start.
const WITHOUT_STORE: Duration = Duration::from_millis(500);

impl Hub {
    pub(super) async fn reconcile_forever(self: Arc<Self>, interval: Duration) {
        // Nothing can be compared before the epoch is known.
        while self.read_epoch().await.is_err() {
            tokio::select! {
                () = tokio::time::sleep(WITHOUT_STORE) => {}
                () = self.shutdown.cancelled() => return,
            }
        }
        self.suspected.notify_one();
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

    /// Compares every room here with the store, and fetches what is missing. Rooms that may have lost history are
    /// compared more closely.
    pub async fn reconcile(self: &Arc<Self>) {
        if let Err(error) = self.read_epoch().await {
            tracing::debug!(error = %error.chain(), "the epoch could not be read");
            return;
        }
        let rooms: Vec<_> = self.rooms().into_iter().map(with_position).collect();
        // Some of all rooms in each round: after a loss, a head may have the same number again, and the bus may have
        // lost the publications in between.
        let rounds = rooms.len().div_ceil(IN_TURN).max(1);
        let turn = self.round.fetch_add(1, Ordering::Relaxed) as usize % rounds;
        for (room, delivered) in rooms.iter().skip(turn).step_by(rounds) {
            self.suspect(room, *delivered);
        }
        let mut behind = Vec::new();
        for chunk in rooms.chunks(5000) {
            let ids: Vec<RoomId> = chunk.iter().map(|(room, _)| room.id).collect();
            match self.reads.heads(&ids).await {
                Ok(heads) => {
                    let heads: HashMap<RoomId, Seq> = heads.into_iter().collect();
                    for (room, delivered) in chunk {
                        let head = heads.get(&room.id).copied().unwrap_or(0);
                        let before = room.lock().delivered_before();
                        if let Some(before) = before {
                            self.suspect(room, before);
                        }
                        if head < delivered.seq {
                            self.suspect(room, *delivered);
                        } else if room.is_behind(head) {
                            behind.push((room.clone(), head));
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
