//! Operator commands: queue depths, dead letters and health checks. They read the deployment and move dead letters;
//! they never change rooms or accounts.

use std::{path::Path, sync::Arc};

use serde::Serialize;

use crate::{
    app,
    config::Config,
    data_dir,
    error::{Error, Result},
    queue::{
        DeadLetter, DeadLetters, Depth, Queue, Selection,
        rabbit::{RabbitDeadLetters, RabbitPublisher, RabbitQueue},
        sqlite::SqliteQueue,
    },
    sqlite::Database,
    store::Reads,
};

/// The queue of a cluster, or of a standalone data directory.
pub struct QueueTools {
    queue: Arc<dyn Queue>,
    dead: Arc<dyn DeadLetters>,
}

impl QueueTools {
    pub async fn open(config: &Config, data: Option<&Path>) -> Result<QueueTools> {
        if let Some(data) = data {
            let file = data.join(data_dir::DATABASE);
            if !file.exists() {
                return Err(Error::not_found(&format!("file {}", file.display())));
            }
            let database = Database::open(&file).await?;
            let queue = Arc::new(SqliteQueue::open(database, app::sqlite_queue(config)).await?);
            return Ok(QueueTools {
                queue: queue.clone(),
                dead: queue,
            });
        }
        let settings = app::rabbit(config);
        let queue = Arc::new(RabbitQueue::connect(settings.clone())?);
        let publisher = Arc::new(RabbitPublisher::connect(settings)?);
        queue.ready(config.start.timeout).await?;
        publisher.ready(config.start.timeout).await?;
        let dead = Arc::new(RabbitDeadLetters::new(publisher, queue.clone()));
        Ok(QueueTools { queue, dead })
    }

    pub async fn depths(&self) -> Result<Vec<Depth>> {
        self.queue.depths().await
    }

    /// Dead letters, oldest first.
    pub async fn list(&self, limit: u32) -> Result<Vec<DeadLetter>> {
        self.dead.list(limit).await
    }

    /// # Errors
    /// `not_found` if no dead letter has this id.
    pub async fn show(&self, id: uuid::Uuid) -> Result<DeadLetter> {
        let letters = self.dead.list(u32::MAX).await?;
        letters
            .into_iter()
            .find(|letter| letter.id == id)
            .ok_or_else(|| Error::not_found("dead letter"))
    }

    pub async fn replay(&self, which: Selection) -> Result<u64> {
        self.dead.replay(which).await
    }

    pub async fn purge(&self, which: Selection) -> Result<u64> {
        self.dead.purge(which).await
    }
}

/// The result of one check of `chat doctor`.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub ok: bool,
    /// The measured state, or advice if the check failed.
    pub text: String,
}

/// Minimum soft limit of open files: each socket takes one.
const WANTED_FILES: u64 = 10_000;

/// Checks every server and setting that a cluster depends on.
pub async fn doctor(config: &Config) -> Vec<Finding> {
    let store = async {
        let store = app::postgres(config)?;
        store.check_schema().await?;
        store.ping().await
    };
    let bus = async { app::redis(config)?.pubsub.ping().await };
    let queue = async {
        let queue = RabbitQueue::connect(app::rabbit(config))?;
        queue.ready(PATIENCE).await?;
        let depths = queue.depths().await?;
        Ok::<_, Error>(depths.iter().map(|depth| depth.ready).sum::<u64>())
    };
    let (store, bus, queue) = tokio::join!(store, bus, queue);
    let mut findings = vec![
        finding(
            "PostgreSQL",
            store.map(|()| "answers, and its schema is up to date".to_owned()),
            || format!("check database.url ({}) and run `chat migrate`", config.database.url),
        ),
        finding("Redis", bus.map(|()| "answers".to_owned()), || {
            format!("check redis.url ({})", config.redis.url)
        }),
        finding(
            "RabbitMQ",
            queue.map(|ready| format!("answers; {ready} batches wait")),
            || format!("check queue.url ({})", config.queue.url),
        ),
        Finding {
            name: "auth.secret",
            ok: !config.auth.secret.is_empty(),
            text: match config.auth.secret.is_empty() {
                false => "is set".to_owned(),
                true => "is empty: every edge needs the same one; `openssl rand -base64 48` makes one, CHAT__AUTH__SECRET sets it".to_owned(),
            },
        },
    ];
    if let Some(limit) = open_files() {
        findings.push(Finding {
            name: "open files",
            ok: limit >= WANTED_FILES,
            text: format!("{limit} allowed; each socket takes one: `ulimit -n` raises it"),
        });
    }
    findings
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

fn finding(name: &'static str, result: Result<String>, advice: impl Fn() -> String) -> Finding {
    match result {
        Ok(text) => Finding {
            name,
            ok: true,
            text,
        },
        Err(error) => Finding {
            name,
            ok: false,
            text: format!("{}; {}", error.chain(), advice()),
        },
    }
}

/// The soft limit of open files of this process; `None` without `/proc`.
fn open_files() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
