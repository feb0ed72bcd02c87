//! What comes from outside without a login: providers' signed reports, and the link that stops notifications. Not part
//! of the described API, since nobody but a provider or a mail program calls it.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::try_join_all;
use poem::{
    IntoResponse, Request, Response, Result,
    http::{StatusCode, header},
    web::Html,
};
use uuid::Uuid;

use super::problem::Problem;
use crate::{
    edge::Edge,
    error::Error,
    job::{Command, notify::NotifyCommand},
    model::{
        Timestamp, UserId,
        notify::{ChannelKind, Report},
    },
    notify::{template::escape, webhook},
};

/// The longest report taken: SendGrid sends up to 768 KiB at once.
pub const MAX_REPORT: usize = 1 << 20;

/// `POST /v1/webhooks/sendgrid`
pub async fn sendgrid(edge: Arc<Edge>, mut request: Request) -> Result<Response> {
    let body = request.take_body().into_bytes().await?;
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
        .ok_or_else(|| Problem(Error::malformed("the body must be a list of events")))?;
    take(&edge, reports).await
}

/// `POST /v1/webhooks/twilio?notification=…` for what became of a message, without the query for one that came in.
pub async fn twilio(edge: Arc<Edge>, mut request: Request) -> Result<Response> {
    let body = request.take_body().into_bytes().await?;
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
    if request.uri().query().is_none() {
        let Some((address, stop)) = webhook::twilio_opt_out(&form) else {
            return Ok(StatusCode::NO_CONTENT.into());
        };
        let command = Command::Notify(NotifyCommand::OptOut {
            channel: ChannelKind::Sms,
            address,
            stop,
        });
        let taken = edge.submit.call(UserId::nil(), command).await;
        taken.map_err(Problem)?;
        return Ok(StatusCode::NO_CONTENT.into());
    }
    let delivery = request
        .uri()
        .query()
        .and_then(|query| {
            query
                .split('&')
                .find_map(|p| p.strip_prefix("notification="))
        })
        .and_then(|id| Uuid::parse_str(id).ok())
        .ok_or_else(|| Problem(Error::malformed("the URL names no notification")))?;
    let report = webhook::twilio_report(delivery, &form);
    take(&edge, report.into_iter().collect()).await
}

/// Into the queue, all at once; the provider sends them again unless it holds all of them.
async fn take(edge: &Edge, reports: Vec<Report>) -> Result<Response> {
    let calls = reports.into_iter().map(|report| {
        let command = Command::Notify(NotifyCommand::Report(report));
        edge.submit.call(UserId::nil(), command)
    });
    try_join_all(calls).await.map_err(Problem)?;
    Ok(StatusCode::NO_CONTENT.into())
}

fn refused() -> poem::Error {
    Problem(Error::forbidden("the signature is not right")).into()
}

/// `application/x-www-form-urlencoded`.
fn form(body: &[u8]) -> BTreeMap<String, String> {
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

/// `GET /v1/unsubscribe/{delivery}/{secret}`: asks, since mail programs follow links on their own.
pub async fn unsubscribe_page(edge: Arc<Edge>, request: Request) -> Result<Response> {
    let (_, channel) = known(&edge, &request).await?;
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>Notifications</title>\
         <form method=\"post\"><p>Stop notifications by {}?</p><button>Stop them</button></form>",
        escape(channel.as_str())
    );
    let page = Html(page).with_header(header::REFERRER_POLICY, "no-referrer");
    Ok(page.into_response())
}

/// `POST` to the same: by the page, or by a mail program (RFC 8058).
pub async fn unsubscribe(edge: Arc<Edge>, request: Request) -> Result<Response> {
    let (delivery, channel) = known(&edge, &request).await?;
    let command = Command::Notify(NotifyCommand::Unsubscribe { delivery });
    edge.submit
        .call(UserId::nil(), command)
        .await
        .map_err(Problem)?;
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>Notifications</title>\
         <p>Notifications by {} are off. They can be switched on again in the account's settings.</p>",
        escape(channel.as_str())
    );
    Ok(Html(page).into_response())
}

/// The delivery that a link belongs to. An id alone opens nothing.
async fn known(edge: &Edge, request: &Request) -> Result<(Uuid, ChannelKind)> {
    let unknown = || Problem(Error::not_found("notification"));
    let (id, secret) = request
        .path_params::<(Uuid, Uuid)>()
        .map_err(|_| unknown())?;
    let delivery = edge.ledger.delivery(id).await.map_err(Problem)?;
    match delivery {
        Some(delivery) if delivery.record.secret == secret => Ok((id, delivery.channel)),
        _ => Err(unknown().into()),
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
