//! A listener: one pub/sub connection that always comes back. A task owns it; it says `Lost` once when the
//! connection breaks, makes every subscription again on the next one, and then says `Restored`. A server that is
//! silent counts as gone, and so does a reader that falls behind: its connection is dropped rather than memory
//! filled.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_redis::redis::{
    Client, RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use futures_util::StreamExt;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{debug, info, warn};

use super::Names;
use crate::{
    bus::{Channel, Incoming, Subscriptions},
    error::Result,
    retry::Policy,
};

/// Messages that wait for the edge, at most.
const QUEUE: usize = 16 * 1024;
/// Channels in one SUBSCRIBE.
const CHUNK: usize = 500;
/// How often the server is asked for a sign of life, and how long it has for any answer.
const PING_EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct Listener(Arc<Shared>);

struct Shared {
    names: Names,
    wanted: Mutex<Wanted>,
}

#[derive(Default)]
struct Wanted {
    channels: HashSet<Channel>,
    /// The way to the present connection. Whoever changes `channels` tells it in the same breath, so that it
    /// either starts with the change or hears of it.
    session: Option<mpsc::UnboundedSender<Change>>,
}

struct Change {
    subscribe: bool,
    channels: Vec<Channel>,
    done: oneshot::Sender<()>,
}

impl Shared {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock()
    }
}

impl Listener {
    /// Whether the connection has done it; at once `false` while there is none.
    async fn change(&self, subscribe: bool, channels: &[Channel]) -> bool {
        if channels.is_empty() {
            return true;
        }
        let (done, confirmed) = oneshot::channel();
        {
            let mut wanted = self.0.wanted();
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

/// Returns when the first connection is there or has failed; then `Lost` is the first thing to be heard.
pub(super) async fn start(client: Client, names: Names) -> (Listener, mpsc::Receiver<Incoming>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared {
        names,
        wanted: Mutex::default(),
    });
    let (first, tried) = oneshot::channel();
    tokio::spawn(keep(client, shared.clone(), sender, first));
    // An error means that the task is gone: nothing to wait for.
    let _ = tried.await;
    (Listener(shared), receiver)
}

/// Why a session ended.
enum End {
    /// Nobody listens any more.
    Unheard,
    Lost(String),
}

async fn keep(
    client: Client,
    shared: Arc<Shared>,
    sender: mpsc::Sender<Incoming>,
    first: oneshot::Sender<()>,
) {
    let mut retry = Policy::RECONNECT.start();
    let mut first = Some(first);
    let mut lost = false;
    loop {
        let why = match connect(&client).await {
            Ok((sink, stream)) => {
                let started = Instant::now();
                let end = session(&shared, &sender, sink, stream, &mut lost, &mut first).await;
                shared.wanted().session = None;
                // A connection that does not last is no success.
                if started.elapsed() > Policy::RECONNECT.max {
                    retry.reset();
                }
                match end {
                    End::Unheard => return,
                    End::Lost(why) => why,
                }
            }
            Err(why) => why,
        };
        if !lost {
            lost = true;
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
            () = sender.closed() => return,
        }
    }
}

async fn connect(client: &Client) -> Result<(PubSubSink, PubSubStream), String> {
    match timeout(PATIENCE, client.get_async_pubsub()).await {
        Ok(Ok(connection)) => Ok(connection.split()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// One connection, from its first subscription to its end.
async fn session(
    shared: &Shared,
    sender: &mpsc::Sender<Incoming>,
    sink: PubSubSink,
    stream: PubSubStream,
    lost: &mut bool,
    first: &mut Option<oneshot::Sender<()>>,
) -> End {
    let (session, changes) = mpsc::unbounded_channel();
    let channels: Vec<Channel> = {
        let mut wanted = shared.wanted();
        wanted.session = Some(session);
        wanted.channels.iter().copied().collect()
    };
    let driven = async {
        let mut driver = Driver { shared, sink };
        driver.change(true, &channels).await?;
        if *lost {
            info!(
                channels = channels.len(),
                "Redis subscription connection restored"
            );
            if sender.send(Incoming::Restored).await.is_err() {
                return Ok(());
            }
            *lost = false;
        }
        if let Some(first) = first.take() {
            // Whoever started the listener may have given up.
            let _ = first.send(());
        }
        driver.keep_up(changes).await
    };
    // All that is there at once: a message each turn would be too few on a busy edge.
    let delivered = tokio::task::unconstrained(deliver(shared, sender, stream));
    tokio::select! {
        end = delivered => end,
        driven = driven => match driven {
            Ok(()) => End::Unheard,
            Err(why) => End::Lost(why),
        },
        () = sender.closed() => End::Unheard,
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
            Err(mpsc::error::TrySendError::Closed(_)) => return End::Unheard,
            Err(mpsc::error::TrySendError::Full(_)) => {
                return End::Lost("its reader fell behind".to_owned());
            }
        }
    }
    End::Lost("closed by the server".to_owned())
}

/// Subscribes, unsubscribes and pings, one after the other.
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
            // Neighbours of one kind share a round trip.
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
                    // Whoever asked may have gone.
                    let _ = change.done.send(());
                }
            }
        }
    }

    async fn change(&mut self, subscribe: bool, channels: &[Channel]) -> Result<(), String> {
        for chunk in channels.chunks(CHUNK) {
            let names: Vec<String> = chunk.iter().map(|c| self.shared.names.of(*c)).collect();
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
    match timeout(PATIENCE, what).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
