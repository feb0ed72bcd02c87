//! The values of the port.

use crate::model::{
    MessageId, RoomId, Seq, Timestamp, UserId,
    address::Address,
    notify::{Cause, ChannelKind, Delivery, DeliveryState, Preferences, RoomMode},
};

/// Wrong guesses after which a code is no longer accepted.
pub const MAX_TRIES: i64 = 5;

/// A member whom a message may concern, and what the decision to notify them depends on.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub message: MessageId,
    pub room: RoomId,
    pub seq: Seq,
    pub deleted: bool,
    pub user: UserId,
    pub cause: Cause,
    /// `None`: no longer a member.
    pub read: Option<bool>,
    /// The user's account was deleted.
    pub gone: bool,
    /// The user's setting for this room.
    pub mode: Option<RoomMode>,
    pub preferences: Preferences,
    /// Verified, and still the account's.
    pub email: Option<Address>,
    pub phone: Option<Address>,
}

/// Whether a user is notified of a message.
#[derive(Debug, Clone)]
pub struct Decision {
    pub message: MessageId,
    pub room: RoomId,
    pub seq: Seq,
    pub user: UserId,
    pub cause: Cause,
    pub verdict: NotifyVerdict,
}

#[derive(Debug, Clone)]
pub enum NotifyVerdict {
    Notify(ChannelKind),
    /// The state and the reason that the delivery log shows.
    Skip(DeliveryState, &'static str),
}

/// One message of a delivery, as it is now.
#[derive(Clone)]
pub struct DigestLine {
    pub message: MessageId,
    pub room: RoomId,
    pub seq: Seq,
    pub body: String,
    pub deleted: bool,
    pub sender: String,
    pub room_name: String,
    pub direct: bool,
    /// `None`: no longer a member.
    pub read: Option<bool>,
    pub mode: Option<RoomMode>,
}

debug_of!(DigestLine { message, room, seq });

/// An entry of the delivery log: one message and one user.
#[derive(Debug, Clone)]
pub struct LogEntry {
    pub message: MessageId,
    pub room: RoomId,
    pub seq: Seq,
    pub user: UserId,
    pub channel: Option<ChannelKind>,
    pub cause: Cause,
    pub at: Timestamp,
    /// Decided for this message alone.
    pub decided: Option<(DeliveryState, String)>,
    pub delivery: Option<Delivery>,
}

/// An entry's position among those of its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPosition {
    pub at: Timestamp,
    pub message: MessageId,
    pub channel: String,
}

/// A user's preferences and addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifySettings {
    pub preferences: Preferences,
    pub rooms: Vec<(RoomId, RoomMode)>,
    /// Verified, still the account's, and valid for the channel.
    pub verified: Vec<Address>,
    /// The account was deleted, or never existed.
    pub gone: bool,
}

impl NotifySettings {
    pub fn verified(&self, channel: ChannelKind) -> Option<&Address> {
        let mut all = self.verified.iter();
        all.find(|address| address.channel() == channel)
    }
}

/// A code that proves an address, as it is stored.
#[derive(Clone)]
pub struct NewCode {
    pub user: UserId,
    pub address: Address,
    /// SHA-256.
    pub hash: Vec<u8>,
    pub expires_at: Timestamp,
}

debug_of!(NewCode { user, expires_at });

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeAnswer {
    Right,
    Wrong,
    /// None was requested, it is used or expired, the address changed, or too many guesses were wrong.
    NoneOpen,
}
