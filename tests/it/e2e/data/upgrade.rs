//! A rolling upgrade and the way back, with the program of an earlier version.

use std::{path::PathBuf, time::Duration};

use crate::harness::{Kind, load::Load};

const PACE: Duration = Duration::from_millis(20);

/// Needs `CHAT_OLD_PROGRAM`, the path of a program of the last version. The order is that of docs/operations.md: the
/// schema, workers, edges; and back: edges, workers.
#[tokio::test]
async fn versions_run_side_by_side() {
    let Some(old) = std::env::var_os("CHAT_OLD_PROGRAM").map(PathBuf::from) else {
        eprintln!("skipped: CHAT_OLD_PROGRAM does not name a program of the last version");
        return;
    };
    assert!(old.is_file(), "CHAT_OLD_PROGRAM: {}", old.display());
    // The schema is that of this version from the beginning: it also serves the last one.
    let mut chat = Load::plan(Kind::Cluster).start().await;
    for process in chat.workers.iter_mut().chain(&mut chat.edges) {
        process.sigterm();
        process.ended().await;
        process.restart_with(Some(&old)).await;
    }
    let load = Load::start(&chat, 3, 6, PACE).await;
    load.accepted(200).await;
    for binary in [None, Some(old.as_path())] {
        let is_upgrade = binary.is_none();
        for part in 0..2 {
            let is_workers = (part == 0) == is_upgrade;
            let count = if is_workers {
                chat.workers.len()
            } else {
                chat.edges.len()
            };
            for i in 0..count {
                let process = if is_workers {
                    chat.worker_mut(i)
                } else {
                    chat.edge_mut(i)
                };
                process.sigterm();
                assert_eq!(process.ended().await, Some(0));
                process.restart_with(binary).await;
                load.update_edges(&chat);
                load.accepted(200).await;
            }
        }
    }
    load.end(&chat).await;
}
