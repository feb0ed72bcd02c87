//! Notification types: preferences, channels, and the record of one delivery with its attempts. No I/O; the current
//! time is always a parameter.

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use std::fmt;

use super::{MessageId, Timestamp, UserId, address::Address, derived_id};

pub use super::{channel::ChannelKind, quiet_hours::QuietHours};

text_enum! {
    /// The state of a notification. The enum's order has no meaning; see [`DeliveryState::rank`].
    DeliveryState {
        /// Waits for its first attempt, or for more messages of the same digest.
        Queued = "queued",
        /// Waits for the end of quiet hours, for a paused channel, or for a retry.
        Delayed = "delayed",
        /// Not sent, because it was no longer needed.
        Cancelled = "cancelled",
        /// The provider accepted it.
        Sent = "sent",
        /// The provider reported its arrival.
        Delivered = "delivered",
        /// The provider reported that it could not be delivered.
        Bounced = "bounced",
        /// It cannot be sent, or it may have been sent and is not retried.
        Failed = "failed",
        /// Out of attempts or too old; it is in the dead letters and can be replayed.
        Dead = "dead",
        /// Not sent, because the preferences, the address or the server's settings do not allow it.
        Suppressed = "suppressed",
    }
}

impl DeliveryState {
    /// Progress rank. A provider's report never lowers it.
    pub fn rank(self) -> u8 {
        match self {
            DeliveryState::Queued | DeliveryState::Delayed => 0,
            DeliveryState::Dead | DeliveryState::Cancelled | DeliveryState::Suppressed => 1,
            DeliveryState::Sent => 1,
            // The result may be unknown: a report may still confirm the arrival.
            DeliveryState::Failed => 2,
            DeliveryState::Delivered => 3,
            DeliveryState::Bounced => 4,
        }
    }

    /// Whether only a provider's report or an operator can still change it.
    pub fn is_final(self) -> bool {
        self.rank() > 0
    }
}

text_enum! {
    /// Which messages of a room notify a member.
    RoomMode {
        All = "all",
        /// Only those that mention the member.
        Mentions = "mentions",
        None = "none",
    }
}

text_enum! {
    /// Why a message concerns a user.
    Cause {
        Direct = "direct",
        Mention = "mention",
        /// The user set the room to "all".
        All = "all",
    }
}

/// A user's preferences. Missing fields have the values of [`Preferences::default`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preferences {
    pub email: bool,
    pub sms: bool,
    /// Notify of messages in direct rooms.
    pub direct: bool,
    /// Notify of messages that mention the user.
    pub mentions: bool,
    pub quiet_hours: Option<QuietHours>,
    /// A name of the IANA time zone database, such as `Europe/Berlin`.
    pub time_zone: String,
}

impl Default for Preferences {
    fn default() -> Self {
        Preferences {
            email: true,
            sms: false,
            direct: true,
            mentions: true,
            quiet_hours: None,
            time_zone: "UTC".to_owned(),
        }
    }
}

impl Preferences {
    /// Parses stored preferences; unreadable ones (of a newer version) become the default.
    pub fn parse(json: Option<&str>) -> Self {
        json.and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default()
    }

    pub fn wants(&self, channel: ChannelKind) -> bool {
        match channel {
            ChannelKind::Email => self.email,
            ChannelKind::Sms => self.sms,
        }
    }

    /// The end of the quiet hours that include `now`; `None` outside of them.
    pub fn quiet_until(&self, now: Timestamp) -> Option<Timestamp> {
        let hours = self.quiet_hours?;
        let zone: Tz = self.time_zone.parse().ok()?;
        hours.until(zone, now)
    }
}

/// The record of one delivery: stored as JSON, replaced as a whole.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryRecord {
    pub state: DeliveryState,
    /// A text for the user.
    pub reason: String,
    /// Its content: messages, or an address verification code.
    pub purpose: Purpose,
    /// The address, once an attempt was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Part of the unsubscribe link, so that the id alone is not enough.
    pub secret: Uuid,
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// When an operator replayed it from the dead letters: attempts and age count from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<Timestamp>,
    /// The provider's id of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Ids of applied reports, so that a repeated one changes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reports: Vec<String>,
}

