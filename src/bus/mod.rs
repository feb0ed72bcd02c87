//! The state that edges, workers and autoscalers share at run time, in Redis or, for a single process, in memory. Four
//! ports, each implemented by both:
//!
//! - [`PubSub`]: live events and notices from workers to edges;
//! - [`RecentEvents`]: the cached tail of each room's feed;
//! - [`Coordination`]: leases, semaphores, counters, values with a time to live, and the workers' heartbeats;
//! - [`Presence`]: which users are connected.
//!
//! Guarantees: messages that one publisher sends to one channel arrive in that order or not at all. Everything here can be
//! lost at any moment, so no promise of the product depends on it.

mod coordination;
mod encoding;
mod handles;
pub mod memory;
mod presence;
mod pubsub;
mod recent;
pub mod redis;

pub use coordination::{Coordination, WorkerId};
pub use encoding::{RoomPayload, decode_events, decode_room, encode_ephemeral, encode_events};
pub use handles::Handles;
pub use presence::{ACTIVITY_RETENTION, Presence, UserPresence};
pub use pubsub::{Channel, EdgeId, Incoming, PubSub, Publications, RoomEvents, Subscriptions};
pub use recent::RecentEvents;
