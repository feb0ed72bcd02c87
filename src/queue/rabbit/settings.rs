//! The settings of both sides of the queue.

use std::{fmt, time::Duration};

use lapin::uri::AMQPUri;

use crate::{
    error::{Error, Result},
    queue::Partition,
};

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// With several nodes, one that does not answer only delays the next one.
const CONNECT_DEADLINE_OF_SEVERAL: Duration = Duration::from_secs(1);
/// Two missed heartbeats end a connection: a broker that hangs is detected within 10 s.
const HEARTBEAT_SECONDS: u16 = 5;

#[derive(Clone)]
pub struct RabbitSettings {
    /// The nodes of one cluster, at least one: `amqp://` or `amqps://`. They may contain passwords: never logged.
    pub urls: Vec<String>,
    /// Begins the name of every queue.
    pub prefix: String,
    /// At least 1.
    pub partitions: Partition,
    /// Above this many waiting commands the estimate is refreshed more often. The caller refuses commands, not the
    /// queue.
    pub max_backlog: u64,
    /// Deadline of a publish, including reconnects.
    pub confirm_timeout: Duration,
    /// Payloads that a consumer may hold unacknowledged, at least 1. It must be the same on every worker: if a consumer
    /// that may hold fewer takes over from one that held more, and fails as well, RabbitMQ requeues both sets out of
    /// order.
    pub prefetch: u16,
    /// Whether a new connection declares the queues, which creates missing ones. Tools only read them.
    pub declare: bool,
    /// Shown as the connections' name in RabbitMQ's own tools.
    pub node: String,
}

impl RabbitSettings {
    pub(super) fn uris(&self) -> Result<Vec<AMQPUri>> {
        let parse = |url: &String| {
            let parsed = url.parse::<AMQPUri>();
            let mut uri = parsed.map_err(|reason| Error::field("queue.url", reason))?;
            uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
            uri.query.connection_timeout = Some(self.connect_deadline().as_millis() as u64);
            Ok(uri)
        };
        self.urls.iter().map(parse).collect()
    }

    /// Deadline of TCP, TLS and the AMQP handshake together.
    pub(super) fn connect_deadline(&self) -> Duration {
        match self.urls.len() {
            0 | 1 => CONNECT_DEADLINE,
            _ => CONNECT_DEADLINE_OF_SEVERAL,
        }
    }

    pub(super) fn check(&self, partition: Partition) -> Result<()> {
        if partition < self.partitions {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "there is no partition {partition}: queue.partitions is {}",
            self.partitions
        )))
    }
}

impl fmt::Debug for RabbitSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitSettings")
            .field("prefix", &self.prefix)
            .field("partitions", &self.partitions)
            .field("max_backlog", &self.max_backlog)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("prefetch", &self.prefetch)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
