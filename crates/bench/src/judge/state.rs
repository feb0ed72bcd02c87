//! The state of the judge: rooms and their numbers, subscriptions, sends.

use std::collections::HashMap;

use super::{
    faults::Faults,
    ids::{ConnectionNo, Key, RoomNo, Seq, SubscriptionNo},
    subscription::Subscription,
};

/// The highest number of a room that is followed; memory is linear in it.
pub(super) const MAX_SEQ: Seq = 1 << 28;

/// In [`Room::numbers`]: no event is known. Other values below [`OTHER`] are an index into `sends`, counted from 1.
pub(super) const UNKNOWN: u32 = 0;
/// In [`Room::numbers`]: an event that is not a new message.
pub(super) const OTHER: u32 = u32::MAX;

#[derive(Default)]
pub struct Judge {
    /// An explicit `gap` is counted, but the events in its range do not count as lost.
    pub(super) allow_gaps: bool,
    pub(super) rooms: Vec<Room>,
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) connections: u32,
    pub(super) sends: Vec<Sent>,
    /// The index into `sends` of each key.
    pub(super) by_key: HashMap<Key, u32>,
    /// Every `clientMsgId`, end to end: for the examples.
    pub(super) names: String,
    pub(super) faults: Faults,
    pub(super) delivered: u64,
}

pub(super) struct Room {
    pub label: String,
    /// The event of each number.
    pub numbers: Vec<u32>,
    pub subscriptions: Vec<SubscriptionNo>,
}

pub(super) struct Sent {
    pub key: Key,
    /// Where its `clientMsgId` begins in `Judge::names`.
    pub name: u32,
    pub room: RoomNo,
    pub connection: ConnectionNo,
    /// 0 until a delivery shows it.
    pub seq: u32,
    pub accepted: bool,
    /// Sent again, perhaps by another connection, so that its position in a connection's order is undefined.
    pub repeated: bool,
}

/// The `clientMsgId` of a send.
pub(super) fn name<'a>(sends: &[Sent], names: &'a str, at: u32) -> &'a str {
    let start = sends[at as usize].name as usize;
    let end = sends
        .get(at as usize + 1)
        .map_or(names.len(), |next| next.name as usize);
    &names[start..end]
}

/// A number of a subscription, for the examples.
pub(super) fn describe(
    subscriptions: &[Subscription],
    rooms: &[Room],
    subscription: SubscriptionNo,
    seq: Seq,
) -> String {
    let subscription = &subscriptions[subscription.0 as usize];
    format!(
        "number {seq} at {} in {}",
        subscription.label, rooms[subscription.room.0 as usize].label
    )
}
