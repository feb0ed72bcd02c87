//! Authentication: passwords, access tokens, refresh tokens, socket tickets and limits on login attempts. Verifying a
//! token needs no I/O. Workers write what must be stored (a login and the hash of its refresh token). No secret is
//! logged, and none leaves the edge except to its owner: the queue and the bus receive only hashes, except for the tokens
//! of password resets, which workers send by mail.

pub mod access;
pub mod attempts;
pub mod common;
pub mod failed;
mod fair;
mod hs256;
pub mod keys;
pub mod password;
pub mod refresh;
pub mod reset;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use self::{
    access::AccessTokens, attempts::Attempts, keys::Keys, password::Passwords,
    refresh::RefreshTokens, reset::ResetTokens,
};
pub use super::identity::Identity;
use crate::{
    bus::Coordination,
    config::Config,
    error::{Error, Result},
    model::{Timestamp, UserId},
};

/// Lifetime of an unused ticket.
pub const TICKET_TTL: Duration = Duration::from_secs(30);

/// A new pair of tokens. Does not implement `Debug`, because it holds secrets.
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    /// The hash of the refresh token, which workers store.
    pub refresh_hash: Vec<u8>,
    /// When the refresh token expires if it is not used.
    pub expires_at: Timestamp,
}

/// The authentication state of an edge.
pub struct Auth {
    keys: Keys,
    access: AccessTokens,
    pub refresh: RefreshTokens,
    /// Refresh tokens that are known to be invalid.
    pub refused: refresh::Refused,
    pub passwords: Passwords,
    pub reset: ResetTokens,
    pub attempts: Attempts,
    refresh_ttl: Duration,
}

impl Auth {
    pub fn new(config: &Config) -> Self {
        let keys = Keys::new(&config.auth.secret);
        Auth {
            access: AccessTokens::new(&keys, config.auth.access_ttl),
            refresh: RefreshTokens::new(keys.clone()),
            refused: refresh::Refused::default(),
            reset: ResetTokens::new(keys.clone()),
            passwords: Passwords::new(config.auth.hash_concurrency),
            refresh_ttl: config.auth.refresh_ttl,
            attempts: Attempts::new(keys.least(), &config.limits),
            keys,
        }
    }

    /// Verifies an access token.
    ///
    /// # Errors
    /// `token_expired` for an authentic token that has expired, `unauthorized` for all others.
    pub fn verify(&self, token: &str) -> Result<Identity> {
        self.access.verify(token)
    }

    /// As [`Auth::verify`], for tokens sent with every request: verified tokens are cached until they expire.
    ///
    /// # Errors
    /// Those of [`Auth::verify`].
    pub fn recognise(&self, token: &str) -> Result<Identity> {
        self.access.recognise(token)
    }

    /// Lifetime of a new access token.
    pub fn access_ttl(&self) -> Duration {
        self.access.ttl()
    }

    /// Creates the first tokens of a login.
    ///
    /// # Errors
    /// `internal` if the token cannot be signed.
    pub fn open(&self, identity: Identity) -> Result<Tokens> {
        self.tokens(identity, self.refresh.first(identity))
    }

    /// Creates the tokens that follow `old`. The refresh token is always the same for the same `old` and signing key.
    /// The first pair is signed with this edge's signing key; the others are those that an edge with another signing key
    /// would create: while `auth.secret` is being replaced, it may have answered the same request before.
    pub fn rotate(&self, old: &refresh::RefreshToken) -> impl Iterator<Item = Result<Tokens>> {
        self.refresh
            .next(old)
            .map(|next| self.tokens(next.identity, next))
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

    /// Creates a ticket for one socket: single use, valid for [`TICKET_TTL`].
    ///
    /// # Errors
    /// `busy` while the bus, which stores the tickets, is unavailable.
    pub async fn ticket(&self, bus: &dyn Coordination, identity: Identity) -> Result<String> {
        let ticket = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let value = format!("{} {}", identity.user, identity.login);
        bus.put(&ticket_key(&ticket), &value, TICKET_TTL).await?;
        Ok(ticket)
    }

    /// Redeems a ticket and returns its identity.
    ///
    /// # Errors
    /// `unauthorized` for an unknown, used or expired ticket; `busy` while the bus is unavailable.
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

    /// The id of an account that is registered with an idempotency key, so that a repeat finds the existing account.
    /// The password is part of the input and the hash is keyed: another client with the same name and key gets another
    /// id, and the password cannot be derived from the id. The first id is the one for a new account; a repeat after
    /// `auth.secret` was replaced finds the account by the others.
    pub fn account_ids(&self, username: &str, key: &str, password: &str) -> Vec<UserId> {
        let name = username.to_lowercase();
        let parts = [name.as_bytes(), key.as_bytes(), password.as_bytes()];
        let id = |secret| {
            let digest = mac(secret, "account id", &parts).finalize().into_bytes();
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&digest[..16]);
            uuid::Builder::from_custom_bytes(bytes).into_uuid()
        };
        self.keys.all().map(id).collect()
    }
}

fn ticket_key(ticket: &str) -> String {
    format!("ticket:{}", hex(&Sha256::digest(ticket)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HMAC-SHA-256 over a purpose and length-prefixed parts. The purpose separates domains: a tag for one purpose is
/// invalid for any other.
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
