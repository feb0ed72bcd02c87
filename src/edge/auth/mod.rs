//! Who is calling: passwords, access tokens, refresh tokens, socket tickets, and how often someone may try.
//! Verifying a token asks nobody; what must be remembered (a login, its token's hash) is written by workers.
//! Nothing here logs a secret, and no secret leaves the edge except to its owner: the queue and the bus see hashes.

pub mod access;
pub mod attempts;
pub mod common;
mod fair;
mod hs256;
pub mod password;
pub mod refresh;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use self::{access::AccessTokens, attempts::Attempts, password::Passwords, refresh::RefreshTokens};
use crate::{
    bus::Coordination,
    config::Config,
    error::{Error, Result},
    model::{LoginId, Timestamp, UserId},
};

/// How long a ticket may lie unused.
pub const TICKET_TTL: Duration = Duration::from_secs(30);
/// Someone who has proved who they are, and the login that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub user: UserId,
    pub login: LoginId,
}

/// A new pair of tokens. Has no `Debug`: these are secrets.
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    /// What a worker keeps of the refresh token.
    pub refresh_hash: Vec<u8>,
    /// When the refresh token ends, if it is not used.
    pub expires_at: Timestamp,
}

/// Everything an edge needs to tell who is calling.
pub struct Auth {
    key: Vec<u8>,
    access: AccessTokens,
    pub refresh: RefreshTokens,
    /// Refresh tokens that are good no more.
    pub refused: refresh::Refused,
    pub passwords: Passwords,
    pub attempts: Attempts,
    refresh_ttl: Duration,
}

impl Auth {
    /// Every role that serves clients has a secret. Should one be missing all the same, nobody must be able to sign
    /// with an empty key: then it is a random one, and every login ends with the process.
    pub fn new(config: &Config) -> Self {
        let random = rand::random::<[u8; 32]>();
        let secret = match config.auth.secret.expose() {
            "" => &random[..],
            secret => secret.as_bytes(),
        };
        Auth {
            key: secret.to_vec(),
            access: AccessTokens::new(secret, config.auth.access_ttl),
            refresh: RefreshTokens::new(secret),
            refused: refresh::Refused::default(),
            passwords: Passwords::new(config.auth.hash_concurrency),
            refresh_ttl: config.auth.refresh_ttl,
            attempts: Attempts::new(secret, &config.limits),
        }
    }

    /// Whose access token it is.
    ///
    /// # Errors
    /// `token_expired` for one that was good once, `unauthorized` for everything else.
    pub fn verify(&self, token: &str) -> Result<Identity> {
        self.access.verify(token)
    }

    /// The same for a token that comes with every request: what was verified is remembered while it is good.
    ///
    /// # Errors
    /// Those of [`Auth::verify`].
    pub fn recognise(&self, token: &str) -> Result<Identity> {
        self.access.recognise(token)
    }

    /// How long a new access token is good for.
    pub fn access_ttl(&self) -> Duration {
        self.access.ttl()
    }

    /// The first tokens of a login.
    ///
    /// # Errors
    /// `internal` where the token cannot be signed.
    pub fn open(&self, identity: Identity) -> Result<Tokens> {
        self.tokens(identity, self.refresh.first(identity))
    }

    /// The tokens that follow `old`: the same refresh token however often it is asked for.
    ///
    /// # Errors
    /// `internal` where the token cannot be signed.
    pub fn rotate(&self, old: &refresh::RefreshToken) -> Result<Tokens> {
        self.tokens(old.identity, self.refresh.next(old))
    }

    fn tokens(&self, identity: Identity, refresh: refresh::RefreshToken) -> Result<Tokens> {
        let now = Timestamp::now();
        Ok(Tokens {
            access: self.access.sign(identity, now)?,
            refresh_hash: refresh.hash(),
            refresh: refresh.text,
            expires_at: Timestamp::from_millis(now.millis() + self.refresh_ttl.as_millis() as i64),
        })
    }

    /// A ticket for one socket: good once, for [`TICKET_TTL`].
    ///
    /// # Errors
    /// `busy` while the bus is away, which keeps the tickets.
    pub async fn ticket(&self, bus: &dyn Coordination, identity: Identity) -> Result<String> {
        let ticket = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let value = format!("{} {}", identity.user, identity.login);
        bus.put(&ticket_key(&ticket), &value, TICKET_TTL).await?;
        Ok(ticket)
    }

    /// Whose ticket it was: it is used up.
    ///
    /// # Errors
    /// `unauthorized` for one that is unknown, used or too old; `busy` while the bus is away.
    pub async fn take_ticket(&self, bus: &dyn Coordination, ticket: &str) -> Result<Identity> {
        let value = bus.take(&ticket_key(ticket)).await?;
        value
            .as_deref()
            .and_then(|value| value.split_once(' '))
            .and_then(|(user, login)| {
                Some(Identity {
                    user: user.parse().ok()?,
                    login: login.parse().ok()?,
                })
            })
            .ok_or_else(|| {
                Error::unauthorized(
                    "this ticket is used, too old or unknown; get a new one with POST /v1/auth/ticket",
                )
            })
    }

    /// The id of an account that is registered with an idempotency key: the same request finds the account it made.
    /// The password is part of it and the result is keyed, so that someone else who sends the same name and key
    /// finds nothing, and nobody can work the password out of the id.
    pub fn account_id(&self, username: &str, key: &str, password: &str) -> UserId {
        let name = username.to_lowercase();
        let digest = mac(
            &self.key,
            "account id",
            &[name.as_bytes(), key.as_bytes(), password.as_bytes()],
        )
        .finalize()
        .into_bytes();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

fn ticket_key(ticket: &str) -> String {
    format!("ticket:{}", hex(&Sha256::digest(ticket)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HMAC-SHA-256 over a purpose and length-prefixed parts: what is made for one purpose fits no other.
fn mac(key: &[u8], purpose: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_purpose_and_every_part_count() {
        let tag =
            |purpose: &str, parts: &[&[u8]]| mac(b"key", purpose, parts).finalize().into_bytes();
        assert_eq!(tag("a", &[b"b"]), tag("a", &[b"b"]));
        assert_ne!(tag("a", &[b"b"]), tag("b", &[b"a"]));
        assert_ne!(tag("a", &[b"bc"]), tag("a", &[b"b", b"c"]));
    }
}
