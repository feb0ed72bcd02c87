//! The ledger's entries, as they are shown and paged.

use poem_openapi::Object;
use serde::Serialize;
use uuid::Uuid;

use super::super::payload::Cursor;
use crate::{
    error::{Error, Result},
    model::{
        MessageId, RoomId, Seq, Timestamp, UserId,
        notify::{Cause, ChannelKind, DeliveryState},
    },
    store::notify::{LogEntry, LogPosition},
};

/// One try.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "NotificationAttempt")]
pub(super) struct AttemptView {
    started_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    ended_at: Option<Timestamp>,
    /// What the provider said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    answer: Option<String>,
}

/// That someone was told of a message, or was not.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Notification")]
pub(super) struct NotificationView {
    message: MessageId,
    room: RoomId,
    seq: Seq,
    user: UserId,
    /// Left out where it was decided before any channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    channel: Option<ChannelKind>,
    cause: Cause,
    state: DeliveryState,
    /// In words.
    reason: String,
    /// When it was decided that the message concerns the user.
    at: Timestamp,
    /// Messages with the same delivery are one digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    delivery: Option<Uuid>,
    attempts: Vec<AttemptView>,
}

impl From<LogEntry> for NotificationView {
    fn from(entry: LogEntry) -> Self {
        let record = entry.delivery.as_ref().map(|delivery| &delivery.record);
        let (state, reason) = match (&entry.decided, record) {
            (Some((state, reason)), _) => (*state, reason.clone()),
            (None, Some(record)) => (record.state, record.reason.clone()),
            (None, None) => (DeliveryState::Cancelled, "its delivery is gone".to_owned()),
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

#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "NotificationPage")]
pub(super) struct Page {
    pub items: Vec<NotificationView>,
    pub next_cursor: Cursor<String>,
    pub has_more: bool,
}

/// `at_message_channel`.
pub(super) fn cursor_of(entry: &LogEntry) -> String {
    let channel = entry.channel.map_or("", ChannelKind::as_str);
    format!("{}_{}_{channel}", entry.at.millis(), entry.message.simple())
}

pub(in crate::edge) fn place(cursor: &str) -> Result<LogPosition> {
    let mut parts = cursor.splitn(3, '_');
    let mut read = || {
        Some(LogPosition {
            at: Timestamp::from_millis(parts.next()?.parse().ok()?),
            message: parts.next()?.parse().ok()?,
            channel: parts.next()?.to_owned(),
        })
    };
    read().ok_or_else(|| Error::field("cursor", "is not one that a page had"))
}
