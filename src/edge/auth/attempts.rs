//! Limits on login attempts and registrations. Only wrong passwords count; successful and `busy` attempts do not.
//!
//! - User name and address pair: after `limits.logins_per_minute` wrong passwords, attempts are refused until a minute
//!   has passed.
//! - Address: `limits.failed_logins_per_address_per_minute` wrong passwords for all names together, against password
//!   spraying.
//! - User name: after as many wrong passwords as a pair may have, from any address within 15 minutes, further attempts
//!   are delayed by 0.5 s, then 1, 2, 4 and 8 s. They are never refused, so an attacker cannot lock an account out.
//!
//! A pair that has logged in is known for [`KNOWN_FOR`]; neither the limit of the address nor the delay of the name
//! applies to it. Beyond its own limit a known pair is delayed instead of refused: the account's owner gets in after 2
//! to 9 s, while an attacker at the same address makes at most one guess per `SLOWED_EACH`. An attacker who keeps
//! `SLOWED_AT_ONCE` attempts in progress at all times can lock the owner out at that address.
//!
//! A delayed attempt holds no hashing slot or other scarce resource. Counters are stored under keyed hashes of names
//! and addresses.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    failed::{self, Reason},
    hex, mac,
    password::Origin,
};
use crate::{
    bus::Coordination,
    config,
    edge::{
        client_address::network_of,
        rate_limit::{
            counters::{Count, Counters, wait},
            limited,
        },
    },
    error::{Error, Result},
};

const MINUTE: Duration = Duration::from_secs(60);
/// The window in which wrong passwords for a name cause a delay.
const NAME_WINDOW: Duration = Duration::from_secs(15 * 60);
/// How long a pair stays known after a login.
pub const KNOWN_FOR: Duration = Duration::from_secs(30 * 86_400);
/// The first delay of a name, and how often it doubles.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const DOUBLINGS: u32 = 4;
/// The delay of a known pair beyond its limit: the minimum, and the delay per attempt in progress, so that concurrent
/// attempts do not allow more guesses per minute.
const SLOWED: Duration = Duration::from_secs(2);
const SLOWED_EACH: Duration = Duration::from_millis(700);
/// Delayed attempts of a known pair in progress; further ones are refused.
const SLOWED_AT_ONCE: usize = 12;
/// Delayed attempts in progress, per address and in total.
const DELAYED_PER_ADDRESS: usize = 32;
const DELAYED: usize = 4096;

/// The limits, and the attempts in progress on this edge.
pub struct Attempts {
    key: Vec<u8>,
    per_pair: u64,
    per_address: u64,
    registrations: u64,
    counters: Counters,
    pairs: Arc<UnderWay<String>>,
    /// Attempts of pairs that are not known.
    addresses: Arc<UnderWay<Option<IpAddr>>>,
    delayed: Arc<UnderWay<Option<IpAddr>>>,
}

/// An admitted login attempt.
pub struct Attempt<'a> {
    attempts: &'a Attempts,
    /// For the log.
    from: Option<IpAddr>,
    keys: Keys,
    pub origin: Origin,
    /// The pair is beyond its limit: a wrong password gets the same error as a refused attempt.
    overdrawn: bool,
    _under_way: (Guard<String>, Option<Guard<Option<IpAddr>>>),
}

struct Keys {
    pair: String,
    address: String,
    name: String,
    known: String,
}

