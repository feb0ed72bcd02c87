//! What waits. The broker's own answer to a passive declaration is fresh and always there, but knows ready payloads
//! only. The management API, where its address is known, adds those that consumers hold: seconds late, and after a
//! restart not at all; then they are unknown.
//!
//! Payloads cannot be looked into: a queue with a single active consumer refuses `basic.get`, and giving back what
//! was taken would disturb its order.
//!
//! What is delayed waits in a queue for each level ([`super::jobs`]). They are looked at in the background, since nothing
//! has to be done about them before they are back in their job queue.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future;
use lapin::Channel;
use parking_lot::{Mutex as Lock, MutexGuard};
use serde::Deserialize;
use tokio::{sync::Mutex, time::timeout};
use tracing::{debug, info, warn};

use super::{Settings, jobs::LEVELS, link::Link, topology, unavailable};
use crate::{
    error::{Error, Result},
    queue::{Delayed, JobLoad, JobQueue, Load, PartitionLoad},
};

/// For all partitions together: who asks decides by the answer, and must not wait for it long.
const DEADLINE: Duration = Duration::from_secs(2);
/// RabbitMQ collects its statistics every 5 s (`collect_statistics_interval`).
const FETCH_EVERY: Duration = Duration::from_secs(2);
const FETCH_DEADLINE: Duration = Duration::from_secs(4);
/// Older figures say nothing any more.
const FETCHED_LONG_AGO: Duration = Duration::from_secs(15);

/// Looks again and again over one channel.
#[derive(Default)]
pub(super) struct Looker {
    channel: Mutex<Option<Channel>>,
    statistics: Option<Arc<Statistics>>,
    delays: Option<Arc<Delays>>,
}

impl Looker {
    /// `api` is the management API's address, its user and password included.
    pub fn use_api(&mut self, api: &str, settings: &Settings) -> Result<()> {
        self.statistics = Some(Arc::new(Statistics::new(api, settings)?));
        Ok(())
    }

    /// Looks at delayed jobs, too.
    pub fn use_delays(&mut self) {
        self.delays = Some(Arc::default());
    }

    pub async fn load(&self, link: &Link, settings: &Settings) -> Result<Load> {
        let mut slot = self.channel.lock().await;
        let kept = slot.take().filter(|open| open.status().connected());
        let looked = timeout(DEADLINE, look(kept, link, settings)).await;
        let (channel, mut load) = match looked {
            Ok(looked) => looked?,
            Err(elapsed) => return Err(Error::unavailable("queue", elapsed)),
        };
        *slot = Some(channel);
        drop(slot);
        if let Some(statistics) = &self.statistics {
            for (partition, found) in (0..).zip(&mut load.partitions) {
                let name = topology::partition_queue(&settings.prefix, partition);
                found.unacked = statistics.unacked(&name);
            }
            for found in &mut load.jobs {
                let name = topology::job_queue(&settings.prefix, found.queue);
                found.unacked = statistics.unacked(&name);
            }
            statistics.refresh();
        }
        if let Some(delays) = &self.delays {
            load.delayed = delays.seen();
            delays.refresh(link, settings).await;
        }
        Ok(load)
    }
}

async fn look(
    channel: Option<Channel>,
    link: &Link,
    settings: &Settings,
) -> Result<(Channel, Load)> {
    let channel = match channel {
        Some(channel) => channel,
        None => {
            let live = link.live().await;
            live.connection
                .create_channel()
                .await
                .map_err(unavailable)?
        }
    };
    let queues = (0..settings.partitions)
        .map(|p| topology::look(&channel, topology::partition_queue(&settings.prefix, p)));
    let jobs = JobQueue::ALL
        .map(|queue| topology::look(&channel, topology::job_queue(&settings.prefix, queue)));
    match future::try_join(future::try_join_all(queues), future::try_join_all(jobs)).await {
        Ok((queues, jobs)) => {
            let partitions = queues.iter().map(|queue| PartitionLoad {
                ready: queue.message_count().into(),
                unacked: None,
                messages: None,
                consumers: queue.consumer_count().into(),
            });
            let jobs = JobQueue::ALL
                .iter()
                .zip(&jobs)
                .map(|(kind, queue)| JobLoad {
                    queue: *kind,
                    ready: queue.message_count().into(),
                    unacked: None,
                    consumers: queue.consumer_count().into(),
                });
            let load = Load {
                partitions: partitions.collect(),
                jobs: jobs.collect(),
                delayed: None,
            };
            Ok((channel, load))
        }
        Err(error) => {
            // Someone may have deleted a queue; without this nobody would ever know what waits in the others.
            declare_again(link, settings).await;
            Err(unavailable(error))
        }
    }
}

