//! Notifications as everyone speaks of them: the preferences, the channels, and the record of one delivery with its
//! attempts. No I/O; the time is always handed in.

use chrono::{DateTime, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use std::fmt;

use super::{MessageId, Timestamp, UserId, address::Address, derived_id};

text_enum! {
    /// Where a notification goes.
    ChannelKind {
        Email = "email",
        Sms = "sms",
    }
}

impl ChannelKind {
    pub const ALL: [ChannelKind; 2] = [ChannelKind::Email, ChannelKind::Sms];
}

text_enum! {
    /// What became of a notification. Ordered only in name; see [`DeliveryState::rank`].
    DeliveryState {
        /// Waits for its turn, or for more messages of the same digest.
        Queued = "queued",
        /// Waits for the end of quiet hours, for a paused channel, or for another try.
        Delayed = "delayed",
        /// Not sent, because it was not needed any more.
        Cancelled = "cancelled",
        /// The provider took it.
        Sent = "sent",
        /// The provider says that it arrived.
        Delivered = "delivered",
        /// It came back.
        Bounced = "bounced",
        /// It cannot be sent, or may have been and is not tried again.
        Failed = "failed",
        /// Out of attempts or too old; it stands in the dead letters and can be replayed.
        Dead = "dead",
        /// The address or the preferences do not allow it.
        Suppressed = "suppressed",
    }
}

impl DeliveryState {
    /// How far along it is. A provider's report only ever moves forward.
    pub fn rank(self) -> u8 {
        match self {
            DeliveryState::Queued | DeliveryState::Delayed => 0,
            DeliveryState::Dead | DeliveryState::Cancelled | DeliveryState::Suppressed => 1,
            DeliveryState::Sent => 1,
            // Given up because nobody knew: a report may still say that it arrived.
            DeliveryState::Failed => 2,
            DeliveryState::Delivered => 3,
            DeliveryState::Bounced => 4,
        }
    }

    /// Nothing of ours will change it any more.
    pub fn is_final(self) -> bool {
        self.rank() > 0
    }
}

text_enum! {
    /// Which messages of a room matter to a member.
    RoomMode {
        All = "all",
        /// Only those that name them.
        Mentions = "mentions",
        None = "none",
    }
}

text_enum! {
    /// Why a message matters to someone.
    Cause {
        Direct = "direct",
        Mention = "mention",
        /// They set the room to "all".
        All = "all",
    }
}

/// A user's own wishes. What is not set is as in [`Preferences::default`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preferences {
    pub email: bool,
    pub sms: bool,
    /// Messages in direct rooms.
    pub direct: bool,
    /// Messages that name the user.
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
    /// What stands in the store; wishes that cannot be read (a newer version's) are the default.
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

    /// When the quiet hours that `now` falls into are over; `None` outside of them.
    pub fn quiet_until(&self, now: Timestamp) -> Option<Timestamp> {
        let hours = self.quiet_hours?;
        let zone: Tz = self.time_zone.parse().ok()?;
        hours.until(zone, now)
    }
}

/// From one time of day to another, across midnight where the second is not after the first. Equal times are the
/// whole day, every day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietHours {
    #[serde(with = "minutes")]
    pub from: NaiveTime,
    #[serde(with = "minutes")]
    pub to: NaiveTime,
}

impl QuietHours {
    fn until(self, zone: Tz, now: Timestamp) -> Option<Timestamp> {
        let local = now.datetime().with_timezone(&zone);
        let time = local.time();
        let (after, before) = (time >= self.from, time < self.to);
        let quiet = if self.from < self.to {
            after && before
        } else {
            after || before
        };
        if !quiet {
            return None;
        }
        let today = local.date_naive();
        let day = if before { today } else { today.succ_opt()? };
        Some(instant(zone, day.and_time(self.to)).into())
    }
}

/// A local time that the clocks skip is taken an hour later, one that they show twice at its first showing.
fn instant(zone: Tz, local: chrono::NaiveDateTime) -> DateTime<Utc> {
    let found = zone.from_local_datetime(&local).earliest().or_else(|| {
        let later = local + chrono::TimeDelta::hours(1);
        zone.from_local_datetime(&later).earliest()
    });
    found.map_or_else(|| local.and_utc(), |time| time.to_utc())
}

