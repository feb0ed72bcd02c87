//! Notification preferences: parsing and display.

use poem_openapi::Object;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    model::{
        RoomId,
        notify::{ChannelKind, Preferences, QuietHours, RoomMode},
    },
    store::notify::NotifySettings,
};

/// Rooms with their own mode, per user.
const MAX_ROOMS: usize = 1000;

/// A daily period in which no notifications are sent. On days on which clocks change, it begins at the first and ends
/// at the last occurrence of a repeated time; a skipped time means the moment of the change.
#[derive(Serialize, Deserialize, Object)]
#[oai(rename = "QuietHours")]
pub(super) struct QuietHoursView {
    /// `HH:MM` in the user's time zone.
    from: String,
    /// `HH:MM`. If it is not later than `from`, it is on the next day.
    to: String,
}

/// The notification mode of a room.
#[derive(Serialize, Deserialize, Object)]
#[oai(rename = "RoomNotifications")]
pub(super) struct RoomView {
    room: RoomId,
    mode: RoomMode,
}

/// Notification preferences. Absent fields have their default.
#[derive(Serialize, Deserialize, Object)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[oai(rename_all = "camelCase", rename = "NotificationPreferences", default)]
pub(super) struct PreferencesView {
    /// Notify by e-mail, once the address is verified. Default: on.
    email: bool,
    /// Notify by text message, once the number is verified. Default: off.
    sms: bool,
    /// Notify of messages in direct rooms. Default: on.
    direct: bool,
    /// Notify of messages that mention the user. Default: on.
    mentions: bool,
    /// Absent: notifications are sent at any time of day.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    quiet_hours: Option<QuietHoursView>,
    /// A name from the IANA time zone database, such as `Europe/Berlin`. Default: `UTC`.
    time_zone: String,
    /// Rooms with another mode than the default, at most 1,000. By default, direct rooms notify of every message and
    /// other rooms of mentions.
    rooms: Vec<RoomView>,
}

impl Default for PreferencesView {
    fn default() -> Self {
        PreferencesView::of(&Preferences::default(), &[])
    }
}

impl PreferencesView {
    pub(super) fn of(preferences: &Preferences, rooms: &[(RoomId, RoomMode)]) -> Self {
        let time = |time: chrono::NaiveTime| time.format("%H:%M").to_string();
        let rooms = rooms.iter().map(|&(room, mode)| RoomView { room, mode });
        PreferencesView {
            email: preferences.email,
            sms: preferences.sms,
            direct: preferences.direct,
            mentions: preferences.mentions,
            quiet_hours: preferences.quiet_hours.map(|hours| QuietHoursView {
                from: time(hours.from),
                to: time(hours.to),
            }),
            time_zone: preferences.time_zone.clone(),
            rooms: rooms.collect(),
        }
    }

    pub(super) fn read(self) -> Result<(Preferences, Vec<(RoomId, RoomMode)>)> {
        if self.time_zone.parse::<chrono_tz::Tz>().is_err() {
            let message = "must be a name of the IANA time zone database, such as Europe/Berlin";
            return Err(Error::field("timeZone", message));
        }
        let time = |field: &str, text: &str| {
            chrono::NaiveTime::parse_from_str(text, "%H:%M")
                .map_err(|_| Error::field(field, "must be a time of day such as 22:30"))
        };
        let hours = |hours: QuietHoursView| {
            Ok::<_, Error>(QuietHours {
                from: time("quietHours.from", &hours.from)?,
                to: time("quietHours.to", &hours.to)?,
            })
        };
        if self.rooms.len() > MAX_ROOMS {
            let message = format!("at most {MAX_ROOMS} rooms can have their own mode");
            return Err(Error::field("rooms", message));
        }
        let mut rooms: Vec<_> = self.rooms.iter().map(|r| (r.room, r.mode)).collect();
        rooms.sort_unstable_by_key(|(room, _)| *room);
        if rooms.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::field("rooms", "names a room twice"));
        }
        let preferences = Preferences {
            email: self.email,
            sms: self.sms,
            direct: self.direct,
            mentions: self.mentions,
            quiet_hours: self.quiet_hours.map(hours).transpose()?,
            time_zone: self.time_zone,
        };
        Ok((preferences, rooms))
    }
}

/// Notification preferences and which addresses are verified.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "NotificationSettings")]
pub(super) struct SettingsView {
    preferences: PreferencesView,
    /// Whether the account's current e-mail address is verified.
    email_verified: bool,
    /// Whether the account's current phone number is verified.
    phone_verified: bool,
}

impl SettingsView {
    pub(super) fn of(settings: &NotifySettings) -> Self {
        SettingsView {
            preferences: PreferencesView::of(&settings.preferences, &settings.rooms),
            email_verified: settings.verified(ChannelKind::Email).is_some(),
            phone_verified: settings.verified(ChannelKind::Sms).is_some(),
        }
    }
}
