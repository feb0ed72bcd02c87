//! Measures what waits in the queues. A passive declaration returns the current number of ready payloads. The
//! management API, where its address is set, adds the unacknowledged ones: seconds late, and missing after a restart of
//! the broker; then they are unknown.
//!
//! Payloads cannot be read: a queue with a single active consumer refuses `basic.get`, and requeueing would disturb its
//! order.
//!
//! Delayed tasks wait in a queue for each level ([`super::delay`]). Those are inspected in the background, since
//! delayed tasks need no worker before they are back in their task queue.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future;
use lapin::Channel;
use parking_lot::Mutex as Lock;
use serde::Deserialize;
use tokio::{sync::Mutex, time::timeout};
use tracing::{debug, info, warn};

use super::{
    connection::{ManagedConnection, Status},
    delay::LEVELS,
    failure::unavailable,
    settings::RabbitSettings,
    topology::{self, QueueId},
};
use crate::{
    error::{Error, Result},
    queue::{Delayed, Load, PartitionLoad, TaskLoad, TaskQueue},
};

/// For all partitions together: the autoscaler waits for it.
const DEADLINE: Duration = Duration::from_secs(2);
/// RabbitMQ collects its statistics every 5 s (`collect_statistics_interval`).
const FETCH_EVERY: Duration = Duration::from_secs(2);
const FETCH_DEADLINE: Duration = Duration::from_secs(4);
/// Older figures are not used.
const MAX_AGE: Duration = Duration::from_secs(15);

/// Measures repeatedly over one channel.
#[derive(Default)]
pub(super) struct LoadProbe {
    channel: Mutex<Option<Channel>>,
    statistics: Option<Arc<Statistics>>,
    delays: Option<Arc<Delays>>,
    /// The epoch of the connection over which the last measurement was late; 0 for none.
    late: AtomicU64,
}

impl LoadProbe {
    /// `apis` are the management APIs of the cluster's nodes, with user and password.
    pub fn use_api(&mut self, apis: &[String], settings: &RabbitSettings) -> Result<()> {
        self.statistics = Some(Arc::new(Statistics::new(apis, settings)?));
        Ok(())
    }

    /// Measures delayed tasks too.
    pub fn use_delays(&mut self) {
        self.delays = Some(Arc::default());
    }

    pub async fn load(
        &self,
        connection: &ManagedConnection,
        settings: &RabbitSettings,
    ) -> Result<Load> {
        let mut slot = self.channel.lock().await;
        let kept = slot.take().filter(|open| open.status().connected());
        let inspected = timeout(DEADLINE, inspect(kept, connection, settings)).await;
        let (channel, mut load) = match inspected {
            Ok(inspected) => inspected?,
            Err(elapsed) => {
                // A node that is cut off knows of the queues and cannot reach their leaders; nor do its consumers.
                // Once may be chance.
                if let Status::Up(live) = connection.status()
                    && self.late.swap(live.epoch, Ordering::Relaxed) == live.epoch
                {
                    connection.leave(live.epoch);
                }
                return Err(Error::unavailable("queue", elapsed));
            }
        };
        self.late.store(0, Ordering::Relaxed);
        *slot = Some(channel);
        drop(slot);
        if let Some(statistics) = &self.statistics {
            for (partition, found) in (0..).zip(&mut load.partitions) {
                let name = QueueId::Partition(partition).name(&settings.prefix);
                found.unacked = statistics.unacked(&name);
            }
            for found in &mut load.tasks {
                let name = QueueId::Tasks(found.queue).name(&settings.prefix);
                found.unacked = statistics.unacked(&name);
            }
            statistics.refresh();
        }
        if let Some(delays) = &self.delays {
            load.delayed = delays.current();
            delays.refresh(connection, settings).await;
        }
        Ok(load)
    }
}

async fn inspect(
    channel: Option<Channel>,
    connection: &ManagedConnection,
    settings: &RabbitSettings,
) -> Result<(Channel, Load)> {
    let channel = match channel {
        Some(channel) => channel,
        None => {
            let live = connection.live().await;
            live.connection
                .create_channel()
                .await
                .map_err(unavailable)?
        }
    };
    let prefix = &settings.prefix;
    let queues = (0..settings.partitions)
        .map(|partition| QueueId::Partition(partition).inspect(&channel, prefix));
    let tasks = TaskQueue::ALL.map(|queue| QueueId::Tasks(queue).inspect(&channel, prefix));
    match future::try_join(future::try_join_all(queues), future::try_join_all(tasks)).await {
        Ok((queues, tasks)) => {
            let partitions = queues.iter().map(|queue| PartitionLoad {
                ready: queue.message_count().into(),
                unacked: None,
                messages: None,
                consumers: queue.consumer_count().into(),
            });
            let tasks = TaskQueue::ALL
                .iter()
                .zip(&tasks)
                .map(|(kind, queue)| TaskLoad {
                    queue: *kind,
                    ready: queue.message_count().into(),
                    unacked: None,
                    consumers: queue.consumer_count().into(),
                });
            let load = Load {
                partitions: partitions.collect(),
                tasks: tasks.collect(),
                delayed: None,
            };
            Ok((channel, load))
        }
        Err(error) => {
            // A deleted queue would otherwise keep the figures of all others unknown.
            declare_again(connection, settings).await;
            Err(unavailable(error))
        }
    }
}

async fn declare_again(connection: &ManagedConnection, settings: &RabbitSettings) {
    let live = connection.live().await;
    if let Err(error) = topology::declare(&live.connection, settings).await {
        debug!(error = error.to_string(), "queues could not be declared");
    }
}

