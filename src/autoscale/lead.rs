//! One autoscaler leads, the others wait: a leadership on the bus that ends by itself when its holder does not renew it.
//! Pools of different workers have a leadership each.
//!
//! Two that lead for a moment start too many workers, which is harmless; that is all this must prevent.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{bus::Coordination, config::WorkerRole};

/// How long the others wait for a leader that died without a word.
const TTL: Duration = Duration::from_secs(3);
const RENEW: Duration = Duration::from_millis(750);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    Ours,
    /// Another one's.
    Theirs,
    /// The bus does not answer. Who leads goes on, who waits goes on waiting; neither starts anything.
    Unknown,
}

/// The leadership over the workers that do `jobs`.
pub fn key(jobs: &[WorkerRole]) -> String {
    if WorkerRole::ALL.iter().all(|kind| jobs.contains(kind)) {
        return "autoscale".to_owned();
    }
    let mut kinds: Vec<&str> = jobs.iter().map(|kind| kind.as_str()).collect();
    kinds.sort_unstable();
    format!("autoscale-{}", kinds.join("-"))
}

/// Asks for the leadership, and keeps it, until `shutdown`; then gives it up.
pub async fn keep(
    bus: Arc<dyn Coordination>,
    key: String,
    lead: watch::Sender<Lead>,
    shutdown: CancellationToken,
) {
    let me = Uuid::new_v4();
    let mut told = None;
    loop {
        let now = match bus.acquire_lease(&key, me, TTL).await {
            Ok(true) => Lead::Ours,
            Ok(false) => Lead::Theirs,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "no answer about the leadership");
                Lead::Unknown
            }
        };
        if told != Some(now) {
            match now {
                Lead::Ours => tracing::info!("this autoscaler leads"),
                Lead::Theirs => tracing::info!("another autoscaler leads; waiting for its end"),
                Lead::Unknown => tracing::warn!("Redis does not answer; nothing is started"),
            }
            told = Some(now);
        }
        lead.send_if_modified(|before| std::mem::replace(before, now) != now);
        tokio::select! {
            () = tokio::time::sleep(RENEW) => {}
            () = shutdown.cancelled() => break,
        }
    }
    if let Err(error) = bus.release_lease(&key, me).await {
        tracing::debug!(error = %error.chain(), "the leadership ends by itself");
    }
}
