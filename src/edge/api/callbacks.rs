//! Requests from outside without a login: signed delivery reports from providers, and the unsubscribe link in e-mails.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use poem::{Body, Request};
use poem_openapi::{ApiResponse, OpenApi, param::Path, payload::Html};
use uuid::Uuid;

use super::{Tags, access::Shared, problem::Problem};
use crate::{
    command::{Command, notify::NotifyCommand},
    edge::Edge,
    error::{Error, Result},
    model::{
        Timestamp, UserId,
        address::Address,
        notify::{ChannelKind, Report},
    },
    notify::{template::escape, webhook},
};

/// The longest accepted report in bytes; SendGrid posts at most 768 KiB.
pub const MAX_REPORT: usize = 1 << 20;

pub struct CallbacksApi;

/// The response to a provider.
#[derive(ApiResponse)]
enum Taken {
    /// All reports were enqueued, or none of them applies to this server.
    #[oai(status = 204)]
    Done,
}

/// The response to a browser.
#[derive(ApiResponse)]
enum Page {
    /// An HTML page. Its URL contains a secret, so the page sends no `Referer`.
    #[oai(status = 200)]
    Ok(Html<String>, #[oai(header = "Referrer-Policy")] String),
}

impl Page {
    fn of(body: &str) -> Self {
        let page =
            format!("<!doctype html><meta charset=\"utf-8\"><title>Notifications</title>{body}");
        Page::Ok(Html(page), "no-referrer".to_owned())
    }
}

#[OpenApi(prefix_path = "/v1", tag = "Tags::Callbacks")]
impl CallbacksApi {
    /// Receive SendGrid events
    ///
    /// For SendGrid's Event Webhook: a JSON list of events, signed over the raw body in the headers
    /// `X-Twilio-Email-Event-Webhook-Signature` and `X-Twilio-Email-Event-Webhook-Timestamp`. A request is rejected
    /// with `forbidden` if `notify.email.webhook_key` does not verify its signature, or if its timestamp is too old.
    /// Repeated events have no effect.
    #[oai(
        path = "/webhooks/sendgrid",
        method = "post",
        operation_id = "takeSendgridEvents"
    )]
    async fn sendgrid(
        &self,
        edge: Shared<'_>,
        request: &Request,
        body: Body,
    ) -> Result<Taken, Problem> {
        let body = body.into_bytes().await.map_err(unread)?;
        let header = |name: &str| request.header(name).unwrap_or_default();
        let signed = webhook::sendgrid_signed(
            &edge.config.notify.email.webhook_key,
            header("X-Twilio-Email-Event-Webhook-Signature"),
            header("X-Twilio-Email-Event-Webhook-Timestamp"),
            &body,
            Timestamp::now().millis() / 1000,
        );
        if !signed {
            return Err(refused());
        }
        let reports = webhook::sendgrid_reports(&body)
            .ok_or_else(|| Error::malformed("the body must be a list of events"))?;
        take(&edge, reports).await
    }

    /// Receive Twilio reports
    ///
    /// A form body. With `?notification=…` it is the delivery status of a text message; without, it is an incoming text
    /// message, of which STOP and START keywords are evaluated. `X-Twilio-Signature` must be a valid signature by the
    /// account's auth token over the URL (`edge.public_url` and the request's path) and the form; otherwise the request
    /// is rejected with `forbidden`.
    #[oai(
        path = "/webhooks/twilio",
        method = "post",
        operation_id = "takeTwilioReport"
    )]
    async fn twilio(
        &self,
        edge: Shared<'_>,
        request: &Request,
        body: Body,
    ) -> Result<Taken, Problem> {
        let body = body.into_bytes().await.map_err(unread)?;
        let form = form(&body);
        let config = &edge.config;
        // Twilio signs the public URL, which differs from the URL behind a proxy.
        let base = config.edge.public_url.as_deref().unwrap_or_default();
        let path = request.original_uri().path_and_query();
        let url = format!("{base}{}", path.map_or("", |path| path.as_str()));
        let signature = request.header("X-Twilio-Signature").unwrap_or_default();
        let token = config.notify.sms.auth_token.expose();
        if token.is_empty() || !webhook::twilio_signed(token, signature, &url, &form) {
            return Err(refused());
        }
        let Some(query) = request.uri().query() else {
            let Some((number, stop)) = webhook::twilio_opt_out(&form) else {
                return Ok(Taken::Done);
            };
            let command = Command::Notify(NotifyCommand::OptOut {
                address: Address::Phone(number),
                stop,
            });
            edge.submit.call(UserId::nil(), command).await?;
            return Ok(Taken::Done);
        };
        let delivery = query
            .split('&')
            .find_map(|p| p.strip_prefix("notification="))
            .and_then(|id| Uuid::parse_str(id).ok())
            .ok_or_else(|| Error::malformed("the URL contains no notification id"))?;
        let report = webhook::twilio_report(delivery, &form);
        take(&edge, report.into_iter().collect()).await
    }

    /// Show the unsubscribe page
    ///
    /// The link in notification e-mails. It only shows a confirmation form, because mail programs prefetch links.
    #[oai(
        path = "/unsubscribe/:delivery/:secret",
        method = "get",
        operation_id = "askToUnsubscribe"
    )]
    async fn ask(
        &self,
        edge: Shared<'_>,
        delivery: Path<String>,
        secret: Path<String>,
    ) -> Result<Page, Problem> {
        let (_, channel) = known(&edge, &delivery.0, &secret.0).await?;
        Ok(Page::of(&format!(
            "<form method=\"post\"><p>Stop notifications by {}?</p><button>Stop them</button></form>",
            escape(channel.as_str())
        )))
    }

    /// Unsubscribe
    ///
    /// Turns off notifications through the channel that the link belongs to. Called by the confirmation form, or by a
    /// mail program (one-click unsubscribe, RFC 8058).
    #[oai(
        path = "/unsubscribe/:delivery/:secret",
        method = "post",
        operation_id = "unsubscribe"
    )]
    async fn unsubscribe(
        &self,
        edge: Shared<'_>,
        delivery: Path<String>,
        secret: Path<String>,
    ) -> Result<Page, Problem> {
        let (delivery, channel) = known(&edge, &delivery.0, &secret.0).await?;
        let command = Command::Notify(NotifyCommand::Unsubscribe { delivery });
        edge.submit.call(UserId::nil(), command).await?;
        Ok(Page::of(&format!(
            "<p>Notifications by {} are off. They can be switched on again in the account's settings.</p>",
            escape(channel.as_str())
        )))
    }
}

