//! Announcements of renamed users, which invalidate the membership cache.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::state::Worker;
use crate::{
    bus::{Channel, Incoming},
    command::Notice,
    error::Result,
};

/// Receives announcements of renames until `shutdown`.
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
            Some(Incoming::Message { payload, .. }) => {
                if let Ok(Notice::AccountChanged { user }) = serde_json::from_slice(&payload) {
                    cache.invalidate_user(user);
                }
            }
            Some(Incoming::Lost) => cache.reset(false),
            Some(Incoming::Restored) => cache.reset(true),
            None => {
                cache.reset(false);
                return Ok(());
            }
        }
    }
}
