//! Notifications of the caller: preferences, address verification and the delivery log.

pub(super) mod codes;
pub(in crate::edge) mod delivery_log;
mod preferences;

use poem::Request;
use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use self::{
    delivery_log::{NotificationView, Page},
    preferences::{PreferencesView, SettingsView},
};
use super::{
    Tags,
    access::{self, Caller, Shared},
    payload::{Body, Changed, Cursor, Found, Gone, Pending, RawJson},
    problem::Problem,
};
use crate::{
    command::{
        Command,
        notify::{CODE_TTL, NotifyCommand},
    },
    edge::{Edge, client_address, submit::SubmitResult},
    error::{Code, Error, Result},
    model::{MessageId, Role, Timestamp, UserId, address::Address, new_id, notify::ChannelKind},
    notify::countries,
    protocol::check_limit,
};

pub struct NotificationsApi;

/// The address to verify.
#[derive(Clone, Copy, Enum)]
enum Which {
    #[oai(rename = "email")]
    Email,
    #[oai(rename = "sms")]
    Sms,
}

/// The six digits of a verification code.
#[derive(Deserialize, Object)]
struct VerificationCode {
    code: String,
}

#[OpenApi(prefix_path = "/v1", tag = "Tags::Notifications")]
impl NotificationsApi {
    /// Get notification preferences
    #[oai(
        path = "/me/notifications",
        method = "get",
        operation_id = "getNotificationSettings"
    )]
    async fn settings(
        &self,
        edge: Shared<'_>,
        caller: Caller,
    ) -> Result<Found<SettingsView>, Problem> {
        let settings = edge.deliveries.notify_settings(caller.user()).await?;
        Ok(Found::of(&SettingsView::of(&settings)))
    }

    /// Replace notification preferences
    ///
    /// Absent fields are reset to their defaults.
    #[oai(
        path = "/me/notifications",
        method = "put",
        operation_id = "putNotificationSettings"
    )]
    async fn prefer(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        body: Body<PreferencesView>,
    ) -> Result<Changed<SettingsView>, Problem> {
        let Body(settings) = body;
        let (preferences, rooms) = settings.read()?;
        let user = caller.user();
        let command = Command::Notify(NotifyCommand::Prefer { preferences, rooms });
        Ok(match edge.submit.call(user, command).await? {
            SubmitResult::Done(_) => {
                let settings = edge.deliveries.notify_settings(user).await?;
                Changed::Done(RawJson::of(&SettingsView::of(&settings)))
            }
            SubmitResult::Accepted => Changed::Accepted(RawJson::of(&Pending::new(user))),
        })
    }

    /// Send a verification code
    ///
    /// Sends a six-digit code to the account's e-mail address or phone number. The code is valid once and for 10
    /// minutes, and replaces the previous one. At most three codes per channel in 10 minutes; the operator limits codes
    /// per recipient and per client address (`limits.codes_…`). Text messages are sent only to countries that
    /// `notify.sms.countries` allows, and not to premium-rate numbers unless it lists them. Fails with `conflict` if
    /// the account has no such address or the server has no provider for it.
    #[oai(
        path = "/me/verify/:which",
        method = "post",
        operation_id = "sendVerificationCode"
    )]
    async fn send_code(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        request: &Request,
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
        let address = Address::parse(channel, &address).ok_or_else(|| {
            Error::conflict(
                "the account's address cannot receive messages; set it again with PATCH /v1/me",
            )
        })?;
        if let Address::Phone(number) = &address
            && !countries::allowed(number, &edge.config.notify.sms.countries)
        {
            return Err(Error::field(
                "phone",
                "is a number to which this server sends no text messages; set another with PATCH /v1/me",
            )
            .into());
        }
        let from = client_address::of(request);
        let withheld = codes::count(&edge, user, &address, from).await?;
        let code = format!("{:06}", rand::random_range(0..1_000_000));
        let delivery = new_id();
        let now = Timestamp::now();
        let command = NotifyCommand::SendCode {
            delivery,
            address,
            hash: hash(user, &code),
            code,
            expires_at: Timestamp::from_millis(now.millis() + CODE_TTL.as_millis() as i64),
            withheld,
        };
        Ok(Gone::of(
            edge.submit.call(user, Command::Notify(command)).await?,
            delivery,
        ))
    }

    /// Verify an address
    ///
    /// Confirms the account's e-mail address or phone number with the code that was sent to it. A code allows five
    /// attempts.
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
        Ok(Gone::of(
            edge.submit.call(user, Command::Notify(command)).await?,
            user,
        ))
    }

    /// List my notifications
    ///
    /// The delivery log of the caller: which messages caused a notification, which did not, and why. Newest first.
    #[oai(
        path = "/me/notifications/history",
        method = "get",
        operation_id = "listNotifications"
    )]
    async fn history(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        /// The `nextCursor` of the previous page.
        cursor: Query<Option<String>>,
        /// 1 to 200. Default: 50.
        limit: Query<Option<u32>>,
    ) -> Result<Found<Page>, Problem> {
        let limit = check_limit(limit.0)?;
        let before = cursor
            .0
            .as_deref()
            .map(delivery_log::parse_cursor)
            .transpose()?;
        let user = caller.user();
        let mut entries = edge
            .deliveries
            .log_of_user(user, before.as_ref(), limit + 1)
            .await?;
        let has_more = entries.len() > limit as usize;
        entries.truncate(limit as usize);
        let last = entries
            .last()
            .filter(|_| has_more)
            .map(delivery_log::cursor_of);
        Ok(Found::of(&Page {
            items: entries.into_iter().map(NotificationView::from).collect(),
            next_cursor: Cursor(last),
            has_more,
        }))
    }

    /// List a message's notifications
    ///
    /// The delivery log of one message: which users were notified, which were not, and why. The sender and the room's
    /// admins see all users concerned; other members see only their own entries.
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
        // The same error for an unknown message, for one in a room that the caller may not see, and for one in a public
        // room that the caller has not joined: the path contains no room, so a distinct error would reveal where the
        // message is.
        let unknown = || Error::not_found("message");
        let room = edge
            .deliveries
            .room_of(message.0)
            .await?
            .ok_or_else(unknown)?;
        let (_, member) =
            access::member(&edge, room, user)
                .await
                .map_err(|error| match error.code {
                    Code::NotFound | Code::Forbidden => unknown(),
                    _ => error,
                })?;
        let said = edge.reads.message(room, message.0).await?;
        let said = said.ok_or_else(unknown)?;
        let sees_all = said.sender.id == user || member.role >= Role::Admin;
        let entries = edge.deliveries.log_of_message(message.0).await?.into_iter();
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

impl Which {
    fn channel(self) -> ChannelKind {
        match self {
            Which::Email => ChannelKind::Email,
            Which::Sms => ChannelKind::Sms,
        }
    }

    /// Fails if no provider is configured for the channel.
    fn check(self, edge: &Edge) -> Result<()> {
        use crate::config::{EmailProvider, SmsProvider};
        let notify = &edge.config.notify;
        let there = match self {
            Which::Email => notify.email.provider != EmailProvider::None,
            Which::Sms => notify.sms.provider != SmsProvider::None,
        };
        if there {
            Ok(())
        } else {
            Err(Error::conflict("this channel has no provider"))
        }
    }
}

/// The stored hash of a code. Six digits can be brute-forced from any hash; the protection is the lifetime of 10
/// minutes and the limit of five attempts.
fn hash(user: UserId, code: &str) -> Vec<u8> {
    let hash = Sha256::new().chain_update(user.as_bytes());
    hash.chain_update(code.as_bytes()).finalize().to_vec()
}