/// Enqueues all reports. If any fails, the error makes the provider send all of them again.
async fn take(edge: &Edge, reports: Vec<Report>) -> Result<Taken, Problem> {
    let calls = reports.into_iter().map(|report| {
        let command = Command::Notify(NotifyCommand::Report(report));
        edge.submit.call(UserId::nil(), command)
    });
    try_join_all(calls).await?;
    Ok(Taken::Done)
}

fn unread(error: impl std::fmt::Display) -> Error {
    Error::malformed(format!("the body cannot be read: {error}"))
}

fn refused() -> Problem {
    Error::forbidden("the signature is invalid").into()
}

/// `application/x-www-form-urlencoded`.
pub(in crate::edge) fn form(body: &[u8]) -> BTreeMap<String, String> {
    let pairs = body
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let end = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = pair.split_at(end.unwrap_or(pair.len()));
            (decode(name), decode(value.get(1..).unwrap_or_default()))
        })
        .collect()
}

fn decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(value)) => {
                out.push(value);
                rest = &after[2..];
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Returns the delivery that an unsubscribe link belongs to. The id alone is not enough: the link's secret must match.
async fn known(edge: &Edge, delivery: &str, secret: &str) -> Result<(Uuid, ChannelKind)> {
    let unknown = || Error::not_found("notification");
    let id = |text| Uuid::parse_str(text).map_err(|_| unknown());
    let (delivery, secret) = (id(delivery)?, id(secret)?);
    match edge.deliveries.delivery(delivery).await? {
        Some(known) if known.record.secret == secret => Ok((delivery, known.channel)),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_form_is_read_as_twilio_sends_it() {
        let form = super::form(b"From=%2B4915&Body=a+b%26c&Empty=&Odd=%zz&Flag");
        assert_eq!(form["From"], "+4915");
        assert_eq!(form["Body"], "a b&c");
        assert_eq!((form["Empty"].as_str(), form["Odd"].as_str()), ("", "%zz"));
        assert_eq!(form["Flag"], "");
    }
}
