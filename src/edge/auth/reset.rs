//! Tokens that reset a password. Nothing is stored for them: a token has an HMAC over the account, its expiry and the
//! present password's hash, so it is valid once, and any change of the password invalidates it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::Mac;
use uuid::Uuid;

use super::{keys::Keys, mac};
use crate::{
    command::notify::RESET_TTL,
    model::{Timestamp, UserId},
};

/// User and expiry, and the tag over them, in bytes.
const LENGTH: usize = SIGNED + 32;
const SIGNED: usize = 16 + 8;

/// Creates and verifies tokens.
pub struct ResetTokens {
    keys: Keys,
}

/// A token whose tag is not verified yet.
pub struct UnverifiedReset {
    pub user: UserId,
    expires_at: Timestamp,
    bytes: [u8; LENGTH],
}

impl ResetTokens {
    pub fn new(keys: Keys) -> Self {
        ResetTokens { keys }
    }

    pub fn issue(&self, user: UserId, password_hash: &str, now: Timestamp) -> String {
        let expires_at = now.millis() + RESET_TTL.as_millis() as i64;
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend_from_slice(user.as_bytes());
        bytes.extend_from_slice(&expires_at.to_be_bytes());
        let tag = tag(self.keys.signing(), &bytes, password_hash).finalize();
        bytes.extend_from_slice(&tag.into_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` for a text that cannot be a token.
    pub fn parse(text: &str) -> Option<UnverifiedReset> {
        let mut bytes = [0; LENGTH];
        // Four characters for three bytes: no other length is decoded.
        if text.len() != LENGTH.div_ceil(3) * 4 - (3 - LENGTH % 3) % 3 {
            return None;
        }
        let decoded = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.copy_from_slice(decoded.get(..LENGTH)?);
        let (user, rest) = bytes.split_at(16);
        let millis = rest.first_chunk::<8>()?;
        Some(UnverifiedReset {
            user: Uuid::from_slice(user).ok()?,
            expires_at: Timestamp::from_millis(i64::from_be_bytes(*millis)),
            bytes,
        })
    }

    /// Whether an edge issued the token for this password, and it has not expired.
    pub fn verify(&self, token: &UnverifiedReset, password_hash: &str, now: Timestamp) -> bool {
        let (signed, expected) = token.bytes.split_at(SIGNED);
        let authentic = self.keys.all().any(|key| {
            tag(key, signed, password_hash)
                .verify_slice(expected)
                .is_ok()
        });
        authentic && now < token.expires_at
    }
}

fn tag(key: &[u8], signed: &[u8], password_hash: &str) -> hmac::Hmac<sha2::Sha256> {
    mac(key, "password reset", &[signed, password_hash.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Secret, Secrets},
        model::new_id,
    };

    fn tokens(secrets: &[&str]) -> ResetTokens {
        let secrets = secrets.iter().map(|one| Secret::new(*one));
        ResetTokens::new(Keys::new(&Secrets::new(secrets)))
    }

    #[test]
    fn a_token_is_good_for_one_password_and_an_hour() {
        let (tokens, user, now) = (tokens(&["key"]), new_id(), Timestamp::now());
        let text = tokens.issue(user, "hash", now);
        let token = ResetTokens::parse(&text).unwrap();
        assert_eq!(token.user, user);
        let at = |millis: i64| Timestamp::from_millis(now.millis() + millis);
        assert!(tokens.verify(&token, "hash", now));
        assert!(tokens.verify(&token, "hash", at(3_599_999)));
        assert!(!tokens.verify(&token, "hash", at(3_600_000)));
        assert!(!tokens.verify(&token, "another hash", now));
    }

    #[test]
    fn a_replaced_secret_is_still_good_and_no_other() {
        let (user, now) = (new_id(), Timestamp::now());
        let text = tokens(&["old"]).issue(user, "hash", now);
        let token = ResetTokens::parse(&text).unwrap();
        assert!(tokens(&["new", "old"]).verify(&token, "hash", now));
        assert!(!tokens(&["new"]).verify(&token, "hash", now));
    }

    #[test]
    fn no_changed_token_is_good() {
        let (tokens, now) = (tokens(&["key"]), Timestamp::now());
        let text = tokens.issue(new_id(), "hash", now);
        for place in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            if let Some(token) = ResetTokens::parse(&changed) {
                assert!(!tokens.verify(&token, "hash", now), "{place}");
            }
        }
        for bad in ["", "x", &text[1..], &format!("{text}A"), "ä"] {
            assert!(ResetTokens::parse(bad).is_none(), "{bad}");
        }
    }
}
