//! Whose turn it is to write: group commit for sockets. A write to a socket costs the same for one frame and for twenty,
//! so while many sockets are being written, what comes for them waits for the next wave and goes out in one write each.
//!
//! Idle, a turn is given at once, without delay. With more than `AT_ONCE` sockets writing, the others wait and are
//! written together, as a wave; after it the edge rests `REST` times as long as the wave took, so that writing never
//! takes more than its share of a busy machine, and each write carries what has come meanwhile.

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

use super::outbox::Outbox;

/// Sockets that write without waiting for each other.
const AT_ONCE: usize = 16;
/// A rest, in times of the wave before it, and at most. It adds to the latency of a busy edge.
const REST: u32 = 3;
const MAX_REST: Duration = Duration::from_millis(25);
/// The timer's grain: a shorter rest would become one of this length.
const MIN_REST: Duration = Duration::from_millis(1);
/// How long those with a turn may hold up the others. A writer that has to wait for its reader gives its turn back at
/// once, so this is for one that does not get to it.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Waves {
    state: Mutex<State>,
    /// Someone waits.
    waiting: Notify,
    /// Nobody has a turn any more.
    ended: Notify,
}

#[derive(Default)]
struct State {
    waiting: Vec<Weak<Outbox>>,
    /// Turns that are out.
    out: usize,
    /// Turns of an earlier wave do not count any more.
    wave: u64,
    /// Everyone waits for the next wave.
    rolling: bool,
}

/// The right to write what waits, once. It ends when dropped.
pub struct Turn {
    waves: Arc<Waves>,
    wave: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.waves.state.lock();
        if state.wave == self.wave {
            state.out -= 1;
            if state.out == 0 && state.rolling {
                self.waves.ended.notify_one();
            }
        }
    }
}

impl Waves {
    /// Their task ends when `shutdown` is cancelled; who still waits then is given a turn.
    pub fn start(tasks: &TaskTracker, shutdown: CancellationToken) -> Arc<Self> {
        let waves = Arc::new(Waves::default());
        let rolling = waves.clone();
        tasks.spawn(async move {
            let _ = shutdown.run_until_cancelled(rolling.roll()).await;
            rolling.release();
        });
        waves
    }

    /// A turn, if there is one just now; if not, `outbox` is given one later.
    pub fn ask(self: &Arc<Self>, outbox: &Weak<Outbox>) -> Option<Turn> {
        let mut state = self.state.lock();
        if !state.rolling && state.out < AT_ONCE {
            state.out += 1;
            return Some(self.turn(state.wave));
        }
        state.waiting.push(outbox.clone());
        if !std::mem::replace(&mut state.rolling, true) {
            self.waiting.notify_one();
        }
        None
    }

    fn turn(self: &Arc<Self>, wave: u64) -> Turn {
        Turn {
            waves: self.clone(),
            wave,
        }
    }

    async fn roll(self: &Arc<Self>) {
        loop {
            self.waiting.notified().await;
            loop {
                self.over().await;
                let began = Instant::now();
                if !self.release() {
                    break;
                }
                self.over().await;
                let rest = (began.elapsed() * REST).min(MAX_REST);
                if rest >= MIN_REST {
                    sleep(rest).await;
                }
            }
        }
    }

    /// Until nobody has a turn.
    async fn over(&self) {
        let over = async {
            while self.state.lock().out > 0 {
                self.ended.notified().await;
            }
        };
        // Whoever takes longer goes on beside the next wave.
        let _ = timeout(PATIENCE, over).await;
    }

