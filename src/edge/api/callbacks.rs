//! What comes from outside without a login: providers' signed reports, and the link that stops notifications.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use poem::{Body, Request};
use poem_openapi::{ApiResponse, OpenApi, param::Path, payload::Html};
use uuid::Uuid;

use super::{Tags, access::Shared, problem::Problem};
use crate::{
    edge::Edge,
    error::{Error, Result},
    job::{Command, notify::NotifyCommand},
    model::{
        Timestamp, UserId,
        address::Address,
        notify::{ChannelKind, Report},
    },
    notify::{template::escape, webhook},
};

/// The longest report taken: SendGrid sends up to 768 KiB at once.
pub const MAX_REPORT: usize = 1 << 20;

pub struct CallbacksApi;

/// The answer to a provider.
#[derive(ApiResponse)]
enum Taken {
    /// The queue holds all of it, or there was nothing in it for us.
    #[oai(status = 204)]
    Done,
}

/// The answer to a person.
#[derive(ApiResponse)]
enum Page {
    /// A page to read. Its address is a secret and is not passed on.
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
    /// Take SendGrid's events
    ///
    /// For SendGrid's Event Webhook: a list of events, signed over its very bytes in the headers
    /// `X-Twilio-Email-Event-Webhook-Signature` and `X-Twilio-Email-Event-Webhook-Timestamp`. What is not signed with
    /// `notify.email.webhook_key`, or too long ago, is forbidden. The same events again change nothing.
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

    /// Take Twilio's reports
    ///
    /// A form: with `?notification=…`, what became of a text message; without, one that somebody sent (STOP and START
    /// count). Signed with the account's token in `X-Twilio-Signature`, over the URL below `edge.public_url`; anything else
    /// is forbidden.
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
        // The URL that Twilio was given, which is not the one a proxy passes on.
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
            .ok_or_else(|| Error::malformed("the URL names no notification"))?;
        let report = webhook::twilio_report(delivery, &form);
        take(&edge, report.into_iter().collect()).await
    }

    /// Ask whether to stop notifications
    ///
    /// The link in an e-mail. It only asks, since mail programs follow links on their own.
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

    /// Stop notifications
    ///
    /// By the page, or by a mail program with one click (RFC 8058).
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

/// Into the queue, all at once; the provider sends them again unless it holds all of them.
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
    Error::forbidden("the signature is not right").into()
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

/// The delivery that a link belongs to. An id alone opens nothing.
async fn known(edge: &Edge, delivery: &str, secret: &str) -> Result<(Uuid, ChannelKind)> {
    let unknown = || Error::not_found("notification");
    let id = |text| Uuid::parse_str(text).map_err(|_| unknown());
    let (delivery, secret) = (id(delivery)?, id(secret)?);
    match edge.ledger.delivery(delivery).await? {
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
