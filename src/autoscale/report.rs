//! What edges tell the autoscaler: how many payloads they published, and how many messages were inside. Counters on the
//! bus, so that the sum over all edges costs one read and outlives each of them. They say how large a payload is and
//! how much arrives; how much waits is for the queue alone to say.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::signal::Flow;
use crate::{
    bus::Coordination,
    error::Result,
    queue::{Publisher, rabbit::RabbitPublisher},
    telemetry::metrics,
};

const PAYLOADS: &str = "published-payloads";
const MESSAGES: &str = "published-messages";
const EVERY: Duration = Duration::from_millis(500);
/// A quiet weekend does not make anyone forget how large payloads are.
const TTL: Duration = Duration::from_secs(7 * 86_400);

/// Reports until `shutdown`. Also keeps the metric of the backlog.
pub async fn run(
    bus: Arc<dyn Coordination>,
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
            match bus.add(&additions, TTL).await {
                Ok(_) => reported = confirmed,
                // It may have been counted, or not: a rate that is wrong once is harmless.
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
pub async fn read(bus: &dyn Coordination) -> Result<Flow> {
    let totals = bus.add(&[(PAYLOADS, 0), (MESSAGES, 0)], TTL).await?;
    Ok(Flow {
        payloads: totals.first().copied().unwrap_or_default(),
        messages: totals.get(1).copied().unwrap_or_default(),
    })
}
