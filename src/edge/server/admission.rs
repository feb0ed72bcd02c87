//! Connection limits: in total, per address, and a reserve beyond the limits in which health checks are still answered.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::edge::client_address::network_of;

/// Connections beyond the limits whose request has not arrived yet. A new one evicts the oldest, so that silent
/// connections cannot block health checks: a health check sends its request immediately, before it would be evicted.
const RESERVE: usize = 64;
/// Connections beyond the limits whose health check is being answered.
const ANSWERED: usize = 64;

/// A connection's permit from `edge.max_connections` and from its address's limit. A socket keeps it until it is
/// closed.
#[derive(Clone, Debug)]
pub struct Permit(#[allow(dead_code, reason = "held, never read")] Arc<Held>);

#[derive(Debug)]
struct Held {
    _connection: OwnedSemaphorePermit,
    _address: Option<AddressPermit>,
}

/// A permit from `edge.max_connections`, before the client's address is known.
pub struct PendingPermit(OwnedSemaphorePermit);

/// The limits of a server.
pub struct Admission {
    connections: Arc<Semaphore>,
    addresses: Arc<Addresses>,
    pub reserve: Reserve,
}

/// The limit that a connection exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// `edge.max_connections`.
    Server,
    /// `edge.max_connections_per_address`.
    Address,
}

impl Full {
    /// The error message for the client.
    pub fn message(self) -> &'static str {
        match self {
            Full::Server => "this edge is at its connection limit (edge.max_connections)",
            Full::Address => {
                "there are too many connections from your address (edge.max_connections_per_address)"
            }
        }
    }
}

impl Admission {
    /// If `per_address` is 0, it is half of `max`, and loopback addresses are not limited: their connections come from
    /// a proxy or a load generator on the same host.
    pub fn new(max: usize, per_address: usize) -> Self {
        Admission {
            connections: Arc::new(Semaphore::new(max)),
            addresses: Arc::new(Addresses {
                max: match per_address {
                    0 => max.div_ceil(2),
                    some => some,
                },
                loopback: per_address != 0,
                open: Mutex::default(),
            }),
            reserve: Reserve::new(),
        }
    }

    /// Takes a permit from the total.
    ///
    /// # Errors
    /// [`Full::Server`] if none is left.
    pub fn enter(&self) -> Result<PendingPermit, Full> {
        let entered = self.connections.clone().try_acquire_owned();
        entered.map(PendingPermit).map_err(|_| Full::Server)
    }

    /// Takes a permit of `address`; `None` for a trusted proxy, which forwards many clients.
    ///
    /// # Errors
    /// [`Full::Address`] if none is left.
    pub fn admit(&self, pending: PendingPermit, address: Option<IpAddr>) -> Result<Permit, Full> {
        let address = match address {
            Some(address) => self.addresses.take(address).ok_or(Full::Address)?,
            None => None,
        };
        Ok(Permit(Arc::new(Held {
            _connection: pending.0,
            _address: address,
        })))
    }
}

/// Open connections per address; never more entries than connections.
#[derive(Debug)]
struct Addresses {
    max: usize,
    /// Whether loopback addresses are limited.
    loopback: bool,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Addresses {
    /// `None` if the address has too many connections; `Some(None)` if it is not limited.
    fn take(self: &Arc<Self>, address: IpAddr) -> Option<Option<AddressPermit>> {
        if address.to_canonical().is_loopback() && !self.loopback {
            return Some(None);
        }
        let network = network_of(address);
        let mut open = self.open.lock();
        let count = open.entry(network).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Some(AddressPermit {
            addresses: self.clone(),
            network,
        }))
    }
}

/// A permit of one address.
#[derive(Debug)]
struct AddressPermit {
    addresses: Arc<Addresses>,
    network: IpAddr,
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock();
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

/// Slots for connections beyond the limits.
pub struct Reserve {
    waiting: Arc<Mutex<Waiting>>,
    answered: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// Oldest first.
    slots: VecDeque<(u64, CancellationToken)>,
}

/// A slot in the reserve, until the request has arrived or another connection evicts this one.
pub struct ReserveSlot {
    waiting: Arc<Mutex<Waiting>>,
    number: u64,
    pub evicted: CancellationToken,
}

impl Reserve {
    fn new() -> Self {
        Reserve {
            waiting: Arc::default(),
            answered: Arc::new(Semaphore::new(ANSWERED)),
        }
    }

