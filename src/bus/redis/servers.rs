//! Which Redis server is in use: the one of a fixed address, or the master that Sentinels name. A server that the
//! Sentinels name is used only if it is a master itself. While connections are in use, the Sentinels are asked every
//! second, so that a master that hangs or was demoted is left although its connections are still open.

use std::{
    future::Future,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisError, RedisResult, Value,
    aio::{MultiplexedConnection, PubSub},
    cmd, from_redis_value_ref,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, info};

use super::sentinel::{Address, Sentinels};
use crate::error::{Error, Result};

/// Deadline of connecting to a server, and of its answers.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Interval of asking the Sentinels.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Sentinels and the master they watch.
#[derive(Clone)]
pub struct SentinelSettings {
    /// `host:port`, `redis://…` or `rediss://…`; at least one.
    pub addresses: Vec<String>,
    /// The password of addresses without one; may be empty.
    pub password: String,
    /// The master's name.
    pub master: String,
}

/// Whether one of the Sentinels names a master, which need not be reachable.
///
/// # Errors
/// An invalid address, or no answer with a master.
pub async fn ask_sentinels(url: &str, settings: &SentinelSettings) -> Result<()> {
    let servers = Servers::new(url, Some(settings))?;
    if let Some(sentinels) = &servers.sentinels {
        let named = sentinels.masters().await;
        named.map_err(|error| Error::unavailable("cache", error))?;
    }
    Ok(())
}

pub(super) struct Servers {
    /// Its host and port are used only without Sentinels.
    url: ConnectionInfo,
    sentinels: Option<Sentinels>,
    /// The master in use; always `None` without Sentinels.
    master: watch::Sender<Option<Address>>,
    is_watched: AtomicBool,
}

/// A connection, and the master that it goes to.
pub(super) struct Dialed<C> {
    pub connection: C,
    pub master: Option<Address>,
}

impl Servers {
    /// Does not connect yet.
    ///
    /// # Errors
    /// An invalid URL.
    pub fn new(url: &str, sentinel: Option<&SentinelSettings>) -> Result<Arc<Self>> {
        let wrong =
            |key: &'static str| move |error: RedisError| Error::field(key, error.to_string());
        let url: ConnectionInfo = url.into_connection_info().map_err(wrong("redis.url"))?;
        let sentinels = sentinel.map(|settings| {
            let scheme = match url.addr() {
                ConnectionAddr::TcpTls { .. } => "rediss",
                _ => "redis",
            };
            let url_of = |address: &String| {
                if address.contains("://") {
                    address.clone()
                } else {
                    format!("{scheme}://{address}")
                }
            };
            let urls: Vec<String> = settings.addresses.iter().map(url_of).collect();
            Sentinels::new(&urls, &settings.password, &settings.master)
                .map_err(wrong("redis.sentinels"))
        });
        Ok(Arc::new(Servers {
            sentinels: sentinels.transpose()?,
            url,
            master: watch::Sender::new(None),
            is_watched: AtomicBool::new(false),
        }))
    }

    /// A connection for commands. With Sentinels its server was a master a moment ago.
    pub async fn connect(self: &Arc<Self>) -> RedisResult<Dialed<MultiplexedConnection>> {
        self.dial(|client, check| async move {
            let mut connection = open(&client).await?;
            if check {
                check_role(&client, &mut connection).await?;
            }
            Ok(connection)
        })
        .await
    }

    /// A connection for subscriptions. With Sentinels its server was a master a moment ago.
    pub async fn connect_pubsub(self: &Arc<Self>) -> RedisResult<Dialed<PubSub>> {
        self.dial(|client, check| async move {
            if check {
                check_role(&client, &mut open(&client).await?).await?;
            }
            match timeout(ANSWER_WITHIN, client.get_async_pubsub()).await {
                Ok(opened) => opened,
                Err(_) => Err((ErrorKind::Io, "no answer in time").into()),
            }
        })
        .await
    }

    /// Whether this is still the server to use.
    pub fn is_current(&self, master: Option<&Address>) -> bool {
        self.master.borrow().as_ref() == master
    }

