//! Passwords: argon2id, off the async threads, a bounded number at once, and the same work whether the user exists
//! or not.

use std::{sync::Arc, time::Duration};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, 2 passes, 1 lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The hash of a random password nobody knows, with the parameters above: what a login of an unknown user is
/// checked against.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZSBzYWx0IG9mIG91cnM$q1Zf3yPq0gJ3mWm8r0c8l2n5VqYk0bqkq2mJrj7qk3M";

/// How many may wait for each one at work: about two seconds' worth.
const WAITING: usize = 64;

/// Hashes and verifies passwords.
pub struct Passwords {
    /// At work, each with 19 MiB and a core.
    slots: Arc<Semaphore>,
    /// At work or waiting.
    places: Arc<Semaphore>,
}

impl Passwords {
    /// `concurrency` at once.
    pub fn new(concurrency: usize) -> Self {
        Passwords {
            slots: Arc::new(Semaphore::new(concurrency)),
            places: Arc::new(Semaphore::new(concurrency * (WAITING + 1))),
        }
    }

    /// A PHC string with a salt of its own.
    ///
    /// # Errors
    /// `busy` where too many wait already.
    pub async fn hash(&self, password: String) -> Result<String> {
        self.run(move || {
            let hash = argon2()?.hash_password(password.as_bytes());
            hash.map(|hash| hash.to_string())
                .map_err(|error| Error::internal(error.to_string()))
        })
        .await
    }

    /// Whether the password fits. `hash` is `None` for an unknown user: that takes as long and is `false`.
    ///
    /// # Errors
    /// `busy` where too many wait already, `internal` where the hash cannot be read.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        self.run(move || {
            let known = hash.is_some();
            let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
            let hash =
                PasswordHash::new(&hash).map_err(|error| Error::internal(error.to_string()))?;
            let fits = argon2()?
                .verify_password(password.as_bytes(), &hash)
                .is_ok();
            Ok(known && fits)
        })
        .await
    }

    /// Both permits go with the work: a caller that leaves frees neither the core nor the memory.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Error::busy("too many logins at once; try again", Duration::from_secs(1))
        })?;
        let slot = self
            .slots
            .clone()
            .acquire_owned()
            .await
            .map_err(Error::internal)?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop((slot, place));
            result
        })
        .await
        .map_err(Error::internal)?
    }
}

fn argon2() -> Result<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .map_err(|error| Error::internal(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let passwords = Passwords::new(2);
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert!(
            passwords
                .verify("correct horse".into(), Some(hash.clone()))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .verify("correct horsf".into(), Some(hash))
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn an_unknown_user_is_the_same_work() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        assert_eq!(
            Params::try_from(&nobody).unwrap(),
            Params::new(MEMORY_KIB, PASSES, LANES, Some(32)).unwrap()
        );
        assert!(
            !Passwords::new(1)
                .verify("anything".into(), None)
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn beyond_its_queue_it_is_busy() {
        let passwords = Passwords::new(1);
        let all = passwords
            .places
            .clone()
            .acquire_many_owned(1 + WAITING as u32)
            .await
            .unwrap();
        let busy = passwords.verify("anything".into(), None).await.unwrap_err();
        assert_eq!(busy.code, Code::Busy);
        drop(all);
        passwords.verify("anything".into(), None).await.unwrap();
    }
}
