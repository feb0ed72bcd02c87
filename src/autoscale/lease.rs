//! Leader lease: one autoscaler leads, the others wait. The lease expires if its holder does not renew it. Pools of workers
//! with different roles have a lease each.
//!
//! Two leaders at once start too many workers, which is harmless; the lease only has to make that rare.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{bus::Coordination, config::WorkerRole};

/// How long the others wait for a leader that was killed.
const TTL: Duration = Duration::from_secs(3);
const RENEW: Duration = Duration::from_millis(750);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaderLease {
    Ours,
    /// Held by another autoscaler.
    Theirs,
    /// Redis does not answer. Leader and others stay as they are and start nothing.
    Unknown,
}

/// The key of the lease for workers with these roles.
pub fn key(roles: &[WorkerRole]) -> String {
    if WorkerRole::ALL.iter().all(|role| roles.contains(role)) {
        return "autoscale".to_owned();
    }
    let mut names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    names.sort_unstable();
    format!("autoscale-{}", names.join("-"))
}

/// Acquires and renews the lease until `shutdown`, then releases it. `lease` receives every change.
pub async fn keep(
    coordination: Arc<dyn Coordination>,
    key: String,
    lease: watch::Sender<LeaderLease>,
    shutdown: CancellationToken,
) {
    let me = Uuid::new_v4();
    let mut logged = None;
    loop {
        let now = match coordination.acquire_lease(&key, me, TTL).await {
            Ok(true) => LeaderLease::Ours,
            Ok(false) => LeaderLease::Theirs,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "the lease could not be renewed");
                LeaderLease::Unknown
            }
        };
        if logged != Some(now) {
            match now {
                LeaderLease::Ours => tracing::info!("this autoscaler leads"),
                LeaderLease::Theirs => {
                    tracing::info!("another autoscaler leads; waiting for its lease to end")
                }
                LeaderLease::Unknown => tracing::warn!("Redis does not answer; nothing is started"),
            }
            logged = Some(now);
        }
        lease.send_if_modified(|before| std::mem::replace(before, now) != now);
        tokio::select! {
            () = tokio::time::sleep(RENEW) => {}
            () = shutdown.cancelled() => break,
        }
    }
    if let Err(error) = coordination.release_lease(&key, me).await {
        tracing::debug!(error = %error.chain(), "the lease was not released; it expires");
    }
}
