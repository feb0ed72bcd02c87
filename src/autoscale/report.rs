//! The reports to the autoscaler. Those of edges: how many payloads they published, and how many messages these
//! contained. The counters are shared by all edges, so that the sum takes one read and survives a restart of an edge.
//! They give the size of payloads and the arrival rate; the number of waiting payloads is read from the queue. Those of
//! workers: what they hold unacknowledged (`worker/held.rs`).

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::signal::Flow;
use crate::{
    bus::Coordination,
    error::Result,
    queue::{Held, Publisher, rabbit::RabbitPublisher},
    telemetry::metrics,
};

const PAYLOADS: &str = "published-payloads";
const MESSAGES: &str = "published-messages";
const EVERY: Duration = Duration::from_millis(500);
/// Long enough to keep the size of payloads over a quiet weekend.
const TTL: Duration = Duration::from_secs(7 * 86_400);

/// Reports until `shutdown`. Also updates the metric of the backlog.
pub async fn run(
    coordination: Arc<dyn Coordination>,
    publisher: Arc<RabbitPublisher>,
    shutdown: CancellationToken,
) {
    let mut reported = [0, 0];
    while !shutdown.is_cancelled() {
        let backlog = i64::try_from(publisher.backlog()).unwrap_or(i64::MAX);
        metrics().queue_backlog_messages.set(backlog);
        let confirmed = publisher.confirmed();
        let [payloads, messages] = [0, 1].map(|i| confirmed[i] - reported[i]);
        if payloads > 0 {
            let additions = [(PAYLOADS, payloads), (MESSAGES, messages)];
            match coordination.add(&additions, TTL).await {
                Ok(_) => reported = confirmed,
                // It may have been counted: a rate that is wrong once is harmless.
                Err(error) => tracing::debug!(error = %error.chain(), "flow not reported"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// The sum over all edges.
pub async fn read(coordination: &dyn Coordination) -> Result<Flow> {
    let totals = coordination
        .add(&[(PAYLOADS, 0), (MESSAGES, 0)], TTL)
        .await?;
    Ok(Flow {
        payloads: totals.first().copied().unwrap_or_default(),
        messages: totals.get(1).copied().unwrap_or_default(),
    })
}

/// The sum over all workers.
pub async fn held(coordination: &dyn Coordination) -> Result<Held> {
    Ok(Held::sum(&coordination.reports(Held::KEY).await?))
}
