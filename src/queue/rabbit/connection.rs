//! One connection to the broker that reconnects for ever. Its task connects (with a deadline), declares the topology,
//! watches the connection, and starts over after a delay with jitter. It logs each change of state once.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{
    Connection, ConnectionProperties, Event,
    uri::{AMQPScheme, AMQPUri},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::{settings::RabbitSettings, topology};
use crate::{
    error::{Error, Result},
    queue::QueueState,
    retry::Policy,
    telemetry::{BLOCKED, DOWN, Dependency, UP, watch_state},
};

/// Creating a quorum queue takes tens of milliseconds, and there can be 256; after a cluster's restart each of them
/// elects its leader first.
const DECLARE_DEADLINE: Duration = Duration::from_secs(60);
/// With several nodes. A node that is cut off from the others completes the handshake and answers no declaration.
const DECLARE_DEADLINE_OF_SEVERAL: Duration = Duration::from_secs(10);
/// How long a node that is left may take to answer the close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
/// lapin reports a lost connection as an event; this check finds connections that were lost without one.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// One established connection.
pub(super) struct Live {
    pub connection: Connection,
    /// Distinguishes this connection from its predecessors.
    pub epoch: u64,
}

#[derive(Clone)]
pub(super) enum Status {
    Down,
    Up(Arc<Live>),
    Blocked(Arc<Live>),
}

impl Status {
    pub fn state(&self) -> QueueState {
        match self {
            Status::Down => QueueState::Down,
            Status::Up(_) => QueueState::Up,
            Status::Blocked(_) => QueueState::Blocked,
        }
    }

    fn epoch(&self) -> Option<u64> {
        match self {
            Status::Down => None,
            Status::Up(live) | Status::Blocked(live) => Some(live.epoch),
        }
    }
}

/// The handle to the connection's task. Dropping it closes the connection.
pub(super) struct ManagedConnection {
    status: Arc<watch::Sender<Status>>,
    failure: Arc<Mutex<String>>,
    /// Whether every node has failed since the start.
    failed: watch::Receiver<bool>,
    /// The epoch of the last connection whose node is to be left.
    left: watch::Sender<u64>,
    task: AbortOnDropHandle<()>,
}

impl ManagedConnection {
    /// Starts connecting and returns at once. `role` says what the connection is for, in logs and in its name.
    pub fn start(settings: RabbitSettings, role: &'static str) -> Result<ManagedConnection> {
        let uris = settings.uris()?;
        let status = Arc::new(watch::Sender::new(Status::Down));
        let failure: Arc<Mutex<String>> = Arc::default();
        let weak = Arc::downgrade(&status);
        watch_state(Dependency::Queue, move || {
            Some(gauge(weak.upgrade()?.borrow().state()))
        });
        let (has_failed, failed) = watch::channel(false);
        let left = watch::Sender::new(0);
        let reports = Reports {
            status: status.clone(),
            last_failure: failure.clone(),
            failed: has_failed,
        };
        let task = tokio::spawn(run(uris, settings, role, reports, left.subscribe()));
        Ok(ManagedConnection {
            status,
            failure,
            failed,
            left,
            task: AbortOnDropHandle::new(task),
        })
    }

    pub fn state(&self) -> QueueState {
        self.status.borrow().state()
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Waits for a connection, at most `limit`. The error carries the reason of the last failed attempt.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        if timeout(limit, self.established()).await.is_ok() {
            return Ok(());
        }
        let failure = self.failure.lock();
        let reason = match failure.as_str() {
            "" => "no connection yet",
            reason => reason,
        };
        Err(Error::unavailable("queue", reason))
    }

    /// As [`ManagedConnection::ready`], but gives up as soon as every node has failed once.
    pub async fn tried(&self, limit: Duration) -> Result<()> {
        let mut failed = self.failed.clone();
        tokio::select! {
            biased;
            ready = self.ready(limit) => ready,
            _ = failed.wait_for(|failed| *failed) => self.ready(Duration::ZERO).await,
        }
    }

    /// Waits until there is a connection, blocked or not.
    pub async fn established(&self) -> Status {
        let mut status = self.status.subscribe();
        let found = status.wait_for(|s| s.state() != QueueState::Down).await;
        let found = found.ok().map(|status| status.clone());
        match found {
            Some(status) => status,
            // The task has ended: there will be no connection.
            None => future::pending().await,
        }
    }

