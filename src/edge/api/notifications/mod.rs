//! Notifications of one's own: wishes, proving an address, and who was told of what, and why not.

mod codes;
pub(in crate::edge) mod ledger;
mod wishes;

use poem::Request;
use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::{
    ledger::{NotificationView, Page},
    wishes::{Settings, Wishes},
};
use super::{
    Tags,
    access::{self, Caller, Shared},
    payload::{Body, Changed, Cursor, Found, Gone, Pending, RawJson},
    problem::Problem,
};
use crate::{
    edge::{Edge, client_address, submit::Answer},
    error::{Code, Error, Result},
    job::{
        Command,
        notify::{CODE_TTL, NotifyCommand},
    },
    model::{MessageId, Role, Timestamp, UserId, address::Address, new_id, notify::ChannelKind},
    notify::countries,
    protocol::check_limit,
};

pub struct NotificationsApi;

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
    /// before it. At most three in ten minutes, and as many for each address as the operator allows. Text messages go to the
    /// countries that the operator named, and to no number that costs more.
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
                "nothing can be sent to the account's address; set it again with PATCH /v1/me",
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
        let before = cursor.0.as_deref().map(ledger::place).transpose()?;
        let user = caller.user();
        let mut entries = edge
            .ledger
            .log_of_user(user, before.as_ref(), limit + 1)
            .await?;
        let has_more = entries.len() > limit as usize;
        entries.truncate(limit as usize);
        let last = entries.last().filter(|_| has_more).map(ledger::cursor_of);
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
        // One answer for a message that does not exist, one in a room that the caller may not see, and one in a public room
        // that they have not joined: the path names no room, so any other answer would say where the message is.
        let unknown = || Error::not_found("message");
        let room = edge.ledger.room_of(message.0).await?.ok_or_else(unknown)?;
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
        let entries = edge.ledger.log_of_message(message.0).await?.into_iter();
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
