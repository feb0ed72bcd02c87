//! A worker: takes commands from the queue, stores them, tells the edges, acknowledges. It holds nothing that the next
//! worker does not find in the queue or the store, so it may be killed at any moment.

mod batch;
mod jobs;
mod lane;
mod partitions;

use std::{collections::HashSet, sync::Arc};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bus::{Bus, WorkerId},
    config::Config,
    error::Result,
    job::notify::Notifier,
    queue::{DeadLetters, JobQueue, Queue},
    store::Writes,
};

/// What every lane of one worker shares.
pub struct Worker {
    pub config: Arc<Config>,
    pub queue: Arc<dyn Queue>,
    pub dead: Arc<dyn DeadLetters>,
    pub store: Arc<dyn Writes>,
    pub bus: Arc<dyn Bus>,
    pub notifier: Notifier,
}

/// Works until `shutdown`, then finishes its batches, acknowledges them and leaves its partitions to others.
pub async fn run(worker: Worker, shutdown: CancellationToken) -> Result<()> {
    let id = WorkerId::new_v4();
    let worker = Arc::new(worker);
    let (owned, watch) = watch::channel(HashSet::new());
    let lanes = TaskTracker::new();
    for lane in 0..worker.config.worker.concurrency {
        lanes.spawn(lane::run(
            worker.clone(),
            lane,
            watch.clone(),
            shutdown.clone(),
        ));
    }
    if worker.config.notify.enabled() {
        for queue in JobQueue::ALL {
            lanes.spawn(jobs::run(worker.clone(), queue, shutdown.clone()));
        }
    }
    tracing::info!(worker = %id, lanes = worker.config.worker.concurrency, "working");
    partitions::claim(&worker, id, owned, shutdown).await;
    lanes.close();
    lanes.wait().await;
    // Only now: until the last acknowledgement the partitions were still ours.
    if let Err(error) = worker.bus.retire(id).await {
        tracing::debug!(error = %error.chain(), "the others will notice by the missing heartbeat");
    }
    Ok(())
}
