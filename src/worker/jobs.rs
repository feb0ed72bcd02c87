//! One of the queues for jobs: takes what is due, a few at once, runs each, and acknowledges it when what became of it
//! is on disk. A job that fails for good goes to the dead letters.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Worker;
use crate::{
    error::Error,
    job::notify::Next,
    model::{Timestamp, new_id},
    queue::{DeadLetter, TakenTask, TaskQueue},
    retry::Policy,
    telemetry::metrics,
};

/// Before a lost consumer is opened again.
const REOPEN: Duration = Duration::from_millis(500);
/// While the store or the queue does not answer. A job is held meanwhile, far below RabbitMQ's 30 minutes.
const HOLD: Policy = Policy {
    initial: Duration::from_millis(50),
    max: Duration::from_secs(5),
    deadline: Some(Duration::from_secs(300)),
};
/// Failures that trying again should not help against, and yet might: two that met.
const TRIES: u32 = 3;

pub async fn run(worker: Arc<Worker>, queue: TaskQueue, shutdown: CancellationToken) {
    let settings = &worker.config.worker;
    let (at_once, prefetch) = match queue {
        TaskQueue::Notify => (settings.notify_concurrency, settings.notify_prefetch),
        TaskQueue::Email | TaskQueue::Sms => {
            (worker.config.notify.concurrency, settings.deliver_prefetch)
        }
    };
    // What is handed ahead costs no round trip when its turn comes.
    let turns = Arc::new(Semaphore::new(usize::from(at_once)));
    let tasks = TaskTracker::new();
    while !shutdown.is_cancelled() {
        let taken = worker.notifier.tasks.take(queue, prefetch.max(at_once));
        let mut consumer = match shutdown.run_until_cancelled(taken).await {
            None => break,
            Some(Ok(consumer)) => consumer,
            Some(Err(error)) => {
                tracing::debug!(queue = queue.as_str(), error = %error.chain(), "jobs cannot be taken yet");
                shutdown
                    .run_until_cancelled(tokio::time::sleep(REOPEN))
                    .await;
                continue;
            }
        };
        while let Some(Some(job)) = shutdown.run_until_cancelled(consumer.next()).await {
            let (worker, turns, shutdown) = (worker.clone(), turns.clone(), shutdown.clone());
            tasks.spawn(async move {
                // Dropped on the way out, what was not begun goes back at once.
                if let Some(Ok(_turn)) = shutdown.run_until_cancelled(turns.acquire()).await {
                    one(worker, queue, job, shutdown.clone()).await;
                }
            });
        }
        // Acknowledgements of what is under way go over this consumer.
        tasks.close();
        tasks.wait().await;
        tasks.reopen();
        drop(consumer);
        shutdown
            .run_until_cancelled(tokio::time::sleep(REOPEN))
            .await;
    }
}

async fn one(worker: Arc<Worker>, queue: TaskQueue, job: TakenTask, shutdown: CancellationToken) {
    let mut retry = HOLD.start();
    let mut tries = 0;
    loop {
        let error = match attempt(&worker, queue, &job).await {
            Ok(()) => {
                if let Err(error) = job.ack.ack().await {
                    tracing::debug!(error = %error.chain(), "a job could not be acknowledged; it comes again");
                }
                return;
            }
            Err(error) => error,
        };
        tries += 1;
        if !error.is_retryable() && tries >= TRIES {
            bury(&worker, job, &error).await;
            return;
        }
        let pause = retry.next_delay();
        let Some(pause) = pause else {
            // It comes again, perhaps to a worker that is better off.
            tracing::warn!(queue = queue.as_str(), error = %error.chain(), "a job is put back");
            return;
        };
        tracing::debug!(queue = queue.as_str(), error = %error.chain(), "a job is tried again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn attempt(worker: &Worker, queue: TaskQueue, job: &TakenTask) -> crate::error::Result<()> {
    match worker.notifier.run(&job.payload).await? {
        Next::Done => Ok(()),
        // Published and confirmed before the one in hand is acknowledged.
        Next::Again(delay) => {
            let payload = job.payload.clone();
            worker.notifier.again(queue, payload, delay).await
        }
    }
}

async fn bury(worker: &Worker, job: TakenTask, error: &Error) {
    tracing::error!(error = %error.chain(), "a job that cannot succeed");
    let letter = DeadLetter {
        id: new_id(),
        at: Timestamp::now(),
        reason: format!("a job of notifications: {}", error.chain()),
        partition: 0,
        payload: String::from_utf8_lossy(&job.payload).into_owned(),
    };
    match worker.dead.put(&letter, job.payload.clone()).await {
        Ok(()) => {
            metrics().dead_letters.with_label_values(&["job"]).inc();
            let _ = job.ack.ack().await;
        }
        Err(error) => {
            tracing::error!(error = %error.chain(), "a dead letter could not be put away; its job comes again");
        }
    }
}
