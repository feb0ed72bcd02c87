//! A semaphore with fair queueing: keys (addresses) with waiting requests are served round-robin, one slot each,
//! however many requests a key has. The queue is bounded per key and in total. When the total is reached, a request of
//! a key with fewer waiting requests displaces the last request of the key with the most.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Bounds of a [`Fair`].
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Slots held at the same time.
    pub slots: usize,
    /// Waiting requests per key.
    pub per_key: usize,
    /// Waiting requests in total.
    pub total: usize,
}

pub struct Fair<K: Hash + Eq + Clone> {
    bounds: Bounds,
    state: Mutex<FairState<K>>,
}

struct FairState<K: Hash + Eq + Clone> {
    free: usize,
    waiting: usize,
    /// Waiting requests per key; no queue is empty.
    queues: HashMap<K, VecDeque<oneshot::Sender<Slot<K>>>>,
    /// The keys of `queues` in round-robin order.
    order: VecDeque<K>,
}

/// A slot, released on drop.
pub struct Slot<K: Hash + Eq + Clone> {
    fair: Option<Arc<Fair<K>>>,
}

/// The queue is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl<K: Hash + Eq + Clone> Fair<K> {
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Fair {
            bounds,
            state: Mutex::new(FairState {
                free: bounds.slots,
                waiting: 0,
                queues: HashMap::new(),
                order: VecDeque::new(),
            }),
        })
    }

    /// Waits for a slot. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`Full`], immediately or when a request of another key displaces this one.
    pub async fn acquire(self: &Arc<Self>, key: K) -> Result<Slot<K>, Full> {
        let granted = {
            let mut state = self.state.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Slot {
                    fair: Some(self.clone()),
                });
            }
            state.make_room(&key, self.bounds)?;
            let (sender, granted) = oneshot::channel();
            state.push(key, sender);
            granted
        };
        granted.await.map_err(|_| Full)
    }

    fn release(self: Arc<Self>) {
        let mut state = self.state.lock();
        let mut slot = Slot {
            fair: Some(self.clone()),
        };
        while let Some(next) = state.pop() {
            match next.send(slot) {
                Ok(()) => return,
                // The waiting request was dropped.
                Err(back) => slot = back,
            }
        }
        state.free += 1;
        // Dropping the slot would call `release` again.
        slot.fair = None;
    }
}

impl<K: Hash + Eq + Clone> Drop for Slot<K> {
    fn drop(&mut self) {
        if let Some(fair) = self.fair.take() {
            fair.release();
        }
    }
}

impl<K: Hash + Eq + Clone> FairState<K> {
    fn push(&mut self, key: K, sender: oneshot::Sender<Slot<K>>) {
        self.waiting += 1;
        let queue = self.queues.entry(key.clone()).or_default();
        if queue.is_empty() {
            self.order.push_back(key);
        }
        queue.push_back(sender);
    }

    /// Takes the first request of the next key, and moves the key to the end of the round.
    fn pop(&mut self) -> Option<oneshot::Sender<Slot<K>>> {
        let key = self.order.pop_front()?;
        let queue = self.queues.get_mut(&key)?;
        let next = queue.pop_front();
        self.waiting -= usize::from(next.is_some());
        if queue.is_empty() {
            drop(self.queues.remove(&key))
        } else {
            self.order.push_back(key)
        }
        next
    }

    fn make_room(&mut self, key: &K, bounds: Bounds) -> Result<(), Full> {
        let mine = |state: &Self| state.queues.get(key).map_or(0, VecDeque::len);
        if mine(self) >= bounds.per_key || self.waiting >= bounds.total {
            self.remove_cancelled();
        }
        if mine(self) >= bounds.per_key {
            return Err(Full);
        }
        if self.waiting < bounds.total {
            return Ok(());
        }
        let longest = self.queues.iter().max_by_key(|(_, queue)| queue.len());
        let Some((longest, length)) = longest.map(|(key, queue)| (key.clone(), queue.len())) else {
            return Err(Full);
        };
        // Displacing would only swap the two keys' positions.
        if length <= mine(self) + 1 {
            return Err(Full);
        }
        if let Some(queue) = self.queues.get_mut(&longest) {
            queue.pop_back();
            self.waiting -= 1;
        }
        Ok(())
    }

