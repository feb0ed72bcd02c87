//! The Sentinels that watch a Redis master, and what they answer. They can disagree: one that was cut off still names
//! the master of before a failover. The configuration epoch, which each failover increments, orders their answers.

use std::{cmp::Reverse, collections::HashMap, fmt, time::Duration};

use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisError, RedisResult,
    aio::MultiplexedConnection, cmd,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::Mutex, time::timeout};

/// Deadline of a Sentinel's answer, with the time to connect.
const ASK_WITHIN: Duration = Duration::from_millis(500);

/// The address of a Redis server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The Sentinels of one master.
pub(super) struct Sentinels {
    nodes: Vec<Node>,
    /// The name under which the Sentinels watch the master.
    pub master: String,
}

struct Node {
    client: Client,
    /// Kept between questions; dropped when one fails.
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// One Sentinel's answer.
struct Answer {
    master: Address,
    epoch: u64,
}

impl Sentinels {
    /// `urls` are `redis://` or `rediss://`; a Sentinel without a password of its own is sent `password`, if that is
    /// not empty.
    ///
    /// # Errors
    /// An invalid URL.
    pub fn new(urls: &[String], password: &str, master: &str) -> RedisResult<Self> {
        let node = |url: &String| -> RedisResult<Node> {
            let info = url.as_str().into_connection_info()?;
            // Sentinels have no databases: SELECT is refused.
            let mut login = info.redis_settings().clone().set_db(0);
            if login.password().is_none() && !password.is_empty() {
                login = login.set_password(password);
            }
            Ok(Node {
                client: Client::open(info.set_redis_settings(login))?,
                connection: Mutex::default(),
            })
        };
        Ok(Sentinels {
            nodes: urls.iter().map(node).collect::<RedisResult<_>>()?,
            master: master.to_owned(),
        })
    }

    /// The addresses that the Sentinels name, the one of the latest failover first. Waits for the answers of a
    /// majority, or of all within half a second; an answer may be out of date, so the server's role must be checked.
    ///
    /// # Errors
    /// No Sentinel names a master.
    pub async fn masters(&self) -> RedisResult<Vec<Address>> {
        self.named(self.nodes.len() / 2 + 1).await
    }

    /// The same, but waits for the answers of all: for when none of [`Sentinels::masters`] can be used.
    ///
    /// # Errors
    /// No Sentinel names a master.
    pub async fn masters_of_all(&self) -> RedisResult<Vec<Address>> {
        self.named(self.nodes.len()).await
    }

    /// Waits for this many answers.
    async fn named(&self, enough: usize) -> RedisResult<Vec<Address>> {
        let mut questions: FuturesUnordered<_> =
            self.nodes.iter().map(|node| self.question(node)).collect();
        let mut answers: Vec<Answer> = Vec::new();
        let mut failures: Vec<String> = Vec::new();
        while let Some((node, answer)) = questions.next().await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(why) => failures.push(format!("{}: {why}", node.address())),
            }
            if answers.len() >= enough {
                break;
            }
        }
        if answers.is_empty() {
            let why = failures.join("; ");
            return Err((ErrorKind::Io, "no Sentinel names a master", why).into());
        }
        // Stable: of equal epochs, the fastest answer is first.
        answers.sort_by_key(|answer| Reverse(answer.epoch));
        let mut masters: Vec<Address> = Vec::new();
        for answer in answers {
            if !masters.contains(&answer.master) {
                masters.push(answer.master);
            }
        }
        Ok(masters)
    }

    async fn question<'a>(&self, node: &'a Node) -> (&'a Node, Result<Answer, String>) {
        let answer = match timeout(ASK_WITHIN, node.ask(&self.master)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => {
                // If it is locked, it is being opened again.
                if let Ok(mut connection) = node.connection.try_lock() {
                    *connection = None;
                }
                Err("no answer in time".to_owned())
            }
        };
        (node, answer)
    }
}

impl Node {
    fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    async fn ask(&self, master: &str) -> RedisResult<Answer> {
        let mut connection = self.connection().await?;
        let answer = ask(&mut connection, master).await;
        if answer.is_err() {
            *self.connection.lock().await = None;
        }
        answer
    }

    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ASK_WITHIN))
            .set_response_timeout(Some(ASK_WITHIN));
        let opened = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        *kept = Some(opened.clone());
        Ok(opened)
    }
}

/// During a failover the Sentinel that leads it answers the first command with the new master already, while the fields
/// of the second still have the old address.
async fn ask(sentinel: &mut MultiplexedConnection, master: &str) -> RedisResult<Answer> {
    let address: Option<(String, u16)> = cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(master)
        .query_async(sentinel)
        .await?;
    let Some((host, port)) = address else {
        return Err(RedisError::from((
            ErrorKind::Client,
            "it watches no master of this name",
            master.to_owned(),
        )));
    };
    let fields: HashMap<String, String> = cmd("SENTINEL")
        .arg("MASTER")
        .arg(master)
        .query_async(sentinel)
        .await?;
    let epoch = fields.get("config-epoch");
    Ok(Answer {
        master: Address { host, port },
        epoch: epoch
            .and_then(|epoch| epoch.parse().ok())
            .unwrap_or_default(),
    })
}
