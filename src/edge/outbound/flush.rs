//! Coalesces socket writes under load. A write to a socket costs the same for one event and for twenty, so while many
//! sockets are being written, new data for the others waits for the next round and goes out in one write each.
//!
//! Idle, a permit to write is granted at once, without delay. While `AT_ONCE` sockets are writing, further ones wait and
//! get their permits together, as a round. After a round the scheduler pauses for `PAUSE` times the round's duration, so that
//! writing takes a bounded share of a busy machine, and each write carries what has arrived meanwhile.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Number of sockets that may write at the same time without waiting.
const AT_ONCE: usize = 16;
/// The pause after a round, as a multiple of the round's duration, and its maximum. It adds to the latency of a busy
/// edge.
const PAUSE: u32 = 3;
const MAX_PAUSE: Duration = Duration::from_millis(25);
/// The timer's resolution: a shorter pause would become one of this length.
const MIN_PAUSE: Duration = Duration::from_millis(1);
/// How long the permits of one round may delay the next round. A writer that waits for its peer releases its permit at
/// once, so this limit only matters for writers whose task is not scheduled.
const MAX_ROUND: Duration = Duration::from_millis(50);

/// A queue with something to write.
pub trait FlushWaiter: Send + Sync {
    /// Receives the permit that [`FlushScheduler::request`] did not grant at once.
    fn granted(&self, permit: FlushPermit);
}

/// Grants flush permits.
#[derive(Default)]
pub struct FlushScheduler {
    state: Mutex<SchedulerState>,
    /// Notified when the first waiter arrives.
    waiting: Notify,
    /// Notified when the last permit of the round is released.
    idle: Notify,
}

#[derive(Default)]
struct SchedulerState {
    waiting: Vec<Weak<dyn FlushWaiter>>,
    /// Permits of the current round that are held.
    held: usize,
    /// The current round. Permits of earlier rounds are no longer counted.
    round: u64,
    /// Whether permits are granted in rounds. Otherwise a request is granted at once while fewer than [`AT_ONCE`] are
    /// held.
    rounds: bool,
}

/// The right to write the waiting items once. Dropping it releases it.
pub struct FlushPermit {
    scheduler: Arc<FlushScheduler>,
    round: u64,
}

impl Drop for FlushPermit {
    fn drop(&mut self) {
        let mut state = self.scheduler.state.lock();
        if state.round == self.round {
            state.held -= 1;
            if state.held == 0 && state.rounds {
                self.scheduler.idle.notify_one();
            }
        }
    }
}

impl FlushScheduler {
    /// Starts the scheduler's task. It ends when `shutdown` is cancelled, and all waiters get their permits then.
    pub fn start(tasks: &TaskTracker, shutdown: CancellationToken) -> Arc<Self> {
        let scheduler = Arc::new(FlushScheduler::default());
        let running = scheduler.clone();
        tasks.spawn(async move {
            let _ = shutdown.run_until_cancelled(running.run()).await;
            running.grant_all();
        });
        scheduler
    }

    /// A permit, if one is free; if not, `waiter` gets one later.
    pub fn request(self: &Arc<Self>, waiter: Weak<dyn FlushWaiter>) -> Option<FlushPermit> {
        let mut state = self.state.lock();
        if !state.rounds && state.held < AT_ONCE {
            state.held += 1;
            return Some(self.permit(state.round));
        }
        state.waiting.push(waiter);
        if !std::mem::replace(&mut state.rounds, true) {
            self.waiting.notify_one();
        }
        None
    }

    fn permit(self: &Arc<Self>, round: u64) -> FlushPermit {
        FlushPermit {
            scheduler: self.clone(),
            round,
        }
    }

    async fn run(self: &Arc<Self>) {
        loop {
            self.waiting.notified().await;
            loop {
                self.wait_until_idle().await;
                let began = Instant::now();
                if !self.grant_all() {
                    break;
                }
                self.wait_until_idle().await;
                let pause = (began.elapsed() * PAUSE).min(MAX_PAUSE);
                if pause >= MIN_PAUSE {
                    sleep(pause).await;
                }
            }
        }
    }

    /// Waits until no permit is held, at most [`MAX_ROUND`]; the remaining holders then write during the next round.
    async fn wait_until_idle(&self) {
        let idle = async {
            while self.state.lock().held > 0 {
                self.idle.notified().await;
            }
        };
        let _ = timeout(MAX_ROUND, idle).await;
    }

