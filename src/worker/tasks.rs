//! Consumes one task queue: runs several tasks at once, and acknowledges each when its result is on disk. A task that
//! fails permanently becomes a dead letter.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{held::HeldCounts, state::Worker};
use crate::{
    command::notify::Next,
    error::{Error, Result},
    model::{Timestamp, new_id},
    queue::{DeadLetter, TakenTask, TaskQueue},
    retry::Policy,
    telemetry::metrics,
};

/// Pause before a lost consumer is reopened.
const REOPEN: Duration = Duration::from_millis(500);
/// Retries while the store or the queue does not answer. The task stays unacknowledged for far less than RabbitMQ's
/// limit of 30 minutes (`consumer_timeout`).
const RETRY: Policy = Policy {
    initial: Duration::from_millis(50),
    max: Duration::from_secs(5),
    deadline: Some(Duration::from_secs(300)),
};
/// Attempts at a task that fails with a permanent error: a conflict between two tasks is reported as one.
const ATTEMPTS: u32 = 3;

pub async fn run(
    worker: Arc<Worker>,
    queue: TaskQueue,
    counts: Arc<HeldCounts>,
    shutdown: CancellationToken,
) {
    let settings = &worker.config.worker;
    let (at_once, prefetch) = match queue {
        TaskQueue::Notify => (settings.notify_concurrency, settings.notify_prefetch),
        TaskQueue::Email | TaskQueue::Sms => {
            (worker.config.notify.concurrency, settings.deliver_prefetch)
        }
    };
    // Prefetched tasks wait for a permit.
    let permits = Arc::new(Semaphore::new(usize::from(at_once)));
    let tasks = TaskTracker::new();
    while !shutdown.is_cancelled() {
        let taken = worker.notifier.tasks.take(queue, prefetch.max(at_once));
        let mut consumer = match shutdown.run_until_cancelled(taken).await {
            None => break,
            Some(Ok(consumer)) => consumer,
            Some(Err(error)) => {
                tracing::debug!(queue = queue.as_str(), error = %error.chain(), "tasks cannot be consumed yet");
                shutdown
                    .run_until_cancelled(tokio::time::sleep(REOPEN))
                    .await;
                continue;
            }
        };
        while let Some(Some(task)) = shutdown.run_until_cancelled(consumer.next()).await {
            let (worker, permits, shutdown) = (worker.clone(), permits.clone(), shutdown.clone());
            let held = counts.task(queue);
            tasks.spawn(async move {
                let _held = held;
                // On shutdown a task that was not started is dropped, which requeues it.
                if let Some(Ok(_permit)) = shutdown.run_until_cancelled(permits.acquire()).await {
                    run_one(worker, queue, task, shutdown.clone()).await;
                }
            });
        }
        // Running tasks are acknowledged over this consumer.
        tasks.close();
        tasks.wait().await;
        tasks.reopen();
        drop(consumer);
        shutdown
            .run_until_cancelled(tokio::time::sleep(REOPEN))
            .await;
    }
}

async fn run_one(
    worker: Arc<Worker>,
    queue: TaskQueue,
    task: TakenTask,
    shutdown: CancellationToken,
) {
    let mut retry = RETRY.start();
    let mut attempts = 0;
    loop {
        let error = match attempt(&worker, queue, &task).await {
            Ok(()) => {
                if let Err(error) = task.ack.ack().await {
                    tracing::debug!(error = %error.chain(), "a task could not be acknowledged; it is redelivered");
                }
                return;
            }
            Err(error) => error,
        };
        attempts += 1;
        if !error.is_retryable() && attempts >= ATTEMPTS {
            dead_letter(&worker, task, &error).await;
            return;
        }
        let pause = retry.next_delay();
        let Some(pause) = pause else {
            // Redelivered, possibly to a worker that can reach the servers.
            tracing::warn!(queue = queue.as_str(), error = %error.chain(), "a task is requeued");
            return;
        };
        tracing::debug!(queue = queue.as_str(), error = %error.chain(), "a task is retried");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn attempt(worker: &Worker, queue: TaskQueue, task: &TakenTask) -> Result<()> {
    match worker.notifier.run(&task.payload).await? {
        Next::Done => Ok(()),
        // Published and confirmed before this one is acknowledged.
        Next::Again(delay) => {
            let payload = task.payload.clone();
            worker.notifier.again(queue, payload, delay).await
        }
    }
}

async fn dead_letter(worker: &Worker, task: TakenTask, error: &Error) {
    let letter = DeadLetter {
        id: new_id(),
        at: Timestamp::now(),
        reason: format!("notification task failed: {}", error.chain()),
        partition: 0,
        payload: String::from_utf8_lossy(&task.payload).into_owned(),
    };
    match worker.dead.put(&letter, task.payload.clone()).await {
        Ok(()) => {
            tracing::warn!(id = %letter.id, reason = letter.reason, "a task became a dead letter; `chat queue dead show` prints it");
            metrics().dead_letters.with_label_values(&["job"]).inc();
            let _ = task.ack.ack().await;
        }
        Err(error) => {
            tracing::error!(error = %error.chain(), "a dead letter could not be stored; its task is redelivered");
        }
    }
}
