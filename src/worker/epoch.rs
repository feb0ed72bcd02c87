//! The epoch of the store as this worker knows it: events are cached under it, and memberships that were cached in an
//! earlier one are invalidated.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::state::Worker;

/// How often the epoch is read: the bus may lose the notice that it changed.
const INTERVAL: Duration = Duration::from_secs(10);
/// Pause after a failed read.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Reads the epoch repeatedly until `shutdown`.
pub async fn follow(worker: Arc<Worker>, shutdown: CancellationToken) {
    loop {
        let Some(read) = shutdown.run_until_cancelled(worker.store.epoch()).await else {
            return;
        };
        let pause = match read {
            Ok(epoch) => {
                worker.memberships.enter(epoch);
                INTERVAL
            }
            Err(error) => {
                tracing::debug!(error = %error.chain(), "the epoch could not be read");
                RETRY_PAUSE
            }
        };
        let slept = shutdown
            .run_until_cancelled(tokio::time::sleep(pause))
            .await;
        if slept.is_none() {
            return;
        }
    }
}
