//! Starting and stopping of worker processes (`chat::autoscale::pool`), with shell scripts as workers.

use std::time::Duration;

use chat::autoscale::pool::{Pool, WorkerCommand};
use tokio::time::{Instant, timeout};

use crate::support::PATIENCE;

fn script(text: &str) -> WorkerCommand {
    WorkerCommand {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), text.into()],
        env: Vec::new(),
    }
}

/// Keeps `target` workers until `right`; returns the error if the pool gives up.
async fn keep(
    pool: &mut Pool,
    target: usize,
    right: impl Fn(&Pool) -> bool,
) -> Result<(), chat::error::Error> {
    let end = Instant::now() + PATIENCE;
    while !right(pool) {
        assert!(
            Instant::now() < end,
            "not in time: {} of {target}",
            pool.active()
        );
        pool.set(target)?;
        if let Ok(event) = timeout(Duration::from_millis(10), pool.event()).await {
            pool.handle(event)?;
        }
        pool.kill_late();
    }
    Ok(())
}

#[tokio::test]
async fn workers_start_and_stop_when_their_input_ends() {
    let mut pool = Pool::new(script("echo ready; cat >/dev/null"), PATIENCE);
    pool.set(3).unwrap();
    assert_eq!(pool.active(), 3);
    pool.set(1).unwrap();
    assert_eq!((pool.active(), pool.len()), (1, 3));
    keep(&mut pool, 1, |pool| pool.len() == 1).await.unwrap();
    pool.stop().await;
    assert!(pool.is_empty());
}

#[tokio::test]
async fn a_worker_that_does_not_stop_in_time_is_killed() {
    let mut pool = Pool::new(script("exec sleep 1000"), Duration::from_millis(50));
    pool.set(2).unwrap();
    pool.set(1).unwrap();
    keep(&mut pool, 1, |pool| pool.len() == 1).await.unwrap();
    pool.stop().await;
    assert!(pool.is_empty());
}

#[tokio::test]
async fn a_crashed_worker_is_replaced() {
    let marker = std::env::temp_dir().join(crate::support::unique("pool"));
    let path = marker.display();
    // The first process ends at once, later ones stay.
    let text =
        format!("if [ -e {path} ]; then echo ready; cat >/dev/null; else : >{path}; exit 3; fi");
    let mut pool = Pool::new(script(&text), PATIENCE);
    pool.set(1).unwrap();
    let event = pool.event().await;
    pool.handle(event).unwrap();
    assert_eq!(pool.active(), 0);
    keep(&mut pool, 1, |pool| pool.active() == 1).await.unwrap();
    pool.stop().await;
    std::fs::remove_file(marker).unwrap();
}

#[tokio::test]
async fn the_pool_gives_up_on_workers_that_always_crash() {
    let starts = std::env::temp_dir().join(crate::support::unique("pool"));
    let text = format!("echo start >>{}; exit 1", starts.display());
    let mut pool = Pool::new(script(&text), PATIENCE);
    let error = keep(&mut pool, 4, |_| false).await.unwrap_err();
    assert!(
        error.message.starts_with("gave up: 8 workers in a row"),
        "{error:?}"
    );
    assert!(error.message.contains("exit status: 1"), "{error:?}");
    pool.stop().await;
    // Restarts are limited: the first four start at once, then one after the other.
    let count = std::fs::read_to_string(&starts).unwrap().lines().count();
    assert!((8..=11).contains(&count), "{count} starts");
    std::fs::remove_file(starts).unwrap();
}

#[tokio::test]
async fn workers_with_invalid_settings_are_not_restarted() {
    let mut pool = Pool::new(script("exit 2"), PATIENCE);
    let error = keep(&mut pool, 1, |_| false).await.unwrap_err();
    assert!(error.message.contains("settings"), "{error:?}");
}

#[tokio::test]
async fn a_missing_program_is_reported() {
    let mut command = script("");
    command.program = "/nowhere/chat".into();
    let mut pool = Pool::new(command, PATIENCE);
    let error = keep(&mut pool, 2, |_| false).await.unwrap_err();
    assert!(
        error.message.contains("cannot start /nowhere/chat: "),
        "{error:?}"
    );
}
