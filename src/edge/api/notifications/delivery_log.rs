//! Entries of the delivery log and their pagination.

use poem_openapi::Object;
use serde::Serialize;
use uuid::Uuid;

use super::super::{payload::Cursor, query};
use crate::{
    error::Result,
    model::{
        MessageId, RoomId, Seq, Timestamp, UserId,
        notify::{Cause, ChannelKind, DeliveryState},
    },
    store::notify::{LogEntry, LogPosition},
};

/// One delivery attempt.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "NotificationAttempt")]
pub(super) struct AttemptView {
    started_at: Timestamp,
    /// Absent while the attempt is in progress, or if its outcome is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    ended_at: Option<Timestamp>,
    /// The provider's response.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    answer: Option<String>,
}

/// The notification of one user about one message, or the reason why there was none.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Notification")]
pub(super) struct NotificationView {
    message: MessageId,
    room: RoomId,
    /// The message's number in its room.
    seq: Seq,
    user: UserId,
    /// Absent if the decision was made before a channel was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    channel: Option<ChannelKind>,
    /// Why the message concerns the user.
    cause: Cause,
    state: DeliveryState,
    /// The reason for the state, as text.
    reason: String,
    /// When the server determined that the message concerns the user.
    at: Timestamp,
    /// Entries with the same delivery belong to one digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    delivery: Option<Uuid>,
    /// The attempts to deliver it; empty if nothing was sent.
    attempts: Vec<AttemptView>,
}

impl From<LogEntry> for NotificationView {
    fn from(entry: LogEntry) -> Self {
        let record = entry.delivery.as_ref().map(|delivery| &delivery.record);
        let (state, reason) = match (&entry.decided, record) {
            (Some((state, reason)), _) => (*state, reason.clone()),
            (None, Some(record)) => (record.state, record.reason.clone()),
            (None, None) => (DeliveryState::Cancelled, "delivery not found".to_owned()),
        };
        let attempts = record.filter(|_| entry.decided.is_none());
        let attempts = attempts
            .map(|record| record.attempts.as_slice())
            .unwrap_or_default();
        NotificationView {
            message: entry.message,
            room: entry.room,
            seq: entry.seq,
            user: entry.user,
            channel: entry.channel,
            cause: entry.cause,
            state,
            reason,
            at: entry.at,
            delivery: entry.delivery.as_ref().map(|delivery| delivery.id),
            attempts: attempts
                .iter()
                .map(|attempt| AttemptView {
                    started_at: attempt.started_at,
                    ended_at: attempt.ended_at,
                    answer: attempt.answer.clone(),
                })
                .collect(),
        }
    }
}

/// A page of the delivery log.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "NotificationPage")]
pub(super) struct Page {
    pub items: Vec<NotificationView>,
    /// Pass it as `cursor` to get the next page; `null` on the last page.
    pub next_cursor: Cursor<String>,
    /// Whether there is a next page.
    pub has_more: bool,
}

/// The cursor of a page: `at_message_channel`.
pub(super) fn cursor_of(entry: &LogEntry) -> String {
    let channel = entry.channel.map_or("", ChannelKind::as_str);
    format!("{}_{}_{channel}", entry.at.millis(), entry.message.simple())
}

pub(in crate::edge) fn parse_cursor(cursor: &str) -> Result<LogPosition> {
    let mut parts = cursor.splitn(3, '_');
    let mut read = || {
        Some(LogPosition {
            at: Timestamp::from_millis(parts.next()?.parse().ok()?),
            message: parts.next()?.parse().ok()?,
            channel: parts.next()?.to_owned(),
        })
    };
    read().ok_or_else(query::bad_cursor)
}
