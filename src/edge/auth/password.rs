//! Password hashing with argon2id on blocking threads. The number of concurrent hashes is bounded, addresses are served
//! fairly, and an unknown user costs the same work as a known one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};

use super::fair::{Bounds, Fair};
use crate::error::{Error, Result};

/// OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, 2 passes, 1 lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The hash of a random, unknown password with the parameters above; logins of unknown users are verified against it.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZSBzYWx0IG9mIG91cnM$q1Zf3yPq0gJ3mWm8r0c8l2n5VqYk0bqkq2mJrj7qk3M";

/// Waiting requests of one address per hashing slot: about 2 s of work.
const WAITING: usize = 64;
/// Waiting requests of all addresses per hashing slot. An address with fewer waiting requests displaces one with more,
/// so a flood cannot lock others out.
const WAITING_IN_ALL: usize = 256;

/// The queue of a request: an address, separate for names that have logged in from it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// As returned by [`network_of`](crate::edge::client_address::network_of); `None` if the client has no address.
    pub network: Option<IpAddr>,
    /// The user name has logged in from this address before.
    pub known: bool,
}

/// Hashes and verifies passwords.
pub struct Passwords {
    /// Hashing slots; each uses 19 MiB and one core.
    slots: Arc<Fair<Origin>>,
}

impl Passwords {
    /// At most `concurrency` passwords are hashed at the same time.
    pub fn new(concurrency: usize) -> Self {
        Passwords {
            slots: Fair::new(Bounds {
                slots: concurrency,
                per_key: concurrency * WAITING,
                total: concurrency * WAITING_IN_ALL,
            }),
        }
    }

    /// Returns the hash as a PHC string with its own salt.
    ///
    /// # Errors
    /// `busy` if too many requests of this address are waiting.
    pub async fn hash(&self, origin: Origin, password: String) -> Result<String> {
        self.run(origin, move || {
            let hash = argon2()?.hash_password(password.as_bytes());
            hash.map(|hash| hash.to_string())
                .map_err(|error| Error::internal(error.to_string()))
        })
        .await
    }

    /// Whether the password matches. `hash` is `None` for an unknown user: that takes the same time and returns
    /// `false`.
    ///
    /// # Errors
    /// `busy` if too many requests of this address are waiting, `internal` if the hash is malformed.
    pub async fn verify(
        &self,
        origin: Origin,
        password: String,
        hash: Option<String>,
    ) -> Result<bool> {
        self.run(origin, move || {
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

    /// The blocking task owns the slot: it stays occupied until the work ends, even if the caller is dropped.
    async fn run<T: Send + 'static>(
        &self,
        origin: Origin,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let slot = self.slots.acquire(origin).await.map_err(|_| {
            Error::busy("too many logins at once; try again", Duration::from_secs(1))
        })?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(slot);
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

    const HOME: Origin = Origin {
        network: None,
        known: false,
    };

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let passwords = Passwords::new(2);
        let hash = passwords.hash(HOME, "correct horse".into()).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert!(
            passwords
                .verify(HOME, "correct horse".into(), Some(hash.clone()))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .verify(HOME, "correct horsf".into(), Some(hash))
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn an_unknown_user_costs_the_same_work() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        assert_eq!(
            Params::try_from(&nobody).unwrap(),
            Params::new(MEMORY_KIB, PASSES, LANES, Some(32)).unwrap()
        );
        assert!(
            !Passwords::new(1)
                .verify(HOME, "anything".into(), None)
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn requests_beyond_an_addresss_queue_are_busy() {
        let passwords = Arc::new(Passwords::new(1));
        let held = passwords.slots.acquire(HOME).await.unwrap();
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| Box::pin(passwords.slots.acquire(HOME)))
            .map(|mut waiting| {
                assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none());
                waiting
            })
            .collect();
        let busy = passwords.verify(HOME, "anything".into(), None);
        assert_eq!(busy.await.unwrap_err().code, Code::Busy);
        drop((waiting, held));
        let free = passwords.verify(HOME, "anything".into(), None);
        assert!(!free.await.unwrap());
    }
}
