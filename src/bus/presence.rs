//! The port for user presence: which users are connected to any edge, and when each was last active.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{Timestamp, UserId},
};

/// How long a user's last activity is kept.
pub const ACTIVITY_RETENTION: Duration = Duration::from_secs(30 * 86_400);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserPresence {
    pub connected: bool,
    pub last_active: Option<Timestamp>,
}

#[async_trait]
pub trait Presence: Send + Sync {
    /// Marks users as connected for `ttl` and records their last activity. Edges repeat this before `ttl` is over, since a
    /// killed edge cannot withdraw it. Of two calls for one user the later end and the later activity count.
    async fn mark_connected(&self, users: &[(UserId, Timestamp)], ttl: Duration) -> Result<()>;

    /// The presence of each user, in the order asked. The last activity outlives the connection and its edge, for
    /// [`ACTIVITY_RETENTION`].
    async fn get(&self, users: &[UserId]) -> Result<Vec<UserPresence>>;
}
