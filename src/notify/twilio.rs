//! Twilio Messages (<https://www.twilio.com/docs/messaging/api/message-resource>): a form with Basic authentication;
//! 201 is success. A 429 was not processed; after a 5xx or a timeout the message may have been sent.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Client;
use serde_json::Value;

use super::{Channel, Outgoing, SendReport, SendResult, http};
use crate::{
    config::{Secret, Sms},
    error::Result,
};

/// Error codes of numbers that cannot or do not want to get messages: 21211 invalid, 21610 has replied STOP, 21614 not
/// a mobile number.
const ADDRESS: [i64; 3] = [21211, 21610, 21614];

pub struct Twilio {
    client: Client,
    url: String,
    sid: String,
    token: Secret,
    from: String,
    validity: Duration,
}

impl Twilio {
    pub fn new(settings: &Sms, timeout: Duration) -> Result<Self> {
        let (base, sid) = (&settings.base_url, &settings.account_sid);
        Ok(Twilio {
            client: http::client(timeout)?,
            url: format!("{base}/2010-04-01/Accounts/{sid}/Messages.json"),
            sid: sid.clone(),
            token: settings.auth_token.clone(),
            from: settings.from.clone(),
            validity: settings.validity,
        })
    }

    fn form(&self, message: &Outgoing) -> Vec<(&'static str, String)> {
        let sender = if self.from.starts_with("MG") {
            "MessagingServiceSid"
        } else {
            "From"
        };
        let mut form = vec![
            ("To", message.to.as_str().to_owned()),
            (sender, self.from.clone()),
            // At most 10 segments (`notify.sms.segments`), which is below Twilio's limit of 1600 characters.
            ("Body", message.text.clone()),
            ("ValidityPeriod", self.validity.as_secs().to_string()),
        ];
        form.extend(message.report_to.clone().map(|url| ("StatusCallback", url)));
        form
    }
}

#[async_trait]
impl Channel for Twilio {
    async fn send(&self, message: &Outgoing) -> SendReport {
        let request = self
            .client
            .post(&self.url)
            .basic_auth(&self.sid, Some(self.token.expose()))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(encode(&self.form(message)));
        let reply = match http::ask(request).await {
            Ok(reply) => reply,
            Err(answer) => return answer,
        };
        let json: Value = serde_json::from_str(&reply.body).unwrap_or_default();
        let code = json.get("code").and_then(Value::as_i64);
        let verdict = match (reply.common(), reply.status.as_u16()) {
            // The status takes precedence; the code only tells whether the address is the cause.
            (Some(verdict), _) => verdict,
            (None, 200..=299) => SendResult::Sent {
                provider_id: json.get("sid").and_then(Value::as_str).map(str::to_owned),
            },
            (None, _) => SendResult::Refused {
                address: code.is_some_and(|code| ADDRESS.contains(&code)),
            },
        };
        let said = match (&verdict, code, json.get("message").and_then(Value::as_str)) {
            (SendResult::Sent { .. }, ..) => String::new(),
            // Twilio's message would repeat the number.
            (_, Some(code), _) => format!("error {code}"),
            (_, None, Some(message)) => message.to_owned(),
            _ => reply.body.clone(),
        };
        reply.answer(verdict, &said)
    }
}

/// `application/x-www-form-urlencoded` (WHATWG URL, section 5).
fn encode(form: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (name, value) in form {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => {
                    out.push(char::from(byte));
                }
                b' ' => out.push('+'),
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_form_is_written_as_browsers_do() {
        let form = [("To", "+49 1".to_owned()), ("Body", "a&b=é".to_owned())];
        assert_eq!(super::encode(&form), "To=%2B49+1&Body=a%26b%3D%C3%A9");
    }
}
