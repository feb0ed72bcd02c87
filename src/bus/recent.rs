//! The port for the cached tail of each room's feed. [`PubSub::publish`](super::PubSub::publish) fills it.

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{Epoch, FeedEvent, RoomId},
};

#[async_trait]
pub trait RecentEvents: Send + Sync {
    /// The events of a room that were cached in this epoch of the store: contiguous, ascending, possibly none. After a
    /// failed `publish` they lag behind the store by the events that it carried.
    async fn get(&self, epoch: Epoch, room: RoomId) -> Result<Vec<FeedEvent>>;
}
