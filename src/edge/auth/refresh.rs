//! Refresh tokens. A token contains its login and user and a tag that only an edge can compute. A forged token is
//! therefore rejected without I/O, and a refresh needs no read: the worker that rotates the login decides.
//!
//! The next token is derived from the old one. A client that lost the response repeats the request with the old token
//! and gets the same refresh token, as long as the new one was not exchanged. Use of a token that is two or more steps
//! behind ends the login, as it may have been stolen.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::Mac;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Identity, keys::Keys, mac};
use crate::error::{Error, Result};

/// Login, user, 32 random bytes, and the tag over them, in bytes.
const LENGTH: usize = 16 + 16 + 32 + TAG;
/// HMAC-SHA-256 truncated to half its length, as RFC 2104, section 5 allows.
const TAG: usize = 16;

/// An authentic refresh token. Does not implement `Debug`, because it is a secret.
pub struct RefreshToken {
    pub identity: Identity,
    pub text: String,
}

impl RefreshToken {
    /// The stored hash. Plain SHA-256 is sufficient for a token with 32 random bytes.
    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(&self.text).to_vec()
    }
}

/// Hashes of refresh tokens that a worker rejected, which is permanent. The edge rejects them without using the queue.
/// At least this many are kept, and at most twice as many.
const REFUSED: usize = 4096;

#[derive(Default)]
pub struct Refused {
    sets: Mutex<Sets>,
}

#[derive(Default)]
struct Sets {
    newer: HashSet<Vec<u8>>,
    older: HashSet<Vec<u8>>,
}

impl Refused {
    pub fn contains(&self, hash: &[u8]) -> bool {
        let sets = self.sets.lock();
        sets.newer.contains(hash) || sets.older.contains(hash)
    }

    pub fn add(&self, hash: Vec<u8>) {
        let mut sets = self.sets.lock();
        if sets.newer.len() >= REFUSED {
            sets.older = std::mem::take(&mut sets.newer);
        }
        sets.newer.insert(hash);
    }
}

/// Creates and verifies refresh tokens.
pub struct RefreshTokens {
    keys: Keys,
}

impl RefreshTokens {
    pub fn new(keys: Keys) -> Self {
        RefreshTokens { keys }
    }

    /// The first token of a login.
    pub fn first(&self, identity: Identity) -> RefreshToken {
        make(self.keys.signing(), identity, rand::random())
    }

    /// The token that follows `old`, with each key; deterministic. The first one is signed with the signing key.
    pub fn next(&self, old: &RefreshToken) -> impl Iterator<Item = RefreshToken> {
        self.keys.all().map(|key| {
            let random = mac(key, "next refresh token", &[old.text.as_bytes()]).finalize();
            make(key, old.identity, random.into_bytes().into())
        })
    }

    /// # Errors
    /// `unauthorized` unless an edge with this secret created the token.
    pub fn read(&self, text: &str) -> Result<RefreshToken> {
        let refused = || Error::unauthorized("this refresh token is not valid; log in again");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
        if bytes.len() != LENGTH {
            return Err(refused());
        }
        let (signed, tag) = bytes.split_at(LENGTH - TAG);
        let signed_with = |key: &[u8]| {
            let tagged = mac(key, "refresh token", &[signed]);
            tagged.verify_truncated_left(tag).is_ok()
        };
        if !self.keys.all().any(signed_with) {
            return Err(refused());
        }
        let id =
            |range: std::ops::Range<usize>| Uuid::from_slice(&signed[range]).map_err(|_| refused());
        Ok(RefreshToken {
            identity: Identity {
                login: id(0..16)?,
                user: id(16..32)?,
            },
            text: text.to_owned(),
        })
    }
}

fn make(key: &[u8], identity: Identity, random: [u8; 32]) -> RefreshToken {
    let mut bytes = Vec::with_capacity(LENGTH);
    bytes.extend_from_slice(identity.login.as_bytes());
    bytes.extend_from_slice(identity.user.as_bytes());
    bytes.extend_from_slice(&random);
    let tag = mac(key, "refresh token", &[&bytes]).finalize().into_bytes();
    bytes.extend_from_slice(&tag[..TAG]);
    RefreshToken {
        identity,
        text: URL_SAFE_NO_PAD.encode(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Secret, Secrets},
        error::Code,
        model::new_id,
    };

    fn tokens() -> RefreshTokens {
        RefreshTokens::new(b"a secret of at least thirty-two bytes".as_slice().into())
    }

    fn someone() -> Identity {
        Identity {
            user: new_id(),
            login: new_id(),
        }
    }

    #[test]
    fn a_token_is_read_back() {
        let who = someone();
        let token = tokens().first(who);
        let read = tokens().read(&token.text).unwrap();
        assert_eq!(read.identity, who);
        assert_eq!(read.hash(), token.hash());
        assert_ne!(
            tokens().first(who).text,
            token.text,
            "a first token is random"
        );
    }

    #[test]
    fn the_next_token_is_the_same_each_time_and_another_one() {
        let first = tokens().first(someone());
        let next = || tokens().next(&first).next().unwrap();
        assert_eq!(next().text, next().text);
        let next = next();
        assert_ne!(next.text, first.text);
        assert_eq!(tokens().read(&next.text).unwrap().identity, first.identity);
    }

    #[test]
    fn edges_with_the_same_keys_in_any_order_find_the_same_next_tokens() {
        let keys = |secrets: [&str; 2]| {
            RefreshTokens::new(Keys::new(&Secrets::new(secrets.map(Secret::new))))
        };
        let (before, after) = (keys(["old", "new"]), keys(["new", "old"]));
        let first = before.first(someone());
        let texts = |tokens: &RefreshTokens| -> Vec<String> {
            let read = tokens.read(&first.text).unwrap();
            tokens.next(&read).map(|next| next.text).collect()
        };
        let (mut one, other) = (texts(&before), texts(&after));
        one.reverse();
        assert_eq!(one, other);
        assert!(other.iter().all(|text| before.read(text).is_ok()));
    }

    #[test]
    fn refused_tokens_are_known_and_bounded() {
        let refused = Refused::default();
        for number in 0..3 * REFUSED {
            refused.add(number.to_be_bytes().to_vec());
            assert!(refused.contains(&number.to_be_bytes()));
        }
        assert!(!refused.contains(&0usize.to_be_bytes()));
        let sets = refused.sets.lock();
        assert!(sets.newer.len() + sets.older.len() <= 2 * REFUSED);
    }

    #[test]
    fn a_made_up_token_is_refused() {
        let token = tokens().first(someone()).text;
        let other = RefreshTokens::new(b"another secret of thirty-two bytes".as_slice().into())
            .first(someone())
            .text;
        let mut changed = token.clone().into_bytes();
        changed[30] = if changed[30] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        for bad in ["", "x", &token[1..], &token[..80], &other, &changed, "ä"] {
            assert_eq!(
                tokens().read(bad).map(|_| ()).unwrap_err().code,
                Code::Unauthorized,
                "{bad}"
            );
        }
    }
}
