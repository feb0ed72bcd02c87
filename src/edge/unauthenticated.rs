//! Limits on connections that have not authenticated: how many may be open, in total and per address, and how fast an
//! address may open them. Authenticated sockets are not counted, so unauthenticated connections cannot displace them.
//!
//! An address is counted as [`network_of`] defines it. Memory is bounded: counts exist only for addresses with open
//! connections, and rates are kept in two generations of at most [`REMEMBERED`] addresses; when the newer one is full,
//! it replaces the older one.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::client_address::network_of;
use crate::{
    config,
    error::{Code, Error, Result},
};

/// Addresses in each of the two generations of rates; both take at most about 1 MiB.
const REMEMBERED: usize = 8192;
/// `Retry-After` when all slots are taken.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Shared by all transports of one edge.
pub(super) struct Unauthenticated {
    limits: Limits,
    state: Mutex<SlotState>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Slots of all addresses.
    total: usize,
    /// Slots of one address.
    per_address: usize,
    /// Average time between two handshakes of one address.
    interval: Duration,
}

#[derive(Default)]
struct SlotState {
    open: usize,
    /// Open connections per address; addresses without any have no entry.
    counts: HashMap<IpAddr, usize>,
    newer: Rates,
    older: Rates,
}

/// The theoretical arrival time of each address's next handshake at the allowed rate (GCRA, ITU-T I.371).
type Rates = HashMap<IpAddr, Instant>;

/// The slot of one connection, released on drop.
pub(super) struct Slot {
    limiter: Arc<Unauthenticated>,
    network: Option<IpAddr>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.limiter.state.lock().leave(self.network);
    }
}

impl Unauthenticated {
    /// Unauthenticated connections get at most half of `edge.max_connections`, even if `edge.max_unauthenticated` is
    /// higher.
    pub fn new(edge: &config::Edge) -> Arc<Self> {
        Arc::new(Unauthenticated {
            limits: Limits {
                total: edge
                    .max_unauthenticated
                    .min(edge.max_connections / 2)
                    .max(1),
                per_address: edge.max_unauthenticated_per_address,
                interval: Duration::from_secs(1) / edge.handshakes_per_second,
            },
            state: Mutex::default(),
        })
    }

    /// Takes a slot for a connection from `address`; counts as a handshake of that address.
    ///
    /// # Errors
    /// `rate_limited` if the address has too many slots or opens connections too fast, `busy` if all slots are taken.
    pub fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Slot> {
        let network = address.map(network_of);
        let mut state = self.state.lock();
        state.enter(&self.limits, network, Instant::now())?;
        Ok(Slot {
            limiter: self.clone(),
            network,
        })
    }
}

impl SlotState {
    fn enter(&mut self, limits: &Limits, network: Option<IpAddr>, now: Instant) -> Result<()> {
        if let Some(network) = network {
            let open = self.counts.get(&network).copied().unwrap_or(0);
            if open >= limits.per_address {
                return Err(too_many(
                    "too many connections of your address have not authenticated; authenticate or close them first",
                    RETRY_AFTER,
                ));
            }
        }
        if self.open >= limits.total {
            return Err(Error::busy(
                "too many connections have not authenticated; connect with credentials, or try again",
                RETRY_AFTER,
            ));
        }
        if let Some(network) = network {
            self.take_rate(limits, network, now)?;
            *self.counts.entry(network).or_default() += 1;
        }
        self.open += 1;
        Ok(())
    }

    /// Allows a burst of one second's worth of handshakes.
    fn take_rate(&mut self, limits: &Limits, network: IpAddr, now: Instant) -> Result<()> {
        let due = self
            .newer
            .get(&network)
            .or_else(|| self.older.get(&network));
        let due = due.map_or(now, |due| (*due).max(now));
        let ahead = due.saturating_duration_since(now) + limits.interval;
        if let Some(wait) = ahead.checked_sub(Duration::from_secs(1))
            && !wait.is_zero()
        {
            return Err(too_many(
                "your address connects faster than allowed; wait before the next try",
                wait,
            ));
        }
        if self.newer.len() >= REMEMBERED && !self.newer.contains_key(&network) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(network, due + limits.interval);
        Ok(())
    }

