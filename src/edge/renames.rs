//! Passes users' new names on to the sockets that see them: each socket gets one `userUpdated` per change, although a
//! change of a user with many rooms arrives in several notices.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{hub::Hub, outbound::event, registry::Registry};
use crate::{
    model::{RoomId, User},
    protocol::{EventName, UserUpdated},
    telemetry::metrics,
};

/// How long an incomplete change is kept if its last notice does not arrive.
const KEEP: Duration = Duration::from_secs(60);
/// Maximum number of incomplete changes. Beyond it, a socket may get the event more than once.
const CHANGES: usize = 256;

/// Changes of which more notices follow, each with the sessions that got the event.
#[derive(Default)]
pub struct Renames(HashMap<Uuid, (Instant, HashSet<u64>)>);

/// One notice of a change.
pub struct Rename {
    pub change: Uuid,
    pub user: User,
    pub rooms: Vec<RoomId>,
    pub more: bool,
}

impl Renames {
    /// Sends the event to the sockets that are live in these rooms and did not get it yet, and to the user's own.
    pub fn deliver(&mut self, hub: &Hub, sessions: &Registry, rename: Rename) {
        let mut sockets = hub.live_in(&rename.rooms);
        let seen = self.0.remove(&rename.change);
        match &seen {
            Some((_, seen)) => sockets.retain(|session, _| !seen.contains(session)),
            None => {
                let own = sessions.of_user(rename.user.id);
                sockets.extend(own.into_iter().map(|own| (own.session, own)));
            }
        }
        let updated = event(EventName::UserUpdated, &UserUpdated { user: rename.user });
        for socket in sockets.values() {
            socket.outbox.push_events(&[Arc::clone(&updated)]);
        }
        metrics().deliveries.inc_by(sockets.len() as u64);
        if rename.more {
            self.0.retain(|_, (since, _)| since.elapsed() < KEEP);
            if self.0.len() < CHANGES {
                let (since, mut seen) = seen.unwrap_or((Instant::now(), HashSet::new()));
                seen.extend(sockets.into_keys());
                self.0.insert(rename.change, (since, seen));
            }
        }
    }
}