debug_of!(DeliveryRecord {
    state,
    reason,
    purpose,
    attempts
});

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Purpose {
    Messages,
    Verification,
    PasswordReset,
}

/// One attempt, recorded before the request is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub started_at: Timestamp,
    /// Missing while the request is in progress, or if its worker died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The provider's answer, shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// A provider's later report on a message that it accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub delivery: Uuid,
    /// The provider's id of this report; a repeated one changes nothing.
    pub id: String,
    pub state: DeliveryState,
    /// A text for the user.
    pub reason: String,
    /// The address is suppressed from now on.
    #[serde(default)]
    pub suppress: bool,
}

/// The id of the delivery that a message opens if none is open; repeated calls give the same id.
pub fn delivery_id(user: UserId, channel: ChannelKind, message: MessageId) -> Uuid {
    let channel = channel.as_str().as_bytes();
    derived_id("delivery", &[user.as_bytes(), channel, message.as_bytes()])
}

/// A delivery, as stored in its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: Uuid,
    pub user: UserId,
    pub channel: ChannelKind,
    pub at: Timestamp,
    /// Incremented by each change; of two concurrent changes one is rejected.
    pub version: i64,
    pub record: DeliveryRecord,
}

impl Delivery {
    pub fn new(id: Uuid, user: UserId, channel: ChannelKind, purpose: Purpose) -> Self {
        Delivery {
            id,
            user,
            channel,
            at: Timestamp::now(),
            version: 0,
            record: DeliveryRecord {
                state: DeliveryState::Queued,
                reason: "waits for its turn".to_owned(),
                purpose,
                address: None,
                secret: Uuid::new_v4(),
                attempts: Vec::new(),
                replayed_at: None,
                provider_id: None,
                reports: Vec::new(),
            },
        }
    }

    /// Number of attempts since the last replay.
    pub fn tries(&self) -> usize {
        let since = self.record.replayed_at;
        let counts = |attempt: &&Attempt| since.is_none_or(|since| attempt.started_at >= since);
        self.record.attempts.iter().filter(counts).count()
    }

    /// The address of the latest attempt; `None` without an attempt, or if it is no longer valid.
    pub fn address(&self) -> Option<Address> {
        Address::parse(self.channel, self.record.address.as_deref()?)
    }

    /// The time from which the delivery's age counts.
    pub fn since(&self) -> Timestamp {
        self.record.replayed_at.unwrap_or(self.at)
    }

    pub fn now(&mut self, state: DeliveryState, reason: impl Into<String>) {
        self.record.state = state;
        self.record.reason = reason.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        chrono::DateTime::parse_from_rfc3339(text)
            .unwrap()
            .to_utc()
            .into()
    }

    fn quiet(from: &str, to: &str, zone: &str) -> Preferences {
        let hours = format!("{{\"from\":\"{from}\",\"to\":\"{to}\"}}");
        Preferences {
            quiet_hours: serde_json::from_str(&hours).unwrap(),
            time_zone: zone.to_owned(),
            ..Preferences::default()
        }
    }

    #[test]
    fn quiet_hours_are_in_the_time_zone_of_the_preferences() {
        let night = quiet("22:00", "07:00", "Europe/Berlin");
        let until = night.quiet_until(at("2026-07-01T21:30:00Z"));
        assert_eq!(until, Some(at("2026-07-02T05:00:00Z")));
        let unset = Preferences {
            quiet_hours: None,
            ..night
        };
        assert_eq!(unset.quiet_until(at("2026-07-01T21:30:00Z")), None);
    }

    #[test]
    fn preferences_survive_the_store_and_invalid_ones_are_the_default() {
        let preferences = quiet("22:15", "06:45", "Asia/Kathmandu");
        let json = serde_json::to_string(&preferences).unwrap();
        assert_eq!(Preferences::parse(Some(&json)), preferences);
        assert_eq!(Preferences::parse(Some("[]x")), Preferences::default());
        assert_eq!(Preferences::parse(Some("{}")), Preferences::default());
        assert!(serde_json::from_str::<QuietHours>(r#"{"from":"25:00","to":"07:00"}"#).is_err());
    }
}