/// `HH:MM`
mod minutes {
    use chrono::NaiveTime;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(time: &NaiveTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&time.format("%H:%M"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NaiveTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        NaiveTime::parse_from_str(&text, "%H:%M")
            .map_err(|_| D::Error::custom("must be a time of day such as \"22:30\""))
    }
}

/// One request to a provider, and all that is known of it: kept as JSON, changed as a whole.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryRecord {
    pub state: DeliveryState,
    /// In words, for the user.
    pub reason: String,
    /// What it is: messages, or a code that verifies an address.
    pub purpose: Purpose,
    /// The address, once one was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Part of the unsubscribe link, so that an id alone opens nothing.
    pub secret: Uuid,
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// When an operator took it out of the dead letters: attempts and age count anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<Timestamp>,
    /// The provider's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Reports that were applied, so that a repeated one changes nothing.
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
}

/// One try, recorded before the request leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub started_at: Timestamp,
    /// Missing while the answer is awaited, or for ever where whoever waited for it died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// What the provider said, shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// What a provider tells later of something it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub delivery: Uuid,
    /// The provider's name of this report: the same again changes nothing.
    pub id: String,
    pub state: DeliveryState,
    /// In words.
    pub reason: String,
    /// The address gets nothing any more.
    #[serde(default)]
    pub suppress: bool,
}

/// The delivery that a message opens where none is open: the same, however often it is asked for.
pub fn delivery_id(user: UserId, channel: ChannelKind, message: MessageId) -> Uuid {
    let channel = channel.as_str().as_bytes();
    derived_id("delivery", &[user.as_bytes(), channel, message.as_bytes()])
}

/// A delivery as its row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: Uuid,
    pub user: UserId,
    pub channel: ChannelKind,
    pub at: Timestamp,
    /// Counts the changes, so that of two at once one is refused.
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

    /// Attempts that count: those since it was last replayed.
    pub fn tries(&self) -> usize {
        let since = self.record.replayed_at;
        let counts = |attempt: &&Attempt| since.is_none_or(|since| attempt.started_at >= since);
        self.record.attempts.iter().filter(counts).count()
    }

    /// Where it goes or went; `None` where no address was tried, or one that nothing is sent to any more.
    pub fn address(&self) -> Option<Address> {
        Address::parse(self.channel, self.record.address.as_deref()?)
    }

    /// Since when it is under way.
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
        DateTime::parse_from_rfc3339(text).unwrap().to_utc().into()
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
    fn quiet_hours_end_in_the_users_own_time() {
        let night = quiet("22:00", "07:00", "Europe/Berlin");
        // 23:30 in Berlin, in summer.
        assert_eq!(
            night.quiet_until(at("2026-07-01T21:30:00Z")),
            Some(at("2026-07-02T05:00:00Z"))
        );
        assert_eq!(
            night.quiet_until(at("2026-07-02T04:59:59Z")),
            Some(at("2026-07-02T05:00:00Z"))
        );
        assert_eq!(night.quiet_until(at("2026-07-02T05:00:00Z")), None);
        assert_eq!(night.quiet_until(at("2026-07-01T19:59:00Z")), None);

        let noon = quiet("12:00", "13:00", "America/New_York");
        assert_eq!(
            noon.quiet_until(at("2026-01-05T17:30:00Z")),
            Some(at("2026-01-05T18:00:00Z"))
        );
        assert_eq!(noon.quiet_until(at("2026-01-05T18:00:00Z")), None);
        // All day: until the next time that it begins.
        let always = quiet("09:00", "09:00", "UTC");
        assert_eq!(
            always.quiet_until(at("2026-01-05T09:00:00Z")),
            Some(at("2026-01-06T09:00:00Z"))
        );
    }

    #[test]
    fn quiet_hours_that_end_in_a_skipped_hour_end_all_the_same() {
        // 02:30 does not exist on 29 March 2026 in Berlin.
        let night = quiet("22:00", "02:30", "Europe/Berlin");
        assert_eq!(
            night.quiet_until(at("2026-03-28T23:00:00Z")),
            Some(at("2026-03-29T01:30:00Z"))
        );
    }

    #[test]
    fn wishes_survive_the_store_and_strange_ones_are_the_default() {
        let wishes = quiet("22:15", "06:45", "Asia/Kathmandu");
        let json = serde_json::to_string(&wishes).unwrap();
        assert_eq!(Preferences::parse(Some(&json)), wishes);
        assert_eq!(Preferences::parse(Some("[]x")), Preferences::default());
        assert_eq!(Preferences::parse(Some("{}")), Preferences::default());
        assert!(serde_json::from_str::<QuietHours>(r#"{"from":"25:00","to":"07:00"}"#).is_err());
    }
}
