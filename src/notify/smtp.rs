//! E-mail over an SMTP server (RFC 5321), with `lettre`. A 4yz reply may be retried, a 5yz reply not.
//!
//! Each mail has its own connection: `lettre`'s pool reuses a connection that a timeout interrupted, and the next mail
//! would read the replies to the previous one as its own.

use std::time::Duration;

use async_trait::async_trait;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{self, response::Severity},
};

use super::{Channel, Outgoing, SendReport, SendResult, mail_headers};
use crate::{
    config::Email,
    error::{Error, Result},
    model::address::Address,
};

pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    timeout: Duration,
}

impl Smtp {
    pub fn new(settings: &Email, timeout: Duration) -> Result<Self> {
        // `main` sets it; tests and embedding programs may not.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(settings.smtp_url.expose())
            .map_err(|error| Error::field("notify.email.smtp_url", error.to_string()))?;
        Ok(Smtp {
            transport: builder.timeout(Some(timeout)).build(),
            from: settings
                .from
                .parse()
                .map_err(|_| Error::field("notify.email.from", "is not an e-mail address"))?,
            timeout,
        })
    }

    fn mail(&self, message: &Outgoing) -> Option<Message> {
        let mut builder = Message::builder()
            .from(self.from.clone())
            .to(mailbox(&message.to)?)
            .subject(&message.subject);
        for (name, value) in mail_headers::of(message, &self.from) {
            let name = HeaderName::new_from_ascii_str(name);
            builder = builder.raw_header(HeaderValue::new(name, value));
        }
        let (text, html) = (message.text.clone(), message.html.clone());
        builder
            .multipart(MultiPart::alternative_plain_html(text, html))
            .ok()
    }
}

/// Built from the two parts of the address, so that nothing is parsed again as a name, a comment or a second address.
fn mailbox(address: &Address) -> Option<Mailbox> {
    let Address::Email(address) = address else {
        return None;
    };
    let address = lettre::Address::new(address.local(), address.domain()).ok()?;
    Some(Mailbox::new(None, address))
}

#[async_trait]
impl Channel for Smtp {
    async fn send(&self, message: &Outgoing) -> SendReport {
        let Some(mail) = self.mail(message) else {
            return SendReport {
                verdict: SendResult::Refused { address: true },
                said: "no mail can be written to this address".to_owned(),
            };
        };
        match tokio::time::timeout(self.timeout, self.transport.send(mail)).await {
            Ok(Ok(response)) => SendReport {
                verdict: match response.code().severity {
                    Severity::PositiveCompletion => SendResult::Sent { provider_id: None },
                    // Not a valid final reply.
                    _ => SendResult::Unknown { after: None },
                },
                said: response.code().to_string(),
            },
            Ok(Err(error)) => meaning(&error),
            Err(_) => SendReport {
                verdict: SendResult::Unknown { after: None },
                said: "the server did not answer in time".to_owned(),
            },
        }
    }
}

fn meaning(error: &smtp::Error) -> SendReport {
    let code = error.status().map(|code| code.to_string());
    let verdict = match code.as_deref() {
        // Authentication (RFC 4954 section 6).
        Some("530" | "534" | "535" | "538") => SendResult::Locked,
        // Mailbox (RFC 5321 section 4.2.3).
        Some("550" | "551" | "553") => SendResult::Refused { address: true },
        _ if error.is_permanent() => SendResult::Refused { address: false },
        _ if error.is_transient() => SendResult::NotSent { after: None },
        _ if error.is_timeout() || error.is_response() => SendResult::Unknown { after: None },
        _ => SendResult::NotSent { after: None },
    };
    // The server's own text may repeat the address.
    let said = match code {
        Some(code) => format!("the server answered {code}"),
        None if error.is_timeout() => "the server did not answer in time".to_owned(),
        None => "the server could not be reached, or the connection broke".to_owned(),
    };
    tracing::debug!(said, "mail was not sent");
    SendReport { verdict, said }
}
