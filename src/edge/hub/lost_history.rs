//! Lost history. A database that lost its last transactions continues rooms at lower numbers, and reuses numbers that
//! were already delivered for other events. The hub detects this by comparing what it delivered with the store; what
//! clients send is not used:
//!
//! - The comparison of the rooms' heads ([`reconcile`](super::reconcile)) finds a head below the position delivered. If
//!   the head has grown past the position again, the [`Anchor`](crate::model::Anchor) is compared: the newest message
//!   that was delivered must still have its number.
//! - A publication at or below the position is a repetition, or a new event under an old number: the room is suspected,
//!   and compared with the store, at most [`AT_ONCE`] rooms per [`PAUSE`]. So are rooms with a missing range, rooms
//!   with new messages since the last comparison of heads, all rooms after an outage of the bus, and all rooms in turn.
//!
//! A loss is reported, and the worker that receives the report compares again and replaces the epoch. When the hub sees
//! the new epoch, after a notice or by its own regular read, it compares all of its rooms and ends those that have lost
//! history: their sockets get `reset`, and the next join opens the room at its head in the store.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    epochs::{Checked, Report},
    hub::Hub,
    joining::Joining,
    room::Room,
};
use crate::{
    error::{Error, Result},
    model::{Delivered, Epoch, RoomId, Seq},
};

/// Rooms that are compared at once after a suspicious publication, and the pause after each comparison.
const AT_ONCE: usize = 1000;
const PAUSE: Duration = Duration::from_millis(100);
/// Rooms in one read when all are compared.
const CHUNK: usize = 5000;
/// Sockets that resumed within this time before an epoch ended start anew: they may have resumed from a position before
/// the loss, in a room that was opened here after it. Longer than an unnoticed loss lasts while edges compare their
/// rooms.
const RESUMED_LATELY: Duration = Duration::from_secs(60);
/// How long a join waits until the report of a loss that it found is handled.
const HANDLED_WITHIN: Duration = Duration::from_secs(5);