    /// Removes requests whose futures were dropped.
    fn remove_cancelled(&mut self) {
        self.queues.retain(|_, queue| {
            queue.retain(|sender| !sender.is_closed());
            !queue.is_empty()
        });
        let queues = &self.queues;
        self.order.retain(|key| queues.contains_key(key));
        self.waiting = queues.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin};

    use futures_util::FutureExt;

    use super::*;

    type Waiting = Pin<Box<dyn Future<Output = Result<Slot<u32>, Full>>>>;

    fn fair(slots: usize, per_key: usize, total: usize) -> Arc<Fair<u32>> {
        Fair::new(Bounds {
            slots,
            per_key,
            total,
        })
    }

    /// Starts a request that waits for a slot.
    fn wait_for_slot(fair: &Arc<Fair<u32>>, key: u32) -> Waiting {
        let fair = fair.clone();
        let mut waiting: Waiting = Box::pin(async move { fair.acquire(key).await });
        assert!((&mut waiting).now_or_never().is_none(), "{key} must wait");
        waiting
    }

    fn now(fair: &Arc<Fair<u32>>, key: u32) -> Result<Slot<u32>, Full> {
        fair.acquire(key).now_or_never().expect("an answer at once")
    }

    fn ready(waiting: &mut Waiting) -> bool {
        let slot = waiting.as_mut().now_or_never();
        matches!(slot, Some(Ok(_)))
    }

    #[test]
    fn a_flood_of_one_address_delays_another_by_one_slot() {
        let fair = fair(1, 100, 1000);
        let held = now(&fair, 1).unwrap();
        let mut flood: Vec<Waiting> = (0..100).map(|_| wait_for_slot(&fair, 1)).collect();
        let mut honest = wait_for_slot(&fair, 2);
        drop(held);
        // The first request of the flood is next, then the other key's.
        assert!(ready(&mut flood[0]));
        assert!(ready(&mut honest));
        assert!(ready(&mut flood[1]));
    }

    #[test]
    fn beyond_its_bound_an_address_is_refused_and_others_are_not() {
        let fair = fair(1, 2, 100);
        let _held = now(&fair, 1).unwrap();
        let first = wait_for_slot(&fair, 1);
        let _second = wait_for_slot(&fair, 1);
        assert_eq!(now(&fair, 1).err(), Some(Full));
        let _other = wait_for_slot(&fair, 2);
        // A dropped request leaves the queue.
        drop(first);
        let _third = wait_for_slot(&fair, 1);
        assert_eq!(now(&fair, 1).err(), Some(Full));
    }

    #[test]
    fn a_full_queue_takes_from_the_longest() {
        let fair = fair(1, 4, 4);
        let _held = now(&fair, 1).unwrap();
        let mut flood: Vec<Waiting> = (0..4).map(|_| wait_for_slot(&fair, 1)).collect();
        let _a = wait_for_slot(&fair, 2);
        let last = flood[3].as_mut().now_or_never();
        assert_eq!(last.map(Result::err), Some(Some(Full)));
        let _b = wait_for_slot(&fair, 3);
        assert_eq!(fair.state.lock().waiting, 4);
        // Key 1 has two waiting requests and key 2 has one: displacing would gain nothing.
        assert_eq!(now(&fair, 2).err(), Some(Full));
        let _c = wait_for_slot(&fair, 4);
        assert_eq!(now(&fair, 5).err(), Some(Full));
    }

    #[test]
    fn a_slot_is_not_lost_to_cancelled_requests() {
        let fair = fair(2, 10, 10);
        let held = now(&fair, 1).unwrap();
        let other = now(&fair, 1).unwrap();
        drop(wait_for_slot(&fair, 1));
        drop(wait_for_slot(&fair, 2));
        let mut third = wait_for_slot(&fair, 3);
        drop(held);
        assert!(ready(&mut third));
        drop(other);
        let state = fair.state.lock();
        assert_eq!((state.free, state.waiting), (2, 0));
        assert!(state.queues.is_empty() && state.order.is_empty());
    }

    #[test]
    fn a_slot_granted_to_a_cancelled_request_is_returned() {
        let fair = fair(1, 10, 10);
        let held = now(&fair, 1).unwrap();
        let gone = wait_for_slot(&fair, 1);
        drop(held);
        // The slot was sent to a future that is not polled again.
        drop(gone);
        assert_eq!(fair.state.lock().free, 1);
    }
}
