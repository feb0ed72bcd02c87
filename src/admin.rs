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
    sqlite::{self, Database},
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
        for ready in [
            queue.ready(ANSWER_TIMEOUT).await,
            publisher.ready(ANSWER_TIMEOUT).await,
        ] {
            ready.map_err(|error| Error {
                message: format!(
                    "{}; check queue.url ({}), or name a standalone server's directory with --data",
                    error.message, config.queue.url
                ),
                ..error
            })?;
        }
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
        found(&which, self.dead.replay(which.clone()).await?)
    }

    pub async fn purge(&self, which: Selection) -> Result<u64> {
        found(&which, self.dead.purge(which.clone()).await?)
    }
}

/// The number of dead letters, or `not_found` if the selected one does not exist.
fn found(which: &Selection, letters: u64) -> Result<u64> {
    match (which, letters) {
        (Selection::One(_), 0) => Err(Error::not_found("dead letter")),
        _ => Ok(letters),
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

/// Checks what a standalone server needs: its directory, its database file and its secret. The server may be running.
pub async fn doctor_standalone(config: &Config, data: &Path) -> Vec<Finding> {
    let file = data.join(data_dir::DATABASE);
    let shown = file.display();
    let database = async {
        if !file.exists() {
            return Err(Error::not_found(&format!("file {shown}")));
        }
        sqlite::quick_check(&file).await
    };
    let database = finding(
        "database",
        database
            .await
            .map(|()| format!("{shown} is complete (PRAGMA quick_check)")),
        || {
            format!(
                "check --data ({}); `chat standalone --data DIR` creates a new one, and a damaged one is restored from a backup",
                data.display()
            )
        },
    );
    let secret = match data_dir::existing_secret(data) {
        _ if !config.auth.secret.is_empty() => Ok("is set".to_owned()),
        Ok(Some(_)) => Ok(format!("is in {}", data.display())),
        Ok(None) => Ok("will be created at the first start".to_owned()),
        Err(error) => Err(error),
    };
    let secret = finding("auth.secret", secret, || {
        "restore the file, or delete it: all users then log in again".to_owned()
    });
    let mut findings = vec![database, secret];
    findings.extend(pooler(config).await);
    findings.extend(open_files(config));
    findings
}

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
        queue.ready(ANSWER_TIMEOUT).await?;
        let depths = queue.depths().await?;
        Ok::<_, Error>(depths.iter().map(|depth| depth.ready).sum::<u64>())
    };
    let (store, bus, queue) = tokio::join!(store, bus, queue);
    let mut findings = vec![
        finding(
            "PostgreSQL",
            store.map(|()| "answers, and its schema is up to date".to_owned()),
            || {
                format!(
                    "check database.url ({}) and run `chat migrate`",
                    config.database.url
                )
            },
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
            text: if config.auth.secret.is_empty() {
                "is empty: every edge needs the same one; `openssl rand -base64 48` makes one, CHAT__AUTH__SECRET sets it".to_owned()
            } else {
                "is set".to_owned()
            },
        },
    ];
    findings.extend(pooler(config).await);
    findings.extend(open_files(config));
    findings
}

/// What is to be said of a connection pooler. Without a connection nothing is: the check of PostgreSQL says why.
async fn pooler(config: &Config) -> Option<Finding> {
    let checked = app::postgres(config).ok()?.check_pooler().await;
    let checked = checked
        .transpose()
        .filter(|checked| !checked.as_ref().is_err_and(|error| error.is_retryable()));
    Some(finding("PgBouncer", checked?, || {
        "see docs/operations.md".to_owned()
    }))
}

/// How long a server may take to answer.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

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
            text: format!("{}; {}", error.for_operator(), advice()),
        },
    }
}

/// Whether `edge.max_connections` connections fit into the limit of open files.
fn open_files(config: &Config) -> Option<Finding> {
    let limit = app::raise_open_files()?;
    let wanted = app::wanted_files(config);
    let ok = limit >= wanted;
    let advice = if ok {
        ""
    } else {
        ": raise `ulimit -n`, or lower the setting"
    };
    Some(Finding {
        name: "open files",
        ok,
        text: format!("{limit} allowed, edge.max_connections needs {wanted}{advice}"),
    })
}