    /// A turn for each that waits; without any, turns are given at once again.
    fn release(self: &Arc<Self>) -> bool {
        let (waiting, wave) = {
            let mut state = self.state.lock();
            let waiting = std::mem::take(&mut state.waiting);
            state.rolling = !waiting.is_empty();
            state.wave += 1;
            state.out = waiting.len();
            (waiting, state.wave)
        };
        for outbox in &waiting {
            let turn = self.turn(wave);
            if let Some(outbox) = outbox.upgrade() {
                outbox.take_turn(turn);
            }
        }
        !waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::edge::outbox::Item;

    fn outboxes(waves: &Arc<Waves>, count: usize) -> Vec<Arc<Outbox>> {
        let outbox = |_| Outbox::new(1 << 20, waves.clone());
        (0..count).map(outbox).collect()
    }

    fn say(outbox: &Outbox) {
        outbox.push(Item::Text("hello".into()));
    }

    fn waves() -> (Arc<Waves>, CancellationToken) {
        let stop = CancellationToken::new();
        (Waves::start(&TaskTracker::new(), stop.clone()), stop)
    }

    /// As its writer would, but for the writing.
    async fn its_turn(outbox: &Outbox) -> Option<Turn> {
        let turn = async {
            loop {
                match outbox.turn() {
                    Some(turn) => return turn,
                    None => outbox.wait().await,
                }
            }
        };
        let turn = timeout(Duration::from_secs(30), turn).await;
        turn.expect("a turn comes")
    }

    fn taken(outbox: &Outbox) -> usize {
        let mut items = VecDeque::new();
        outbox.take(&mut items);
        items.len()
    }

    #[tokio::test]
    async fn few_write_at_once_and_the_others_in_a_wave() {
        let (waves, stop) = waves();
        let some = outboxes(&waves, AT_ONCE + 2);
        some.iter().for_each(|outbox| say(outbox));
        let (first, last) = some.split_at(AT_ONCE);
        let mut turns: Vec<_> = first.iter().map(|outbox| outbox.turn()).collect();
        assert!(turns.iter().all(|turn| matches!(turn, Some(Some(_)))));
        assert!(last.iter().all(|outbox| outbox.turn().is_none()));
        // What comes meanwhile is part of the same write.
        say(&last[0]);
        turns.clear();
        for outbox in last {
            assert!(its_turn(outbox).await.is_some());
        }
        assert_eq!(taken(&last[0]), 2);
        stop.cancel();
    }

    #[tokio::test]
    async fn nobody_waits_long_for_one_who_does_not_write() {
        let (waves, stop) = waves();
        let some = outboxes(&waves, AT_ONCE + 1);
        some.iter().for_each(|outbox| say(outbox));
        let kept: Vec<_> = some[..AT_ONCE].iter().map(|outbox| outbox.turn()).collect();
        let last = its_turn(&some[AT_ONCE]).await;
        // Turns of before do not count in the wave that is out now.
        drop(kept);
        assert_eq!(waves.state.lock().out, 1);
        drop(last);
        assert_eq!(waves.state.lock().out, 0);
        stop.cancel();
    }

    #[tokio::test]
    async fn a_writer_that_waits_for_its_reader_holds_no_turn_and_asks_for_none() {
        let (waves, stop) = waves();
        let some = outboxes(&waves, AT_ONCE + 1);
        some.iter().for_each(|outbox| say(outbox));
        for outbox in &some[..AT_ONCE] {
            drop(outbox.turn());
            outbox.block();
        }
        assert!(its_turn(&some[AT_ONCE]).await.is_some());
        say(&some[0]);
        assert_eq!(waves.state.lock().out, 0);
        // Its reader has read: it goes on without a turn, with all that came.
        assert!(matches!(some[0].turn(), Some(None)));
        assert_eq!(taken(&some[0]), 2);
        assert!(some[0].turn().is_none());
        stop.cancel();
    }

    #[tokio::test]
    async fn a_slow_reader_is_closed_without_a_turn() {
        let waves = Arc::new(Waves::default());
        let others = outboxes(&waves, AT_ONCE);
        others.iter().for_each(|outbox| say(outbox));
        let slow = Outbox::new(100, waves);
        say(&slow);
        assert!(slow.turn().is_none());
        say(&slow);
        slow.wait().await;
        assert!(matches!(slow.turn(), Some(None)));
        assert!(slow.is_slow());
    }
}
