//! Announces on the bus which users are connected to this edge. Announcements expire, since an edge that crashes cannot
//! withdraw them.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Edge, registry::Registry, subscriber::Subscriber};
use crate::{bus::Presence, config::Config};

/// Intervals after which users whose announcements stopped count as gone.
const INTERVALS: u32 = 3;

/// The time between two announcements.
pub fn interval(config: &Config) -> Duration {
    (config.notify.away_after / 4).clamp(Duration::from_millis(50), Duration::from_secs(10))
}

/// How long an announcement counts: long enough that losing one does no harm.
pub fn ttl(config: &Config) -> Duration {
    interval(config) * INTERVALS
}

/// Announces every connected user until `shutdown`.
pub async fn announce(
    presence: Arc<dyn Presence>,
    sessions: Arc<Registry>,
    every: Duration,
    shutdown: CancellationToken,
) {
    while shutdown
        .run_until_cancelled(tokio::time::sleep(every))
        .await
        .is_some()
    {
        let present = sessions.present();
        if present.is_empty() {
            continue;
        }
        if let Err(error) = presence.mark_connected(&present, every * INTERVALS).await {
            tracing::debug!(error = %error.chain(), "presence was not announced");
        }
    }
}

/// Announces a new session at once.
pub fn announce_now(edge: &Arc<Edge>, who: &Subscriber) {
    let (user, active) = (who.user, who.last_active());
    let announcing = edge.clone();
    edge.tasks.spawn(async move {
        if let Err(error) = announcing.batched.here.get((user, active)).await {
            tracing::debug!(error = %error.chain(), "presence was not announced");
        }
    });
}
