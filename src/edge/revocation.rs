//! Logins that ended. An access token is verified without reading the store, so an edge caches which logins are open
//! and which ended: REST requests with a token of an ended login or of a deleted account are refused before the token
//! expires.
//!
//! Each login that an edge sees is read from the store once. Afterwards workers announce the end of a login on the bus,
//! and [`Revocations::open`] lists the logins that are compared with the store again, in case an announcement was lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{hub::Hub, registry::Registry};
use crate::{error::Error, model::LoginId, store::Reads};

/// Minimum number of cached logins; at most twice as many are kept.
const KNOWN: usize = 8192;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginState {
    Open,
    Ended,
}

/// The error for a token of an ended login.
pub fn login_ended() -> Error {
    Error::unauthorized("this login has ended; log in again")
}

/// The logins that this edge has seen.
pub struct Revocations(Mutex<Generations>);

/// Entries that are not looked up any more disappear with the older generation.
struct Generations {
    size: usize,
    newer: HashMap<LoginId, LoginState>,
    older: HashMap<LoginId, LoginState>,
}

impl Default for Revocations {
    fn default() -> Self {
        Revocations::with_capacity(KNOWN)
    }
}

impl Revocations {
    fn with_capacity(size: usize) -> Self {
        Revocations(Mutex::new(Generations {
            size,
            newer: HashMap::new(),
            older: HashMap::new(),
        }))
    }

    /// `None` if the login has to be read from the store.
    pub fn state(&self, login: LoginId) -> Option<LoginState> {
        self.0.lock().get(login)
    }

    /// Records that the login is open according to the store, unless its end was announced during the read, which is
    /// newer. Returns the resulting state.
    pub fn opened(&self, login: LoginId) -> LoginState {
        let mut known = self.0.lock();
        match known.get(login) {
            Some(state) => state,
            None => {
                known.insert(login, LoginState::Open);
                LoginState::Open
            }
        }
    }

    pub fn ended(&self, logins: &[LoginId]) {
        let mut known = self.0.lock();
        for login in logins {
            known.insert(*login, LoginState::Ended);
        }
    }

    /// The logins that count as open here.
    pub fn open(&self) -> Vec<LoginId> {
        let known = self.0.lock();
        let older = known
            .older
            .iter()
            .filter(|(login, _)| !known.newer.contains_key(*login));
        let all = known.newer.iter().chain(older);
        all.filter(|(_, state)| **state == LoginState::Open)
            .map(|(login, _)| *login)
            .collect()
    }
}

impl Generations {
    fn get(&mut self, login: LoginId) -> Option<LoginState> {
        if let Some(state) = self.newer.get(&login) {
            return Some(*state);
        }
        let state = self.older.remove(&login)?;
        self.insert(login, state);
        Some(state)
    }

    fn insert(&mut self, login: LoginId, state: LoginState) {
        if self.newer.len() >= self.size && !self.newer.contains_key(&login) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(login, state);
    }
}

/// How often logins are compared with the store while the bus is unavailable.
const WITHOUT_BUS: Duration = Duration::from_millis(500);

/// Compares the logins of open sockets and of recent requests with the store: when the bus comes back, every half second
/// while it is away, and otherwise every `every`. The bus may lose the notice that a login ended.
pub async fn check(
    reads: Arc<dyn Reads>,
    sessions: Arc<Registry>,
    revocations: Arc<Revocations>,
    hub: Arc<Hub>,
    every: Duration,
    shutdown: CancellationToken,
) {
    let mut last = tokio::time::Instant::now();
    loop {
        let back = tokio::select! {
            () = tokio::time::sleep(every.min(WITHOUT_BUS)) => false,
            () = hub.bus_back() => true,
            () = shutdown.cancelled() => return,
        };
        if !back && !hub.is_bus_lost() && last.elapsed() < every {
            continue;
        }
        last = tokio::time::Instant::now();
        let mut logins = sessions.logins();
        logins.extend(revocations.open());
        logins.sort_unstable();
        logins.dedup();
        for logins in logins.chunks(5000) {
            match reads.revoked(logins).await {
                Ok(ended) => {
                    revocations.ended(&ended);
                    sessions.close_logins(&ended);
                }
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "logins could not be compared with the store");
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::new_id;

    #[test]
    fn a_revocation_during_a_store_read_counts() {
        let (logins, login) = (Revocations::default(), new_id());
        assert_eq!(logins.state(login), None);
        logins.ended(&[login]);
        assert_eq!(logins.opened(login), LoginState::Ended);
        assert_eq!(logins.state(login), Some(LoginState::Ended));
        assert!(logins.open().is_empty());
    }

    #[test]
    fn an_open_login_ends_once() {
        let (logins, login, other) = (Revocations::default(), new_id(), new_id());
        assert_eq!(logins.opened(login), LoginState::Open);
        assert_eq!(logins.opened(other), LoginState::Open);
        logins.ended(&[login]);
        assert_eq!(logins.state(login), Some(LoginState::Ended));
        assert_eq!(logins.open(), [other]);
    }

    #[test]
    fn memory_is_bounded_and_an_ended_login_never_becomes_open() {
        let (logins, ended, used) = (Revocations::with_capacity(16), new_id(), new_id());
        logins.ended(&[ended]);
        logins.opened(used);
        for _ in 0..1000 {
            logins.opened(new_id());
            assert_eq!(logins.state(used), Some(LoginState::Open), "used often");
            let known = logins.0.lock();
            assert!(known.newer.len() + known.older.len() <= 32);
            drop(known);
        }
        // Dropped from the cache: it is read from the store again.
        assert_eq!(logins.state(ended), None);
        assert!(logins.open().contains(&used));
        logins.ended(&[used]);
        assert!(!logins.open().contains(&used), "in one generation only");
    }
}
