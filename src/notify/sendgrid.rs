//! SendGrid v3 Mail Send (<https://docs.sendgrid.com/api-reference/mail-send/mail-send>): 202 is success, 200 in
//! sandbox mode. It has no idempotency key; the delivery's id is passed in `custom_args` and returned in every event.

use std::time::Duration;

use async_trait::async_trait;
use lettre::message::Mailbox;
use reqwest::Client;
use serde_json::{Value, json};

use super::{Channel, Outgoing, SendReport, SendResult, http, mail_headers};
use crate::{
    config::{Email, Secret},
    error::{Error, Result},
};

pub struct SendGrid {
    client: Client,
    url: String,
    key: Secret,
    from: Mailbox,
    sandbox: bool,
}

impl SendGrid {
    pub fn new(settings: &Email, timeout: Duration) -> Result<Self> {
        Ok(SendGrid {
            client: http::client(timeout)?,
            url: format!("{}/v3/mail/send", settings.base_url),
            key: settings.api_key.clone(),
            from: settings
                .from
                .parse()
                .map_err(|_| Error::field("notify.email.from", "is not an e-mail address"))?,
            sandbox: settings.sandbox,
        })
    }

    fn body(&self, message: &Outgoing) -> Value {
        let mut from = json!({ "email": self.from.email.to_string() });
        if let Some(name) = &self.from.name {
            from["name"] = json!(name);
        }
        let mut body = json!({
            "personalizations": [{
                "to": [{ "email": message.to.as_str() }],
                "custom_args": { "notification_id": message.id.to_string() },
            }],
            "from": from,
            "subject": message.subject,
            "content": [
                { "type": "text/plain", "value": message.text },
                { "type": "text/html", "value": message.html },
            ],
        });
        for (name, value) in mail_headers::of(message, &self.from) {
            body["headers"][name] = json!(value);
        }
        if self.sandbox {
            body["mail_settings"] = json!({ "sandbox_mode": { "enable": true } });
        }
        body
    }
}

#[async_trait]
impl Channel for SendGrid {
    async fn send(&self, message: &Outgoing) -> SendReport {
        let request = self
            .client
            .post(&self.url)
            .bearer_auth(self.key.expose())
            .json(&self.body(message));
        let reply = match http::ask(request).await {
            Ok(reply) => reply,
            Err(answer) => return answer,
        };
        let id = || reply.headers.get("x-message-id")?.to_str().ok();
        let verdict = match (reply.common(), reply.status.as_u16()) {
            (Some(verdict), _) => verdict,
            (None, 200..=299) => SendResult::Sent {
                provider_id: id().map(str::to_owned),
            },
            (None, _) => SendResult::Refused { address: false },
        };
        let said = match verdict {
            SendResult::Sent { .. } => String::new(),
            _ => errors(&reply.body),
        };
        reply.answer(verdict, &said)
    }
}

/// The messages of `{"errors": [{"message", "field"}]}`, or else the whole body.
fn errors(body: &str) -> String {
    let messages = serde_json::from_str::<Value>(body).ok().and_then(|json| {
        let errors = json.get("errors")?.as_array()?;
        let messages = errors
            .iter()
            .filter_map(|error| error.get("message")?.as_str());
        Some(messages.collect::<Vec<_>>().join("; "))
    });
    messages.unwrap_or_else(|| body.to_owned())
}
