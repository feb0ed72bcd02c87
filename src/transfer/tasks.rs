//! Publishes the tasks of a standalone node, its notifications under way, to RabbitMQ.

use std::{sync::Arc, time::Duration};

use sqlx::{Row as _, SqliteConnection};

use crate::{
    app,
    config::Config,
    error::{Error, Result},
    model::Timestamp,
    queue::{
        NewTask, TaskQueue, Tasks,
        rabbit::{RabbitPublisher, RabbitQueue, RabbitTasks},
    },
};

/// Tasks published at once.
const AT_ONCE: usize = 256;

/// How long RabbitMQ may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes all tasks with what is left of their delays; returns their number. Needs no RabbitMQ if there are none.
pub(super) async fn publish(config: &Config, source: &mut SqliteConnection) -> Result<u64> {
    let tasks = read(source).await?;
    if tasks.is_empty() {
        return Ok(0);
    }
    let settings = app::rabbit(config);
    let queue = Arc::new(RabbitQueue::connect(settings.clone())?);
    let publisher = Arc::new(RabbitPublisher::connect(settings)?);
    let result = async {
        queue.ready(ANSWER_TIMEOUT).await?;
        publisher.ready(ANSWER_TIMEOUT).await?;
        let target = RabbitTasks::new(publisher.clone(), queue.clone());
        for chunk in tasks.chunks(AT_ONCE) {
            target.push(chunk.to_vec()).await?;
        }
        Ok(tasks.len() as u64)
    };
    let result = result.await.map_err(|error: Error| Error {
        message: format!(
            "{} tasks of notifications cannot be published to RabbitMQ, queue.url ({}): {}",
            tasks.len(),
            config.queue.url,
            error.message
        ),
        ..error
    });
    publisher.close().await;
    queue.close().await;
    result
}

async fn read(source: &mut SqliteConnection) -> Result<Vec<NewTask>> {
    let rows = sqlx::query("SELECT queue, due, payload FROM jobs ORDER BY id");
    let rows = rows.fetch_all(source).await.map_err(Error::internal)?;
    let now = Timestamp::now().millis();
    let mut tasks = Vec::with_capacity(rows.len());
    for row in rows {
        let name: String = row.try_get("queue").map_err(Error::internal)?;
        let due: i64 = row.try_get("due").map_err(Error::internal)?;
        let payload: Vec<u8> = row.try_get("payload").map_err(Error::internal)?;
        let queue = TaskQueue::ALL
            .into_iter()
            .find(|queue| queue.as_str() == name);
        tasks.push(NewTask {
            queue: queue.ok_or_else(|| Error::internal(format!("an unknown task queue {name}")))?,
            payload: payload.into(),
            delay: Duration::from_millis(u64::try_from(due - now).unwrap_or_default()),
        });
    }
    Ok(tasks)
}
