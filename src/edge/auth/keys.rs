//! The keys of `auth.secret`: the first one signs, all verify. A secret is replaced without ending a login by adding the
//! new one behind the old one on all edges, then exchanging their order, and removing the old one after
//! `auth.refresh_ttl`.

use crate::config::Secrets;

/// At least one key. Does not implement `Debug`, because keys are secret.
#[derive(Clone)]
pub struct Keys {
    signing: Vec<u8>,
    older: Vec<Vec<u8>>,
}

impl Keys {
    /// Roles that serve clients require a secret. If it is missing nevertheless, a random key is used, since an empty
    /// key would let anyone sign tokens; all logins then end with the process.
    pub fn new(secrets: &Secrets) -> Self {
        let mut keys = secrets.iter().map(|one| one.expose().as_bytes().to_vec());
        Keys {
            signing: keys
                .next()
                .unwrap_or_else(|| rand::random::<[u8; 32]>().to_vec()),
            older: keys.collect(),
        }
    }

    pub fn signing(&self) -> &[u8] {
        &self.signing
    }

    /// The same key on all edges with the same keys, in whatever order: for counters that they share.
    pub fn least(&self) -> &[u8] {
        self.all().min().unwrap_or(&self.signing)
    }

    /// All keys, the signing one first.
    pub fn all(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.signing)
            .chain(&self.older)
            .map(Vec::as_slice)
    }
}

/// One key.
impl From<&[u8]> for Keys {
    fn from(key: &[u8]) -> Self {
        Keys {
            signing: key.to_vec(),
            older: Vec::new(),
        }
    }
}
