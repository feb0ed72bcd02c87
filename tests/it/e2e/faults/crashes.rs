//! Processes are killed or frozen under load: every acknowledged message is stored once, in order, and the numbers have
//! no gaps.

use sqlx::{Connection, Executor, SqliteConnection};

use super::PACE;
use crate::harness::{Kind, load::Load};

#[tokio::test]
async fn no_message_is_lost_when_workers_crash() {
    let mut chat = Load::plan(Kind::Cluster).start().await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    for i in 0..4 {
        load.accepted(150).await;
        chat.worker_mut(i).kill9().await;
        load.accepted(150).await;
        chat.worker_mut(i).restart().await;
    }
    load.end(&chat).await;
}

#[tokio::test]
async fn no_message_is_lost_when_edges_crash() {
    let mut chat = Load::plan(Kind::Cluster).start().await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    for i in 0..4 {
        load.accepted(150).await;
        chat.edge_mut(i).kill9().await;
        load.accepted(150).await;
        chat.edge_mut(i).restart().await;
        load.update_edges(&chat);
    }
    assert!(load.figures().reconnects >= 4, "{:?}", load.figures());
    load.end(&chat).await;
}

#[tokio::test]
async fn no_message_is_lost_when_standalone_crashes() {
    let mut chat = Load::plan(Kind::Standalone).start().await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    for _ in 0..4 {
        load.accepted(150).await;
        chat.edge_mut(0).kill9().await;
        chat.edge_mut(0).restart().await;
        load.update_edges(&chat);
    }
    load.accepted(150).await;
    assert!(load.figures().reconnects >= 16, "{:?}", load.figures());
    load.end(&chat).await;
}

/// Another process locks the database file, so that nothing can be written before the crash, and therefore nothing may
/// have been acknowledged.
#[tokio::test]
async fn no_acknowledgement_is_sent_before_standalone_persists() {
    const LOST: usize = 100;
    let mut chat = Load::plan(Kind::Standalone).start().await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    let url = format!("sqlite://{}", chat.dir().join("data/chat.db").display());
    for _ in 0..3 {
        load.accepted(150).await;
        let mut other = SqliteConnection::connect(&url).await.expect("the file");
        other
            .execute("BEGIN IMMEDIATE")
            .await
            .expect("the write lock");
        load.until("nothing is answered", || load.in_flight() >= LOST)
            .await;
        chat.edge_mut(0).kill9().await;
        other.close().await.expect("it held it to the end");
        chat.edge_mut(0).restart().await;
        load.update_edges(&chat);
    }
    load.accepted(150).await;
    load.end(&chat).await;
}

/// The broker misses heartbeats of a frozen worker after some seconds and reassigns its partitions. When the worker
/// thaws, what it writes is stored already.
#[tokio::test]
async fn a_frozen_worker_stores_nothing_twice_after_thawing() {
    let mut chat = Load::plan(Kind::Cluster).start().await;
    let load = Load::start(&chat, 4, 3, PACE).await;
    // Both in turn: one of them may own no partition.
    for i in 0..2 {
        load.accepted(200).await;
        chat.worker_mut(i).sigstop();
        load.accepted(300).await;
        load.settled().await;
        load.resume_sending();
        load.accepted(100).await;
        chat.worker_mut(i).sigcont();
        load.accepted(200).await;
        load.settled().await;
        load.resume_sending();
    }
    load.end(&chat).await;
}
