//! Errors of the broker as errors of the product.

use std::time::Duration;

use crate::error::{Error, Result};

/// The pause suggested to a refused caller while the broker is away or blocks.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) fn busy(message: &str) -> Error {
    Error {
        dependency: Some("queue"),
        ..Error::busy(message, RETRY_AFTER)
    }
}

pub(super) fn unavailable(error: lapin::Error) -> Error {
    Error::unavailable("queue", error)
}

/// The result of `operation`, or `busy` after `deadline`.
pub(super) async fn within<T>(
    deadline: Duration,
    operation: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, operation).await {
        Ok(result) => result.map_err(unavailable),
        Err(elapsed) => Err(Error::unavailable("queue", elapsed)),
    }
}
