//! One run: the load, and the metrics beside it.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{args::Scaling, curve::Curve, metrics::fetch};
use crate::{
    error::{Result, failed},
    load::{self, PartitionOf},
};

/// Between two readings of the metrics.
const READ_EVERY: Duration = Duration::from_millis(250);
/// The longest time for one reading.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Drives the load and reads the autoscaler's metrics.
///
/// # Errors
/// A failure of the load, or metrics that cannot be read at the start.
pub async fn run(scaling: &Scaling, partition_of: PartitionOf) -> Result<Curve> {
    let client = reqwest::Client::builder()
        .timeout(READ_TIMEOUT)
        .build()
        .map_err(|e| failed("the HTTP client", e))?;
    // A wrong address fails here, before the load.
    fetch(&client, &scaling.autoscaler).await?;
    let stop = CancellationToken::new();
    let reading = tokio::spawn({
        let (stop, url) = (stop.clone(), scaling.autoscaler.clone());
        async move {
            let mut samples = Vec::new();
            while !stop.is_cancelled() {
                // A failed reading is a gap in the curve.
                if let Ok(sample) = fetch(&client, &url).await {
                    samples.push((Instant::now(), sample));
                }
                stop.run_until_cancelled(tokio::time::sleep(READ_EVERY))
                    .await;
            }
            samples
        }
    });
    let report = load::run(&scaling.load(), partition_of, &CancellationToken::new()).await;
    stop.cancel();
    let samples = reading
        .await
        .map_err(|e| failed("the autoscaler's metrics", e))?;
    Ok(Curve::new(scaling, report?, samples))
}
