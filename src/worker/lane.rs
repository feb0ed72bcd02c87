//! One of a worker's lanes: it consumes its share of the owned partitions and runs one batch after the other. Lanes run
//! beside each other; one partition is always in the same lane, so its order holds.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Worker, batch::Runner, turns::Turns};
use crate::{
    error::Result,
    queue::{Consumer, Delivery, Load, Partition},
};

/// Before a lost consumer is opened again.
const REOPEN: Duration = Duration::from_millis(100);
/// How often the queue is asked whether something waits for a consumer that brings nothing.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A batch of more commands than this is a busy one: a lane rests after it for as long as it took, at most so long, so
/// that the next one is larger. A transaction costs about the same for one message and for twenty.
const BUSY: usize = 32;
const MAX_REST: Duration = Duration::from_millis(8);

pub async fn run(
    worker: Arc<Worker>,
    lane: usize,
    mut owned: watch::Receiver<HashSet<Partition>>,
    shutdown: CancellationToken,
) {
    let mut lane = Lane {
        runner: Runner::new(worker.clone(), shutdown.clone()),
        consumers: Turns::default(),
        opening: JoinSet::new(),
        looking: JoinSet::new(),
        busy: HashSet::new(),
        suspects: HashSet::new(),
        wanted: HashSet::new(),
        lane,
        worker,
    };
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = looks.tick() => lane.look(),
            Some(seen) = lane.looking.join_next() => {
                if let Ok(Ok(load)) = seen {
                    lane.looked(&load).await;
                }
            }
            changed = owned.changed() => {
                if changed.is_err() {
                    break;
                }
                let wanted = owned.borrow_and_update().clone();
                lane.follow(wanted).await;
            }
            Some(opened) = lane.opening.join_next() => {
                if let Ok((partition, opened)) = opened {
                    lane.opened(partition, opened).await;
                }
            }
            (partition, first) = lane.consumers.next() => match first {
                Some(first) => {
                    let rest = lane.work(partition, first).await;
                    if !rest.is_zero() {
                        // Stopping does not wait for more.
                        let _ = shutdown.run_until_cancelled(tokio::time::sleep(rest)).await;
                    }
                }
                None => {
                    tracing::info!(partition, "a partition's consumer was lost");
                    lane.consumers.remove(partition);
                    lane.open(partition, REOPEN);
                }
            }
        }
    }
    lane.consumers.close().await;
}

struct Lane {
    worker: Arc<Worker>,
    lane: usize,
    runner: Runner,
    wanted: HashSet<Partition>,
    consumers: Turns,
    opening: JoinSet<(Partition, Result<Box<dyn Consumer>>)>,
    looking: JoinSet<Result<Load>>,
    /// Brought something since the last look.
    busy: HashSet<Partition>,
    /// Brought nothing before the last look, although something waited.
    suspects: HashSet<Partition>,
}

impl Lane {
    /// Gives up what is no longer ours, and asks for what is.
    async fn follow(&mut self, owned: HashSet<Partition>) {
        let lanes = self.worker.config.worker.concurrency;
        self.wanted = owned
            .into_iter()
            .filter(|partition| usize::from(*partition) % lanes == self.lane)
            .collect();
        let gone: Vec<Partition> = self
            .consumers
            .partitions()
            .filter(|partition| !self.wanted.contains(partition))
            .collect();
        for partition in gone {
            if let Some(consumer) = self.consumers.remove(partition) {
                consumer.close().await;
            }
        }
        // What is being opened comes back through `opened`; opening twice is refused by the set below.
        for partition in self.wanted.clone() {
            if !self.consumers.contains(partition) {
                self.open(partition, Duration::ZERO);
            }
        }
    }

    fn open(&mut self, partition: Partition, after: Duration) {
        if !self.wanted.contains(&partition) {
            return;
        }
        let queue = self.worker.queue.clone();
        self.opening.spawn(async move {
            tokio::time::sleep(after).await;
            (partition, queue.consume(partition).await)
        });
    }

    async fn opened(&mut self, partition: Partition, opened: Result<Box<dyn Consumer>>) {
        match opened {
            Ok(consumer) => {
                if !self.wanted.contains(&partition) || self.consumers.contains(partition) {
                    consumer.close().await;
                } else {
                    self.consumers.insert(partition, consumer);
                }
            }
            Err(error) => {
                tracing::debug!(partition, error = %error.chain(), "a partition could not be consumed yet");
                if !self.consumers.contains(partition) {
                    self.open(partition, REOPEN);
                }
            }
        }
    }

    /// Asks the queue what waits, beside the work.
    fn look(&mut self) {
        if self.looking.is_empty() && !self.consumers.is_empty() {
            let queue = self.worker.queue.clone();
            self.looking.spawn(async move { queue.load().await });
        }
    }

    /// A consumer that brought nothing between two looks, although something waited at both, may wait for ever: a
    /// broker that lost track of it says nothing. Opening it again puts that right, and does no harm to one that waits
    /// because another worker's is the active one.
    async fn looked(&mut self, load: &Load) {
        let busy = std::mem::take(&mut self.busy);
        let waits = |partition: &Partition| {
            let load = load.partitions.get(usize::from(*partition));
            load.is_some_and(|load| load.ready > 0)
        };
        let silent: HashSet<Partition> = self
            .consumers
            .partitions()
            .filter(|partition| !busy.contains(partition) && waits(partition))
            .collect();
        let before = std::mem::replace(&mut self.suspects, silent);
        for partition in before {
            if self.suspects.remove(&partition)
                && let Some(consumer) = self.consumers.remove(partition)
            {
                tracing::warn!(
                    partition,
                    "a partition's consumer brings nothing of what waits; opening it again"
                );
                consumer.close().await;
                self.open(partition, Duration::ZERO);
            }
        }
    }

    /// Runs what is there now as one batch, and acknowledges it. Returns how long to rest.
    async fn work(&mut self, partition: Partition, first: Delivery) -> Duration {
        let started = Instant::now();
        let mut acks = HashMap::new();
        acks.insert(partition, first.tag);
        self.runner.add(partition, first);
        while self.runner.len() < self.worker.config.worker.batch_messages
            && let Some((partition, delivery)) = self.consumers.try_next()
        {
            acks.insert(partition, delivery.tag);
            self.runner.add(partition, delivery);
        }
        self.busy.extend(acks.keys());
        let commands = self.runner.len();
        if !self.runner.run().await {
            // Stopped in the middle of an outage: nothing is acknowledged, the next worker finds all of it.
            return Duration::ZERO;
        }
        for (partition, tag) in acks {
            if let Err(error) = self.consumers.ack_through(partition, tag).await {
                // It comes again, and its ids say that it is stored.
                tracing::debug!(partition, error = %error.chain(), "a batch could not be acknowledged");
            }
        }
        // Where more waits than fits, there is nothing to wait for.
        match (BUSY..self.worker.config.worker.batch_messages).contains(&commands) {
            true => started.elapsed().min(MAX_REST),
            false => Duration::ZERO,
        }
    }
}
