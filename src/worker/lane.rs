//! One of a worker's lanes: it consumes its share of the owned partitions and runs one batch after the other. Lanes run
//! concurrently; a partition is always in the same lane, which keeps its order.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    batch::Runner,
    consumers::RoundRobinConsumers,
    held::{HeldCounts, Holding},
    state::Worker,
};
use crate::{
    error::Result,
    queue::{Consumer, Delivery, Load, Partition},
};

/// Pause before a lost consumer is reopened.
const REOPEN: Duration = Duration::from_millis(100);
/// Interval of the check for silent consumers.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// After a batch of more commands than `BUSY` a lane rests for as long as the batch took, `MAX_REST` at most, so that
/// the next batch is larger. A transaction costs about the same for one message and for twenty.
const BUSY: usize = 32;
const MAX_REST: Duration = Duration::from_millis(8);

pub async fn run(
    worker: Arc<Worker>,
    lane: usize,
    mut owned: watch::Receiver<HashSet<Partition>>,
    counts: Arc<HeldCounts>,
    shutdown: CancellationToken,
) {
    let mut lane = Lane {
        runner: Runner::new(worker.clone(), shutdown.clone()),
        consumers: RoundRobinConsumers::default(),
        opening: JoinSet::new(),
        checking: JoinSet::new(),
        busy: HashSet::new(),
        suspects: HashSet::new(),
        wanted: HashSet::new(),
        commands: counts.commands(),
        payloads: counts.payloads(),
        lane,
        worker,
    };
    let mut checks = tokio::time::interval(CHECK_EVERY);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = checks.tick() => lane.check(),
            Some(load) = lane.checking.join_next() => {
                if let Ok(Ok(load)) = load {
                    lane.reopen_silent(&load).await;
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
                        // A shutdown ends the rest.
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
    consumers: RoundRobinConsumers,
    opening: JoinSet<(Partition, Result<Box<dyn Consumer>>)>,
    checking: JoinSet<Result<Load>>,
    /// Partitions that delivered something since the last check.
    busy: HashSet<Partition>,
    /// Partitions that delivered nothing before the last check although payloads waited.
    suspects: HashSet<Partition>,
    /// The commands of the batch that is being stored.
    commands: Holding,
    /// The payloads that have arrived since.
    payloads: Holding,
}

impl Lane {
    /// Closes the consumers of partitions that are no longer owned, and opens those of new ones.
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
        // `opened` receives the consumers, and closes duplicates.
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

    /// Reads the queue's load, concurrently with the work.
    fn check(&mut self) {
        if self.checking.is_empty() && !self.consumers.is_empty() {
            let queue = self.worker.queue.clone();
            self.checking.spawn(async move { queue.load().await });
        }
    }

    /// Reopens consumers that delivered nothing between two checks although payloads waited at both. A broker that has
    /// lost track of a consumer does not report it. Reopening does no harm where another worker's consumer is the
    /// active one.
    async fn reopen_silent(&mut self, load: &Load) {
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
                    "a partition's consumer delivers nothing although payloads wait; reopening it"
                );
                consumer.close().await;
                self.open(partition, Duration::ZERO);
            }
        }
    }

    /// Runs the payloads that have arrived as one batch and acknowledges it. Returns how long to rest.
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
        if !self.store(commands).await {
            // Stopped during an outage: nothing is acknowledged, so all of it is redelivered.
            return Duration::ZERO;
        }
        for (partition, tag) in acks {
            if let Err(error) = self.consumers.ack_through(partition, tag).await {
                // The batch is redelivered, and its ids show that it is stored.
                tracing::debug!(partition, error = %error.chain(), "a batch could not be acknowledged");
            }
        }
        self.commands.set(0);
        // A full batch means that more waits already.
        if (BUSY..self.worker.config.worker.batch_messages).contains(&commands) {
            started.elapsed().min(MAX_REST)
        } else {
            Duration::ZERO
        }
    }

    /// Runs the batch. While the store keeps it waiting, takes over the payloads that arrive, so that they are counted.
    async fn store(&mut self, commands: usize) -> bool {
        self.commands.set(commands as u64);
        let interval = self.worker.config.worker.heartbeat;
        let mut run = std::pin::pin!(self.runner.run());
        let done = loop {
            tokio::select! {
                done = &mut run => break done,
                () = tokio::time::sleep(interval) => self.payloads.set(self.consumers.fill()),
            }
        };
        self.payloads.set(0);
        done
    }
}
