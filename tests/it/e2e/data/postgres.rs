//! PostgreSQL is restored from a backup, with the commands of docs/operations.md.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{names, numbered, say_all};
use crate::{
    guide,
    harness::{
        Chat, Kind, Socket, User, deployment::Database, eventually, own_postgres::OwnPostgres,
        process::Ended,
    },
};

#[track_caller]
fn done(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

struct Room {
    ada: User,
    room: Uuid,
    socket: Socket,
    epoch: Value,
}

async fn room(chat: &Chat) -> Room {
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "private", &[]).await;
    let socket = chat.connect(0, &ada).await;
    let joined = socket.join(room, None).await.expect("joined");
    Room {
        ada,
        room,
        socket,
        epoch: joined["epoch"].clone(),
    }
}

async fn say_and_store(chat: &Chat, room: &Room, named: &[String], total: usize) {
    say_all(&room.socket, room.room, named).await;
    eventually("all are stored", async || {
        (names(chat, &room.ada, room.room).await.len() == total).then_some(())
    })
    .await;
}

async fn stop(chat: &mut Chat) {
    for process in chat.edges.iter_mut().chain(&mut chat.workers) {
        process.sigterm();
        process.ended().await;
    }
}

/// A client that was ahead of the restored database resumes.
async fn resumes_with_reset(chat: &Chat, room: &Room, seen: i64, kept: &[String]) {
    assert_eq!(names(chat, &room.ada, room.room).await, kept);
    let mut socket = chat.connect(0, &room.ada).await;
    let resume = json!({"room": room.room, "afterSeq": seen, "epoch": room.epoch});
    let joined = socket.call("joinRoom", resume).await.expect("joined");
    assert_eq!(socket.event("reset").await["epoch"], joined["epoch"]);
    assert_ne!(joined["epoch"], room.epoch);
    socket.say(room.room, "new", "hello").await;
    socket.event("newMessage").await;
}

#[tokio::test]
async fn a_dump_is_restored_into_a_new_database() {
    let mut chat = Chat::plan(Kind::Cluster).edges(1).workers(1).start().await;
    let room = room(&chat).await;
    let kept = numbered("kept", 50);
    say_and_store(&chat, &room, &kept, 50).await;
    let env = [("DATABASE_URL", chat.database_url())];
    done(&guide::run("pg_dump", chat.dir(), &env, &[]).await);
    say_and_store(&chat, &room, &numbered("lost", 50), 100).await;
    stop(&mut chat).await;

    let restored = Database::create().await;
    let env = [("DATABASE_URL", restored.url.as_str())];
    done(&guide::run("pg_restore", chat.dir(), &env, &[]).await);
    for process in chat.edges.iter_mut().chain(&mut chat.workers) {
        process.restart_set("DATABASE_URL", &restored.url).await;
    }
    // 100 messages after the two events of the new room.
    resumes_with_reset(&chat, &room, 101, &kept).await;
}

/// A copy of the files, and the archived log after it: what was committed after the copy is there as well.
#[tokio::test]
async fn a_base_backup_and_the_log_restore_everything_that_was_archived() {
    let server = OwnPostgres::start("backup").await;
    let mut chat = Chat::plan(Kind::Cluster)
        .edges(1)
        .workers(1)
        .address("DATABASE_URL", server.url())
        .start()
        .await;
    let (archive, backups) = (server.directory("archive"), server.directory("backups"));
    let (archive, backups) = (archive.to_string_lossy(), backups.to_string_lossy());
    let (admin, data) = (server.admin_url(), server.data());
    let data = data.to_string_lossy();
    let env = [
        ("ADMIN_URL", admin.as_str()),
        ("ARCHIVE", &archive),
        ("BACKUPS", &backups),
        ("PGDATA", &data),
        ("DATABASE_URL", &server.url()),
    ];
    let user = server.as_its_user();
    let user: Vec<&str> = user.iter().map(String::as_str).collect();
    done(&guide::run("wal-archive", chat.dir(), &env, &[]).await);
    // `archive_mode` takes effect with a restart. The server's clients connect again.
    server.down().await;
    server.up().await;

    let room = room(&chat).await;
    let before = numbered("before", 50);
    say_and_store(&chat, &room, &before, 50).await;
    done(&guide::run("base-backup", &server.data(), &env, &user).await);
    let after = numbered("after", 50);
    say_and_store(&chat, &room, &after, 100).await;
    // In production `archive_timeout` does this.
    server.psql("SELECT pg_switch_wal()").await;
    eventually("the segment is archived", async || {
        let waiting = server.data().join("pg_wal/archive_status");
        let mut entries = std::fs::read_dir(waiting).expect("a directory");
        let is_waiting = entries.any(|entry| {
            entry
                .expect("an entry")
                .path()
                .extension()
                .is_some_and(|extension| extension == "ready")
        });
        (!is_waiting).then_some(())
    })
    .await;
    // Committed after the last archived segment: lost with the disk.
    let lost = numbered("lost", 10);
    say_and_store(&chat, &room, &lost, 110).await;
    server.crash().await;
    stop(&mut chat).await;
    server.down().await;

    done(&guide::run("base-restore", &std::env::temp_dir(), &env, &user).await);
    server.up().await;
    eventually("the end of recovery", async || {
        (!server.data().join("recovery.signal").exists()).then_some(())
    })
    .await;
    done(&guide::run("restored", chat.dir(), &env, &[]).await);
    for process in chat.edges.iter_mut().chain(&mut chat.workers) {
        process.restart().await;
    }
    let kept: Vec<String> = before.iter().chain(&after).cloned().collect();
    resumes_with_reset(&chat, &room, 111, &kept).await;
}
