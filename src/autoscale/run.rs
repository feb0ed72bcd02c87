//! The autoscaler's two loops: with worker processes, and for a dry run.

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    lease::{self, LeaderLease},
    parts::Parts,
    pool::Pool,
    scaler::{Scaler, summary},
};
use crate::{
    error::Result,
    output,
    telemetry::{self, metrics},
};

/// Runs workers until `shutdown`, then stops all of them.
///
/// # Errors
/// If workers repeatedly crash at their start. No worker is left then.
pub async fn run(parts: Parts, shutdown: CancellationToken) -> Result<()> {
    let mut pool = Pool::new(parts.worker.clone(), parts.settings.grace);
    let workers = pool.metrics();
    telemetry::include(move || {
        let workers = workers.clone();
        Box::pin(async move { workers.read().await })
    });
    let (sender, mut lease) = watch::channel(LeaderLease::Unknown);
    let release = CancellationToken::new();
    let renewing = tokio::spawn(lease::keep(
        parts.coordination.clone(),
        lease::key(&parts.roles),
        sender,
        release.clone(),
    ));
    let mut scaler = Scaler::new(parts);
    let mut due = Instant::now();
    let mut led = false;
    let result = loop {
        tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            event = pool.event() => {
                if let Err(error) = pool.handle(event) {
                    break Err(error);
                }
                // A crashed worker is replaced at once, unless a pause is due.
                due = due.min(Instant::now() + scaler.idle_interval());
            }
            changed = lease.changed() => {
                if changed.is_err() {
                    // Cannot happen: its task ends only after `release`.
                    break Ok(());
                }
                due = Instant::now();
            }
            () = sleep_until(due) => {
                let now = *lease.borrow_and_update();
                let outcome = match now {
                    LeaderLease::Theirs => {
                        scaler.reset();
                        led = false;
                        pool.set(0)
                    }
                    LeaderLease::Unknown if !led => Ok(()),
                    LeaderLease::Ours | LeaderLease::Unknown => {
                        led = true;
                        scaler.step(&mut pool, now == LeaderLease::Ours).await
                    }
                };
                if let Err(error) = outcome {
                    break Err(error);
                }
                due = Instant::now() + scaler.pause(led);
            }
        }
        pool.kill_late();
        metrics().autoscale_workers.set(pool.active() as i64);
    };
    // The next leader may start its workers while these finish.
    release.cancel();
    pool.stop().await;
    metrics().autoscale_workers.set(0);
    let _ = renewing.await;
    result
}

/// Measures and decides until `shutdown`, as if its decisions were followed; prints them and updates the metrics.
pub async fn watch(parts: Parts, shutdown: CancellationToken) {
    let mut scaler = Scaler::new(parts);
    while !shutdown.is_cancelled() {
        let before = scaler.target();
        let (sample, decision) = scaler.evaluate().await;
        scaler.follow(&sample, decision);
        output::announce(summary(before, &sample, decision));
        tokio::select! {
            () = tokio::time::sleep(scaler.interval()) => {}
            () = shutdown.cancelled() => {}
        }
    }
}