impl Hub {
    /// The epoch of the store as it was last read here; `None` until the first read.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epochs.lock().current
    }

    /// Changes whenever reports have been handled or the epoch has changed.
    pub fn handled(&self) -> watch::Receiver<u64> {
        self.handled.subscribe()
    }

    /// Reads the epoch. If it has changed, compares all rooms here with the store and ends those that have lost
    /// history.
    ///
    /// # Errors
    /// Those of the store; the next call compares again.
    pub async fn read_epoch(&self) -> Result<Epoch> {
        let _one_at_a_time = self.comparing.lock().await;
        let epoch = self.reads.epoch().await?;
        match self.epoch() {
            Some(before) if before == epoch => return Ok(epoch),
            Some(_) => {}
            None => {
                self.epochs.lock().enter(epoch);
                return Ok(epoch);
            }
        }
        let mut rooms: Vec<Checked> = self.rooms().into_iter().map(with_position).collect();
        // Also the positions before suspicious publications, which may have moved the positions since.
        rooms.extend(self.epochs.lock().take_suspects(usize::MAX));
        let mut lost = Vec::new();
        for chunk in rooms.chunks(CHUNK) {
            lost.extend(self.find_lost(chunk).await?);
        }
        let returned = self.epochs.lock().enter(epoch);
        let mut sockets = 0;
        for (room, _) in &lost {
            sockets += self.end_room(room, epoch);
        }
        let since = Instant::now().checked_sub(RESUMED_LATELY);
        for room in self.rooms() {
            sockets += room.lock().reset_resumed(epoch, since);
        }
        tracing::warn!(
            %epoch,
            rooms = lost.len(),
            sockets,
            "the store has a new epoch: sockets in rooms that have lost history start anew"
        );
        self.handled.send_modify(|count| *count += 1);
        if returned {
            self.report(epoch, lost);
        }
        Ok(epoch)
    }

    /// Reads the epoch soon. If that fails, the next comparison of the rooms' heads reads it again.
    pub fn epoch_changed(self: &Arc<Self>) {
        let hub = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = hub.read_epoch().await {
                tracing::debug!(error = %error.chain(), "the epoch could not be read");
            }
        });
    }

    /// Those of `rooms` whose delivered position the store does not have. The positions were taken before this call.
    async fn find_lost(&self, rooms: &[Checked]) -> Result<Vec<Checked>> {
        let delivered: Vec<Delivered> = rooms.iter().map(|(_, delivered)| *delivered).collect();
        let found = self.reads.positions(&delivered).await?;
        // A room may be in `rooms` with several numbers; an occupant is compared only with its own number.
        let mut positions: HashMap<(RoomId, Seq), _> = HashMap::new();
        for one in found {
            positions.insert((one.room, one.number), one);
        }
        let lost = rooms.iter().filter(|(room, delivered)| {
            let found = positions.get(&(room.id, delivered.number()));
            delivered.lost(found).is_some() && !room.lock().has_ended()
        });
        Ok(lost.cloned().collect())
    }

    /// Ends a room here: its sockets get `reset`, and the next join opens it at its head in the store.
    fn end_room(&self, room: &Arc<Room>, epoch: Epoch) -> usize {
        self.remove(room);
        room.lock().end(epoch)
    }

    /// Records the rooms that have lost history, and reports them. If too many reports wait, the next comparison finds
    /// the loss again.
    fn report(&self, epoch: Epoch, lost: Vec<Checked>) {
        if lost.is_empty() {
            return;
        }
        let delivered = lost.iter().map(|(_, delivered)| *delivered).collect();
        let recorded = lost.into_iter().map(|one| (one.0.id, one));
        self.epochs.lock().lost.extend(recorded);
        let _ = self.reports.try_send(Report { epoch, delivered });
    }

    /// Ends the rooms that were found to have lost history. To be called when their report was confirmed, or when no
    /// worker answers.
    pub fn end_lost(&self) {
        let mut epochs = self.epochs.lock();
        let Some(epoch) = epochs.current else { return };
        let lost = std::mem::take(&mut epochs.lost);
        drop(epochs);
        for (room, _) in lost.into_values() {
            self.end_room(&room, epoch);
        }
        self.handled.send_modify(|count| *count += 1);
    }

    /// A worker has refuted this report: the database has what was delivered, and this edge read from a standby that is
    /// behind.
    pub fn refuted(&self, report: &Report) {
        let mut epochs = self.epochs.lock();
        for one in &report.delivered {
            epochs.lost.remove(&one.room);
        }
        drop(epochs);
        self.handled.send_modify(|count| *count += 1);
    }

    /// The store's head of a joining socket's room is below the position that was delivered here. Reports it and waits
    /// until the report has been handled; the join can be repeated then.
    ///
    /// # Errors
    /// `busy` if that takes too long.
    pub async fn report_lost(&self, joining: Joining) -> Result<()> {
        let mut handled = self.handled();
        let room = with_position(joining.room.clone());
        drop(joining);
        if room.0.lock().has_ended() {
            return Ok(());
        }
        if let Some(epoch) = self.epoch() {
            self.report(epoch, vec![room]);
        }
        match tokio::time::timeout(HANDLED_WITHIN, handled.changed()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::busy(
                "the room is being compared with the database; try again",
                Duration::from_secs(1),
            )),
        }
    }

    /// Compares a room with the store soon. `before` is the position before the suspicious event.
    pub(super) fn suspect(&self, room: &Arc<Room>, before: Delivered) {
        // Another instance has taken the place of a room that has ended.
        if room.lock().has_ended() {
            return;
        }
        self.epochs.lock().suspect(room, before);
        self.suspected.notify_one();
    }

    /// The cache has events up to `cached`, which were not published here: compares the room with the store soon.
    pub fn suspect_cached(&self, room: RoomId, cached: Seq) {
        if let Some(room) = self.find(room)
            && room.lock().target < cached
        {
            let before = Delivered {
                room: room.id,
                seq: cached,
                anchor: None,
            };
            self.suspect(&room, before);
        }
    }

    /// Compares suspected rooms with the store until the shutdown.
    pub(super) async fn check_suspects_forever(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.suspected.notified() => {}
                () = self.shutdown.cancelled() => return,
            }
            while self.check_some().await {
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = self.shutdown.cancelled() => return,
                }
            }
        }
    }

    /// Compares some of the suspected rooms, and reports those that have lost history. `false` if there are none.
    async fn check_some(&self) -> bool {
        // Not while a change of the epoch is handled: a position is valid only in the epoch in which it was delivered.
        let _one_at_a_time = self.comparing.lock().await;
        let (epoch, some) = {
            let mut epochs = self.epochs.lock();
            let Some(epoch) = epochs.current else {
                return false;
            };
            (epoch, epochs.take_suspects(AT_ONCE))
        };
        match self.find_lost(&some).await {
            Ok(lost) => self.report(epoch, lost),
            Err(error) => {
                tracing::debug!(error = %error.chain(), "rooms could not be compared with the store");
                for (room, before) in &some {
                    self.suspect(room, *before);
                }
            }
        }
        !some.is_empty()
    }
}

/// The room and its position now.
pub(super) fn with_position(room: Arc<Room>) -> Checked {
    let delivered = room.lock().delivered();
    (room, delivered)
}