    /// Takes a slot; evicts the oldest one if all are in use.
    pub fn slot(&self) -> ReserveSlot {
        let mut waiting = self.waiting.lock();
        if waiting.slots.len() >= RESERVE
            && let Some((_, oldest)) = waiting.slots.pop_front()
        {
            oldest.cancel();
        }
        let (number, evicted) = (waiting.next, CancellationToken::new());
        waiting.next += 1;
        waiting.slots.push_back((number, evicted.clone()));
        ReserveSlot {
            waiting: self.waiting.clone(),
            number,
            evicted,
        }
    }

    /// Takes a permit to answer a health check, if one is left.
    pub fn answer(&self) -> Option<OwnedSemaphorePermit> {
        self.answered.clone().try_acquire_owned().ok()
    }
}

impl Drop for ReserveSlot {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock();
        if let Ok(at) = waiting
            .slots
            .binary_search_by_key(&self.number, |(number, _)| *number)
        {
            waiting.slots.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn admit(admission: &Admission, address: Option<IpAddr>) -> Result<Permit, Full> {
        admission.admit(admission.enter()?, address)
    }

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let admission = Admission::new(5, 2);
        let first = admit(&admission, ip("192.0.2.1")).unwrap();
        let second = admit(&admission, ip("192.0.2.1")).unwrap();
        assert_eq!(
            admit(&admission, ip("::ffff:192.0.2.1")).unwrap_err(),
            Full::Address
        );
        // Another address, and a trusted proxy.
        let others: Vec<_> = ["192.0.2.2", "192.0.2.3"]
            .iter()
            .map(|address| admit(&admission, ip(address)).unwrap())
            .collect();
        let proxy = admit(&admission, None).unwrap();
        assert_eq!(
            admit(&admission, ip("192.0.2.4")).unwrap_err(),
            Full::Server
        );
        drop((first, proxy));
        // A refused connection holds no permit; a closed one releases its permit with the last copy.
        let again = admit(&admission, ip("192.0.2.1")).unwrap();
        let copy = again.clone();
        drop((again, second));
        let last = admit(&admission, ip("192.0.2.1")).unwrap();
        assert_eq!(
            admit(&admission, ip("192.0.2.1")).unwrap_err(),
            Full::Address
        );
        drop((copy, last, others));
        assert!(admission.addresses.open.lock().is_empty());
    }

    #[test]
    fn by_default_half_of_all_and_loopback_without_limit() {
        let admission = Admission::new(5, 0);
        let held: Vec<_> = (0..3)
            .map(|_| admit(&admission, ip("2001:db8::1")).unwrap())
            .collect();
        assert_eq!(
            admit(&admission, ip("2001:db8::2")).unwrap_err(),
            Full::Address
        );
        drop(held);
        let held: Vec<_> = (0..5)
            .map(|i| admit(&admission, ip(["127.0.0.1", "::1"][i % 2])).unwrap())
            .collect();
        assert_eq!(
            admit(&admission, ip("127.0.0.1")).unwrap_err(),
            Full::Server
        );
        drop(held);
        let admission = Admission::new(5, 1);
        let _held = admit(&admission, ip("127.0.0.1")).unwrap();
        assert_eq!(
            admit(&admission, ip("127.0.0.1")).unwrap_err(),
            Full::Address
        );
    }

    #[test]
    fn the_oldest_slot_of_the_reserve_is_evicted() {
        let reserve = Reserve::new();
        let mut slots: Vec<ReserveSlot> = (0..RESERVE).map(|_| reserve.slot()).collect();
        assert!(slots.iter().all(|slot| !slot.evicted.is_cancelled()));
        let gone = slots.remove(1);
        drop(gone);
        slots.push(reserve.slot());
        assert!(!slots[0].evicted.is_cancelled());
        slots.push(reserve.slot());
        let evicted = |slot: &ReserveSlot| slot.evicted.is_cancelled();
        assert_eq!(slots.iter().filter(|slot| evicted(slot)).count(), 1);
        assert!(evicted(&slots[0]));
        drop(slots);
        assert!(reserve.waiting.lock().slots.is_empty());
        let answered: Vec<_> = (0..ANSWERED).map(|_| reserve.answer().unwrap()).collect();
        assert!(reserve.answer().is_none());
        drop(answered);
    }
}
