//! The port for the cached tail of each room's feed. [`PubSub::publish`](super::PubSub::publish) fills it.

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{FeedEvent, RoomId},
};

#[async_trait]
pub trait RecentEvents: Send + Sync {
    /// The cached events of a room: contiguous, ascending, possibly none. After a failed `publish` they lag behind the
    /// store by the events that it carried.
    async fn get(&self, room: RoomId) -> Result<Vec<FeedEvent>>;
}