impl Attempts {
    pub fn new(key: &[u8], limits: &config::Limits) -> Self {
        let per_pair = u64::from(limits.logins_per_minute);
        Attempts {
            key: key.to_vec(),
            per_pair,
            // An address may do at least as much as a single pair.
            per_address: per_pair.max(limits.failed_logins_per_address_per_minute.into()),
            registrations: limits.registrations_per_minute.into(),
            counters: Counters::default(),
            pairs: Arc::default(),
            addresses: Arc::default(),
            delayed: Arc::default(),
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Admits an attempt, after its delay.
    ///
    /// # Errors
    /// `rate_limited`, with the time until another attempt can succeed.
    pub async fn begin(
        &self,
        bus: &dyn Coordination,
        username: &str,
        from: Option<IpAddr>,
    ) -> Result<Attempt<'_>> {
        let admitted = self.admit(bus, username, from).await;
        // Its only error is a limit.
        admitted.inspect_err(|_| failed::count(Reason::Limited, from))
    }

    async fn admit(
        &self,
        bus: &dyn Coordination,
        username: &str,
        from: Option<IpAddr>,
    ) -> Result<Attempt<'_>> {
        let (attempt, delay) = self.check(bus, username, from).await?;
        if !delay.is_zero() {
            let (others, _waiting) = self.delayed.enter(attempt.origin.network);
            if others >= DELAYED_PER_ADDRESS || self.delayed.len() > DELAYED {
                return Err(limited("too many attempts at once; wait", delay));
            }
            tokio::time::sleep(delay).await;
        }
        Ok(attempt)
    }

    /// Admits an attempt and returns its delay.
    async fn check(
        &self,
        bus: &dyn Coordination,
        username: &str,
        from: Option<IpAddr>,
    ) -> Result<(Attempt<'_>, Duration)> {
        let network = from.map(network_of);
        let keys = self.keys(username, network);
        let counts = [
            count(&keys.pair, 0, MINUTE),
            count(&keys.address, 0, MINUTE),
            count(&keys.name, 0, NAME_WINDOW),
        ];
        let (failed, known) = tokio::join!(
            self.counters.add(bus, &counts),
            self.counters.flag(bus, &keys.known)
        );
        let (pair, address, name) = (failed[0], failed[1], failed[2]);
        // Attempts in progress may still fail, so they count as failed.
        let (others, pair_under_way) = self.pairs.enter(keys.pair.clone());
        let overdrawn = pair + others as u64 >= self.per_pair;
        if overdrawn && (!known || others >= SLOWED_AT_ONCE) {
            return Err(too_many(pair, self.per_pair));
        }
        let address_under_way = if known {
            None
        } else {
            let (others, guard) = self.addresses.enter(network);
            if address + others as u64 >= self.per_address {
                return Err(too_many(address, self.per_address));
            }
            Some(guard)
        };
        let delay = match (overdrawn, known) {
            (true, _) => SLOWED.max(SLOWED_EACH * (others as u32 + 1)),
            (false, true) => Duration::ZERO,
            (false, false) => delay(name, self.per_pair),
        };
        let attempt = Attempt {
            attempts: self,
            from,
            keys,
            origin: Origin { network, known },
            overdrawn,
            _under_way: (pair_under_way, address_under_way),
        };
        Ok((attempt, delay))
    }

    /// Checks whether another account may be registered from this address.
    ///
    /// # Errors
    /// `rate_limited` beyond `limits.registrations_per_minute`.
    pub async fn may_register(
        &self,
        bus: &dyn Coordination,
        from: Option<IpAddr>,
    ) -> Result<Origin> {
        let network = from.map(network_of);
        match self.registration(bus, network, 0).await {
            made if made >= self.registrations => Err(limited(
                "too many registrations; wait a minute",
                wait(MINUTE),
            )),
            _ => Ok(Origin {
                network,
                known: false,
            }),
        }
    }

    /// Counts a registration that was processed, whether it succeeded or not.
    pub async fn registered(&self, bus: &dyn Coordination, from: Option<IpAddr>) {
        self.registration(bus, from.map(network_of), 1).await;
    }

    async fn registration(&self, bus: &dyn Coordination, network: Option<IpAddr>, add: u64) -> u64 {
        let key = self.named("registrations", &[&address_of(network)]);
        self.counters.add(bus, &[count(&key, add, MINUTE)]).await[0]
    }

