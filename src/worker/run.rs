//! Starts the roles in `worker.jobs`, and stops them in order.

use std::{collections::HashSet, sync::Arc};

use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    epoch,
    held::{self, HeldCounts},
    lane, maintenance, partitions, renames,
    state::Worker,
    tasks,
};
use crate::{
    bus::WorkerId,
    config::WorkerRole,
    error::{Error, Result},
    model::derived_id,
    queue::TaskQueue,
};

/// Works until `shutdown`, then finishes the batches under way, acknowledges them and gives up its partitions.
///
/// # Errors
/// `internal` if one of its tasks panicked: a worker that cannot do all of its work ends, so that another one takes
/// over. Failures of servers are retried.
pub async fn run(worker: Worker, shutdown: CancellationToken) -> Result<()> {
    let shutdown = shutdown.child_token();
    let worker = Arc::new(worker);
    let settings = &worker.config.worker;
    let id = settings.id.as_deref().map_or_else(WorkerId::new_v4, named);
    let (owned, watch) = watch::channel(HashSet::new());
    let mut parts = JoinSet::new();
    let lanes = if settings.does(WorkerRole::Messages) {
        settings.concurrency
    } else {
        0
    };
    if lanes > 0 {
        let (listener, stop) = (worker.clone(), shutdown.clone());
        parts.spawn(async move {
            // Without the announcements nothing is cached, and every batch reads what it needs.
            if let Err(error) = renames::listen(listener, stop.clone()).await {
                tracing::warn!(error = %error.chain(), "no announcements of renames; memberships are not cached");
            }
            stop.cancelled().await;
        });
        parts.spawn(epoch::follow(worker.clone(), shutdown.clone()));
    }
    let (counts, done) = (Arc::new(HeldCounts::default()), CancellationToken::new());
    let reporting = tokio::spawn(held::report(
        counts.clone(),
        worker.coordination.clone(),
        id,
        (settings.heartbeat, settings.heartbeat_ttl),
        done.clone(),
    ));
    for lane in 0..lanes {
        let (worker, watch, counts) = (worker.clone(), watch.clone(), counts.clone());
        parts.spawn(lane::run(worker, lane, watch, counts, shutdown.clone()));
    }
    if worker.config.notify.enabled() {
        let queues = TaskQueue::ALL.into_iter().filter(|queue| match queue {
            TaskQueue::Notify => settings.does(WorkerRole::Notify),
            TaskQueue::Email | TaskQueue::Sms => settings.does(WorkerRole::Deliver),
        });
        for queue in queues {
            parts.spawn(tasks::run(
                worker.clone(),
                queue,
                counts.clone(),
                shutdown.clone(),
            ));
        }
    }
    if settings.does(WorkerRole::Maintenance) {
        parts.spawn(maintenance::run(worker.clone(), id, shutdown.clone()));
    }
    let roles: Vec<&str> = settings.jobs.iter().map(|role| role.as_str()).collect();
    tracing::info!(
        worker = %id,
        name = settings.id,
        lanes,
        roles = roles.join(","),
        "worker started"
    );
    if settings.does(WorkerRole::Messages) {
        let (worker, shutdown) = (worker.clone(), shutdown.clone());
        parts.spawn(async move { partitions::claim(&worker, id, owned, shutdown).await });
    } else {
        // No heartbeats: each live worker is assigned partitions.
        let shutdown = shutdown.clone();
        parts.spawn(async move { shutdown.cancelled().await });
    }
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        if !shutdown.is_cancelled() || ended.is_err() {
            shutdown.cancel();
            tracing::error!("a task of the worker ended unexpectedly; the worker stops");
            result = Err(match ended {
                Ok(()) => Error::internal("a task of the worker ended"),
                Err(panicked) => Error::internal(panicked),
            });
        }
    }
    done.cancel();
    let _ = reporting.await;
    // After the last acknowledgement, until which the partitions belong to this worker.
    if let Err(error) = worker.coordination.deregister(id).await {
        tracing::debug!(error = %error.chain(), "not deregistered; the heartbeat expires");
    }
    result
}

/// The id of a worker with a name is the same after a restart, and so are its partitions.
fn named(name: &str) -> WorkerId {
    derived_id("worker", &[name.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_the_same_id_after_a_restart() {
        assert_eq!(named("worker-0"), named("worker-0"));
        assert_ne!(named("worker-0"), named("worker-1"));
    }
}
