//! `/v1/auth`: accounts are made here, and logins begin, go on and end.

use poem::Request;
use poem_openapi::{ApiResponse, Object, OpenApi, param::Header};
use serde::{Deserialize, Serialize};

use super::{
    Tags,
    access::{self, Caller, MaybeCaller, Shared},
    fields,
    me::AccountView,
    payload::{Body, Gone, Pending, RawJson},
    problem::Problem,
};
use crate::{
    edge::{
        Edge,
        auth::{Identity, TICKET_TTL, Tokens},
        client_address,
        submit::Answer,
    },
    error::{Code, Error, Result},
    job::{Command, account::AccountCommand},
    model::{Account, Timestamp, User, UserId, new_id},
};

/// When to repeat a refresh that a worker has not answered yet; well within the worker's grace.
const REFRESH_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// What a worker says of a refresh token that it does not take.
const NOT_GOOD: &str = "this refresh token is not good any more; log in again";

pub struct AuthApi;

/// A new account.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Register")]
struct Register {
    /// 2 to 32 of A-Z a-z 0-9 _ . -, beginning with none of . and -. Unique without regard to case.
    username: String,
    /// 8 to 256 bytes, and none of the 10,000 commonest passwords, nor the account's name or address.
    password: String,
    /// At most 64 characters; the user name where it is left out.
    display_name: Option<String>,
    /// Only its owner sees it.
    email: Option<String>,
    /// E.164, such as +4915112345678. Only its owner sees it.
    phone: Option<String>,
}

/// A user name and its password.
#[derive(Deserialize, Object)]
#[oai(rename = "LogIn")]
struct LogIn {
    username: String,
    password: String,
}

/// A refresh token, to be replaced by the next one.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Refresh")]
struct Refresh {
    refresh_token: String,
}

/// Which login ends.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "LogOut")]
struct LogOut {
    /// Any refresh token of the login. Without it, the login of the access token ends.
    refresh_token: Option<String>,
}

/// A login: who it is, and its first tokens.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Session")]
struct SessionView {
    user: AccountView,
    /// A JWT for `Authorization: Bearer …` and for a socket's `auth`.
    access_token: String,
    /// Good once, for `POST /v1/auth/refresh`.
    refresh_token: String,
    /// How long the access token is good for, in seconds.
    expires_in: u64,
}

/// The next pair of tokens.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Tokens")]
struct TokensView {
    /// A JWT for `Authorization: Bearer …` and for a socket's `auth`.
    access_token: String,
    /// Good once, for the next `POST /v1/auth/refresh`.
    refresh_token: String,
    /// How long the access token is good for, in seconds.
    expires_in: u64,
}

/// A ticket for one socket.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Ticket")]
struct TicketView {
    /// For `/ws?ticket=…`; good once.
    ticket: String,
    /// How long it is good for, in seconds.
    expires_in: u64,
}

/// A registration that the queue holds.
#[derive(Serialize, Object)]
#[oai(rename = "AcceptedRegistration")]
struct PendingAccount {
    /// Always `accepted`.
    status: String,
    user: AccountView,
}

#[derive(ApiResponse)]
enum Registered {
    /// The account is there and logged in.
    #[oai(status = 201)]
    Done(RawJson<SessionView>),
    /// The queue holds the registration; log in once it is stored. If the name was taken in the meantime, that
    /// fails.
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
    /// The next pair; the old refresh token is used up.
    #[oai(status = 200)]
    Done(RawJson<TokensView>),
}

#[derive(ApiResponse)]
enum Ticketed {
    /// Use it at once.
    #[oai(status = 201)]
    Done(RawJson<TicketView>),
}

