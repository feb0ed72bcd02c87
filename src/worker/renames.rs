//! Renamed users: announcements that invalidate the membership cache, and the notices for the sockets that see the
//! user.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{batch::Runner, outcomes::Outcomes, state::Worker};
use crate::{
    bus::{Channel, Incoming},
    command::Notice,
    error::Result,
    model::{RoomId, User, UserId, new_id},
};

/// Rooms in one notice.
const ROOMS_AT_ONCE: u32 = 1000;

/// Receives announcements of renames, and of new epochs, until `shutdown`.
///
/// # Errors
/// If a listener cannot be opened.
pub async fn listen(worker: Arc<Worker>, shutdown: CancellationToken) -> Result<()> {
    let (subscriptions, mut incoming) = worker.pubsub.listen().await?;
    let cache = &worker.memberships;
    cache.reset(subscriptions.subscribe(&[Channel::Everyone]).await?);
    loop {
        let received = tokio::select! {
            received = incoming.recv() => received,
            () = shutdown.cancelled() => None,
        };
        match received {
            Some(Incoming::Message { payload, .. }) => match serde_json::from_slice(&payload) {
                Ok(Notice::AccountChanged { user }) => cache.invalidate_user(user),
                Ok(Notice::EpochChanged { epoch }) => cache.enter(epoch),
                _ => {}
            },
            Some(Incoming::Lost) => cache.reset(false),
            Some(Incoming::Restored) => cache.reset(true),
            None => {
                cache.reset(false);
                return Ok(());
            }
        }
    }
}

impl Runner {
    /// A user's present names, if there is such a user and the store can read it. The outer `None` if the worker must
    /// stop first.
    pub(super) async fn names(&self, user: UserId) -> Option<Option<User>> {
        let names = self.until_answered(|| self.worker.store.names(user));
        Some(names.await?.unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "the names of a user could not be read; sockets may keep the old ones");
            None
        }))
    }

    /// Publishes a user's new names for the sockets in the user's rooms, page by page. Cached events of the rooms
    /// contain the old ones and are deleted. `None` if the worker must stop first.
    pub(super) async fn announce_names(&mut self, named: User) -> Option<Result<()>> {
        let user = named.id;
        let change = new_id();
        let mut after: Option<RoomId> = None;
        loop {
            let page = self
                .until_answered(|| self.worker.store.member_of(user, after, ROOMS_AT_ONCE))
                .await?;
            let rooms = match page {
                Ok(rooms) => rooms,
                Err(error) => return Some(Err(error)),
            };
            after = rooms.last().copied();
            let more = rooms.len() == ROOMS_AT_ONCE as usize;
            let mut outcomes = Outcomes::default();
            // Before the notice, so that no event with the old name is created after it.
            outcomes.notify(Channel::Everyone, &Notice::AccountChanged { user });
            self.worker.memberships.invalidate_user(user);
            self.stale.extend(&rooms);
            let notice = Notice::UserUpdated {
                change,
                user: named.clone(),
                rooms,
                more,
            };
            outcomes.notify(Channel::Everyone, &notice);
            self.publish(outcomes).await;
            if !more {
                return Some(Ok(()));
            }
        }
    }
}
