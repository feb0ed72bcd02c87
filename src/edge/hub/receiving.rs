//! Handles the messages of the bus: events of rooms in any order and any number of times, notices of workers, and the
//! state of the connection.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::mpsc;

use super::{hub::Hub, room::Room};
use crate::{
    bus::{self, Channel, Incoming, RoomPayload},
    command::Notice,
    model::{Anchor, FeedEvent},
    telemetry::metrics,
};

/// Messages of the bus that are handled in one go.
const AT_ONCE: usize = 256;
/// Events kept while a range before them is being fetched; those beyond it are fetched as well.
const MAX_AHEAD: usize = 4096;

impl Hub {
    pub(super) async fn receive(
        self: Arc<Self>,
        mut incoming: mpsc::Receiver<Incoming>,
        notices: mpsc::Sender<Notice>,
    ) {
        // Takes all available messages: on a busy edge this task is not scheduled often.
        let mut next = Vec::with_capacity(AT_ONCE);
        loop {
            let received = tokio::select! {
                received = incoming.recv_many(&mut next, AT_ONCE) => received,
                () = self.shutdown.cancelled() => 0,
            };
            if received == 0 {
                return;
            }
            for one in next.drain(..) {
                self.handle(one, &notices).await;
            }
        }
    }

    async fn handle(self: &Arc<Self>, incoming: Incoming, notices: &mpsc::Sender<Notice>) {
        match incoming {
            Incoming::Message {
                channel: Channel::Room(room),
                payload,
            } => {
                if let Some(room) = self.find(room) {
                    match bus::decode_room(&payload) {
                        RoomPayload::Feed(events) => self.arrived(&room, events),
                        RoomPayload::Ephemeral(event) => room.lock().deliver_ephemeral(event),
                        // Its events count as a missing range, and are fetched.
                        RoomPayload::Unknown => {}
                    }
                }
            }
            Incoming::Message { payload, .. } => match serde_json::from_slice(&payload) {
                Ok(notice) => {
                    let _ = notices.send(notice).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "unreadable notice; a newer version may have sent it");
                }
            },
            Incoming::Lost => {
                self.bus_lost.store(true, Ordering::Relaxed);
                metrics().bus_state.set(crate::telemetry::DOWN);
            }
            Incoming::Restored => {
                self.bus_lost.store(false, Ordering::Relaxed);
                metrics().bus_state.set(crate::telemetry::UP);
                // The database may have failed together with the bus: compares the positions from before the outage.
                for room in self.rooms() {
                    let before = room.lock().delivered();
                    self.suspect(&room, before);
                }
                let hub = self.clone();
                self.tasks.spawn(async move { hub.reconcile().await });
                self.bus_back.notify_one();
            }
        }
    }

    /// Accepts events in any order, including repeated ones.
    fn arrived(self: &Arc<Self>, room: &Arc<Room>, events: Vec<FeedEvent>) {
        let mut state = room.lock();
        let before = state.delivered();
        let mut suspicious = false;
        let mut ready = Vec::new();
        for event in events {
            state.target = state.target.max(event.seq);
            if state.last >= 0 && event.seq == state.last + 1 {
                state.last = event.seq;
                ready.push(event);
            } else if event.seq <= state.last {
                // A repetition, or another event under a number that was already delivered.
                suspicious |= before.anchor.is_none() || before.anchor != Anchor::of(&event);
            } else if state.ahead.len() < MAX_AHEAD {
                state.ahead.insert(event.seq, event);
            }
        }
        state.deliver(ready);
        drop(state);
        if suspicious {
            self.suspect(room, before);
        }
        self.settle(room);
    }
}
