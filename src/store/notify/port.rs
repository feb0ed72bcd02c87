//! The port of notifications: a trait per subject, those that edges are given and those of workers.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Candidate, CodeAnswer, Decision, DigestLine, LogEntry, LogPosition, NewCode, NotifySettings,
};
use crate::{
    error::Result,
    model::{
        MessageId, RoomId, Timestamp, UserId,
        address::Address,
        notify::{ChannelKind, Delivery, Preferences, RoomMode},
    },
};

/// The reads of edges.
pub trait NotifyReads: PreferenceReads + AddressReads + DeliveryReads + LogReads {}

impl<T> NotifyReads for T where T: PreferenceReads + AddressReads + DeliveryReads + LogReads {}

/// The reads and writes of workers.
pub trait NotifyWrites:
    NotifyReads + PreferenceWrites + AddressWrites + DeliveryWrites + LogWrites
{
}

impl<T> NotifyWrites for T where
    T: NotifyReads + PreferenceWrites + AddressWrites + DeliveryWrites + LogWrites
{
}

#[async_trait]
pub trait PreferenceReads: Send + Sync {
    async fn notify_settings(&self, user: UserId) -> Result<NotifySettings>;
}

#[async_trait]
pub trait PreferenceWrites: Send + Sync {
    async fn put_notify_settings(
        &self,
        user: UserId,
        preferences: &Preferences,
        rooms: &[(RoomId, RoomMode)],
    ) -> Result<()>;
}

#[async_trait]
pub trait AddressReads: Send + Sync {
    /// The reason why nothing is sent to this address any more.
    async fn suppressed(&self, address: &Address) -> Result<Option<String>>;
    /// The account's verified e-mail address, unless it replaced another verified one after `before`.
    async fn reset_address(&self, user: UserId, before: Timestamp) -> Result<Option<Address>>;
}

#[async_trait]
pub trait AddressWrites: Send + Sync {
    /// Stores a code; it replaces the user's previous one for the channel.
    async fn put_code(&self, code: &NewCode) -> Result<()>;
    /// Checks a guess. A code is `Right` only once; this verifies the address.
    async fn try_code(
        &self,
        user: UserId,
        channel: ChannelKind,
        hash: &[u8],
        now: Timestamp,
    ) -> Result<CodeAnswer>;
    /// An address that is suppressed keeps its first reason.
    async fn suppress(&self, address: &Address, reason: &str) -> Result<()>;
    /// Ends the suppression of this address if it has this reason.
    async fn unsuppress(&self, address: &Address, reason: &str) -> Result<()>;
}

#[async_trait]
pub trait DeliveryReads: Send + Sync {
    async fn delivery(&self, id: Uuid) -> Result<Option<Delivery>>;
}

#[async_trait]
pub trait DeliveryWrites: Send + Sync {
    /// Stores a delivery that belongs to no message. Storing the same id again changes nothing.
    async fn put_delivery(&self, delivery: &Delivery) -> Result<()>;
    /// Deliveries to a user in the order of their ids, starting above `after`.
    async fn deliveries_to(
        &self,
        user: UserId,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Delivery>>;
    /// Writes the record if the row still has the version `delivery.version`; then increments the version, in the row
    /// and in `delivery`.
    async fn change_delivery(&self, delivery: &mut Delivery) -> Result<bool>;
    /// Closes a delivery, so that no further message joins it. Returns its messages that are still undecided.
    async fn close_delivery(&self, id: Uuid) -> Result<Vec<DigestLine>>;
    /// Removes messages from their delivery, and stores the reason.
    async fn drop_lines(&self, id: Uuid, lines: &[(MessageId, &'static str)]) -> Result<()>;
}

#[async_trait]
pub trait LogReads: Send + Sync {
    /// Every user who was considered for a message.
    async fn log_of_message(&self, message: MessageId) -> Result<Vec<LogEntry>>;
    /// The entries before `before`, newest first.
    async fn log_of_user(
        &self,
        user: UserId,
        before: Option<&LogPosition>,
        limit: u32,
    ) -> Result<Vec<LogEntry>>;
    /// The room that a message is in.
    async fn room_of(&self, message: MessageId) -> Result<Option<RoomId>>;
}

#[async_trait]
pub trait LogWrites: Send + Sync {
    /// Every user whom these messages may concern, without their senders, from one statement.
    async fn candidates(&self, messages: &[MessageId]) -> Result<Vec<Candidate>>;
    /// Stores decisions, of which those about the same message and user must follow each other. There is one decision
    /// for each message and user: stored ones stay as they are, and further ones are ignored. The exception is a user
    /// who was not notified for [`Cause::All`](crate::model::notify::Cause::All) and whom the edited message now
    /// mentions. A message to notify of joins the open delivery of its user and channel, or opens one. Returns the
    /// deliveries concerned.
    async fn decide(&self, decisions: &[Decision]) -> Result<Vec<(Uuid, ChannelKind)>>;
}
