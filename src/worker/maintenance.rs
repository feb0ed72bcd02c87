//! Deletes expired rows: logins, codes, bans, mutes, and the delivery log beyond `notify.keep`. Every worker with this role
//! tries to acquire a lease once per interval, and one gets it; two that delete at once delete the same rows, which is
//! harmless. Expired rows have no effect any more, so deleting them changes nothing that a client sees.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::state::Worker;
use crate::{bus::WorkerId, error::Result, store::Expired, telemetry::metrics};

const LEASE: &str = "maintenance";
/// Pause after the start.
const FIRST: Duration = Duration::from_secs(10);
/// Rows are kept for this long after they expired, for commands that were accepted before and still wait in the queue.
const KEEP_EXPIRED: Duration = Duration::from_secs(7 * 86_400);
/// Pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

pub async fn run(worker: Arc<Worker>, id: WorkerId, shutdown: CancellationToken) {
    let interval = worker.config.worker.maintenance_interval;
    let mut pause = FIRST.min(interval);
    loop {
        let slept = shutdown
            .run_until_cancelled(tokio::time::sleep(pause))
            .await;
        if slept.is_none() {
            return;
        }
        pause = interval;
        // Held for the whole interval, so that one worker deletes once per interval.
        match worker.coordination.acquire_lease(LEASE, id, interval).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "expired rows are not deleted while Redis does not answer");
                pause = RETRY_PAUSE.min(interval);
                continue;
            }
        }
        let Some(deleted) = shutdown.run_until_cancelled(delete_expired(&worker)).await else {
            return;
        };
        match deleted {
            Ok(expired) => {
                let rows = expired.rows();
                metrics().expired_rows.inc_by(rows);
                if rows > 0 {
                    tracing::info!(
                        logins = expired.logins,
                        codes = expired.codes,
                        bans = expired.bans,
                        mutes = expired.mutes,
                        notifications = expired.notifications,
                        deliveries = expired.deliveries,
                        "expired rows deleted"
                    );
                }
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "expired rows could not be deleted; trying again");
                pause = RETRY_PAUSE.min(interval);
                // Another worker may be able to reach the store.
                let _ = worker.coordination.release_lease(LEASE, id).await;
            }
        }
    }
}

/// Deletes in steps of a bounded number of rows.
async fn delete_expired(worker: &Worker) -> Result<Expired> {
    let mut all = Expired::default();
    loop {
        let some = worker
            .store
            .expire(KEEP_EXPIRED, worker.config.notify.keep)
            .await?;
        all.add(&some);
        if !some.more {
            return Ok(all);
        }
    }
}
