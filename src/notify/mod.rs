//! The ways out: e-mail over SendGrid or SMTP, text messages over Twilio, or a line in the log. A channel is handed one
//! finished message, asks its provider once, and says what the answer means. It must never retry, and knows neither
//! queue nor store: attempts, pauses and the ledger belong to `job::notify`.

pub mod countries;
mod http;
mod log;
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
    /// The delivery's id: given to the provider, and found again in its reports.
    pub id: Uuid,
    pub to: Address,
    pub subject: String,
    pub text: String,
    /// For e-mail.
    pub html: String,
    /// Where one click stops all of it (RFC 8058); for e-mail.
    pub unsubscribe: Option<String>,
    /// Where the provider reports to, if it can reach us; for Twilio.
    pub report_to: Option<String>,
}

debug_of!(Outgoing { id });

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The provider has it.
    Sent { provider_id: Option<String> },
    /// Certainly not sent; worth another try, not before `after`.
    NotSent { after: Option<Duration> },
    /// Perhaps sent: no answer came, or the provider failed while it worked.
    Unknown { after: Option<Duration> },
    /// No try will ever succeed. `address` says that it is the address's fault.
    Refused { address: bool },
    /// The provider does not take our credentials: nothing of this channel can be sent for now.
    Locked,
}

/// An answer, with what the ledger shows of it: short, and without addresses or secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub verdict: Verdict,
    pub said: String,
}

#[async_trait]
pub trait Channel: Send + Sync {
    /// Asks once. Never longer than `notify.timeout`.
    async fn send(&self, message: &Outgoing) -> Answer;
}

/// The channels that are set up.
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

/// The channels that the settings name. Connects to nothing yet.
///
/// # Errors
/// Where a sender or a server's address cannot be read.
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
