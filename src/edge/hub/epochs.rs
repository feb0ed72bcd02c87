//! The epochs that a hub has seen, the rooms to compare with the store, and the rooms that have lost history.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::mpsc;

use super::room::Room;
use crate::model::{Delivered, Epoch, RoomId};

/// Maximum number of earlier epochs that are kept.
const MAX_LEFT: usize = 16;

/// Positions that were delivered in this epoch and that the store does not have.
#[derive(Debug, Clone)]
pub struct Report {
    pub epoch: Epoch,
    pub delivered: Vec<Delivered>,
}

/// The reports of a hub.
pub type Reports = mpsc::Receiver<Report>;

/// A room, and a position that was delivered in it.
pub(super) type Checked = (Arc<Room>, Delivered);

/// A room that is to be compared with the store.
struct Suspect {
    room: Arc<Room>,
    /// Positions delivered at different times. Only the last one before a loss reveals it, and it is not known which.
    delivered: Vec<Delivered>,
}

/// Maximum positions of one room that are compared at once.
const MAX_TIMES: usize = 64;

#[derive(Default)]
pub(super) struct Epochs {
    pub current: Option<Epoch>,
    left: Vec<Epoch>,
    suspects: HashMap<RoomId, Suspect>,
    /// Rooms that have lost history and have not ended yet.
    pub lost: HashMap<RoomId, Checked>,
}

impl Epochs {
    pub fn suspect(&mut self, room: &Arc<Room>, delivered: Delivered) {
        let suspect = self.suspects.entry(room.id).or_insert_with(|| Suspect {
            room: room.clone(),
            delivered: Vec::new(),
        });
        if !Arc::ptr_eq(&suspect.room, room) {
            // Another instance: the positions of the previous one have been compared.
            suspect.room = room.clone();
            suspect.delivered.clear();
        }
        if suspect.delivered.len() < MAX_TIMES && !suspect.delivered.contains(&delivered) {
            suspect.delivered.push(delivered);
        }
    }

    /// Removes at most this many suspected rooms.
    pub fn take_suspects(&mut self, rooms: usize) -> Vec<Checked> {
        let rooms: Vec<RoomId> = self.suspects.keys().take(rooms).copied().collect();
        let taken = rooms.iter().filter_map(|room| self.suspects.remove(room));
        taken
            .flat_map(|suspect| {
                let times = suspect.delivered.into_iter();
                times.map(move |delivered| (suspect.room.clone(), delivered))
            })
            .collect()
    }

    #[cfg(test)]
    pub fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Changes to another epoch. Returns whether it is an earlier one: then the store has lost the replacement of its
    /// epoch, too.
    pub fn enter(&mut self, epoch: Epoch) -> bool {
        let Some(before) = self.current.replace(epoch) else {
            return false;
        };
        if self.left.len() == MAX_LEFT {
            self.left.remove(0);
        }
        self.left.push(before);
        self.left.contains(&epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::new_id;

    #[test]
    fn an_epoch_that_comes_back_is_recognised() {
        let (mut epochs, first, second) = (Epochs::default(), new_id(), new_id());
        assert!(!epochs.enter(first));
        assert!(!epochs.enter(second));
        assert!(epochs.enter(first));
        for _ in 0..100 {
            assert!(!epochs.enter(new_id()));
        }
        assert_eq!(epochs.left.len(), MAX_LEFT);
    }
}