    fn leave(&mut self, network: Option<IpAddr>) {
        self.open -= 1;
        let Some(network) = network else { return };
        if let Some(open) = self.counts.get_mut(&network) {
            *open -= 1;
            if *open == 0 {
                self.counts.remove(&network);
                // Release the memory of a flood.
                if self.counts.capacity() > 4 * self.counts.len().max(256) {
                    self.counts.shrink_to_fit();
                }
            }
        }
    }
}

fn too_many(message: &str, retry_after: Duration) -> Error {
    Error {
        retry_after: Some(retry_after.max(Duration::from_millis(1))),
        ..Error::new(Code::RateLimited, message)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const LIMITS: Limits = Limits {
        total: 5,
        per_address: 3,
        interval: Duration::from_millis(1),
    };

    fn limiter(limits: Limits) -> Arc<Unauthenticated> {
        Arc::new(Unauthenticated {
            limits,
            state: Mutex::default(),
        })
    }

    fn v4(last: u8) -> Option<IpAddr> {
        Some(Ipv4Addr::new(192, 0, 2, last).into())
    }

    fn code(result: Result<Slot>) -> Option<Code> {
        result.err().map(|error| error.code)
    }

    #[test]
    fn slots_are_limited_per_address_and_in_total() {
        let limiter = limiter(LIMITS);
        let mut first: Vec<Slot> = (0..3).map(|_| limiter.admit(v4(1)).unwrap()).collect();
        assert_eq!(code(limiter.admit(v4(1))), Some(Code::RateLimited));
        let mut others: Vec<Slot> = (2..4).map(|n| limiter.admit(v4(n)).unwrap()).collect();
        assert_eq!(code(limiter.admit(v4(9))), Some(Code::Busy));
        assert_eq!(code(limiter.admit(None)), Some(Code::Busy));
        first.pop();
        others.push(limiter.admit(None).unwrap());
        others.pop();
        others.push(limiter.admit(v4(1)).unwrap());
        drop((first, others));
        let state = limiter.state.lock();
        assert_eq!((state.open, state.counts.len()), (0, 0));
    }

    #[test]
    fn a_network_is_one_address() {
        let limiter = limiter(LIMITS);
        let of = |n: u16| Some(IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)));
        let _places: Vec<Slot> = (0..3).map(|n| limiter.admit(of(n)).unwrap()).collect();
        assert_eq!(code(limiter.admit(of(3))), Some(Code::RateLimited));
    }

    #[test]
    fn a_second_s_worth_comes_at_once_and_then_the_rate_counts() {
        let limits = Limits {
            total: usize::MAX,
            per_address: usize::MAX,
            interval: Duration::from_millis(100),
        };
        let (mut state, start) = (SlotState::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        for _ in 0..10 {
            state.enter(&limits, v4(1), start).unwrap();
        }
        let refused = state.enter(&limits, v4(1), start).unwrap_err();
        assert_eq!(refused.code, Code::RateLimited);
        assert_eq!(refused.retry_after_ms(), Some(100));
        state.enter(&limits, v4(2), start).unwrap();
        assert!(state.enter(&limits, v4(1), at(99)).is_err());
        state.enter(&limits, v4(1), at(100)).unwrap();
        assert!(state.enter(&limits, v4(1), at(101)).is_err());
        for _ in 0..10 {
            state.enter(&limits, v4(1), at(5000)).unwrap();
        }
        assert!(state.enter(&limits, v4(1), at(5000)).is_err());
    }

    #[test]
    fn a_million_networks_take_no_memory() {
        let limiter = limiter(LIMITS);
        for n in 0..1_000_000u128 {
            let network = Ipv6Addr::from_bits((0x2001_0db8 << 96) | (n << 64));
            drop(limiter.admit(Some(network.into())).unwrap());
        }
        let state = limiter.state.lock();
        assert!(state.newer.len() <= REMEMBERED && state.older.len() <= REMEMBERED);
        assert!(
            state.counts.capacity() <= 1024,
            "{}",
            state.counts.capacity()
        );
    }
}
