//! Partition ownership: every live worker computes the same shares from the same heartbeats, by rendezvous hashing with
//! bounded loads. A worker that joins or leaves moves little more than its own share, and shares are even. Ownership decides
//! which worker consumes, never which one may write: the queue's single active consumer and the room's row lock guard a
//! change of owner.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::state::Worker;
use crate::{bus::WorkerId, model::derived_id, queue::Partition, telemetry::metrics};

/// Sends heartbeats until `shutdown`, and sends this worker's share to `owned` when it changes.
pub async fn claim(
    worker: &Worker,
    id: WorkerId,
    owned: watch::Sender<HashSet<Partition>>,
    shutdown: CancellationToken,
) {
    let settings = &worker.config.worker;
    let partitions = worker.config.queue.partitions;
    let mut last_heartbeat = Instant::now();
    let mut alone = false;
    loop {
        let heartbeat = worker
            .coordination
            .heartbeat(id, settings.heartbeat_ttl)
            .await;
        let share = match heartbeat {
            Ok(live) => {
                last_heartbeat = Instant::now();
                if std::mem::take(&mut alone) {
                    tracing::info!("heartbeats are back; partitions are shared out again");
                }
                Some(share(id, &live, partitions))
            }
            // Workers cannot see each other. Each consumes every partition, and the queue's single active consumer assigns
            // each partition to one of them.
            Err(error) if last_heartbeat.elapsed() >= settings.heartbeat_ttl => {
                if !std::mem::replace(&mut alone, true) {
                    tracing::warn!(error = %error.chain(), "no heartbeats; consuming every partition");
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

/// The share of `me`. Goes through all pairs of worker and partition in the order of their ranks; a partition is
/// assigned to the worker unless it is taken already or the worker has its even share, rounded up.
fn share(me: WorkerId, live: &[WorkerId], partitions: u16) -> HashSet<Partition> {
    let workers: HashSet<WorkerId> = live.iter().copied().chain([me]).collect();
    let most = usize::from(partitions).div_ceil(workers.len());
    let mut ranks: Vec<_> = (0..partitions)
        .flat_map(|partition| {
            workers.iter().map(move |worker| {
                let rank = derived_id("owner", &[worker.as_bytes(), &partition.to_be_bytes()]);
                (rank, *worker, partition)
            })
        })
        .collect();
    ranks.sort_unstable();
    let mut taken = HashSet::new();
    let mut shares: HashMap<WorkerId, HashSet<Partition>> = HashMap::new();
    for (_, worker, partition) in ranks {
        let share = shares.entry(worker).or_default();
        if share.len() < most && taken.insert(partition) {
            share.insert(partition);
        }
    }
    shares.remove(&me).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_workers_share_all_partitions_evenly_and_leaving_moves_few() {
        let workers: Vec<_> = (0..4).map(WorkerId::from_u128).collect();
        for partitions in [8, 64, 256] {
            let shares: Vec<_> = workers
                .iter()
                .map(|w| share(*w, &workers, partitions))
                .collect();
            let all: HashSet<_> = shares.iter().flatten().collect();
            assert_eq!(all.len(), usize::from(partitions));
            let even = usize::from(partitions) / 4;
            assert!(shares.iter().all(|share| share.len() == even));
            let rest = &workers[1..];
            let kept = rest.iter().zip(&shares[1..]).map(|(worker, before)| {
                let after = share(*worker, rest, partitions);
                assert!(after.len() <= usize::from(partitions).div_ceil(3));
                after.intersection(before).count()
            });
            assert!(kept.sum::<usize>() >= 3 * even * 3 / 4);
        }
    }

    /// Two versions run side by side during an update, so shares must not depend on the version.
    #[test]
    fn the_shares_are_the_same_in_every_version() {
        let workers: Vec<_> = (0..3).map(WorkerId::from_u128).collect();
        let mut all: Vec<Vec<Partition>> = Vec::new();
        for worker in &workers {
            let mut share: Vec<_> = share(*worker, &workers, 7).into_iter().collect();
            share.sort_unstable();
            all.push(share);
        }
        let mut sizes: Vec<usize> = all.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert!(sizes[2] == 3 && sizes.iter().sum::<usize>() == 7, "{all:?}");
        // The worker itself counts even if it is not listed, and duplicates count once.
        let me = workers[0];
        assert_eq!(share(me, &workers, 7), share(me, &workers[1..], 7));
        let twice = [&workers[..], &workers[..]].concat();
        assert_eq!(share(me, &workers, 7), share(me, &twice, 7));
    }

    #[test]
    fn one_worker_owns_all_partitions_and_surplus_workers_own_none() {
        assert_eq!(share(WorkerId::from_u128(1), &[], 8).len(), 8);
        let workers: Vec<_> = (0..12).map(WorkerId::from_u128).collect();
        let shares = workers.iter().map(|w| share(*w, &workers, 8).len());
        assert_eq!(shares.sum::<usize>(), 8);
    }
}
