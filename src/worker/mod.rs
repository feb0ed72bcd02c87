//! A worker: takes commands from the queue, stores them, tells the edges, acknowledges. It holds nothing that the next
//! worker does not find in the queue or the store, so it may be killed at any moment.

mod batch;
mod farewell;
mod jobs;
mod lane;
mod maintenance;
mod memory;
mod partitions;
mod turns;

use std::{collections::HashSet, sync::Arc};

pub use memory::Memory;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bus::{Coordination, PubSub, WorkerId},
    config::{Config, WorkerRole},
    error::Result,
    job::notify::Notifier,
    queue::{DeadLetters, Queue, TaskQueue},
    store::Writes,
};

/// What every lane of one worker shares.
pub struct Worker {
    pub config: Arc<Config>,
    pub queue: Arc<dyn Queue>,
    pub dead: Arc<dyn DeadLetters>,
    pub store: Arc<dyn Writes>,
    pub pubsub: Arc<dyn PubSub>,
    pub coordination: Arc<dyn Coordination>,
    pub notifier: Notifier,
    pub memory: Memory,
}

/// Does what `worker.jobs` names until `shutdown`, then finishes its batches, acknowledges them and leaves its partitions to others.
pub async fn run(worker: Worker, shutdown: CancellationToken) -> Result<()> {
    let id = WorkerId::new_v4();
    let worker = Arc::new(worker);
    let (owned, watch) = watch::channel(HashSet::new());
    let lanes = TaskTracker::new();
    let does = |kind| worker.config.worker.does(kind);
    let concurrency = match does(WorkerRole::Messages) {
        true => worker.config.worker.concurrency,
        false => 0,
    };
    if concurrency > 0 {
        lanes.spawn(memory::listen(worker.clone(), shutdown.clone()));
    }
    for lane in 0..concurrency {
        lanes.spawn(lane::run(
            worker.clone(),
            lane,
            watch.clone(),
            shutdown.clone(),
        ));
    }
    if worker.config.notify.enabled() {
        let queues = TaskQueue::ALL.into_iter().filter(|queue| match queue {
            TaskQueue::Notify => does(WorkerRole::Notify),
            TaskQueue::Email | TaskQueue::Sms => does(WorkerRole::Deliver),
        });
        for queue in queues {
            lanes.spawn(jobs::run(worker.clone(), queue, shutdown.clone()));
        }
    }
    if does(WorkerRole::Maintenance) {
        lanes.spawn(maintenance::run(worker.clone(), id, shutdown.clone()));
    }
    let jobs = worker.config.worker.jobs.iter().map(|kind| kind.as_str());
    let jobs = jobs.collect::<Vec<_>>().join(",");
    tracing::info!(worker = %id, lanes = concurrency, jobs, "working");
    if does(WorkerRole::Messages) {
        partitions::claim(&worker, id, owned, shutdown).await;
    } else {
        // Whoever beats is given partitions.
        shutdown.cancelled().await;
    }
    lanes.close();
    lanes.wait().await;
    // Only now: until the last acknowledgement the partitions were still ours.
    if let Err(error) = worker.coordination.deregister(id).await {
        tracing::debug!(error = %error.chain(), "the others will notice by the missing heartbeat");
    }
    Ok(())
}