#[OpenApi(prefix_path = "/v1/auth", tag = "Tags::Auth")]
impl AuthApi {
    /// Make an account
    ///
    /// Answers with the account and its first tokens. A repeat with the same `Idempotency-Key`, name and password
    /// finds the account that the first one made.
    #[oai(path = "/register", method = "post", operation_id = "register")]
    async fn register(
        &self,
        edge: Shared<'_>,
        request: &Request,
        /// 1 to 128 visible ASCII characters, best a new UUID.
        #[oai(name = "Idempotency-Key")]
        key: Header<Option<String>>,
        body: Body<Register>,
    ) -> Result<Registered, Problem> {
        let Body(new) = body;
        let mut display_name = new.display_name.unwrap_or_else(|| new.username.clone());
        // An empty address is as good as none, as it is in PATCH /v1/me.
        let (mut email, mut phone) = (given(new.email), given(new.phone));
        fields::all([
            fields::username(&new.username),
            fields::password(
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

        let (id, mut attempt) = match key.as_deref() {
            // With the right key and password this is as good as a login, so a wrong one counts as one.
            Some(key) => (
                auth.account_id(&new.username, key, &new.password),
                Some(auth.attempts.begin(bus, &new.username, from).await?),
            ),
            None => (new_id(), None),
        };
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
        // An early answer, and no hashing for nothing; the worker decides.
        if let Some(Some(known)) =
            access::unless_away(edge.reads.credentials(&account.user.username)).await
        {
            if known.account.user.id != id {
                auth.attempts.registered(bus, from).await;
                if let Some(attempt) = attempt.take()
                    && let Some(error) = attempt.failed(bus).await
                {
                    return Err(error.into());
                }
                return Err(Error::conflict("this user name is taken; choose another").into());
            }
            account = known.account;
        } else {
            let password_hash = auth.passwords.hash(origin, new.password).await?;
            let command = AccountCommand::Register {
                account: account.clone(),
                password_hash,
            };
            let called = edge.submit.call(id, Command::Account(command)).await;
            // What was not even taken into the queue is no registration.
            if !matches!(&called, Err(error) if error.is_retryable()) {
                auth.attempts.registered(bus, from).await;
            }
            if let Answer::Accepted = called? {
                return Ok(accepted(&account));
            }
        }
        auth.attempts
            .used_well(bus, &account.user.username, from)
            .await;
        // The account is there: whatever hinders the login now, the answer must not say that it failed.
        Ok(match open_login(&edge, id).await {
            Ok(tokens) => Registered::Done(RawJson::of(&session(&edge, &account, tokens))),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "an account was made without its first login");
                accepted(&account)
            }
        })
    }

    /// Log in
    ///
    /// An unknown name and a wrong password get the same answer after the same time. Wrong passwords are limited for each
    /// pair of name and address and for each address; after many for one name, attempts from where it never logged in are
    /// answered later, by at most eight seconds.
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
        // A name that nobody can have need not be looked up, and may hold what the store cannot read.
        let known = match fields::username(&username) {
            Ok(()) => edge.reads.credentials(&username).await?,
            Err(_) => None,
        };
        let (account, hash) = known
            .map(|known| (known.account, known.password_hash))
            .unzip();
        let fits = auth.passwords.verify(attempt.origin, password, hash);
        let fits = fits.await?;
        let Some(account) = account.filter(|_| fits) else {
            let refused = attempt.failed(bus).await;
            let wrong = || Error::unauthorized("wrong user name or password");
            return Err(refused.unwrap_or_else(wrong).into());
        };
        attempt.succeeded(bus).await;
        let tokens = open_login(&edge, account.user.id).await?;
        Ok(LoggedIn::Done(RawJson::of(&session(
            &edge, &account, tokens,
        ))))
    }

    /// Get the next pair of tokens
    ///
    /// The old refresh token is used up. If the answer is lost, or is `busy`, send the same request again within ten
    /// seconds and get the same pair. A token that is used again later ends the login: someone else has it.
    #[oai(path = "/refresh", method = "post", operation_id = "refresh")]
    async fn refresh(&self, edge: Shared<'_>, body: Body<Refresh>) -> Result<Refreshed, Problem> {
        let old = edge.auth.refresh.read(&body.0.refresh_token)?;
        edge.limits.admit_login(old.identity.login)?;
        let hash = old.hash();
        if edge.auth.refused.contains(&hash) {
            return Err(Error::unauthorized(NOT_GOOD).into());
        }
        let tokens = edge.auth.rotate(&old)?;
        let command = AccountCommand::RotateLogin {
            login: old.identity.login,
            old_hash: hash.clone(),
            new_hash: tokens.refresh_hash.clone(),
            expires_at: tokens.expires_at,
        };
        let called = edge
            .submit
            .call(old.identity.user, Command::Account(command))
            .await;
        if matches!(&called, Err(error) if error.code == Code::Unauthorized) {
            edge.auth.refused.add(hash);
        }
        match called? {
            Answer::Done(_) => Ok(Refreshed::Done(RawJson::of(&TokensView {
                access_token: tokens.access,
                refresh_token: tokens.refresh,
                expires_in: edge.auth.access_ttl().as_secs(),
            }))),
            // Without the worker's word the new pair may never become good.
            Answer::Accepted => Err(Error::busy(
                "the refresh takes longer than usual; send the same request again",
                REFRESH_AGAIN,
            )
            .into()),
        }
    }

    /// Log out
    ///
    /// Ends the login of the refresh token, or else that of the access token: its refresh token is good no more and
    /// its sockets are closed; its access tokens are refused within a second.
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
        let command = AccountCommand::CloseLogin {
            login: identity.login,
        };
        Ok(
            match edge
                .submit
                .call(identity.user, Command::Account(command))
                .await?
            {
                Answer::Done(_) => Gone::Done,
                Answer::Accepted => Gone::Accepted(RawJson::of(&Pending::new(identity.login))),
            },
        )
    }

    /// Get a ticket for one socket
    ///
    /// For clients that cannot set a header on a WebSocket, which is every browser: connect to `/ws?ticket=…` within
    /// 30 seconds. It is good once.
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

/// A new login. It is in the queue when this returns; whatever the user does with it comes behind it there, so nobody
/// has to wait for the worker.
async fn open_login(edge: &Edge, user: UserId) -> Result<Tokens> {
    let identity = Identity {
        user,
        login: new_id(),
    };
    let tokens = edge.auth.open(identity)?;
    let command = AccountCommand::OpenLogin {
        login: identity.login,
        token_hash: tokens.refresh_hash.clone(),
        expires_at: tokens.expires_at,
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
