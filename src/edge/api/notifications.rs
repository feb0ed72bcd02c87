//! Notifications of one's own: wishes, proving an address, and who was told of what, and why not.

use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Tags,
    access::{self, Caller, Shared},
    payload::{Body, Changed, Cursor, Found, Gone, Pending, RawJson},
    problem::Problem,
};
use crate::{
    edge::{Edge, submit::Answer},
    error::{Code, Error, Result},
    job::{
        Command,
        notify::{CODE_TTL, NotifyCommand},
    },
    model::{
        MessageId, Role, RoomId, Seq, Timestamp, UserId, new_id,
        notify::{Cause, ChannelKind, DeliveryState, Preferences, QuietHours, RoomMode},
    },
    protocol::check_limit,
    store::notify::{Entry, NotifySettings, Place},
};

/// Codes that one user may ask for within [`CODE_TTL`], for each channel.
const CODES: u64 = 3;
/// Rooms that one user may set apart.
const MAX_ROOMS: usize = 1000;

pub struct NotificationsApi;

/// When nothing is sent.
#[derive(Serialize, Deserialize, Object)]
#[oai(rename = "QuietHours")]
struct QuietHoursView {
    /// `HH:MM` in the user's time zone.
    from: String,
    /// `HH:MM`; not after `from` means on the next day.
    to: String,
}

/// What a room may tell of.
#[derive(Serialize, Deserialize, Object)]
#[oai(rename = "RoomNotifications")]
struct RoomView {
    room: RoomId,
    mode: RoomMode,
}

/// A user's wishes. What is left out is as it is by default.
#[derive(Serialize, Deserialize, Object)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[oai(rename_all = "camelCase", rename = "NotificationPreferences", default)]
struct Wishes {
    /// By e-mail, once the address is verified. On by default.
    email: bool,
    /// By text message, once the number is verified. Off by default.
    sms: bool,
    /// Of messages in direct rooms. On by default.
    direct: bool,
    /// Of messages that name the user. On by default.
    mentions: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    quiet_hours: Option<QuietHoursView>,
    /// A name of the IANA time zone database, such as `Europe/Berlin`. `UTC` by default.
    time_zone: String,
    /// Rooms that differ from the default: direct rooms tell of everything, others of mentions.
    rooms: Vec<RoomView>,
}

impl Default for Wishes {
    fn default() -> Self {
        Wishes::of(&Preferences::default(), &[])
    }
}