    pub async fn live(&self) -> Arc<Live> {
        match self.established().await {
            Status::Up(live) | Status::Blocked(live) => live,
            Status::Down => future::pending().await,
        }
    }

    /// Resolves when that connection is no longer the one in use.
    pub async fn gone(&self, epoch: u64) {
        let mut status = self.status.subscribe();
        // An error means that the task has ended, and the connection with it.
        let _ = status.wait_for(|s| s.epoch() != Some(epoch)).await;
    }

    /// Gives up this connection and connects to the next node, if there are several: this one keeps the connection
    /// open and does not do its work, as a node does that is cut off from the others.
    pub fn leave(&self, epoch: u64) {
        self.left.send_replace(epoch);
    }

    /// Resolves when the broker blocks the connection.
    pub async fn blocked(&self) {
        let mut status = self.status.subscribe();
        if status
            .wait_for(|s| s.state() == QueueState::Blocked)
            .await
            .is_err()
        {
            future::pending().await
        }
    }

    /// Closes the connection in order; waits for the broker's answer for a second at most.
    pub async fn close(&self) {
        self.task.abort();
        let before = self.status.send_replace(Status::Down);
        if let Status::Up(live) | Status::Blocked(live) = before {
            let closed = live.connection.close(200, "bye".into());
            let _ = timeout(CLOSE_DEADLINE, closed).await;
        }
    }
}

/// The state as a metric.
fn gauge(state: QueueState) -> i64 {
    match state {
        QueueState::Up => UP,
        QueueState::Blocked => BLOCKED,
        QueueState::Down => DOWN,
    }
}

/// Where the connection's task reports.
struct Reports {
    status: Arc<watch::Sender<Status>>,
    last_failure: Arc<Mutex<String>>,
    failed: watch::Sender<bool>,
}

async fn run(
    uris: Vec<AMQPUri>,
    settings: RabbitSettings,
    role: &'static str,
    reports: Reports,
    mut left: watch::Receiver<u64>,
) {
    let Reports {
        status,
        last_failure,
        failed,
    } = reports;
    static EPOCH: AtomicU64 = AtomicU64::new(1);
    let mut nodes = Nodes::new(uris);
    let mut retry = Policy::RECONNECT.start();
    let mut reported = false;
    let mut down_since = Instant::now();
    loop {
        let node = nodes.current();
        let at = Address::of(&node.uri);
        match connect(node, &settings, role).await {
            Ok(connection) => {
                let epoch = EPOCH.fetch_add(1, Ordering::Relaxed);
                let live = Arc::new(Live { connection, epoch });
                info!(
                    role,
                    host = at.host,
                    port = at.port,
                    vhost = at.vhost,
                    took_ms = down_since.elapsed().as_millis() as u64,
                    "RabbitMQ connected"
                );
                let since = Instant::now();
                let leaving = left.wait_for(|left| *left == epoch && settings.urls.len() > 1);
                let reason = tokio::select! {
                    reason = watch_over(live.clone(), role, &status) => reason,
                    Ok(_) = leaving => {
                        close_in_background(live);
                        "the node does not answer".to_owned()
                    }
                };
                status.send_replace(Status::Down);
                down_since = Instant::now();
                warn!(role, error = reason, "RabbitMQ connection lost");
                reported = true;
                node.silent = false;
                // A connection that breaks at once does not reset the delay.
                if since.elapsed() > Policy::RECONNECT.max {
                    retry.reset();
                }
            }
            Err(failure) => {
                last_failure.lock().clone_from(&failure.reason);
                node.silent = failure.timed_out;
                if reported {
                    debug!(
                        role,
                        host = at.host,
                        port = at.port,
                        error = failure.reason,
                        "RabbitMQ still not reachable"
                    );
                } else {
                    warn!(
                        role,
                        host = at.host,
                        port = at.port,
                        vhost = at.vhost,
                        error = failure.reason,
                        "RabbitMQ not reachable, trying on"
                    );
                    reported = true;
                }
            }
        }
        // The other nodes are tried at once; a pause follows when each of them has failed.
        if nodes.next() {
            failed.send_replace(true);
            retry.pause().await;
        }
    }
}

fn close_in_background(live: Arc<Live>) {
    tokio::spawn(async move {
        let closed = live
            .connection
            .close(200, "the node does not answer".into());
        let _ = timeout(CLOSE_DEADLINE, closed).await;
    });
}