async fn declare_again(link: &Link, settings: &Settings) {
    let live = link.live().await;
    if let Err(error) = topology::declare(&live.connection, settings).await {
        debug!(error = error.to_string(), "queues could not be declared");
    }
}

/// What waits in the queues of all levels. Who looks declares them: most of them are there as soon as anything was
/// delayed, and to ask for one that is not would close the channel and be an error in the broker's log each time.
#[derive(Default)]
struct Delays {
    started: Lock<Option<Instant>>,
    seen: Lock<Option<(Instant, Vec<Delayed>)>>,
}

impl Delays {
    /// `None` while it is not known.
    fn seen(&self) -> Option<Vec<Delayed>> {
        let seen = self.seen.lock();
        let (at, delayed) = seen.as_ref()?;
        (at.elapsed() < FETCHED_LONG_AGO).then(|| delayed.clone())
    }

    async fn refresh(self: &Arc<Self>, link: &Link, settings: &Settings) {
        {
            let mut started = self.started.lock();
            if started.is_some_and(|started| started.elapsed() < FETCH_EVERY) {
                return;
            }
            *started = Some(Instant::now());
        }
        let (this, live, prefix) = (self.clone(), link.live().await, settings.prefix.clone());
        tokio::spawn(async move {
            let looking = async {
                let channel = live.connection.create_channel().await?;
                let mut delayed = Vec::new();
                for queue in JobQueue::ALL {
                    for within in LEVELS {
                        let found =
                            topology::declare_delay(&channel, &prefix, queue, within).await?;
                        delayed.push(Delayed {
                            queue,
                            within,
                            jobs: found.message_count().into(),
                        });
                    }
                }
                channel.close(200, "done".into()).await?;
                Ok::<_, lapin::Error>(delayed)
            };
            match timeout(FETCHED_LONG_AGO, looking).await {
                Ok(Ok(delayed)) => {
                    let mut seen = this.seen.lock();
                    *seen = Some((Instant::now(), delayed));
                }
                Ok(Err(error)) => {
                    debug!(error = error.to_string(), "delayed jobs could not be seen");
                }
                Err(_) => debug!("delayed jobs could not be seen in time"),
            }
        });
    }
}

/// The management API's figures, fetched in the background.
struct Statistics {
    client: reqwest::Client,
    url: String,
    fetched: Lock<Fetched>,
}

#[derive(Default)]
struct Fetched {
    started: Option<Instant>,
    at: Option<Instant>,
    /// Whether the last try failed; logged when it changes.
    failing: bool,
    unacked: HashMap<String, u64>,
}

/// A queue in the API's answer. A figure that it does not have yet is absent.
#[derive(Deserialize)]
struct Figures {
    name: String,
    messages_unacknowledged: Option<u64>,
}

impl Statistics {
    fn new(api: &str, settings: &Settings) -> Result<Statistics> {
        let client = reqwest::Client::builder()
            .timeout(FETCH_DEADLINE)
            .build()
            .map_err(Error::internal)?;
        let vhost: String = settings
            .uri()?
            .vhost
            .bytes()
            .map(|byte| match byte {
                b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
                b => format!("%{b:02X}"),
            })
            .collect();
        Ok(Statistics {
            client,
            url: format!(
                "{}/queues/{vhost}?columns=name,messages_unacknowledged",
                api.trim_end_matches('/')
            ),
            fetched: Lock::default(),
        })
    }

    fn unacked(&self, queue: &str) -> Option<u64> {
        let fetched = self.fetched();
        fetched.at.filter(|at| at.elapsed() < FETCHED_LONG_AGO)?;
        fetched.unacked.get(queue).copied()
    }

    fn refresh(self: &Arc<Self>) {
        let mut fetched = self.fetched();
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
                    let mut fetched = this.fetched();
                    fetched.at = Some(Instant::now());
                    fetched.unacked = unacked;
                    if std::mem::replace(&mut fetched.failing, false) {
                        info!("the management API answers again");
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut this.fetched().failing, true) {
                        // Without its URL, which holds a password.
                        warn!(
                            error = error.without_url().to_string(),
                            "the management API has no figures; unknown what workers hold"
                        );
                    }
                }
            }
        });
    }

    async fn fetch(&self) -> reqwest::Result<HashMap<String, u64>> {
        let answer = self.client.get(&self.url).send().await?;
        let queues: Vec<Figures> = answer.error_for_status()?.json().await?;
        Ok(queues
            .into_iter()
            .filter_map(|queue| Some((queue.name, queue.messages_unacknowledged?)))
            .collect())
    }

    fn fetched(&self) -> MutexGuard<'_, Fetched> {
        self.fetched.lock()
    }
}
