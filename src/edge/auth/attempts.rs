//! How often somebody may try to log in or register. Only wrong passwords are counted: what was right or `busy` is not.
//!
//! - A pair of name and address: `limits.logins_per_minute` wrong passwords, then it is refused until a minute has passed.
//! - An address: `limits.failed_logins_per_address_per_minute`, whatever the names, so that it cannot spray.
//! - A name: after as many wrong passwords as a pair has, from anywhere within a quarter of an hour, further attempts are
//!   delayed by half a second, then one, two, four, eight. None is refused for it, so no attacker locks a name out.
//!
//! Pairs that logged in before are remembered for [`KNOWN_FOR`], and neither the address' limit nor the name's delay
//! applies to them. Beyond the pair's own limit a known pair is slowed down instead of refused: its owner gets in after 2 to 9 s, and
//! an attacker beside them behind the same address makes at most a guess each `SLOWED_EACH`. One with `SLOWED_AT_ONCE`
//! attempts under way at all times does keep the owner out at that address.
//!
//! Delays hold neither a slot for hashing nor anything else that is scarce. What is kept is named by keyed hashes.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{hex, mac, password::Origin};
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
/// In which wrong passwords for a name add up to a delay.
const NAME_WINDOW: Duration = Duration::from_secs(15 * 60);
/// How long a pair that logged in is remembered.
pub const KNOWN_FOR: Duration = Duration::from_secs(30 * 86_400);
/// The first delay of a name, and how often it doubles.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const DOUBLINGS: u32 = 4;
/// The delay of a known pair beyond its limit: at least, and for each of its attempts that are under way, so that more at
/// once are no more guesses a minute.
const SLOWED: Duration = Duration::from_secs(2);
const SLOWED_EACH: Duration = Duration::from_millis(700);
/// Attempts of a known pair that may be slowed down at once; further ones are refused.
const SLOWED_AT_ONCE: usize = 12;
/// Delayed attempts that may wait at once, of one address and in all.
const DELAYED_PER_ADDRESS: usize = 32;
const DELAYED: usize = 4096;

/// The limits, and what is under way on this edge.
pub struct Attempts {
    key: Vec<u8>,
    per_pair: u64,
    per_address: u64,
    registrations: u64,
    counters: Counters,
    pairs: Arc<UnderWay<String>>,
    /// Of pairs that are not known.
    addresses: Arc<UnderWay<Option<IpAddr>>>,
    delayed: Arc<UnderWay<Option<IpAddr>>>,
}

/// An attempt to log in that may go on.
pub struct Attempt<'a> {
    attempts: &'a Attempts,
    keys: Keys,
    pub origin: Origin,
    /// The pair is beyond its limit: a wrong password is answered as a refused attempt is.
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
            // Where a pair may do more, so may its address.
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

    /// An attempt, after its delay.
    ///
    /// # Errors
    /// `rate_limited`, with the time after which another is worth it.
    pub async fn begin(
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

    /// An attempt, and how long it has to wait.
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
            self.counters.remembers(bus, &keys.known)
        );
        let (pair, address, name) = (failed[0], failed[1], failed[2]);
        // Those under way may turn out to be wrong, too.
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
            keys,
            origin: Origin { network, known },
            overdrawn,
            _under_way: (pair_under_way, address_under_way),
        };
        Ok((attempt, delay))
    }

    /// Whether another account may be made from this address.
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

    /// Counts a registration that was answered, by yes or no.
    pub async fn registered(&self, bus: &dyn Coordination, from: Option<IpAddr>) {
        self.registration(bus, from.map(network_of), 1).await;
    }

    async fn registration(&self, bus: &dyn Coordination, network: Option<IpAddr>, add: u64) -> u64 {
        let key = self.named("registrations", &[&address_of(network)]);
        self.counters.add(bus, &[count(&key, add, MINUTE)]).await[0]
    }

    /// Remembers that the name was used well from this address.
    pub async fn used_well(&self, bus: &dyn Coordination, username: &str, from: Option<IpAddr>) {
        let known = self.keys(username, from.map(network_of)).known;
        self.counters.remember(bus, &known, KNOWN_FOR).await;
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

    /// A key that tells nothing without the secret: there are few enough addresses to try them all.
    pub fn named(&self, purpose: &str, parts: &[&str]) -> String {
        use hmac::Mac;
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        let tag = mac(&self.key, purpose, &parts).finalize().into_bytes();
        format!("limit:{}", hex(&tag[..16]))
    }
}

