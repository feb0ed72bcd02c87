//! The metrics of the workers of a pool, for the autoscaler's `/metrics`.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::worker_pipe::Request;
use crate::telemetry::{Labelled, metrics};

/// How long all workers together may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The workers that can be read, by number.
#[derive(Default)]
pub struct WorkerMetrics(Mutex<BTreeMap<u64, mpsc::Sender<Request>>>);

impl WorkerMetrics {
    pub fn add(&self, worker: u64, requests: mpsc::Sender<Request>) {
        self.0.lock().insert(worker, requests);
    }

    pub fn remove(&self, worker: u64) {
        self.0.lock().remove(&worker);
    }

    /// The metrics of each worker, labelled with its number in the log. A worker that does not answer in time is left
    /// out and counted.
    pub async fn read(&self) -> Vec<Labelled> {
        let workers: Vec<_> = {
            let workers = self.0.lock();
            let each = workers.iter();
            each.map(|(id, requests)| (*id, requests.clone())).collect()
        };
        let answers = workers.into_iter().map(|(worker, requests)| async move {
            let (request, answer) = oneshot::channel();
            // Full: the worker has not answered an earlier request yet.
            let asked = requests.try_send(request).is_ok();
            let text = match timeout(ANSWER_WITHIN, answer).await {
                Ok(Ok(text)) if asked => text,
                // A worker that has been stopped or has ended meanwhile has not failed.
                _ if !self.0.lock().contains_key(&worker) => return None,
                _ => {
                    metrics().autoscale_worker_scrapes_failed.inc();
                    return None;
                }
            };
            Some(Labelled {
                name: "worker",
                value: worker.to_string(),
                text,
            })
        });
        join_all(answers).await.into_iter().flatten().collect()
    }
}
