//! The password of an account: `PUT /v1/me/password`, and `/v1/auth/password` for users who forgot it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use poem::Request;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{
    Tags,
    access::{Caller, Shared},
    fields, me,
    notifications::codes,
    payload::{Body, Gone, RawJson},
    problem::Problem,
};
use crate::{
    command::{Command, account::AccountCommand, notify::NotifyCommand},
    config::EmailProvider,
    edge::{
        Edge,
        auth::{password::Origin, reset::ResetTokens},
        client_address,
    },
    error::{Code, Error, Result},
    model::{Account, Credentials, Timestamp, UserId, new_id},
};

pub struct PasswordApi;

/// A new password.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename_all = "camelCase", rename = "PasswordChange")]
struct PasswordChange {
    current_password: String,
    /// 8 to 256 bytes. Must not be one of the 10,000 most common passwords, the account's names, e-mail address or
    /// phone number.
    new_password: String,
}

/// The account whose password was forgotten.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename_all = "camelCase", rename = "ForgottenPassword")]
struct ForgottenPassword {
    username: String,
}

/// A new password for the account of the token.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename_all = "camelCase", rename = "PasswordReset")]
struct PasswordReset {
    /// The token of the mail.
    token: String,
    /// As in `PUT /v1/me/password`.
    new_password: String,
}

/// A request that is answered alike whether there is such an account or not.
#[derive(Serialize, Object)]
#[oai(rename = "ResetRequested")]
struct ResetRequested {
    /// Always `accepted`.
    status: String,
}

#[derive(ApiResponse)]
enum Requested {
    /// If there is such an account with a verified e-mail address, it gets a mail.
    #[oai(status = 202)]
    Accepted(RawJson<ResetRequested>),
}

#[OpenApi(prefix_path = "/v1")]
impl PasswordApi {
    /// Change my password
    ///
    /// Ends all other logins of the caller, as `DELETE /v1/me/sessions`; the one of the request stays. A wrong
    /// `currentPassword` is `forbidden` and counts as a failed login (`limits.logins_per_minute`).
    #[oai(
        path = "/me/password",
        method = "put",
        operation_id = "changePassword",
        tag = "Tags::Me"
    )]
    async fn change(
        &self,
        edge: Shared<'_>,
        request: &Request,
        caller: Caller,
        body: Body<PasswordChange>,
    ) -> Result<Gone, Problem> {
        let (identity, Body(change)) = (caller.0.into_inner(), body);
        let account = me::account(&edge, identity.user).await?;
        check_new(&change.new_password, &account)?;
        let (auth, bus) = (&edge.auth, &*edge.bus.coordination);
        let username = &account.user.username;
        let from = client_address::of(request);
        let attempt = auth.attempts.begin(bus, username, from).await?;
        let hash = credentials(&edge, &account).await?;
        let hash = hash.map(|known| known.password_hash);
        let current = change.current_password;
        let fits = auth
            .passwords
            .verify(attempt.origin, current, hash.clone())
            .await?;
        if !fits {
            let wrong = || Error::forbidden("`currentPassword` is wrong");
            return Err(attempt.failed(bus).await.unwrap_or_else(wrong).into());
        }
        let origin = attempt.origin;
        attempt.succeeded(bus).await;
        let password_hash = auth.passwords.hash(origin, change.new_password).await?;
        let command = AccountCommand::SetPassword {
            password_hash,
            replaces: hash.unwrap_or_default(),
            except: Some(identity.login),
        };
        let changed = set(&edge, identity.user, command).await;
        changed.map_err(|error| match error.code {
            Code::NotFound => {
                Error::conflict("the password was changed by another request; try again").into()
            }
            _ => error.into(),
        })
    }

    /// Request a password reset
    ///
    /// Sends a mail with a token to the account's verified e-mail address. The token is valid once, for one hour, and
    /// until the password is changed. The response is the same if there is no such account, if it has no verified
    /// address, if that replaced another verified one within the last three days, and if too many mails were sent to it
    /// (`limits.codes_per_recipient_…`, for each client network). Fails with `conflict` if the server sends no mail.
    #[oai(
        path = "/auth/password/forgot",
        method = "post",
        operation_id = "forgotPassword",
        tag = "Tags::Auth"
    )]
    async fn forgot(
        &self,
        edge: Shared<'_>,
        request: &Request,
        body: Body<ForgottenPassword>,
    ) -> Result<Requested, Problem> {
        if edge.config.notify.email.provider == EmailProvider::None {
            let none =
                "this server sends no mail (notify.email.provider), so passwords cannot be reset";
            return Err(Error::conflict(none).into());
        }
        let from = client_address::of(request);
        codes::count_reset_request(&edge, from).await?;
        let username = body.0.username;
        // A malformed name cannot exist, and may contain characters that the store rejects, so it is not looked up.
        let known = match fields::username(&username) {
            Ok(()) => edge.reads.credentials(&username).await?,
            Err(_) => None,
        };
        if let Some(known) = known {
            // In a task of its own: the time of the response does not depend on the account.
            let edge = Arc::clone(&edge);
            edge.tasks.clone().spawn(async move {
                if let Err(error) = send_token(&edge, known, from).await {
                    tracing::debug!(error = %error.chain(), "password reset not sent");
                }
            });
        }
        Ok(Requested::Accepted(RawJson::of(&ResetRequested {
            status: "accepted".to_owned(),
        })))
    }

    /// Reset a password
    ///
    /// Sets a new password with the token of a mail, and ends all logins of the account. A token that was used, has
    /// expired, or was issued before the password was changed is `invalid`.
    #[oai(
        path = "/auth/password/reset",
        method = "post",
        operation_id = "resetPassword",
        tag = "Tags::Auth"
    )]
    async fn reset(
        &self,
        edge: Shared<'_>,
        request: &Request,
        body: Body<PasswordReset>,
    ) -> Result<Gone, Problem> {
        let Body(reset) = body;
        let refused = || {
            Error::field(
                "token",
                "was used, has expired or is wrong; request another with POST /v1/auth/password/forgot",
            )
        };
        let token = ResetTokens::parse(&reset.token).ok_or_else(refused)?;
        let account = edge.reads.account(token.user).await?.ok_or_else(refused)?;
        let known = credentials(&edge, &account).await?;
        let known = known.ok_or_else(refused)?;
        let auth = &edge.auth;
        if !auth
            .reset
            .verify(&token, &known.password_hash, Timestamp::now())
        {
            return Err(refused().into());
        }
        check_new(&reset.new_password, &account)?;
        let origin = Origin {
            network: client_address::of(request).map(client_address::network_of),
            known: false,
        };
        let password_hash = auth.passwords.hash(origin, reset.new_password).await?;
        let command = AccountCommand::SetPassword {
            password_hash,
            replaces: known.password_hash,
            except: None,
        };
        set(&edge, token.user, command)
            .await
            .map_err(|error| match error.code {
                Code::NotFound => refused().into(),
                _ => error.into(),
            })
    }
}

