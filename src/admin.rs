//! Operator commands: queue depths, dead letters and health checks. They read the deployment and move dead letters;
//! they never change rooms or accounts.

pub mod doctor;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    app,
    config::Config,
    data_dir,
    error::{Code, Error, Result},
    queue::{
        DeadLetter, DeadLetters, Depth, Queue, Selection,
        rabbit::{RabbitDeadLetters, RabbitPublisher, RabbitQueue},
        sqlite::SqliteQueue,
    },
    sqlite::Database,
};

/// The queue of a cluster, or of a standalone data directory.
pub struct QueueTools {
    queue: Arc<dyn Queue>,
    dead: Arc<dyn DeadLetters>,
    prefix: String,
    /// The data directory of a standalone server.
    data: Option<PathBuf>,
}

impl QueueTools {
    pub async fn open(config: &Config, data: Option<&Path>) -> Result<QueueTools> {
        let prefix = config.queue.prefix.clone();
        if let Some(data) = data {
            let file = data_dir::existing_database(data, data_dir::NAME_IT_WITH_DATA)?;
            let database = Database::open(&file).await.map_err(|error| Error {
                message: format!("{}: {}", file.display(), error.for_operator()),
                ..error
            })?;
            let queue = Arc::new(SqliteQueue::open(database, app::sqlite_queue(config)).await?);
            return Ok(QueueTools {
                queue: queue.clone(),
                dead: queue,
                prefix,
                data: Some(data.to_owned()),
            });
        }
        let mut settings = app::rabbit(config);
        settings.declare = false;
        let queue = Arc::new(RabbitQueue::connect(settings.clone())?);
        let publisher = Arc::new(RabbitPublisher::connect(settings)?);
        let (consumes, publishes) =
            tokio::join!(queue.tried(ANSWER_TIMEOUT), publisher.tried(ANSWER_TIMEOUT));
        for ready in [consumes, publishes] {
            ready.map_err(|error| Error {
                message: format!(
                    "{}; check queue.url ({}), or name a standalone server's directory with --data",
                    error.message, config.queue.url
                ),
                ..error
            })?;
        }
        let dead = Arc::new(RabbitDeadLetters::new(publisher, queue.clone()));
        Ok(QueueTools {
            queue,
            dead,
            prefix,
            data: None,
        })
    }

    pub async fn depths(&self) -> Result<Vec<Depth>> {
        let mut depths = self.known(self.queue.depths().await)?;
        // Consumers in another process do not show in the file; the server has one for each queue.
        if self.data.as_deref().is_some_and(data_dir::is_in_use) {
            let consumed = depths.iter_mut().filter(|depth| depth.queue != "dead");
            consumed.for_each(|depth| depth.consumers = 1);
        }
        Ok(depths)
    }

    /// Dead letters, oldest first.
    pub async fn list(&self, limit: u32) -> Result<Vec<DeadLetter>> {
        self.known(self.dead.list(limit).await)
    }

    /// # Errors
    /// `not_found` if no dead letter has this id.
    pub async fn show(&self, id: uuid::Uuid) -> Result<DeadLetter> {
        let letters = self.list(u32::MAX).await?;
        letters
            .into_iter()
            .find(|letter| letter.id == id)
            .ok_or_else(|| Error::not_found("dead letter"))
    }

    pub async fn replay(&self, which: Selection) -> Result<u64> {
        found(&which, self.known(self.dead.replay(which.clone()).await)?)
    }

    pub async fn purge(&self, which: Selection) -> Result<u64> {
        found(&which, self.known(self.dead.purge(which.clone()).await)?)
    }

    /// Says what it means that a queue does not exist: no edge or worker was ever started with these settings.
    fn known<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            if error.chain().contains("NOT_FOUND") {
                let prefix = &self.prefix;
                Error::new(
                    Code::NotFound,
                    format!("there are no queues of queue.prefix {prefix} on this broker; the first edge or worker creates them"),
                )
            } else {
                error
            }
        })
    }
}

/// The number of dead letters, or `not_found` if the selected one does not exist.
fn found(which: &Selection, letters: u64) -> Result<u64> {
    match (which, letters) {
        (Selection::One(_), 0) => Err(Error::not_found("dead letter")),
        _ => Ok(letters),
    }
}

/// How long the broker may take to answer.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);
