//! `/v1/auth`: registration, login, token refresh, logout and socket tickets.

use poem::Request;
use poem_openapi::{ApiResponse, Object, OpenApi, param::Header};
use serde::{Deserialize, Serialize};

use super::{
    Tags,
    access::{self, Caller, MaybeCaller, Shared},
    fields,
    me::AccountView,
    payload::{Body, Gone, RawJson},
    problem::Problem,
};
use crate::{
    command::{Command, account::AccountCommand},
    config::Registration,
    edge::{
        Edge,
        auth::{
            Identity, TICKET_TTL, Tokens,
            failed::{self, Reason},
        },
        client_address,
        submit::SubmitResult,
    },
    error::{Code, Error, Result},
    model::{Account, ClientInfo, Timestamp, User, UserId, new_id},
};

/// `Retry-After` of a refresh that no worker has answered yet.
const REFRESH_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The error for a refresh token that a worker rejected.
const NOT_GOOD: &str = "this refresh token is not good any more; log in again";

pub struct AuthApi;

/// A new account.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Register")]
struct Register {
    /// 2 to 64 of the characters `A-Z a-z 0-9 _ . - [ ] { } | ^`; must begin with a letter, a digit or `_`. Unique
    /// regardless of case, and must not look like an existing name. `all`, `here`, `everyone`, `admin`, `system` and
    /// names that look like them are reserved.
    username: String,
    /// 8 to 256 bytes. Must not be one of the 10,000 most common passwords, the account's names, e-mail address or
    /// phone number.
    password: String,
    /// At most 64 characters. Default: the user name.
    display_name: Option<String>,
    /// Visible only to the account itself. An empty string counts as absent.
    email: Option<String>,
    /// E.164, such as +4915112345678. Visible only to the account itself. An empty string counts as absent.
    phone: Option<String>,
}

/// Credentials.
#[derive(Deserialize, Object)]
#[oai(rename = "LogIn")]
struct LogIn {
    username: String,
    password: String,
}

/// The refresh token to exchange.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Refresh")]
struct Refresh {
    /// The `refreshToken` of the last login or refresh.
    refresh_token: String,
}

/// The login to end.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "LogOut")]
struct LogOut {
    /// Any refresh token of the login. If absent, the login of the access token ends.
    refresh_token: Option<String>,
}

/// A new login: the account and its first tokens.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Session")]
struct SessionView {
    user: AccountView,
    /// A JWT for `Authorization: Bearer …` and for a socket's `auth` event.
    access_token: String,
    /// Single use, for `POST /v1/auth/refresh`.
    refresh_token: String,
    /// Lifetime of the access token in seconds.
    expires_in: u64,
}

/// A new pair of tokens.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Tokens")]
struct TokensView {
    /// A JWT for `Authorization: Bearer …` and for a socket's `auth` event.
    access_token: String,
    /// Single use, for the next `POST /v1/auth/refresh`.
    refresh_token: String,
    /// Lifetime of the access token in seconds.
    expires_in: u64,
}

/// A ticket that authenticates one socket.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Ticket")]
struct TicketView {
    /// For `/ws?ticket=…`. Single use.
    ticket: String,
    /// Lifetime of the ticket in seconds.
    expires_in: u64,
}

/// A registration that was enqueued and is not stored yet.
#[derive(Serialize, Object)]
#[oai(rename = "AcceptedRegistration")]
struct PendingAccount {
    /// Always `accepted`.
    status: String,
    user: AccountView,
}

#[derive(ApiResponse)]
enum Registered {
    /// The account was created and logged in.
    #[oai(status = 201)]
    Done(RawJson<SessionView>),
    /// The registration was enqueued; log in once it is stored. It fails if another registration takes the user name
    /// first.
    #[oai(status = 202)]
    Accepted(RawJson<PendingAccount>),
}

#[derive(ApiResponse)]
enum LoggedIn {
    /// Logged in.
    #[oai(status = 200)]
    Done(RawJson<SessionView>),
}

