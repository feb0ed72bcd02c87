//! A listener: one pub/sub connection that reconnects for ever. Its task sends `Lost` once when the connection breaks,
//! restores every subscription on the next connection, and then sends `Restored`. A server that does not answer pings
//! counts as lost, and so does one that is no longer the master. The connection is also dropped when the reader falls
//! behind, so that memory stays bounded.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_redis::redis::{
    RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{debug, info, warn};

use super::{
    channels::ChannelNames,
    sentinel::Address,
    servers::{Dialed, Servers},
};
use crate::{
    bus::{Channel, Incoming, Subscriptions},
    error::Result,
    retry::Policy,
    telemetry::{Dependency, watch_state},
};

/// Messages that may wait for the reader.
const QUEUE: usize = 16 * 1024;
/// Channels in one SUBSCRIBE.
const CHUNK: usize = 500;
/// Interval of pings, and the deadline of every answer.
const PING_EVERY: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two attempts to connect. Shorter than elsewhere: nothing is delivered live meanwhile.
const RECONNECT: Policy = Policy {
    max: Duration::from_secs(1),
    ..Policy::RECONNECT
};

pub(super) struct Listener(Arc<Shared>);

struct Shared {
    names: ChannelNames,
    wanted: Mutex<Wanted>,
}

#[derive(Default)]
struct Wanted {
    channels: HashSet<Channel>,
    /// Sends changes to the task of the current connection. `channels` is changed under the same lock, so that a
    /// connection either starts with a change or receives it.
    session: Option<mpsc::UnboundedSender<Change>>,
}

struct Change {
    subscribe: bool,
    channels: Vec<Channel>,
    done: oneshot::Sender<()>,
}

impl Listener {
    /// Returns whether the connection made the change; `false` at once while there is none.
    async fn change(&self, subscribe: bool, channels: &[Channel]) -> bool {
        if channels.is_empty() {
            return true;
        }
        let (done, confirmed) = oneshot::channel();
        {
            let mut wanted = self.0.wanted.lock();
            for channel in channels {
                if subscribe {
                    wanted.channels.insert(*channel);
                } else {
                    wanted.channels.remove(channel);
                }
            }
            let change = Change {
                subscribe,
                channels: channels.to_vec(),
                done,
            };
            match &wanted.session {
                Some(session) if session.send(change).is_ok() => {}
                _ => return false,
            }
        }
        // A session that ends drops `done`.
        confirmed.await.is_ok()
    }
}

#[async_trait]
impl Subscriptions for Listener {
    async fn subscribe(&self, channels: &[Channel]) -> Result<bool> {
        Ok(self.change(true, channels).await)
    }

    async fn unsubscribe(&self, channels: &[Channel]) -> Result<()> {
        self.change(false, channels).await;
        Ok(())
    }
}

/// Returns when the first attempt to connect is over. If it failed, the first item received is `Lost`.
pub(super) async fn start(
    servers: Arc<Servers>,
    names: ChannelNames,
) -> (Listener, mpsc::Receiver<Incoming>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared {
        names,
        wanted: Mutex::default(),
    });
    let (first, tried) = oneshot::channel();
    tokio::spawn(run(servers, shared.clone(), sender, first));
    // An error means that the task has ended.
    let _ = tried.await;
    (Listener(shared), receiver)
}

/// Why a connection's session ended.
enum End {
    /// The receiver was dropped.
    ReceiverDropped,
    Lost(String),
}

async fn run(
    servers: Arc<Servers>,
    shared: Arc<Shared>,
    sender: mpsc::Sender<Incoming>,
    first: oneshot::Sender<()>,
) {
    let mut changes = servers.changes();
    let mut retry = RECONNECT.start();
    let mut first = Some(first);
    let connected = Arc::new(AtomicBool::new(false));
    let weak = Arc::downgrade(&connected);
    watch_state(Dependency::Bus, move || {
        Some(i64::from(weak.upgrade()?.load(Ordering::Relaxed)))
    });
    let mut lost = None;
    loop {
        changes.mark_unchanged();
        let attempt = tokio::select! {
            attempt = connect(&servers) => attempt,
            // The connections for commands have found another master, while this one may hang.
            Ok(()) = changes.changed() => continue,
        };
        let why = match attempt {
            Ok((connection, master)) => {
                let started = Instant::now();
                let session = session(
                    &shared, &sender, connection, &mut lost, &connected, &mut first,
                );
                let end = tokio::select! {
                    end = session => end,
                    () = replaced(&mut changes, &master) => {
                        End::Lost("another server is the master".to_owned())
                    }
                };
                shared.wanted.lock().session = None;
                // Only a connection that lasts resets the backoff.
                if started.elapsed() > Policy::RECONNECT.max {
                    retry.reset();
                }
                match end {
                    End::ReceiverDropped => return,
                    End::Lost(why) => why,
                }
            }
            Err(why) => why,
        };
        if lost.is_none() {
            lost = Some(Instant::now());
            connected.store(false, Ordering::Relaxed);
            warn!(error = why, "Redis subscription connection lost");
            if sender.send(Incoming::Lost).await.is_err() {
                return;
            }
        } else {
            debug!(error = why, "Redis still not reachable");
        }
        if let Some(first) = first.take() {
            let _ = first.send(());
        }
        tokio::select! {
            _ = retry.pause() => {}
            Ok(()) = changes.changed() => {}
            () = sender.closed() => return,
        }
    }
}

