//! Clears away what expired: logins, codes, bans that are over, and the ledger's rows beyond `notify.keep`. Every worker
//! that does this asks for the leadership once an interval, and one has it; two that clear at once delete the same
//! rows, which is harmless. What is gone could not be used any more: nothing here changes what anyone sees.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::{bus::WorkerId, error::Result, store::Expired, telemetry::metrics};

const KEY: &str = "maintenance";
/// A worker that has just been started has something else to do first.
const FIRST: Duration = Duration::from_secs(10);
/// A command that was given in time may still wait in the queue.
const SETTLED: Duration = Duration::from_secs(7 * 86_400);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(60);

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
        // Held for the whole interval, so that the others do not clear again what is clear.
        match worker.coordination.acquire_lease(KEY, id, interval).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "nothing is cleared away while Redis is silent");
                pause = AGAIN.min(interval);
                continue;
            }
        }
        let Some(cleared) = shutdown.run_until_cancelled(clear(&worker)).await else {
            return;
        };
        match cleared {
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
                        "expired rows cleared away"
                    );
                }
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "expired rows could not be cleared away yet");
                pause = AGAIN.min(interval);
                // Another one may be better off.
                let _ = worker.coordination.release_lease(KEY, id).await;
            }
        }
    }
}

/// All of it, a bounded number of rows at a time.
async fn clear(worker: &Worker) -> Result<Expired> {
    let mut all = Expired::default();
    loop {
        let some = worker
            .store
            .expire(SETTLED, worker.config.notify.keep)
            .await?;
        all.add(&some);
        if !some.more {
            return Ok(all);
        }
    }
}