#[derive(ApiResponse)]
enum Refreshed {
    /// A new pair of tokens. The old refresh token can only repeat this exchange.
    #[oai(status = 200)]
    Done(RawJson<TokensView>),
}

#[derive(ApiResponse)]
enum Ticketed {
    /// The ticket was created.
    #[oai(status = 201)]
    Done(RawJson<TicketView>),
}

#[OpenApi(prefix_path = "/v1/auth", tag = "Tags::Auth")]
impl AuthApi {
    /// Register an account
    ///
    /// Creates an account, logs it in and returns its first tokens. A repeat with the same `Idempotency-Key`, user name
    /// and password finds the existing account and logs in. Fails with `conflict` if the user name is taken. Limited to
    /// `limits.registrations_per_minute` per client address. `forbidden` if `auth.registration` is `closed`.
    #[oai(path = "/register", method = "post", operation_id = "register")]
    async fn register(
        &self,
        edge: Shared<'_>,
        request: &Request,
        /// 1 to 128 visible ASCII characters, preferably a new UUID.
        #[oai(name = "Idempotency-Key")]
        key: Header<Option<String>>,
        body: Body<Register>,
    ) -> Result<Registered, Problem> {
        if edge.config.auth.registration == Registration::Closed {
            let closed = "registration is closed on this server; ask its operator for an account";
            return Err(Error::forbidden(closed).into());
        }
        let Body(new) = body;
        let mut display_name = new.display_name.unwrap_or_else(|| new.username.clone());
        // An empty string counts as absent, as in PATCH /v1/me.
        let (mut email, mut phone) = (given(new.email), given(new.phone));
        fields::all([
            fields::new_username(&new.username),
            fields::new_password(
                "password",
                &new.password,
                &[
                    Some(&new.username),
                    Some(&display_name),
                    email.as_deref(),
                    phone.as_deref(),
                ],
            ),
            fields::display_name(Some(&mut display_name)),
            fields::email(email.as_mut()),
            fields::phone(phone.as_mut()),
            fields::idempotency_key(key.as_deref()),
        ])?;
        let (auth, bus) = (&edge.auth, &*edge.bus.coordination);
        let from = client_address::of(request);
        let origin = auth.attempts.may_register(bus, from).await?;

        let (ids, attempt) = match key.as_deref() {
            // With the right key and password, a repeat logs in, so a wrong one counts as a failed login.
            Some(key) => (
                auth.account_ids(&new.username, key, &new.password),
                Some(auth.attempts.begin(bus, &new.username, from).await?),
            ),
            None => (vec![new_id()], None),
        };
        let mut id = ids[0];
        let mut account = Account {
            user: User {
                id,
                username: new.username,
                display_name,
            },
            email,
            phone,
            created_at: Timestamp::now(),
        };
        // Answers early; the worker decides.
        let known = access::if_available(edge.reads.credentials(&account.user.username)).await;
        let password_hash = if let Some(Some(known)) = known {
            // The id shows only that the password was right at the registration: it may have been changed since.
            let hash = Some(known.password_hash.clone());
            let is_repeat = ids.contains(&known.account.user.id)
                && auth.passwords.verify(origin, new.password, hash).await?;
            if !is_repeat {
                auth.attempts.registered(bus, from).await;
                if let Some(attempt) = attempt
                    && let Some(error) = attempt.failed(bus).await
                {
                    return Err(error.into());
                }
                return Err(Error::conflict("this user name is taken; choose another").into());
            }
            account = known.account;
            id = account.user.id;
            known.password_hash
        } else {
            let password_hash = auth.passwords.hash(origin, new.password).await?;
            let command = AccountCommand::Register {
                account: account.clone(),
                password_hash: password_hash.clone(),
            };
            let called = edge.submit.call(id, Command::Account(command)).await;
            // A registration that was not enqueued does not count.
            if !matches!(&called, Err(error) if error.is_retryable()) {
                auth.attempts.registered(bus, from).await;
            }
            if let SubmitResult::Accepted = called? {
                return Ok(accepted(&account));
            }
            // If the account existed and could not be read before, its hash is another one: the worker then ends this
            // login, and the user logs in.
            password_hash
        };
        auth.attempts
            .used_well(bus, &account.user.username, from)
            .await;
        // The account is stored: a failure of the login must not report that the registration failed.
        let login = open_login(&edge, id, Some(password_hash), access::client(request));
        Ok(match login.await {
            Ok(tokens) => Registered::Done(RawJson::of(&session(&edge, &account, tokens))),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "first login after registration failed");
                accepted(&account)
            }
        })
    }

    /// Log in
    ///
    /// Checks the password and returns new tokens. An unknown user name and a wrong password get the same response
    /// after the same time. Failed attempts are limited per user name and address pair (`limits.logins_per_minute`) and
    /// per address (`limits.failed_logins_per_address_per_minute`); beyond them the error is `rate_limited`. After many
    /// failed attempts for one user name, attempts from addresses that have not logged in to it before are delayed by
    /// up to 8 s.
    #[oai(path = "/login", method = "post", operation_id = "logIn")]
    async fn login(
        &self,
        edge: Shared<'_>,
        request: &Request,
        body: Body<LogIn>,
    ) -> Result<LoggedIn, Problem> {
        let Body(LogIn { username, password }) = body;
        let (auth, bus) = (&edge.auth, &*edge.bus.coordination);
        let from = client_address::of(request);
        let attempt = auth.attempts.begin(bus, &username, from).await?;
        // A malformed name cannot exist, and may contain characters that the store rejects, so it is not looked up.
        let known = match fields::username(&username) {
            Ok(()) => edge.reads.credentials(&username).await?,
            Err(_) => None,
        };
        let (account, hash) = known
            .map(|known| (known.account, known.password_hash))
            .unzip();
        let fits = auth
            .passwords
            .verify(attempt.origin, password, hash.clone());
        let fits = fits.await?;
        let Some(account) = account.filter(|_| fits) else {
            let refused = attempt.failed(bus).await;
            let wrong = || Error::unauthorized("wrong user name or password");
            return Err(refused.unwrap_or_else(wrong).into());
        };
        attempt.succeeded(bus).await;
        let tokens = open_login(&edge, account.user.id, hash, access::client(request)).await?;
        Ok(LoggedIn::Done(RawJson::of(&session(
            &edge, &account, tokens,
        ))))
    }

    /// Refresh tokens
    ///
    /// Exchanges a refresh token for a new pair of tokens. If the response is lost or is `busy`, repeat the request: as
    /// long as the new refresh token was not exchanged itself, the old one gets the same new one, however late. The use
    /// of a refresh token that is two or more exchanges old counts as theft: it is `unauthorized` and ends the login.
    #[oai(path = "/refresh", method = "post", operation_id = "refresh")]
    async fn refresh(
        &self,
        edge: Shared<'_>,
        request: &Request,
        body: Body<Refresh>,
    ) -> Result<Refreshed, Problem> {
        let result = refresh(&edge, &body.0.refresh_token).await;
        if result
            .as_ref()
            .is_err_and(|error| error.code == Code::Unauthorized)
        {
            failed::count(Reason::BadToken, client_address::of(request));
        }
        Ok(result?)
    }

    /// Log out
    ///
    /// Ends the login of `refreshToken` or, if that is absent, of the access token. Its refresh token becomes invalid,
    /// its sockets are closed, and its access tokens are rejected within one second.
    #[oai(path = "/logout", method = "post", operation_id = "logOut")]
    async fn logout(
        &self,
        edge: Shared<'_>,
        caller: MaybeCaller,
        body: Body<LogOut>,
    ) -> Result<Gone, Problem> {
        let identity = match (body.0.refresh_token, caller) {
            (Some(token), _) => edge.auth.refresh.read(&token)?.identity,
            (None, MaybeCaller::Known(caller)) => caller.0.into_inner(),
            (None, MaybeCaller::Unknown) => {
                return Err(Error::unauthorized(
                    "send `refreshToken`, or the header `Authorization: Bearer <access token>`",
                )
                .into());
            }
        };
        edge.limits.admit_login(identity.login)?;
        let command = Command::Account(AccountCommand::CloseLogin {
            login: identity.login,
        });
        let closed = edge.submit.call(identity.user, command).await?;
        Ok(Gone::of(closed, identity.login))
    }

    /// Create a socket ticket
    ///
    /// For clients that cannot set headers on a WebSocket handshake, such as browsers. Connect to `/ws?ticket=…` within
    /// 30 s. Each ticket is valid for one connection.
    #[oai(path = "/ticket", method = "post", operation_id = "createTicket")]
    async fn ticket(&self, edge: Shared<'_>, caller: Caller) -> Result<Ticketed, Problem> {
        let ticket = edge
            .auth
            .ticket(&*edge.bus.coordination, caller.0.into_inner())
            .await?;
        Ok(Ticketed::Done(RawJson::of(&TicketView {
            ticket,
            expires_in: TICKET_TTL.as_secs(),
        })))
    }
}

fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn accepted(account: &Account) -> Registered {
    Registered::Accepted(RawJson::of(&PendingAccount {
        status: "accepted".to_owned(),
        user: account.into(),
    }))
}

/// Creates a login. Returns once the login is enqueued: later commands of the user are queued behind it, so there is no
/// need to wait for the worker.
async fn open_login(
    edge: &Edge,
    user: UserId,
    password_hash: Option<String>,
    client: ClientInfo,
) -> Result<Tokens> {
    let identity = Identity {
        user,
        login: new_id(),
    };
    let tokens = edge.auth.open(identity)?;
    let command = AccountCommand::OpenLogin {
        login: identity.login,
        token_hash: tokens.refresh_hash.clone(),
        expires_at: tokens.expires_at,
        password_hash,
        client,
    };
    edge.submit
        .accept(user, Command::Account(command), None)
        .await?;
    Ok(tokens)
}

fn session(edge: &Edge, account: &Account, tokens: Tokens) -> SessionView {
    SessionView {
        user: account.into(),
        access_token: tokens.access,
        refresh_token: tokens.refresh,
        expires_in: edge.auth.access_ttl().as_secs(),
    }
}

/// Rotates the login of a refresh token.
///
/// # Errors
/// `unauthorized` for a token that is not good any more, `busy` while no worker has answered.
async fn refresh(edge: &Edge, token: &str) -> Result<Refreshed> {
    let old = edge.auth.refresh.read(token)?;
    edge.limits.admit_login(old.identity.login)?;
    let hash = old.hash();
    if edge.auth.refused.contains(&hash) {
        return Err(Error::unauthorized(NOT_GOOD));
    }
    let mut refused = Error::unauthorized(NOT_GOOD);
    for tokens in edge.auth.rotate(&old) {
        let tokens = tokens?;
        let command = AccountCommand::RotateLogin {
            login: old.identity.login,
            old_hash: hash.clone(),
            new_hash: tokens.refresh_hash.clone(),
            expires_at: tokens.expires_at,
        };
        let command = Command::Account(command);
        match edge.submit.call(old.identity.user, command).await {
            Ok(SubmitResult::Done(_)) => {
                return Ok(Refreshed::Done(RawJson::of(&TokensView {
                    access_token: tokens.access,
                    refresh_token: tokens.refresh,
                    expires_in: edge.auth.access_ttl().as_secs(),
                })));
            }
            // The new pair becomes valid only once the worker has stored it.
            Ok(SubmitResult::Accepted) => {
                return Err(Error::busy(
                    "the refresh takes longer than usual; send the same request again",
                    REFRESH_AGAIN,
                ));
            }
            Err(error) if error.code == Code::Unauthorized => refused = error,
            Err(error) => return Err(error),
        }
    }
    edge.auth.refused.add(hash);
    Err(refused)
}
