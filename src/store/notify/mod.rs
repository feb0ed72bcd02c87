//! What notifications need of the store. Preferences and verified addresses are small rows of a user; a delivery is
//! one row whose record is changed as a whole, under a version; who was told of which message is a row each.
//!
//! Everything here happens beside the path of a message: in jobs, after the batch was stored.

mod statements;

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    error::Result,
    model::{
        MessageId, RoomId, Seq, Timestamp, UserId,
        address::Address,
        notify::{Cause, ChannelKind, Delivery, DeliveryState, Preferences, RoomMode},
    },
};

/// Wrong guesses at a code before it is worth nothing.
pub const MAX_TRIES: i64 = 5;

/// A member whom a message may concern, and what a decision needs to know of them.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub message: MessageId,
    pub room: RoomId,
    pub seq: Seq,
    pub deleted: bool,
    pub user: UserId,
    pub cause: Cause,
    /// `None`: no member any more.
    pub read: Option<bool>,
    /// Their account was deleted.
    pub gone: bool,
    /// What they set for this room.
    pub mode: Option<RoomMode>,
    pub preferences: Preferences,
    /// Verified, and still the account's.
    pub email: Option<Address>,
    pub phone: Option<Address>,
}

/// That someone is to be told of a message, or is not.
#[derive(Debug, Clone)]
pub struct Decision {
    pub message: MessageId,
    pub room: RoomId,
    pub seq: Seq,
    pub user: UserId,
    pub cause: Cause,
    pub verdict: Verdict,
}

#[derive(Debug, Clone)]
pub enum Verdict {
    Tell(ChannelKind),
    Not(DeliveryState, &'static str),
}

/// One message of a delivery, as it is now.
#[derive(Clone)]
pub struct Line {
    pub message: MessageId,
    pub room: RoomId,
    pub seq: Seq,
    pub body: String,
    pub deleted: bool,
    pub sender: String,
    pub room_name: String,
    pub direct: bool,
    /// `None`: no member any more.
    pub read: Option<bool>,
    pub mode: Option<RoomMode>,
}

debug_of!(Line { message, room, seq });

/// What an entry of the ledger says of one message and one user.
#[derive(Debug, Clone)]
pub struct Entry {
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

/// An entry's place among those of its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub at: Timestamp,
    pub message: MessageId,
    pub channel: String,
}

/// A user's wishes and addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifySettings {
    pub preferences: Preferences,
    pub rooms: Vec<(RoomId, RoomMode)>,
    /// Verified, and still the account's, and something can be sent to it.
    pub verified: Vec<Address>,
    /// The account was deleted, or never was.
    pub gone: bool,
}

impl NotifySettings {
    pub fn verified(&self, channel: ChannelKind) -> Option<&Address> {
        let mut all = self.verified.iter();
        all.find(|address| address.channel() == channel)
    }
}

/// A code that proves an address, as it is kept.
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
    /// None was asked for, it is used or too old, the address changed, or too many guesses were wrong.
    NoneOpen,
}

/// What edges may ask.
#[async_trait]
pub trait NotifyReads: Send + Sync {
    async fn notify_settings(&self, user: UserId) -> Result<NotifySettings>;
    async fn delivery(&self, id: Uuid) -> Result<Option<Delivery>>;
    /// Everyone who was considered for a message.
    async fn told_of(&self, message: MessageId) -> Result<Vec<Entry>>;
    /// The newest first, those before `before`.
    async fn told_to(&self, user: UserId, before: Option<&Place>, limit: u32)
    -> Result<Vec<Entry>>;
    /// The room that a message is in.
    async fn room_of(&self, message: MessageId) -> Result<Option<RoomId>>;
    /// Why nothing is sent to this address any more.
    async fn suppressed(&self, address: &Address) -> Result<Option<String>>;
}

/// What workers do.
#[async_trait]
pub trait NotifyWrites: NotifyReads {
    async fn put_notify_settings(
        &self,
        user: UserId,
        preferences: &Preferences,
        rooms: &[(RoomId, RoomMode)],
    ) -> Result<()>;
    /// Replaces the one before it.
    async fn put_code(&self, code: &NewCode) -> Result<()>;
    /// Right only once; the address is verified then.
    async fn try_code(
        &self,
        user: UserId,
        channel: ChannelKind,
        hash: &[u8],
        now: Timestamp,
    ) -> Result<CodeAnswer>;
    /// Everyone whom these messages may concern, senders left out: one statement for all of them.
    async fn candidates(&self, messages: &[MessageId]) -> Result<Vec<Candidate>>;
    /// Puts decisions down, those that were put down before left as they are. A message to tell joins the open
    /// delivery of its user and channel, or opens one. Returns the deliveries concerned.
    async fn decide(&self, decisions: &[Decision]) -> Result<Vec<(Uuid, ChannelKind)>>;
    /// A delivery of its own, for no message. The same id again changes nothing.
    async fn put_delivery(&self, delivery: &Delivery) -> Result<()>;
    /// Deliveries to a user, by id, those above `after`.
    async fn deliveries_to(
        &self,
        user: UserId,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Delivery>>;
    /// Writes the record if the row is still at `delivery.version`, which then goes up by one here and there.
    async fn change_delivery(&self, delivery: &mut Delivery) -> Result<bool>;
    /// From here on no message joins it. Returns those that did, as far as nothing was decided of them since.
    async fn close_delivery(&self, id: Uuid) -> Result<Vec<Line>>;
    /// Takes messages out of their delivery, and says why.
    async fn drop_lines(&self, id: Uuid, lines: &[(MessageId, &'static str)]) -> Result<()>;
    /// The first reason stays.
    async fn suppress(&self, address: &Address, reason: &str) -> Result<()>;
    /// Takes it back, if it was for this reason.
    async fn lift(&self, address: &Address, reason: &str) -> Result<()>;
}

pub(super) use statements::{columns, notify_reads, notify_store, notify_writes};
