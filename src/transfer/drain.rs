//! Stores the commands that a standalone server accepted and did not store before it ended.

use std::{sync::Arc, time::Duration};

use sqlx::Row as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    app,
    bus::{self, memory::MemoryBus},
    config::{Config, WorkerRole},
    error::{Error, Result},
    output::Progress,
    queue::{Partition, sqlite::SqliteQueue},
    sqlite::{Database, failure},
    store, worker,
};

/// Between two looks at the queue.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The queue counts as stuck if it does not shrink for this long.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Runs a worker on the database until the queue is empty. Returns the number of commands that it held.
///
/// # Errors
/// `conflict` if the queue does not become empty.
pub(super) async fn drain(
    config: &Config,
    database: &Database,
    progress: &mut Progress,
) -> Result<u64> {
    let found = waiting(database).await?;
    if found.commands == 0 {
        return Ok(0);
    }
    progress.step("storing the commands that wait in the queue");
    let mut config = config.clone();
    config.worker.jobs = vec![WorkerRole::Messages];
    // Those of the standalone server; the cluster may have fewer.
    config.queue.partitions = config.queue.partitions.max(found.partitions);
    let config = Arc::new(config);
    let store = Arc::new(store::sqlite::Store::new(database.clone()));
    let settings = app::sqlite_queue(&config);
    let queue = Arc::new(SqliteQueue::open(database.clone(), settings).await?);
    let bus = bus::Handles::new(Arc::new(MemoryBus::new(Default::default())));
    let worker = app::embedded_worker(config, store, queue.clone(), &bus)?;
    let stop = CancellationToken::new();
    let mut working = tokio::spawn(worker::run(worker, stop.clone()));
    let result = tokio::select! {
        result = emptied(database, found.commands, progress) => result,
        ended = &mut working => match ended {
            Ok(Err(error)) => return Err(error),
            _ => return Err(Error::internal("the worker ended")),
        },
    };
    stop.cancel();
    working.await.map_err(Error::internal)??;
    queue.close().await;
    result.map(|()| found.commands)
}

async fn emptied(database: &Database, total: u64, progress: &mut Progress) -> Result<()> {
    let (mut least, mut since) = (total, Instant::now());
    loop {
        let left = waiting(database).await?.commands;
        if left == 0 {
            return Ok(());
        }
        if left < least {
            (least, since) = (left, Instant::now());
        }
        if since.elapsed() > STUCK_AFTER {
            return Err(Error::conflict(format!(
                "{left} accepted commands cannot be stored; start `chat standalone` on the directory and read its log"
            )));
        }
        progress.show(
            "storing waiting commands",
            total - left.min(total),
            total,
            "commands",
        );
        sleep(LOOK_EVERY).await;
    }
}

struct Waiting {
    commands: u64,
    /// The number of partitions that have or had commands, counted from 0.
    partitions: Partition,
}

async fn waiting(database: &Database) -> Result<Waiting> {
    let row = sqlx::query(
        "SELECT coalesce(sum(messages), 0) AS commands, coalesce(max(partition) + 1, 0) AS partitions FROM queue",
    )
    .fetch_one(database.readers())
    .await
    .map_err(failure)?;
    let number = |name| -> Result<u64> {
        let number: i64 = row.try_get(name).map_err(failure)?;
        Ok(u64::try_from(number).unwrap_or_default())
    };
    Ok(Waiting {
        commands: number("commands")?,
        partitions: Partition::try_from(number("partitions")?).unwrap_or(Partition::MAX),
    })
}