    /// Changes when another server is used.
    pub fn changes(&self) -> watch::Receiver<Option<Address>> {
        self.master.subscribe()
    }

    async fn dial<C, F: Future<Output = RedisResult<C>>>(
        self: &Arc<Self>,
        open: impl Fn(Client, bool) -> F,
    ) -> RedisResult<Dialed<C>> {
        let Some(sentinels) = &self.sentinels else {
            let connection = open(Client::open(self.url.clone())?, false).await?;
            return Ok(Dialed {
                connection,
                master: None,
            });
        };
        self.watch();
        let attempt = |master: &Address| {
            let opening = self.client(master).map(|client| open(client, true));
            async { opening?.await }
        };
        let (master, connection) = first_usable(sentinels, attempt).await?;
        self.change_to(&master);
        Ok(Dialed {
            connection,
            master: Some(master),
        })
    }

    fn client(&self, server: &Address) -> RedisResult<Client> {
        let (host, port) = (server.host.clone(), server.port);
        let address = match self.url.addr().clone() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure,
                tls_params,
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        Client::open(self.url.clone().set_addr(address))
    }

    fn change_to(&self, master: &Address) {
        let changed = self.master.send_if_modified(|current| {
            let changed = current.as_ref() != Some(master);
            if changed {
                *current = Some(master.clone());
            }
            changed
        });
        if changed {
            info!(server = %master, "this Redis server is the master; connections go there");
        }
    }

    /// Starts to follow the Sentinels, once.
    fn watch(self: &Arc<Self>) {
        if !self.is_watched.swap(true, Ordering::AcqRel) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    /// Asks the Sentinels, and uses another master if they name one.
    async fn follow(&self, sentinels: &Sentinels) {
        let attempt = |master: &Address| {
            let is_current = self.is_current(Some(master));
            let client = self.client(master);
            async move {
                if !is_current {
                    let client = client?;
                    check_role(&client, &mut open(&client).await?).await?;
                }
                Ok(is_current)
            }
        };
        match first_usable(sentinels, attempt).await {
            Ok((_, true)) => {}
            Ok((master, false)) => self.change_to(&master),
            Err(error) => {
                debug!(master = sentinels.master, %error, "the Sentinels name no usable Redis master");
            }
        }
    }
}

/// The first server that the Sentinels name and that `attempt` succeeds with. If none of those that a majority names
/// can be used, as after a failover that was undone by hand, the others' answers count too.
///
/// # Errors
/// The last attempt's, or no Sentinel names a master.
async fn first_usable<T, F: Future<Output = RedisResult<T>>>(
    sentinels: &Sentinels,
    attempt: impl Fn(&Address) -> F,
) -> RedisResult<(Address, T)> {
    let mut tried: Vec<Address> = Vec::new();
    let mut failed = None;
    for is_last in [false, true] {
        let named = if is_last {
            sentinels.masters_of_all().await
        } else {
            sentinels.masters().await
        };
        let named = match named {
            Ok(named) => named,
            Err(error) => return Err(failed.unwrap_or(error)),
        };
        for master in named {
            if tried.contains(&master) {
                continue;
            }
            match attempt(&master).await {
                Ok(usable) => return Ok((master, usable)),
                Err(error) => failed = Some(error),
            }
            tried.push(master);
        }
    }
    Err(failed.unwrap_or_else(|| (ErrorKind::Io, "no Sentinel names a master").into()))
}

async fn watch(servers: Weak<Servers>) {
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(servers) = servers.upgrade() else {
            return;
        };
        if let Some(sentinels) = &servers.sentinels {
            servers.follow(sentinels).await;
        }
    }
}

async fn open(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// Fails if the server is not a master, as a Sentinel that is out of date may name a replica.
async fn check_role(client: &Client, connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let answer: Vec<Value> = cmd("ROLE").query_async(connection).await?;
    let role: String = match answer.first() {
        Some(role) => from_redis_value_ref(role)?,
        None => String::new(),
    };
    if role == "master" {
        return Ok(());
    }
    let server = client.get_connection_info().addr().to_string();
    Err((
        ErrorKind::Client,
        "the Sentinels name a server that is no master",
        server,
    )
        .into())
}
