//! The queue over RabbitMQ: one quorum queue a partition, publisher confirms, single active consumers.
//!
//! Publishing and consuming have a connection each, since a broker under an alarm stops reading from one that
//! publishes, and acknowledgements must not wait for that. Both are kept by `link`: it connects, declares the
//! topology, watches, and does it again. Nothing here may use lapin's own recovery.

mod backlog;
mod consume;
mod dead;
mod jobs;
mod link;
mod load;
mod publish;
mod topology;

use std::{fmt, time::Duration};

pub use consume::RabbitQueue;
pub use dead::RabbitDeadLetters;
pub use jobs::RabbitJobs;
use lapin::uri::AMQPUri;
pub use publish::RabbitPublisher;

use super::Partition;
use crate::error::{Error, Result};

#[derive(Clone)]
pub struct Settings {
    /// `amqp://` or `amqps://`. May hold a password: never logged.
    pub url: String,
    /// Begins the name of every queue.
    pub prefix: String,
    /// At least 1.
    pub partitions: Partition,
    /// Beyond this many waiting commands the estimate is refreshed more often; refusing them is the caller's.
    pub max_backlog: u64,
    /// The longest a publish takes, reconnecting included.
    pub confirm_timeout: Duration,
    /// Payloads a consumer may hold unacknowledged, at least 1. The same on every worker: where one holds fewer
    /// than its predecessor left behind and then fails too, RabbitMQ mixes up the order of what both gave back.
    pub prefetch: u16,
    /// Shown as the connections' name in RabbitMQ's own tools.
    pub node: String,
}

impl Settings {
    fn uri(&self) -> Result<AMQPUri> {
        let mut uri: AMQPUri = self
            .url
            .parse()
            .map_err(|reason: String| Error::field("queue.url", reason))?;
        // Seconds. Two missed ones are a dead peer: a frozen broker is noticed within 10 s.
        uri.query.heartbeat = Some(5);
        uri.query.connection_timeout = Some(link::CONNECT_DEADLINE.as_millis() as u64);
        Ok(uri)
    }

    fn check(&self, partition: Partition) -> Result<()> {
        if partition < self.partitions {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "there is no partition {partition}: queue.partitions is {}",
            self.partitions
        )))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("prefix", &self.prefix)
            .field("partitions", &self.partitions)
            .field("max_backlog", &self.max_backlog)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("prefetch", &self.prefetch)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// How long a refused caller should wait while the broker is away or blocks.
const RETRY_AFTER: Duration = Duration::from_secs(1);

fn busy(message: &str) -> Error {
    Error::busy(message, RETRY_AFTER)
}

fn unavailable(error: lapin::Error) -> Error {
    Error::unavailable("queue", error)
}

/// `what`, or `busy` when it takes too long.
async fn within<T>(
    deadline: Duration,
    what: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, what).await {
        Ok(result) => result.map_err(unavailable),
        Err(elapsed) => Err(Error::unavailable("queue", elapsed)),
    }
}
