//! Checks the database regularly, for `chat_store_state` and for a log line at the begin and the end of an outage.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    error::{Error, Result},
    store::Reads,
    telemetry::{Dependency, watch_state},
};

const EVERY: Duration = Duration::from_secs(2);
/// How long the database may take to answer, including the wait for a connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Checks until it is dropped. The database has just answered.
pub fn store(store: Arc<dyn Reads>) -> AbortOnDropHandle<()> {
    let answers = Arc::new(AtomicBool::new(true));
    let weak = Arc::downgrade(&answers);
    watch_state(Dependency::Store, move || {
        Some(i64::from(weak.upgrade()?.load(Ordering::Relaxed)))
    });
    AbortOnDropHandle::new(tokio::spawn(check(store, answers)))
}

async fn check(store: Arc<dyn Reads>, answers: Arc<AtomicBool>) {
    let mut down_since = None;
    loop {
        tokio::time::sleep(EVERY).await;
        let started = Instant::now();
        let answer: Result<()> = timeout(ANSWER_WITHIN, store.ping())
            .await
            .unwrap_or_else(|_| {
                Err(Error::unavailable(
                    "database",
                    format!("no answer within {ANSWER_WITHIN:?}"),
                ))
            });
        answers.store(answer.is_ok(), Ordering::Relaxed);
        match (answer, down_since) {
            (Err(error), None) => {
                down_since = Some(started);
                tracing::warn!(error = %error.reason(), "the database does not answer");
            }
            (Ok(()), Some(since)) => {
                down_since = None;
                let outage_ms = since.elapsed().as_millis() as u64;
                tracing::info!(outage_ms, "the database answers again");
            }
            _ => {}
        }
    }
}