impl Attempt<'_> {
    /// The password was wrong: `None` where that may be said, else what to answer instead.
    pub async fn failed(self, bus: &dyn Coordination) -> Option<Error> {
        let mut counts = vec![count(&self.keys.pair, 1, MINUTE)];
        if !self.origin.known {
            counts.push(count(&self.keys.address, 1, MINUTE));
            counts.push(count(&self.keys.name, 1, NAME_WINDOW));
        }
        self.attempts.counters.add(bus, &counts).await;
        let limit = self.attempts.per_pair;
        self.overdrawn.then(|| too_many(limit, limit))
    }

    /// It was right.
    pub async fn succeeded(self, bus: &dyn Coordination) {
        let counters = &self.attempts.counters;
        counters.remember(bus, &self.keys.known, KNOWN_FOR).await;
    }
}

/// The refusal of an attempt: those that failed are too many, or would be with those under way.
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

/// How many of each are under way here.
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

/// One of them, until it is dropped.
struct Guard<K: std::hash::Hash + Eq> {
    of: Arc<UnderWay<K>>,
    key: K,
}

impl<K: std::hash::Hash + Eq + Clone> UnderWay<K> {
    /// One more, and how many there were before.
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
mod tests {
    use super::*;
    use crate::{
        bus::memory::{MemoryBus, Settings},
        error::Code,
    };

    fn attempts(per_pair: u32, per_address: u32) -> (Attempts, MemoryBus) {
        let sources = crate::config::Sources::default();
        let config = crate::config::Config::load(&sources, crate::config::Role::Tool).unwrap();
        let mut limits = config.limits;
        limits.logins_per_minute = per_pair;
        limits.failed_logins_per_address_per_minute = per_address;
        limits.registrations_per_minute = 2;
        let bus = MemoryBus::new(Settings::default());
        (Attempts::new(b"key", &limits), bus)
    }