impl Wishes {
    fn of(preferences: &Preferences, rooms: &[(RoomId, RoomMode)]) -> Self {
        let time = |time: chrono::NaiveTime| time.format("%H:%M").to_string();
        let rooms = rooms.iter().map(|&(room, mode)| RoomView { room, mode });
        Wishes {
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

    fn read(self) -> Result<(Preferences, Vec<(RoomId, RoomMode)>)> {
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
            let message = format!("at most {MAX_ROOMS} rooms can be set apart");
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

/// Wishes, and the addresses they can be fulfilled at.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "NotificationSettings")]
struct Settings {
    preferences: Wishes,
    email_verified: bool,
    phone_verified: bool,
}

impl Settings {
    fn of(settings: &NotifySettings) -> Self {
        Settings {
            preferences: Wishes::of(&settings.preferences, &settings.rooms),
            email_verified: settings.verified(ChannelKind::Email).is_some(),
            phone_verified: settings.verified(ChannelKind::Sms).is_some(),
        }
    }
}

/// What is verified.
#[derive(Clone, Copy, Enum)]
enum Which {
    #[oai(rename = "email")]
    Email,
    #[oai(rename = "sms")]
    Sms,
}

/// The six digits that came.
#[derive(Deserialize, Object)]
struct VerificationCode {
    code: String,
}

/// One try.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "NotificationAttempt")]
struct AttemptView {
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
struct NotificationView {
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

impl From<Entry> for NotificationView {
    fn from(entry: Entry) -> Self {
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
struct Page {
    items: Vec<NotificationView>,
    next_cursor: Cursor<String>,
    has_more: bool,
}

#[OpenApi(prefix_path = "/v1", tag = "Tags::Notifications")]
impl NotificationsApi {
    /// What I want to be told of, and how
    #[oai(
        path = "/me/notifications",
        method = "get",
        operation_id = "getNotificationSettings"
    )]
    async fn settings(&self, edge: Shared<'_>, caller: Caller) -> Result<Found<Settings>, Problem> {
        let settings = edge.ledger.notify_settings(caller.user()).await?;
        Ok(Found::of(&Settings::of(&settings)))
    }

    /// Change what I want to be told of
    ///
    /// As a whole: what is left out becomes the default.
    #[oai(
        path = "/me/notifications",
        method = "put",
        operation_id = "putNotificationSettings"
    )]
    async fn prefer(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        body: Body<Wishes>,
    ) -> Result<Changed<Settings>, Problem> {
        let Body(wishes) = body;
        let (preferences, rooms) = wishes.read()?;
        let user = caller.user();
        let command = Command::Notify(NotifyCommand::Prefer { preferences, rooms });
        Ok(match edge.submit.call(user, command).await? {
            Answer::Done(_) => {
                let settings = edge.ledger.notify_settings(user).await?;
                Changed::Done(RawJson::of(&Settings::of(&settings)))
            }
            Answer::Accepted => Changed::Accepted(RawJson::of(&Pending::new(user))),
        })
    }

    /// Send me a code that proves my address
    ///
    /// It goes to the account's e-mail address or phone number, is good once and for ten minutes, and replaces the one
    /// before it. At most three in ten minutes.
    #[oai(
        path = "/me/verify/:which",
        method = "post",
        operation_id = "sendVerificationCode"
    )]
    async fn send_code(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        which: Path<Which>,
    ) -> Result<Gone, Problem> {
        let (user, channel) = (caller.user(), which.0.channel());
        which.0.check(&edge)?;
        let account = edge.reads.account(user).await?;
        let account = account.ok_or_else(|| Error::unauthorized("this account is gone"))?;
        let address = match channel {
            ChannelKind::Email => account.email,
            ChannelKind::Sms => account.phone,
        };
        let address = address.ok_or_else(|| {
            Error::conflict("the account has no such address; set it with PATCH /v1/me first")
        })?;
        // Without the count nothing is sent: each of these costs money, or someone else's patience.
        let count = edge
            .bus
            .hit(&format!("code:{channel}:{user}"), CODE_TTL)
            .await?;
        if count > CODES {
            return Err(Error {
                retry_after: Some(CODE_TTL),
                ..Error::new(
                    Code::RateLimited,
                    "too many codes were sent; wait and try again",
                )
            }
            .into());
        }
        let code = format!("{:06}", rand::random_range(0..1_000_000));
        let delivery = new_id();
        let now = Timestamp::now();
        let command = NotifyCommand::SendCode {
            delivery,
            channel,
            address,
            hash: hash(user, &code),
            code,
            expires_at: Timestamp::from_millis(now.millis() + CODE_TTL.as_millis() as i64),
        };
        done(
            edge.submit.call(user, Command::Notify(command)).await?,
            delivery,
        )
    }

    /// Prove my address
    #[oai(
        path = "/me/verify/:which/confirm",
        method = "post",
        operation_id = "confirmAddress"
    )]
    async fn confirm(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        which: Path<Which>,
        body: Body<VerificationCode>,
    ) -> Result<Gone, Problem> {
        let user = caller.user();
        let Body(VerificationCode { code }) = body;
        let command = NotifyCommand::TryCode {
            channel: which.0.channel(),
            hash: hash(user, code.trim()),
        };
        done(
            edge.submit.call(user, Command::Notify(command)).await?,
            user,
        )
    }

