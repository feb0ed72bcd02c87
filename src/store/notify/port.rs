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

/// What edges may read.
pub trait NotifyReads: PreferenceReads + AddressReads + DeliveryReads + LogReads {}

impl<T> NotifyReads for T where T: PreferenceReads + AddressReads + DeliveryReads + LogReads {}

/// What workers read and write.
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
}

#[async_trait]
pub trait AddressWrites: Send + Sync {
    /// Replaces the one before it.
    async fn put_code(&self, code: &NewCode) -> Result<()>;
    /// `Right` only once; the address is verified then.
    async fn try_code(
        &self,
        user: UserId,
        channel: ChannelKind,
        hash: &[u8],
        now: Timestamp,
    ) -> Result<CodeAnswer>;
    /// An address that is suppressed keeps its first reason.
    async fn suppress(&self, address: &Address, reason: &str) -> Result<()>;
    /// Ends a suppression that is for this reason.
    async fn unsuppress(&self, address: &Address, reason: &str) -> Result<()>;
}

#[async_trait]
pub trait DeliveryReads: Send + Sync {
    async fn delivery(&self, id: Uuid) -> Result<Option<Delivery>>;
}

#[async_trait]
pub trait DeliveryWrites: Send + Sync {
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
    /// From here on no message joins it. Returns the messages that did, without those decided since.
    async fn close_delivery(&self, id: Uuid) -> Result<Vec<DigestLine>>;
    /// Takes messages out of their delivery, and stores the reason.
    async fn drop_lines(&self, id: Uuid, lines: &[(MessageId, &'static str)]) -> Result<()>;
}

#[async_trait]
pub trait LogReads: Send + Sync {
    /// Every user who was considered for a message.
    async fn log_of_message(&self, message: MessageId) -> Result<Vec<LogEntry>>;
    /// The newest first, those before `before`.
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
    /// Every user whom these messages may concern, without their senders: one statement for all of them.
    async fn candidates(&self, messages: &[MessageId]) -> Result<Vec<Candidate>>;
    /// Stores decisions; those stored before stay as they are. A message to notify of joins the open delivery of its
    /// user and channel, or opens one. Returns the deliveries concerned.
    async fn decide(&self, decisions: &[Decision]) -> Result<Vec<(Uuid, ChannelKind)>>;
}