/// The delayed tasks of all levels. Their queues are declared, not inspected: inspecting a missing queue closes the
/// channel and logs an error in the broker each time.
#[derive(Default)]
struct Delays {
    started: Lock<Option<Instant>>,
    found: Lock<Option<(Instant, Vec<Delayed>)>>,
}

impl Delays {
    /// `None` while unknown.
    fn current(&self) -> Option<Vec<Delayed>> {
        let found = self.found.lock();
        let (at, delayed) = found.as_ref()?;
        (at.elapsed() < MAX_AGE).then(|| delayed.clone())
    }

    async fn refresh(self: &Arc<Self>, connection: &ManagedConnection, settings: &RabbitSettings) {
        {
            let mut started = self.started.lock();
            if started.is_some_and(|started| started.elapsed() < FETCH_EVERY) {
                return;
            }
            *started = Some(Instant::now());
        }
        let (this, live, prefix) = (
            self.clone(),
            connection.live().await,
            settings.prefix.clone(),
        );
        tokio::spawn(async move {
            let counting = async {
                let channel = live.connection.create_channel().await?;
                let mut delayed = Vec::new();
                for queue in TaskQueue::ALL {
                    for within in LEVELS {
                        let level = QueueId::Delay(queue, within);
                        let found = level.declare(&channel, &prefix).await?;
                        delayed.push(Delayed {
                            queue,
                            within,
                            tasks: found.message_count().into(),
                        });
                    }
                }
                channel.close(200, "done".into()).await?;
                Ok::<_, lapin::Error>(delayed)
            };
            match timeout(MAX_AGE, counting).await {
                Ok(Ok(delayed)) => {
                    let mut found = this.found.lock();
                    *found = Some((Instant::now(), delayed));
                }
                Ok(Err(error)) => {
                    debug!(
                        error = error.to_string(),
                        "delayed tasks could not be counted"
                    );
                }
                Err(_) => debug!("delayed tasks could not be counted in time"),
            }
        });
    }
}

/// The management API's figures, fetched in the background.
struct Statistics {
    client: reqwest::Client,
    /// One for each node; any of them has the figures of the whole cluster.
    urls: Vec<String>,
    /// The one that answered last.
    current: AtomicUsize,
    fetched: Lock<Fetched>,
}

#[derive(Default)]
struct Fetched {
    started: Option<Instant>,
    at: Option<Instant>,
    /// Whether the last attempt failed; logged when it changes.
    failing: bool,
    unacked: HashMap<String, u64>,
}

/// A queue in the API's answer. A figure that is not collected yet is absent.
#[derive(Deserialize)]
struct Figures {
    name: String,
    messages_unacknowledged: Option<u64>,
}

impl Statistics {
    fn new(apis: &[String], settings: &RabbitSettings) -> Result<Statistics> {
        let tries = u32::try_from(apis.len().clamp(1, 4)).unwrap_or(1);
        let client = reqwest::Client::builder()
            .timeout(FETCH_DEADLINE / tries)
            .build()
            .map_err(Error::internal)?;
        // The nodes of a cluster have the same virtual hosts.
        let uris = settings.uris()?;
        let vhost = uris.first().map_or("/", |uri| &uri.vhost);
        let vhost: String = vhost
            .bytes()
            .map(|byte| match byte {
                b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
                b => format!("%{b:02X}"),
            })
            .collect();
        let url = |api: &String| {
            let api = api.trim_end_matches('/');
            format!("{api}/queues/{vhost}?columns=name,messages_unacknowledged")
        };
        Ok(Statistics {
            client,
            urls: apis.iter().map(url).collect(),
            current: AtomicUsize::new(0),
            fetched: Lock::default(),
        })
    }

    fn unacked(&self, queue: &str) -> Option<u64> {
        let fetched = self.fetched.lock();
        fetched.at.filter(|at| at.elapsed() < MAX_AGE)?;
        fetched.unacked.get(queue).copied()
    }

    fn refresh(self: &Arc<Self>) {
        let mut fetched = self.fetched.lock();
        if fetched
            .started
            .is_some_and(|started| started.elapsed() < FETCH_EVERY)
        {
            return;
        }
        fetched.started = Some(Instant::now());
        drop(fetched);
        let this = self.clone();
        tokio::spawn(async move {
            match this.fetch().await {
                Ok(unacked) => {
                    let mut fetched = this.fetched.lock();
                    fetched.at = Some(Instant::now());
                    fetched.unacked = unacked;
                    if std::mem::replace(&mut fetched.failing, false) {
                        info!("the management API answers again");
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut this.fetched.lock().failing, true) {
                        // Without the URL, which contains a password.
                        warn!(
                            error = error.without_url().to_string(),
                            "the management API has no figures; the number of unacknowledged payloads is unknown"
                        );
                    }
                }
            }
        });
    }

    /// Asks the nodes in turn until one answers, first the one that answered last.
    async fn fetch(&self) -> reqwest::Result<HashMap<String, u64>> {
        let first = self.current.load(Ordering::Relaxed);
        let mut tries = (0..self.urls.len()).map(|i| (first + i) % self.urls.len());
        loop {
            let node = tries.next().unwrap_or(first);
            match self.fetch_from(&self.urls[node]).await {
                Err(_) if tries.len() > 0 => {}
                result => {
                    self.current.store(node, Ordering::Relaxed);
                    return result;
                }
            }
        }
    }

    async fn fetch_from(&self, url: &str) -> reqwest::Result<HashMap<String, u64>> {
        let answer = self.client.get(url).send().await?;
        let queues: Vec<Figures> = answer.error_for_status()?.json().await?;
        Ok(queues
            .into_iter()
            .filter_map(|queue| Some((queue.name, queue.messages_unacknowledged?)))
            .collect())
    }
}