type Connection = (PubSubSink, PubSubStream);

async fn connect(servers: &Arc<Servers>) -> Result<(Connection, Option<Address>), String> {
    match timeout(ANSWER_TIMEOUT, servers.connect_pubsub()).await {
        Ok(Ok(Dialed { connection, master })) => Ok((connection.split(), master)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Returns when a server other than `master` is in use.
async fn replaced(changes: &mut watch::Receiver<Option<Address>>, master: &Option<Address>) {
    if changes.wait_for(|current| current != master).await.is_err() {
        // The servers are dropped with the task.
        std::future::pending::<()>().await;
    }
}

/// Runs one connection, from its first subscription to its end.
async fn session(
    shared: &Shared,
    sender: &mpsc::Sender<Incoming>,
    (sink, stream): Connection,
    lost: &mut Option<Instant>,
    connected: &AtomicBool,
    first: &mut Option<oneshot::Sender<()>>,
) -> End {
    let (session, changes) = mpsc::unbounded_channel();
    let channels: Vec<Channel> = {
        let mut wanted = shared.wanted.lock();
        wanted.session = Some(session);
        wanted.channels.iter().copied().collect()
    };
    let driven = async {
        let mut driver = Driver { shared, sink };
        driver.change(true, &channels).await?;
        connected.store(true, Ordering::Relaxed);
        if let Some(since) = *lost {
            info!(
                channels = channels.len(),
                outage_ms = since.elapsed().as_millis() as u64,
                "Redis subscription connection restored"
            );
            if sender.send(Incoming::Restored).await.is_err() {
                return Ok(());
            }
            *lost = None;
        }
        if let Some(first) = first.take() {
            // `start` may have been cancelled.
            let _ = first.send(());
        }
        driver.keep_up(changes).await
    };
    // Drains all available messages at once: tokio's cooperative budget is too small for a busy edge.
    let delivered = tokio::task::unconstrained(deliver(shared, sender, stream));
    tokio::select! {
        end = delivered => end,
        driven = driven => match driven {
            Ok(()) => End::ReceiverDropped,
            Err(why) => End::Lost(why),
        },
        () = sender.closed() => End::ReceiverDropped,
    }
}

async fn deliver(
    shared: &Shared,
    sender: &mpsc::Sender<Incoming>,
    mut stream: PubSubStream,
) -> End {
    while let Some(message) = stream.next().await {
        let Some(channel) = shared.names.parse(message.get_channel_name()) else {
            continue;
        };
        let payload = Bytes::copy_from_slice(message.get_payload_bytes());
        match sender.try_send(Incoming::Message { channel, payload }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return End::ReceiverDropped,
            Err(mpsc::error::TrySendError::Full(_)) => {
                return End::Lost("its reader fell behind".to_owned());
            }
        }
    }
    End::Lost("closed by the server".to_owned())
}

/// Runs subscribes, unsubscribes and pings one after the other.
struct Driver<'a> {
    shared: &'a Shared,
    sink: PubSubSink,
}

impl Driver<'_> {
    async fn keep_up(
        &mut self,
        mut changes: mpsc::UnboundedReceiver<Change>,
    ) -> Result<(), String> {
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch: Vec<Change> = Vec::new();
        loop {
            tokio::select! {
                _ = changes.recv_many(&mut batch, CHUNK) => {}
                _ = ping.tick() => answered(self.sink.ping::<()>()).await?,
            }
            // Adjacent changes of one kind share a round trip.
            while let Some(subscribe) = batch.first().map(|change| change.subscribe) {
                let alike = batch
                    .iter()
                    .take_while(|c| c.subscribe == subscribe)
                    .count();
                let alike: Vec<Change> = batch.drain(..alike).collect();
                let channels: Vec<Channel> = alike
                    .iter()
                    .flat_map(|c| c.channels.iter().copied())
                    .collect();
                self.change(subscribe, &channels).await?;
                for change in alike {
                    // The caller may have been cancelled.
                    let _ = change.done.send(());
                }
            }
        }
    }

    async fn change(&mut self, subscribe: bool, channels: &[Channel]) -> Result<(), String> {
        for chunk in channels.chunks(CHUNK) {
            let names: Vec<String> = chunk.iter().map(|c| self.shared.names.name(*c)).collect();
            if subscribe {
                answered(self.sink.subscribe(names)).await?;
            } else {
                answered(self.sink.unsubscribe(names)).await?;
            }
        }
        Ok(())
    }
}

async fn answered(what: impl Future<Output = RedisResult<()>>) -> Result<(), String> {
    match timeout(ANSWER_TIMEOUT, what).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
