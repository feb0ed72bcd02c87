//! Notification channels: e-mail over SendGrid or SMTP, text messages over Twilio, or the log. A channel takes one
//! finished message, makes one request to its provider and classifies the answer. It never retries and knows neither
//! queue nor store: attempts, pauses and the delivery log belong to `command::notify`.

pub mod countries;
mod http;
mod log;
mod mail_headers;
mod plain_text;
pub mod segments;
mod sendgrid;
mod smtp;
pub mod template;
mod twilio;
pub mod webhook;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    config::{Config, EmailProvider, SmsProvider},
    error::Result,
    model::{address::Address, notify::ChannelKind},
};

/// One request to a provider.
#[derive(Clone)]
pub struct Outgoing {
    /// The delivery's id, passed to the provider and returned in its reports.
    pub id: Uuid,
    pub to: Address,
    pub subject: String,
    pub text: String,
    /// For e-mail.
    pub html: String,
    /// The thread that a mail belongs to, if any: mails with the same value are shown as one conversation.
    pub thread: Option<Uuid>,
    /// The one-click unsubscribe link (RFC 8058); for e-mail.
    pub unsubscribe: Option<String>,
    /// The URL for the provider's status reports, if this server is publicly reachable; for Twilio.
    pub report_to: Option<String>,
}

debug_of!(Outgoing { id });

/// The classification of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendResult {
    /// The provider accepted the message.
    Sent { provider_id: Option<String> },
    /// Certainly not sent; may be retried, not before `after`.
    NotSent { after: Option<Duration> },
    /// Possibly sent: no answer, or the provider failed during processing.
    Unknown { after: Option<Duration> },
    /// A retry cannot succeed. `address` is `true` if the address is the cause.
    Refused { address: bool },
    /// The provider rejects the credentials: the whole channel is unusable for now.
    Locked,
}

/// An answer, with a short text for the delivery log that contains no addresses or secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendReport {
    pub verdict: SendResult,
    pub said: String,
}

#[async_trait]
pub trait Channel: Send + Sync {
    /// Makes one request; takes at most `notify.timeout`.
    async fn send(&self, message: &Outgoing) -> SendReport;
}

/// The configured channels.
#[derive(Clone, Default)]
pub struct Channels {
    email: Option<Arc<dyn Channel>>,
    sms: Option<Arc<dyn Channel>>,
}

impl Channels {
    pub fn get(&self, kind: ChannelKind) -> Option<&Arc<dyn Channel>> {
        match kind {
            ChannelKind::Email => self.email.as_ref(),
            ChannelKind::Sms => self.sms.as_ref(),
        }
    }
}

/// Creates the configured channels, without connecting.
///
/// # Errors
/// If a sender or a server's address is invalid.
pub fn connect(config: &Config) -> Result<Channels> {
    let (email, sms) = (&config.notify.email, &config.notify.sms);
    let timeout = config.notify.timeout;
    Ok(Channels {
        email: match email.provider {
            EmailProvider::None => None,
            EmailProvider::SendGrid => Some(Arc::new(sendgrid::SendGrid::new(email, timeout)?)),
            EmailProvider::Smtp => Some(Arc::new(smtp::Smtp::new(email, timeout)?)),
            EmailProvider::Log => Some(Arc::new(log::Log)),
        },
        sms: match sms.provider {
            SmsProvider::None => None,
            SmsProvider::Twilio => Some(Arc::new(twilio::Twilio::new(sms, timeout)?)),
            SmsProvider::Log => Some(Arc::new(log::Log)),
        },
    })
}
