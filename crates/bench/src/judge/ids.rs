//! The ids of rooms, readers, senders and messages in calls of the judge.

use uuid::Uuid;

/// The number of an event in its room.
pub type Seq = i64;

pub type UserId = Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoomNo(pub(super) u32);

/// One reader's view of one room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionNo(pub(super) u32);

/// A source whose sends keep their order: one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionNo(pub(super) u32);

/// A message, identified by its room, sender and `clientMsgId`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub(super) u64);