    /// Marks the pair of name and address as known.
    pub async fn used_well(&self, bus: &dyn Coordination, username: &str, from: Option<IpAddr>) {
        let known = self.keys(username, from.map(network_of)).known;
        self.counters.set_flag(bus, &known, KNOWN_FOR).await;
    }

    fn keys(&self, username: &str, network: Option<IpAddr>) -> Keys {
        let (name, address) = (username.to_lowercase(), address_of(network));
        Keys {
            pair: self.named("wrong passwords of a pair", &[&name, &address]),
            address: self.named("wrong passwords of an address", &[&address]),
            name: self.named("wrong passwords of a name", &[&name]),
            known: self.named("known pair", &[&name, &address]),
        }
    }

    /// A counter's key. It is keyed with the secret, because the few possible addresses could be found from a plain
    /// hash.
    pub fn named(&self, purpose: &str, parts: &[&str]) -> String {
        use hmac::Mac;
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        let tag = mac(&self.key, purpose, &parts).finalize().into_bytes();
        format!("limit:{}", hex(&tag[..16]))
    }
}

impl Attempt<'_> {
    /// Counts a wrong password. Returns the error to answer with, or `None` for the usual "wrong password" error.
    pub async fn failed(self, bus: &dyn Coordination) -> Option<Error> {
        failed::count(Reason::WrongPassword, self.from);
        let mut counts = vec![count(&self.keys.pair, 1, MINUTE)];
        if !self.origin.known {
            counts.push(count(&self.keys.address, 1, MINUTE));
            counts.push(count(&self.keys.name, 1, NAME_WINDOW));
        }
        self.attempts.counters.add(bus, &counts).await;
        let limit = self.attempts.per_pair;
        self.overdrawn.then(|| too_many(limit, limit))
    }

    /// Marks the pair as known after a correct password.
    pub async fn succeeded(self, bus: &dyn Coordination) {
        let counters = &self.attempts.counters;
        counters.set_flag(bus, &self.keys.known, KNOWN_FOR).await;
    }
}

/// The error for too many failed attempts, or too many including those in progress.
fn too_many(failed: u64, limit: u64) -> Error {
    let wait = if failed >= limit {
        wait(MINUTE)
    } else {
        Duration::from_secs(1)
    };
    limited("too many wrong passwords; wait and try again", wait)
}

fn delay(failed: u64, free: u64) -> Duration {
    match failed.checked_sub(free) {
        None => Duration::ZERO,
        Some(more) => {
            FIRST_DELAY * 2u32.pow(u32::try_from(more).unwrap_or(DOUBLINGS).min(DOUBLINGS))
        }
    }
}

fn count(key: &str, add: u64, window: Duration) -> Count {
    Count {
        key: key.to_owned(),
        add,
        window,
    }
}

fn address_of(network: Option<IpAddr>) -> String {
    network.map_or("unknown".to_owned(), |network| network.to_string())
}

/// Counts attempts in progress on this edge, by key.
struct UnderWay<K> {
    counts: Mutex<(usize, HashMap<K, usize>)>,
}

impl<K> Default for UnderWay<K> {
    fn default() -> Self {
        UnderWay {
            counts: Mutex::default(),
        }
    }
}

/// One attempt in progress, until dropped.
struct Guard<K: std::hash::Hash + Eq> {
    of: Arc<UnderWay<K>>,
    key: K,
}

impl<K: std::hash::Hash + Eq + Clone> UnderWay<K> {
    /// Adds one; also returns how many there were before.
    fn enter(self: &Arc<Self>, key: K) -> (usize, Guard<K>) {
        let mut counts = self.counts.lock();
        counts.0 += 1;
        let count = counts.1.entry(key.clone()).or_default();
        *count += 1;
        let others = *count - 1;
        drop(counts);
        let of = self.clone();
        (others, Guard { of, key })
    }

    fn len(&self) -> usize {
        self.counts.lock().0
    }
}

impl<K: std::hash::Hash + Eq> Drop for Guard<K> {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock();
        counts.0 -= 1;
        if let Some(count) = counts.1.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.1.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