    /// Grants a permit to each waiter. If there is none, permits are granted at once again.
    fn grant_all(self: &Arc<Self>) -> bool {
        let (waiting, round) = {
            let mut state = self.state.lock();
            let waiting = std::mem::take(&mut state.waiting);
            state.rounds = !waiting.is_empty();
            state.round += 1;
            state.held = waiting.len();
            (waiting, state.round)
        };
        for waiter in &waiting {
            let permit = self.permit(round);
            if let Some(waiter) = waiter.upgrade() {
                waiter.granted(permit);
            }
        }
        !waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::edge::outbound::{Item, Outbox};

    fn outboxes(scheduler: &Arc<FlushScheduler>, count: usize) -> Vec<Arc<Outbox>> {
        let outbox = |_| Outbox::new(1 << 20, scheduler.clone());
        (0..count).map(outbox).collect()
    }

    fn push(outbox: &Outbox) {
        outbox.push(Item::Text("hello".into()));
    }

    fn scheduler() -> (Arc<FlushScheduler>, CancellationToken) {
        let stop = CancellationToken::new();
        (
            FlushScheduler::start(&TaskTracker::new(), stop.clone()),
            stop,
        )
    }

    /// Does what an outbox's writer does, without writing.
    async fn permit(outbox: &Outbox) -> Option<FlushPermit> {
        let permit = async {
            loop {
                match outbox.may_write() {
                    Some(permit) => return permit,
                    None => outbox.wait().await,
                }
            }
        };
        let permit = timeout(Duration::from_secs(30), permit).await;
        permit.expect("a permit comes")
    }

    fn taken(outbox: &Outbox) -> usize {
        let mut items = VecDeque::new();
        outbox.take(&mut items);
        items.len()
    }

    #[tokio::test]
    async fn few_write_at_once_and_the_others_in_a_round() {
        let (scheduler, stop) = scheduler();
        let some = outboxes(&scheduler, AT_ONCE + 2);
        some.iter().for_each(|outbox| push(outbox));
        let (first, last) = some.split_at(AT_ONCE);
        let mut permits: Vec<_> = first.iter().map(|outbox| outbox.may_write()).collect();
        assert!(permits.iter().all(|permit| matches!(permit, Some(Some(_)))));
        assert!(last.iter().all(|outbox| outbox.may_write().is_none()));
        // Items pushed meanwhile are part of the same write.
        push(&last[0]);
        permits.clear();
        for outbox in last {
            assert!(permit(outbox).await.is_some());
        }
        assert_eq!(taken(&last[0]), 2);
        stop.cancel();
    }

    #[tokio::test]
    async fn a_permit_that_is_not_used_delays_the_others_a_bounded_time() {
        let (scheduler, stop) = scheduler();
        let some = outboxes(&scheduler, AT_ONCE + 1);
        some.iter().for_each(|outbox| push(outbox));
        let kept: Vec<_> = some[..AT_ONCE].iter().map(|o| o.may_write()).collect();
        let last = permit(&some[AT_ONCE]).await;
        // Permits of an earlier round do not count in the current one.
        drop(kept);
        assert_eq!(scheduler.state.lock().held, 1);
        drop(last);
        assert_eq!(scheduler.state.lock().held, 0);
        stop.cancel();
    }

    #[tokio::test]
    async fn a_writer_that_waits_for_its_peer_holds_no_permit_and_requests_none() {
        let (scheduler, stop) = scheduler();
        let some = outboxes(&scheduler, AT_ONCE + 1);
        some.iter().for_each(|outbox| push(outbox));
        for outbox in &some[..AT_ONCE] {
            drop(outbox.may_write());
            outbox.block();
        }
        assert!(permit(&some[AT_ONCE]).await.is_some());
        push(&some[0]);
        assert_eq!(scheduler.state.lock().held, 0);
        // The peer has read: the writer continues without a permit, with everything that was pushed.
        assert!(matches!(some[0].may_write(), Some(None)));
        assert_eq!(taken(&some[0]), 2);
        assert!(some[0].may_write().is_none());
        stop.cancel();
    }

    #[tokio::test]
    async fn a_slow_reader_is_closed_without_a_permit() {
        let scheduler = Arc::new(FlushScheduler::default());
        let others = outboxes(&scheduler, AT_ONCE);
        others.iter().for_each(|outbox| push(outbox));
        let slow = Outbox::new(100, scheduler);
        push(&slow);
        assert!(slow.may_write().is_none());
        push(&slow);
        slow.wait().await;
        assert!(matches!(slow.may_write(), Some(None)));
        assert!(slow.is_slow());
    }
}
