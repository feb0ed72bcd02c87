//! Access tokens: JWT (RFC 7519) with HS256 only. They are short-lived. Tokens of ended logins are rejected by
//! [`crate::edge::revocation`], as far as this edge has learned of the end.

use std::{collections::HashMap, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Identity, hs256, keys::Keys};
use crate::{
    error::{Code, Error, Result},
    model::{LoginId, Timestamp, UserId},
};

/// The claims of a token. Times are in seconds since 1970.
#[derive(Serialize, Deserialize)]
struct Claims {
    sub: UserId,
    /// The login that the token belongs to.
    sid: LoginId,
    iat: u64,
    exp: u64,
}

impl Claims {
    fn identity(&self) -> Identity {
        Identity {
            user: self.sub,
            login: self.sid,
        }
    }
}

/// Signs and verifies access tokens.
pub struct AccessTokens {
    signing: EncodingKey,
    /// At least one.
    verifying: Vec<DecodingKey>,
    validation: Validation,
    ttl: Duration,
    known: Mutex<Known>,
}

/// The cache keeps at least this many verified tokens, and at most twice as many.
const KNOWN: usize = 4096;

/// A cache of recently verified tokens in two generations. The whole token is the key, so a forged token never matches.
/// Each entry holds the identity and the expiry in seconds since 1970. Tokens that are not used are dropped with the
/// older generation.
#[derive(Default)]
struct Known {
    newer: HashMap<Box<str>, (Identity, u64)>,
    older: HashMap<Box<str>, (Identity, u64)>,
}

impl Known {
    fn find(&mut self, token: &str, now: u64) -> Option<Identity> {
        let (identity, exp) = match self.newer.get(token) {
            Some(found) => *found,
            None => {
                let (token, found) = self.older.remove_entry(token)?;
                self.add(token, found);
                found
            }
        };
        (now <= exp).then_some(identity)
    }

    fn add(&mut self, token: Box<str>, found: (Identity, u64)) {
        if self.newer.len() >= KNOWN {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(token, found);
    }
}

impl AccessTokens {
    /// `ttl` is truncated to whole seconds.
    pub fn new(keys: &Keys, ttl: Duration) -> Self {
        hs256::install();
        // The header's `alg` must be HS256; `none` and all other algorithms are rejected.
        let mut validation = Validation::new(Algorithm::HS256);
        // All edges share the secret, and NTP keeps their clocks within a second.
        validation.leeway = 0;
        AccessTokens {
            signing: EncodingKey::from_secret(keys.signing()),
            verifying: keys.all().map(DecodingKey::from_secret).collect(),
            validation,
            ttl,
            known: Mutex::default(),
        }
    }

    /// Lifetime of a new token.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// # Errors
    /// `internal`, which cannot occur with HMAC keys.
    pub fn sign(&self, identity: Identity, now: Timestamp) -> Result<String> {
        let iat = now.millis() as u64 / 1000;
        let claims = Claims {
            sub: identity.user,
            sid: identity.login,
            iat,
            exp: iat + self.ttl.as_secs().max(1),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .map_err(Error::internal)
    }

    /// # Errors
    /// `token_expired` for an authentic token that has expired, `unauthorized` for all others.
    pub fn verify(&self, token: &str) -> Result<Identity> {
        self.claims(token).map(|claims| claims.identity())
    }

    /// As [`AccessTokens::verify`], with a cache. Verification depends only on the token and the time, so the cached
    /// result stays correct until the token expires.
    ///
    /// # Errors
    /// Those of [`AccessTokens::verify`].
    pub fn recognise(&self, token: &str) -> Result<Identity> {
        let now = Timestamp::now().millis() as u64 / 1000;
        // The lock may be released between the statements: the maps are consistent after each.
        let known = || self.known.lock();
        if let Some(identity) = known().find(token, now) {
            return Ok(identity);
        }
        let claims = self.claims(token)?;
        known().add(token.into(), (claims.identity(), claims.exp));
        Ok(claims.identity())
    }

    fn claims(&self, token: &str) -> Result<Claims> {
        for key in &self.verifying {
            match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) if matches!(error.kind(), ErrorKind::ExpiredSignature) => {
                    return Err(Error::new(
                        Code::TokenExpired,
                        "the access token has expired; get a new one with POST /v1/auth/refresh",
                    ));
                }
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(_) => break,
            }
        }
        Err(Error::unauthorized(
            "the access token is not valid; log in again",
        ))
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use hmac::{Hmac, KeyInit, Mac};