    /// What I was told of, and what not, and why
    ///
    /// The newest first.
    #[oai(
        path = "/me/notifications/history",
        method = "get",
        operation_id = "listNotifications"
    )]
    async fn history(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        /// The `nextCursor` of the page before.
        cursor: Query<Option<String>>,
        /// 1 to 200.
        limit: Query<Option<u32>>,
    ) -> Result<Found<Page>, Problem> {
        let limit = check_limit(limit.0)?;
        let before = cursor.0.as_deref().map(place).transpose()?;
        let user = caller.user();
        let mut entries = edge
            .ledger
            .told_to(user, before.as_ref(), limit + 1)
            .await?;
        let has_more = entries.len() > limit as usize;
        entries.truncate(limit as usize);
        let last = entries.last().filter(|_| has_more).map(cursor_of);
        Ok(Found::of(&Page {
            items: entries.into_iter().map(NotificationView::from).collect(),
            next_cursor: Cursor(last),
            has_more,
        }))
    }

    /// Who was told of a message, who was not, and why
    ///
    /// Its sender and the room's admins see everyone whom it concerned, other members themselves only.
    #[oai(
        path = "/messages/:message/notifications",
        method = "get",
        operation_id = "listMessageNotifications"
    )]
    async fn of_message(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        message: Path<MessageId>,
    ) -> Result<Found<Page>, Problem> {
        let user = caller.user();
        let room = edge.ledger.room_of(message.0).await?;
        let room = room.ok_or_else(|| Error::not_found("message"))?;
        let (_, member) = access::member(&edge, room, user).await?;
        let said = edge.reads.message(room, message.0).await?;
        let said = said.ok_or_else(|| Error::not_found("message"))?;
        let sees_all = said.sender.id == user || member.role >= Role::Admin;
        let entries = edge.ledger.told_of(message.0).await?.into_iter();
        let items = entries
            .filter(|entry| sees_all || entry.user == user)
            .map(NotificationView::from);
        Ok(Found::of(&Page {
            items: items.collect(),
            next_cursor: Cursor(None),
            has_more: false,
        }))
    }
}

/// `at_message_channel`.
fn cursor_of(entry: &Entry) -> String {
    let channel = entry.channel.map_or("", ChannelKind::as_str);
    format!("{}_{}_{channel}", entry.at.millis(), entry.message.simple())
}

fn place(cursor: &str) -> Result<Place> {
    let mut parts = cursor.splitn(3, '_');
    let mut read = || {
        Some(Place {
            at: Timestamp::from_millis(parts.next()?.parse().ok()?),
            message: parts.next()?.parse().ok()?,
            channel: parts.next()?.to_owned(),
        })
    };
    read().ok_or_else(|| Error::field("cursor", "is not one that a page had"))
}

impl Which {
    fn channel(self) -> ChannelKind {
        match self {
            Which::Email => ChannelKind::Email,
            Which::Sms => ChannelKind::Sms,
        }
    }

    /// Someone must be there to send it.
    fn check(self, edge: &Edge) -> Result<()> {
        use crate::config::{EmailProvider, SmsProvider};
        let notify = &edge.config.notify;
        let there = match self {
            Which::Email => notify.email.provider != EmailProvider::None,
            Which::Sms => notify.sms.provider != SmsProvider::None,
        };
        match there {
            true => Ok(()),
            false => Err(Error::conflict("this server sends no such messages")),
        }
    }
}

fn done(answer: Answer, id: Uuid) -> Result<Gone, Problem> {
    Ok(match answer {
        Answer::Done(_) => Gone::Done,
        Answer::Accepted => Gone::Accepted(RawJson::of(&Pending::new(id))),
    })
}

/// What is kept of a code. Six digits hide behind no hash for long; its ten minutes and five guesses protect it.
fn hash(user: UserId, code: &str) -> Vec<u8> {
    let hash = Sha256::new().chain_update(user.as_bytes());
    hash.chain_update(code.as_bytes()).finalize().to_vec()
}
