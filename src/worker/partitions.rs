//! Which partitions are ours: every live worker computes the same shares from the same heartbeats, by rendezvous
//! hashing, so that one worker's coming or going moves only its own partitions. It decides who consumes, never
//! who may write: the queue's single active consumer and the room's row lock guard the moment of change.

use std::{collections::HashSet, time::Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::{
    bus::WorkerId,
    model::derived_id,
    queue::Partition,
    telemetry::{DOWN, UP, metrics},
};

/// Beats until `shutdown` and publishes our share as it changes.
pub async fn claim(
    worker: &Worker,
    id: WorkerId,
    owned: watch::Sender<HashSet<Partition>>,
    shutdown: CancellationToken,
) {
    let settings = &worker.config.worker;
    let partitions = worker.config.queue.partitions;
    let mut last_beat = Instant::now();
    let mut alone = false;
    loop {
        let beat = worker.bus.beat(id, settings.heartbeat_ttl).await;
        metrics()
            .bus_state
            .set(if beat.is_ok() { UP } else { DOWN });
        let share = match beat {
            Ok(live) => {
                last_beat = Instant::now();
                if std::mem::take(&mut alone) {
                    tracing::info!("heartbeats are back; partitions are shared out again");
                }
                Some(share(id, &live, partitions))
            }
            // The others no longer see us, nor we them. Everyone asks for everything, and the queue's single
            // active consumer gives each partition to one.
            Err(error) if last_beat.elapsed() >= settings.heartbeat_ttl => {
                if !std::mem::replace(&mut alone, true) {
                    tracing::warn!(error = %error.chain(), "no heartbeats; asking for every partition");
                }
                Some((0..partitions).collect())
            }
            Err(_) => None,
        };
        if let Some(share) = share {
            owned.send_if_modified(|current| {
                let changed = *current != share;
                if changed {
                    metrics().partitions_owned.set(share.len() as i64);
                    tracing::info!(partitions = share.len(), "partitions owned");
                    *current = share;
                }
                changed
            });
        }
        tokio::select! {
            () = tokio::time::sleep(settings.heartbeat) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// The partitions whose highest-ranking live worker is `me`.
fn share(me: WorkerId, live: &[WorkerId], partitions: u16) -> HashSet<Partition> {
    let rank = |worker: &WorkerId, partition: Partition| {
        derived_id("owner", &[worker.as_bytes(), &partition.to_be_bytes()])
    };
    (0..partitions)
        .filter(|partition| {
            live.iter()
                .chain([&me])
                .max_by_key(|worker| rank(worker, *partition))
                == Some(&me)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_workers_share_all_partitions_and_a_leaver_moves_only_its_own() {
        let workers: Vec<_> = (0..4).map(|_| WorkerId::new_v4()).collect();
        let shares: Vec<_> = workers.iter().map(|w| share(*w, &workers, 64)).collect();
        assert_eq!(shares.iter().map(HashSet::len).sum::<usize>(), 64);
        let rest = &workers[1..];
        for (worker, before) in rest.iter().zip(&shares[1..]) {
            assert!(share(*worker, rest, 64).is_superset(before));
        }
        assert_eq!(share(workers[0], &[], 8).len(), 8, "alone, it has them all");
    }
}
