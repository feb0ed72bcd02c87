//! The providers of e-mail and text messages: whether they accept the credentials. Nothing is sent.

use lettre::{AsyncSmtpTransport, Tokio1Executor};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;

use super::finding::{Finding, in_time};
use crate::{
    config::{Config, Email, EmailProvider, Sms, SmsProvider},
    error::chain_of,
};

const EMAIL: &str = "e-mail";
const SMS: &str = "text messages";

pub async fn email(config: &Config, http: &Client) -> Finding {
    let email = &config.notify.email;
    match email.provider {
        EmailProvider::None => Finding::ok(EMAIL, "notify.email.provider is not set"),
        EmailProvider::Log => Finding::warning(
            EMAIL,
            "notify.email.provider is \"log\": e-mails are written to the log and not sent",
            "choose sendgrid or smtp for production",
        ),
        EmailProvider::SendGrid => sendgrid(email, http).await,
        EmailProvider::Smtp => smtp(email).await,
    }
}

pub async fn sms(config: &Config, http: &Client) -> Finding {
    let sms = &config.notify.sms;
    match sms.provider {
        SmsProvider::None => Finding::ok(SMS, "notify.sms.provider is not set"),
        SmsProvider::Log => Finding::warning(
            SMS,
            "notify.sms.provider is \"log\": text messages are written to the log and not sent",
            "choose twilio for production",
        ),
        SmsProvider::Twilio => twilio(sms, http).await,
    }
}

/// `GET /v3/scopes` (docs.sendgrid.com, API Key Permissions): what the key may do.
async fn sendgrid(email: &Email, http: &Client) -> Finding {
    #[derive(Deserialize)]
    struct Scopes {
        #[serde(default)]
        scopes: Vec<String>,
    }
    let request = http
        .get(format!("{}/v3/scopes", email.base_url))
        .bearer_auth(email.api_key.expose());
    let check_key = "check notify.email.api_key (SENDGRID_API_KEY) and notify.email.base_url";
    match ask(request).await {
        Ok((StatusCode::OK, body)) => {
            let scopes = serde_json::from_str::<Scopes>(&body);
            match scopes {
                Ok(scopes) if scopes.scopes.iter().any(|scope| scope == "mail.send") => {
                    Finding::ok(EMAIL, "SendGrid accepts the key, which may send mail")
                }
                Ok(_) => Finding::problem(
                    EMAIL,
                    "SendGrid accepts the key, but it may not send mail",
                    "give it the permission Mail Send, or create another key",
                ),
                Err(_) => Finding::problem(
                    EMAIL,
                    "the answer is not SendGrid's",
                    "check notify.email.base_url",
                ),
            }
        }
        Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)) => {
            Finding::problem(EMAIL, "SendGrid refuses the key", check_key)
        }
        Ok((status, _)) => Finding::problem(EMAIL, format!("SendGrid answers {status}"), check_key),
        Err(error) => Finding::problem(EMAIL, format!("SendGrid: {error}"), check_key),
    }
}

/// `GET /2010-04-01/Accounts/{Sid}.json` (twilio.com/docs/iam/api/account): the account's state.
async fn twilio(sms: &Sms, http: &Client) -> Finding {
    #[derive(Deserialize)]
    struct Account {
        #[serde(default)]
        status: String,
    }
    let sid = &sms.account_sid;
    let request = http
        .get(format!("{}/2010-04-01/Accounts/{sid}.json", sms.base_url))
        .basic_auth(sid, Some(sms.auth_token.expose()));
    let check_token = "check notify.sms.account_sid, notify.sms.auth_token and notify.sms.base_url";
    match ask(request).await {
        Ok((StatusCode::OK, body)) => match serde_json::from_str::<Account>(&body) {
            Ok(account) if account.status == "active" => {
                Finding::ok(SMS, "Twilio accepts the token, and the account is active")
            }
            Ok(account) => Finding::problem(
                SMS,
                format!(
                    "Twilio accepts the token, but the account is {:?}",
                    account.status
                ),
                "see the account's page at Twilio",
            ),
            Err(_) => Finding::problem(
                SMS,
                "the answer is not Twilio's",
                "check notify.sms.base_url",
            ),
        },
        Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _)) => {
            Finding::problem(SMS, "Twilio refuses the account or its token", check_token)
        }
        Ok((status, _)) => Finding::problem(SMS, format!("Twilio answers {status}"), check_token),
        Err(error) => Finding::problem(SMS, format!("Twilio: {error}"), check_token),
    }
}

/// Connects, logs in and says NOOP.
async fn smtp(email: &Email) -> Finding {
    let url = &email.smtp_url;
    let tested = in_time(async {
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose());
        let transport: AsyncSmtpTransport<Tokio1Executor> =
            transport.map_err(|error| chain_of(&error))?.build();
        let tested = transport.test_connection().await;
        tested.map_err(|error| chain_of(&error))
    });
    let advice = "check notify.email.smtp_url: host, port, user, password and ?tls=";
    match tested.await {
        Ok(true) => Finding::ok(EMAIL, format!("{url} answers")),
        Ok(false) => Finding::problem(
            EMAIL,
            format!("{url}: the server ends the connection"),
            advice,
        ),
        Err(error) => Finding::problem(EMAIL, format!("{url}: {error}"), advice),
    }
}

/// The status and the body, of which the first 64 KiB are read.
async fn ask(request: RequestBuilder) -> Result<(StatusCode, String), String> {
    const MAX_BODY: usize = 64 * 1024;
    in_time(async {
        let sent = request.send().await;
        let mut answer = sent.map_err(|error| chain_of(&error.without_url()))?;
        let mut body = Vec::new();
        while body.len() < MAX_BODY {
            let chunk = answer.chunk().await;
            match chunk.map_err(|error| chain_of(&error.without_url()))? {
                Some(chunk) => body.extend_from_slice(&chunk),
                None => break,
            }
        }
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok::<_, String>((answer.status(), text))
    })
    .await
}
