//! The disk of a standalone server is full: sends are answered `busy`, and accepted again seconds after there is space.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::harness::{
    Chat, Kind,
    disk::{Ext4, Tmpfs},
    load::Load,
};

const PACE: Duration = Duration::from_millis(20);
const DISK_KIB: u32 = 32 * 1024;
/// Generous; the client repeats a refused send after a second.
const HEALTHY_WITHIN: Duration = Duration::from_secs(20);

/// Moves the data of a stopped server onto another file system, which `mount` mounts on its directory.
fn onto<D>(directory: &Path, mount: impl FnOnce() -> Option<D>) -> Option<D> {
    let kept = directory.with_extension("kept");
    fs::rename(directory, &kept).expect("moved");
    let disk = mount()?;
    for entry in fs::read_dir(&kept).expect("a directory") {
        let entry = entry.expect("an entry");
        let copy = directory.join(entry.file_name());
        fs::copy(entry.path(), &copy).expect("copied");
        // As the server leaves its files: a copy that is not on disk is lost when the file system fails.
        let copy = fs::File::open(copy).expect("the copy");
        copy.sync_all().expect("on disk");
    }
    Some(disk)
}

#[tokio::test]
async fn a_full_disk_is_answered_busy_while_it_lasts() {
    let mut chat = Load::plan(Kind::Standalone).start().await;
    chat.edges[0].sigterm();
    chat.edges[0].ended().await;
    let data = chat.dir().join("data");
    let Some(disk) = onto(&data, || Tmpfs::mount(&data, DISK_KIB)) else {
        return;
    };
    chat.edges[0].restart().await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    // The write-ahead log, which is reused, does not absorb this for long.
    load.pad(2000);
    for round in 0..3 {
        load.accepted(100).await;
        let filler = disk.fill();
        let before = load.figures().busy;
        load.until("sends to be refused", || load.figures().busy >= before + 20)
            .await;
        // Reads are answered, and the process says so.
        let (room, _) = load.room(0);
        let rest = chat.rest_as(0, load.owner());
        rest.get(&format!("/v1/rooms/{room}/messages?limit=10"))
            .await
            .ok(200);
        rest.post(
            "/v1/rooms",
            serde_json::json!({"kind": "public", "name": "new"}),
        )
        .await
        .problem(503, "busy");
        fs::remove_file(&filler).expect("removed");
        let freed = Instant::now();
        load.accepted(100).await;
        let took = freed.elapsed();
        eprintln!("round {round}: 100 sends accepted {took:.1?} after there was space");
        assert!(took < HEALTHY_WITHIN, "{took:?}");
    }
    load.pad(0);
    load.end(&chat).await;
    let log = chat.edges[0].log();
    assert!(log.contains("database or disk is full"), "{log}");
    stop(&mut chat).await;

    // Read-only: nothing starts, and the reason is named.
    disk.remount("ro");
    let refused = chat
        .program("standalone", &["standalone", "--port", "0"])
        .run()
        .await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("Read-only file system"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("data"), "{refused:?}");
    disk.remount("rw");
    chat.edges[0].restart().await;
    stop(&mut chat).await;
}

/// As after an I/O error. The file system stays read-only until it is repaired, so the server has to be restarted.
#[tokio::test]
async fn a_file_system_that_becomes_read_only_is_answered_busy_and_loses_nothing() {
    let mut chat = Load::plan(Kind::Standalone).start().await;
    stop(&mut chat).await;
    let data = chat.dir().join("data");
    let Some(disk) = onto(&data, || Ext4::mount(&data, 64)) else {
        return;
    };
    chat.edges[0].restart().await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    load.accepted(200).await;
    disk.fail();
    let before = load.figures().busy;
    load.until("sends to be refused", || load.figures().busy >= before + 20)
        .await;
    let (room, _) = load.room(0);
    let path = format!("/v1/rooms/{room}/messages?limit=10");
    let rest = chat.rest_as(0, load.owner());
    rest.get(&path).await.ok(200);
    stop(&mut chat).await;
    disk.repair();
    chat.edges[0].restart().await;
    load.update_edges(&chat);
    load.accepted(200).await;
    load.end(&chat).await;
    stop(&mut chat).await;
}

async fn stop(chat: &mut Chat) {
    chat.edges[0].sigterm();
    assert_eq!(chat.edges[0].ended().await, Some(0));
}