/// The nodes of the cluster, and the one in use.
struct Nodes {
    nodes: Vec<Node>,
    current: usize,
    /// Nodes that were left since the last pause.
    left: usize,
}

struct Node {
    uri: AMQPUri,
    /// The last attempt got no answer.
    silent: bool,
}

impl Nodes {
    /// Begins with any of them, so that many processes spread over the cluster.
    fn new(uris: Vec<AMQPUri>) -> Nodes {
        let silent = false;
        Nodes {
            current: rand::random_range(0..uris.len().max(1)),
            nodes: uris.into_iter().map(|uri| Node { uri, silent }).collect(),
            left: 0,
        }
    }

    fn current(&mut self) -> &mut Node {
        &mut self.nodes[self.current]
    }

    /// Goes to the next node. Returns whether all have been left since this last returned `true`.
    fn next(&mut self) -> bool {
        self.current = (self.current + 1) % self.nodes.len();
        self.left = (self.left + 1) % self.nodes.len();
        self.left == 0
    }
}

/// The parts of a URL that may be logged.
struct Address {
    host: String,
    port: u16,
    vhost: String,
}

impl Address {
    fn of(uri: &AMQPUri) -> Address {
        Address {
            host: uri.authority.host.clone(),
            port: uri.authority.port,
            vhost: uri.vhost.clone(),
        }
    }
}

struct Failure {
    reason: String,
    timed_out: bool,
}

impl Failure {
    fn because(reason: impl ToString) -> Failure {
        Failure {
            reason: reason.to_string(),
            timed_out: false,
        }
    }

    fn timeout(what: &str) -> Failure {
        Failure {
            reason: format!("no answer to {what} in time"),
            timed_out: true,
        }
    }
}

async fn connect(
    node: &Node,
    settings: &RabbitSettings,
    role: &str,
) -> Result<Connection, Failure> {
    let (uri, deadline) = (&node.uri, settings.connect_deadline());
    // lapin keeps a thread and a socket for every handshake that is given up: do not even start one with a
    // broker that was silent last time and still is.
    if node.silent && uri.scheme == AMQPScheme::AMQP {
        match timeout(deadline, probe(uri)).await {
            Ok(answered) => answered.map_err(Failure::because)?,
            Err(_) => return Err(Failure::timeout("the AMQP header")),
        }
    }
    let properties = ConnectionProperties::default()
        .with_connection_name(format!("{} {role}", settings.node).into())
        .with_client_property("product".into(), "chat".into());
    let connection = match timeout(deadline, Connection::connect_uri(uri.clone(), properties)).await
    {
        Ok(connection) => connection.map_err(Failure::because)?,
        Err(_) => return Err(Failure::timeout("the AMQP handshake")),
    };
    if !settings.declare {
        return Ok(connection);
    }
    let deadline = match settings.urls.len() {
        0 | 1 => DECLARE_DEADLINE,
        _ => DECLARE_DEADLINE_OF_SEVERAL,
    };
    match timeout(deadline, topology::declare(&connection, settings)).await {
        Ok(declared) => declared.map_err(Failure::because)?,
        Err(_) => return Err(Failure::timeout("the declaration of the queues")),
    }
    Ok(connection)
}

/// Checks that the broker answers an AMQP header.
async fn probe(uri: &AMQPUri) -> std::io::Result<()> {
    let mut stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await?;
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    stream.read_u8().await.map(drop)
}

/// Publishes the connection's state until it is lost; returns why.
async fn watch_over(live: Arc<Live>, role: &str, status: &watch::Sender<Status>) -> String {
    let mut events = live.connection.events_listener();
    let mut check = interval(CHECK_EVERY);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    status.send_replace(Status::Up(live.clone()));
    let mut reason = String::from("closed");
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(why)) => {
                    warn!(role, reason = why, "RabbitMQ blocks the connection");
                    status.send_replace(Status::Blocked(live.clone()));
                }
                Some(Event::ConnectionUnblocked) => {
                    info!(role, "RabbitMQ unblocked the connection");
                    status.send_replace(Status::Up(live.clone()));
                }
                // The error of a channel or of the whole connection; the check below tells which.
                Some(Event::Error(error)) => reason = error.to_string(),
                Some(_) => {}
                None => return reason,
            },
            _ = check.tick() => {}
        }
        if !live.connection.status().connected() {
            return reason;
        }
    }
}