/// `None` if the user name belongs to another account by now.
async fn credentials(edge: &Edge, account: &Account) -> Result<Option<Credentials>> {
    let known = edge.reads.credentials(&account.user.username).await?;
    Ok(known.filter(|known| known.account.user.id == account.user.id))
}

fn check_new(password: &str, account: &Account) -> Result<()> {
    let own = [
        Some(account.user.username.as_str()),
        Some(account.user.display_name.as_str()),
        account.email.as_deref(),
        account.phone.as_deref(),
    ];
    fields::new_password("newPassword", password, &own)
}

async fn set(edge: &Edge, user: UserId, command: AccountCommand) -> Result<Gone> {
    let result = edge.submit.call(user, Command::Account(command)).await?;
    Ok(Gone::of(result, user))
}

/// A verified address that replaced another one gets no token for this time: the thief of a session could otherwise
/// enter an address of their own and take the account over.
const NEW_ADDRESS_WAITS: Duration = Duration::from_secs(3 * 86_400);

/// Enqueues the mail, if the account has an address for it and its limits allow it.
async fn send_token(edge: &Edge, known: Credentials, from: Option<IpAddr>) -> Result<()> {
    let (user, now) = (known.account.user.id, Timestamp::now());
    let before = now.millis() - NEW_ADDRESS_WAITS.as_millis() as i64;
    let before = Timestamp::from_millis(before);
    let Some(address) = edge.deliveries.reset_address(user, before).await? else {
        return Ok(());
    };
    if codes::is_reset_withheld(edge, &address, from).await {
        return Ok(());
    }
    let command = NotifyCommand::SendReset {
        delivery: new_id(),
        token: edge.auth.reset.issue(user, &known.password_hash, now),
        address,
    };
    edge.submit
        .accept(user, Command::Notify(command), None)
        .await
        .map(drop)
}
