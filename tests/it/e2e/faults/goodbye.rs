//! SIGTERM under load, one process after the other: no message is lost or duplicated, and clients that follow the
//! announced delay reconnect spread over time.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::PACE;
use crate::harness::{Chat, Kind, both_ways, load::Load};

both_ways!(
    a_rolling_restart_loses_nothing,
    a_shutdown_closes_sockets_gradually
);

async fn a_rolling_restart_loses_nothing(kind: Kind) {
    let mut chat = Load::plan(kind).set("edge.drain", "300ms").start().await;
    let load = Load::start(&chat, 3, 6, PACE).await;
    let rounds = if kind == Kind::Cluster { 1 } else { 3 };
    for _ in 0..rounds {
        for i in 0..chat.edges.len() {
            load.accepted(150).await;
            chat.edge(i).sigterm();
            assert_eq!(chat.edge_mut(i).ended().await, Some(0));
            chat.edge_mut(i).restart().await;
            load.update_edges(&chat);
        }
        for i in 0..chat.workers.len() {
            load.accepted(150).await;
            chat.worker_mut(i).sigterm();
            assert_eq!(chat.worker_mut(i).ended().await, Some(0));
            chat.worker_mut(i).restart().await;
        }
    }
    load.accepted(150).await;
    let figures = load.figures();
    // Each client was on an edge that stopped, and received a reconnect delay.
    assert!(figures.restarts >= 6, "{figures:?}");
    assert_eq!(figures.restarts, figures.reconnects, "{figures:?}");
    load.end(&chat).await;
}

async fn a_shutdown_closes_sockets_gradually(kind: Kind) {
    const SOCKETS: usize = 60;
    const DRAIN: Duration = Duration::from_secs(2);
    let mut chat = Chat::plan(kind)
        .edges(1)
        .workers(1)
        .set("edge.drain", "2s")
        .start()
        .await;
    let ada = chat.register("ada").await;
    let sockets = join_all((0..SOCKETS).map(|_| chat.connect(0, &ada))).await;
    chat.edge(0).sigterm();
    let started = Instant::now();
    let closed = join_all(sockets.iter().map(async |socket| {
        let closed = socket.closed().await;
        assert_eq!(closed.code, 1012, "{closed:?}");
        let hint: serde_json::Value = serde_json::from_str(&closed.reason).expect("JSON");
        let hint = Duration::from_millis(hint["retryAfterMs"].as_u64().expect("a number"));
        assert!(hint <= DRAIN, "{hint:?}");
        (started.elapsed(), hint)
    }))
    .await;
    assert_eq!(chat.edge_mut(0).ended().await, Some(0));
    // On a slow machine it takes longer, never shorter.
    let last = closed.iter().map(|(at, _)| *at).max().expect("some");
    assert!(last >= DRAIN * 3 / 4, "all were closed within {last:?}");
    let early = closed.iter().filter(|(at, _)| *at < last / 2).count();
    assert!(
        (SOCKETS / 6..=SOCKETS * 5 / 6).contains(&early),
        "{early} in the first half"
    );
    // The chance that all sixty fall into one half is 1 in 10^17.
    let soon = closed.iter().filter(|(_, hint)| *hint < DRAIN / 2).count();
    assert!(
        (1..SOCKETS).contains(&soon),
        "{soon} reconnect in the first half"
    );
}
