//! Which partitions are ours: every live worker computes the same shares from the same heartbeats, by rendezvous
//! hashing, so that one worker's coming or going moves little more than its own partitions; with bounded loads, so that no
//! worker stands idle beside a busy one. It decides who consumes, never who may write: the queue's single active consumer
//! and the room's row lock guard the moment of change.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

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
        let beat = worker
            .coordination
            .heartbeat(id, settings.heartbeat_ttl)
            .await;
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

/// The partitions whose first-ranking live worker is `me`. Nobody gets more than an even share, rounded up: who has that
/// many is passed over.
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
    fn live_workers_share_all_partitions_evenly_and_a_leaver_moves_few_of_the_others() {
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

    /// Owners must not change with the program's version: two versions run side by side during an update.
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
        // Whoever asks is counted, known or not, and named twice is one.
        let me = workers[0];
        assert_eq!(share(me, &workers, 7), share(me, &workers[1..], 7));
        let twice = [&workers[..], &workers[..]].concat();
        assert_eq!(share(me, &workers, 7), share(me, &twice, 7));
    }

    #[test]
    fn alone_it_has_them_all_and_of_too_many_some_have_none() {
        assert_eq!(share(WorkerId::from_u128(1), &[], 8).len(), 8);
        let workers: Vec<_> = (0..12).map(WorkerId::from_u128).collect();
        let shares = workers.iter().map(|w| share(*w, &workers, 8).len());
        assert_eq!(shares.sum::<usize>(), 8);
    }
}