    use super::*;
    use crate::{
        config::{Secret, Secrets},
        model::new_id,
    };

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

    fn tokens() -> AccessTokens {
        AccessTokens::new(&SECRET.into(), Duration::from_secs(900))
    }

    fn someone() -> Identity {
        Identity {
            user: new_id(),
            login: new_id(),
        }
    }

    #[test]
    fn a_token_contains_its_user_and_login() {
        let (tokens, who) = (tokens(), someone());
        let token = tokens.sign(who, Timestamp::now()).unwrap();
        assert_eq!(tokens.verify(&token).unwrap(), who);
    }

    #[test]
    fn a_known_token_ends_like_any_other_and_no_other_is_taken_for_it() {
        let (tokens, who) = (tokens(), someone());
        let token = tokens.sign(who, Timestamp::now()).unwrap();
        for _ in 0..2 {
            assert_eq!(tokens.recognise(&token).unwrap(), who);
        }
        let mut forged = token.clone();
        forged.pop();
        assert!(tokens.recognise(&forged).is_err());
        let exp = tokens.claims(&token).unwrap().exp;
        let mut known = tokens.known.lock();
        assert_eq!(known.find(&token, exp), Some(who));
        assert_eq!(known.find(&token, exp + 1), None);
    }

    #[test]
    fn as_many_tokens_are_known_as_may_be() {
        let (mut known, who) = (Known::default(), someone());
        for number in 0..10 * KNOWN {
            known.add(number.to_string().into(), (who, 1));
            assert!(known.find("0", 1).is_some(), "what is brought often stays");
            assert!(known.newer.len() + known.older.len() <= 2 * KNOWN);
        }
    }

    #[test]
    fn an_expired_token_is_distinguished_from_a_forged_one() {
        let (tokens, who) = (tokens(), someone());
        let long_ago = Timestamp::from_millis(Timestamp::now().millis() - 902_000);
        let ended = tokens.sign(who, long_ago).unwrap();
        assert_eq!(tokens.verify(&ended).unwrap_err().code, Code::TokenExpired);

        let other = AccessTokens::new(
            &b"another secret of thirty-two bytes".as_slice().into(),
            Duration::from_secs(900),
        );
        let forged = other.sign(who, long_ago).unwrap();
        assert_eq!(tokens.verify(&forged).unwrap_err().code, Code::Unauthorized);
    }

    #[test]
    fn every_key_verifies_and_the_first_one_signs() {
        let (who, now) = (someone(), Timestamp::now());
        let of = |secrets: &[&str]| {
            let keys = Keys::new(&Secrets::new(secrets.iter().map(|one| Secret::new(*one))));
            AccessTokens::new(&keys, Duration::from_secs(900))
        };
        let (old, new) = ("o".repeat(32), "n".repeat(32));
        let (before, during, after) = (of(&[&old]), of(&[&new, &old]), of(&[&new]));
        let (first, second) = (
            before.sign(who, now).unwrap(),
            during.sign(who, now).unwrap(),
        );
        assert_eq!(during.verify(&first).unwrap(), who);
        assert_eq!(after.verify(&second).unwrap(), who);
        assert_eq!(
            after.verify(&first).unwrap_err().code,
            Code::Unauthorized,
            "the old secret is gone"
        );
        let long_ago = Timestamp::from_millis(now.millis() - 902_000);
        let ended = before.sign(who, long_ago).unwrap();
        assert_eq!(during.verify(&ended).unwrap_err().code, Code::TokenExpired);
    }

    #[test]
    fn no_algorithm_but_ours() {
        let (tokens, who) = (tokens(), someone());
        let token = tokens.sign(who, Timestamp::now()).unwrap();
        let claims = token.split('.').nth(1).unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"none"}"#);
        let unsigned = format!("{none}.{claims}.");
        let hs512 = {
            let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS512"}"#);
            let mut mac = Hmac::<sha2::Sha512>::new_from_slice(SECRET).unwrap();
            mac.update(format!("{header}.{claims}").as_bytes());
            let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
            format!("{header}.{claims}.{signature}")
        };
        let without_end = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &serde_json::json!({"sub": who.user, "sid": who.login, "iat": 0}),
            &EncodingKey::from_secret(SECRET),
        )
        .unwrap();
        for bad in [
            unsigned.as_str(),
            &hs512,
            &without_end,
            "",
            "a.b.c",
            &token[..token.len() - 1],
        ] {
            assert_eq!(
                tokens.verify(bad).unwrap_err().code,
                Code::Unauthorized,
                "{bad}"
            );
        }
    }
}
