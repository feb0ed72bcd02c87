//! The port for live delivery: workers publish to channels, edges and workers subscribe to them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    error::Result,
    model::{Epoch, FeedEvent, RoomId},
};

pub type EdgeId = Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// A room's events; the payload is made by [`encode_events`](super::encode_events) or
    /// [`encode_ephemeral`](super::encode_ephemeral).
    Room(RoomId),
    /// Answers for one edge.
    Edge(EdgeId),
    /// Notices for every edge and every worker.
    Everyone,
}

#[derive(Debug, Clone)]
pub enum Incoming {
    Message {
        channel: Channel,
        payload: Bytes,
    },
    /// The connection is back and every subscription is restored. Messages published in between are missing.
    Restored,
    /// The connection is gone; nothing arrives until `Restored`.
    Lost,
}

/// A room's new events, contiguous and ascending.
#[derive(Debug, Clone)]
pub struct RoomEvents {
    pub room: RoomId,
    pub events: Vec<FeedEvent>,
}

/// The publications of one batch.
#[derive(Debug, Clone, Default)]
pub struct Publications {
    /// The epoch of the store, under which events are cached.
    pub epoch: Epoch,
    /// Appended to the recent-events cache and published on the room's channel.
    pub rooms: Vec<RoomEvents>,
    /// Rooms whose cached events may lag behind the store: their cache entries are deleted before anything is appended.
    pub stale: Vec<RoomId>,
    /// Published on a channel, not cached.
    pub notices: Vec<(Channel, Bytes)>,
}

impl Publications {
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.stale.is_empty() && self.notices.is_empty()
    }
}

/// The channels of one listener.
#[async_trait]
pub trait Subscriptions: Send + Sync {
    /// Resolves when messages published from now on will arrive. While the connection is down it resolves at once, and
    /// the channels are subscribed on the next connection, before `Restored`. Returns whether they are subscribed now.
    async fn subscribe(&self, channels: &[Channel]) -> Result<bool>;
    async fn unsubscribe(&self, channels: &[Channel]) -> Result<()>;
}

#[async_trait]
pub trait PubSub: Send + Sync {
    /// Publishes a batch and updates the recent-events cache in the same single round trip. After an error, any
    /// part of it may have been published.
    async fn publish(&self, publications: &Publications) -> Result<()>;

    /// Opens a listener with a bounded queue of its own. A listener that falls behind loses its connection (`Lost`,
    /// then `Restored`) instead of using more memory.
    async fn listen(&self) -> Result<(Arc<dyn Subscriptions>, mpsc::Receiver<Incoming>)>;

    /// Checks that the server answers commands.
    async fn ping(&self) -> Result<()>;
}