    fn at(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    /// The code of a wrong password's answer.
    async fn wrong(attempts: &Attempts, bus: &MemoryBus, name: &str, from: u8) -> Option<Code> {
        match attempts.check(bus, name, at(from)).await {
            Ok((attempt, _)) => attempt.failed(bus).await.map(|error| error.code),
            Err(error) => Some(error.code),
        }
    }

    #[test]
    fn delays_grow_and_end() {
        let of = |failed| delay(failed, 10).as_millis();
        assert_eq!([of(0), of(9), of(10), of(11)], [0, 0, 500, 1000]);
        assert_eq!([of(13), of(14), of(15)], [4000, 8000, 8000]);
        assert_eq!(of(u64::MAX), 8000);
    }

    #[tokio::test]
    async fn only_wrong_passwords_count() {
        let (attempts, bus) = attempts(3, 100);
        for _ in 0..10 {
            let busy = attempts.begin(&bus, "ada", at(1)).await.unwrap();
            drop(busy);
            let right = attempts.begin(&bus, "bob", at(1)).await.unwrap();
            right.succeeded(&bus).await;
        }
        for _ in 0..3 {
            assert_eq!(wrong(&attempts, &bus, "ada", 1).await, None);
        }
        assert_eq!(
            wrong(&attempts, &bus, "ADA", 1).await,
            Some(Code::RateLimited)
        );
        // Another address is only delayed.
        assert_eq!(wrong(&attempts, &bus, "ada", 2).await, None);
    }

    #[tokio::test]
    async fn guesses_at_once_are_no_more_than_one_after_the_other() {
        let (attempts, bus) = attempts(3, 100);
        let mut under_way = Vec::new();
        for _ in 0..3 {
            under_way.push(attempts.begin(&bus, "ada", at(1)).await.unwrap());
        }
        assert!(attempts.begin(&bus, "ada", at(1)).await.is_err());
        under_way.clear();
        attempts.begin(&bus, "ada", at(1)).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_sprays_is_limited_and_who_is_known_there_is_not() {
        let (attempts, bus) = attempts(3, 5);
        attempts.used_well(&bus, "ada", at(1)).await;
        for name in 0..5 {
            assert_eq!(
                wrong(&attempts, &bus, &format!("user{name}"), 1).await,
                None
            );
        }
        assert_eq!(
            wrong(&attempts, &bus, "another", 1).await,
            Some(Code::RateLimited)
        );
        assert!(
            attempts
                .begin(&bus, "ada", at(1))
                .await
                .unwrap()
                .origin
                .known
        );
        attempts.begin(&bus, "another", at(2)).await.unwrap();
    }

    #[tokio::test]
    async fn spraying_at_once_is_no_faster() {
        let (attempts, bus) = attempts(3, 5);
        let mut under_way = Vec::new();
        for name in 0..5 {
            let attempt = attempts.begin(&bus, &format!("user{name}"), at(1)).await;
            under_way.push(attempt.unwrap());
        }
        let refused = attempts.begin(&bus, "another", at(1)).await.err().unwrap();
        assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
        under_way.clear();
        attempts.begin(&bus, "another", at(1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_name_under_attack_is_delayed_except_where_it_is_known() {
        let (attempts, bus) = attempts(3, 100);
        attempts.used_well(&bus, "ada", at(1)).await;
        for address in 10..40 {
            assert_eq!(wrong(&attempts, &bus, "ada", address).await, None);
        }
        let (_, delay) = attempts.check(&bus, "ada", at(1)).await.unwrap();
        assert_eq!(delay, Duration::ZERO);
        let (stranger, delay) = attempts.check(&bus, "ada", at(2)).await.unwrap();
        assert!(!stranger.origin.known);
        assert_eq!(delay.as_secs(), 8);
    }

    #[tokio::test]
    async fn the_owner_gets_in_beside_an_attacker_of_the_same_address() {
        let (attempts, bus) = attempts(3, 100);
        attempts.used_well(&bus, "ada", at(1)).await;
        for _ in 0..3 {
            assert_eq!(wrong(&attempts, &bus, "ada", 1).await, None);
        }
        assert_eq!(
            wrong(&attempts, &bus, "ada", 1).await,
            Some(Code::RateLimited)
        );
        let (owner, delay) = attempts.check(&bus, "ada", at(1)).await.unwrap();
        assert_eq!(delay, SLOWED);
        let mut attackers = Vec::new();
        for attacker in 1..SLOWED_AT_ONCE {
            let (attempt, delay) = attempts.check(&bus, "ada", at(1)).await.unwrap();
            assert_eq!(delay, SLOWED.max(SLOWED_EACH * (attacker as u32 + 1)));
            attackers.push(attempt);
        }
        assert!(attempts.check(&bus, "ada", at(1)).await.is_err());
        owner.succeeded(&bus).await;
    }

    #[tokio::test]
    async fn delayed_attempts_of_an_address_are_bounded() {
        let (attempts, bus) = attempts(1, 1000);
        wrong(&attempts, &bus, "ada", 1).await;
        let mut waiting = Vec::new();
        for _ in 0..DELAYED_PER_ADDRESS {
            waiting.push(attempts.delayed.enter(at(2)).1);
        }
        let refused = attempts.begin(&bus, "ada", at(2)).await.err().unwrap();
        assert_eq!(refused.retry_after, Some(FIRST_DELAY));
        let asked = std::time::Instant::now();
        attempts.begin(&bus, "ada", at(3)).await.unwrap();
        assert!(asked.elapsed() >= FIRST_DELAY);
        drop(waiting);
        assert_eq!(attempts.delayed.len(), 0);
    }

    #[tokio::test]
    async fn registrations_are_counted_when_they_were_answered() {
        let (attempts, bus) = attempts(3, 5);
        for _ in 0..5 {
            attempts.may_register(&bus, at(1)).await.unwrap();
        }
        attempts.registered(&bus, at(1)).await;
        attempts.registered(&bus, at(1)).await;
        let refused = attempts.may_register(&bus, at(1)).await.unwrap_err();
        assert_eq!(refused.code, Code::RateLimited);
        attempts.may_register(&bus, at(2)).await.unwrap();
    }
}
