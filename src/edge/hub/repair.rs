//! Missing ranges of a room's numbers: they are fetched before anything that follows is delivered. A range that cannot
//! be fetched is lost, and sockets get the event `gap` for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{hub::Hub, room::Room};
use crate::{model::Seq, telemetry::metrics};

/// Events fetched at once for a missing range; [`crate::store::MessageReads::events`] allows as many.
const REPAIR_PAGE: Seq = 1000;
/// How long a range may be missing because the store does not answer, before sockets get `gap`.
const REPAIR_DEADLINE: Duration = Duration::from_secs(60);

impl Hub {
    /// Delivers what has become contiguous, and starts to fetch the range that is still missing.
    pub(super) fn settle(self: &Arc<Self>, room: &Arc<Room>) {
        let mut state = room.lock();
        if state.last < 0 {
            return;
        }
        state.advance();
        if state.target > state.last && !state.repairing {
            state.repairing = true;
            // The failure that lost the range may have affected the database as well.
            let before = state.delivered();
            drop(state);
            self.suspect(room, before);
            let (hub, room) = (self.clone(), room.clone());
            self.tasks.spawn(async move { hub.repair(&room).await });
        }
    }

    /// Fetches until nothing known is missing.
    async fn repair(self: &Arc<Self>, room: &Arc<Room>) {
        let started = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            let (after, upto) = {
                let mut state = room.lock();
                let missing_end = state
                    .ahead
                    .first_key_value()
                    .map_or(state.target, |(first, _)| first - 1);
                if state.target <= state.last || state.subscriptions.is_empty() {
                    // A room without subscriptions starts from its head at the next join.
                    if state.subscriptions.is_empty() {
                        state.skipped |= state.target > state.last;
                        state.last = state.last.max(state.target);
                        state.ahead.clear();
                        state.pages.end();
                    }
                    state.repairing = false;
                    return;
                }
                (state.last, missing_end.min(state.last + REPAIR_PAGE))
            };
            let fetched = tokio::select! {
                fetched = self.fetch(room.id, after, upto) => fetched,
                () = self.shutdown.cancelled() => return,
            };
            match fetched {
                Ok(events) => {
                    metrics().holes_repaired.inc();
                    room.lock().fill(after, upto, events);
                    pause = Duration::from_millis(50);
                }
                Err(error) if started.elapsed() < REPAIR_DEADLINE => {
                    tracing::debug!(room = %room.id, error = %error.chain(), "a missing range waits for the store");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.shutdown.cancelled() => return,
                    }
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => {
                    tracing::warn!(room = %room.id, from = after + 1, to = upto, error = %error.chain(), "a missing range could not be fetched; sockets get a gap");
                    room.lock().fill(after, upto, Vec::new());
                }
            }
            room.lock().advance();
        }
    }
}
