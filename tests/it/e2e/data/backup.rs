//! `chat backup` and `chat restore`, on a server under load.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};

use super::{names, numbered, say_all};
use crate::guide;
use crate::harness::{Chat, Kind, Socket, User, disk::Tmpfs, load::Load, process::Ended};

const PACE: Duration = Duration::from_millis(20);

/// Runs a command in the deployment's directory. The token secret is the data directory's own.
async fn run(chat: &Chat, args: &[&str]) -> Ended {
    chat.program(args[0], args).run().await
}

fn json_of(ended: &Ended) -> Value {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

#[track_caller]
fn refused(ended: &Ended, code: i32, why: &str) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert!(ended.stderr.contains(why), "{why}: {ended:?}");
}

async fn stop(chat: &mut Chat) {
    chat.edges[0].sigterm();
    assert_eq!(chat.edges[0].ended().await, Some(0));
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_backup_under_load_holds_what_was_acknowledged_and_resets_clients_that_are_ahead() {
    // Tokens are signed with the secret of the data directory, which is part of the backup.
    let mut chat = Load::plan(Kind::Standalone)
        .set("auth.secret", "")
        .start()
        .await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "private", &[]).await;
    let socket = chat.connect(0, &ada).await;
    let joined = socket.join(room, None).await.expect("joined");
    load.accepted(100).await;
    let before = numbered("before", 300);
    say_all(&socket, room, &before).await;
    let ended = run(&chat, &["backup", "backup.db", "--json"]).await;
    let made = json_of(&ended);
    assert_eq!(made["withSecret"], true, "{made}");
    eprintln!("{made}");
    let file = chat.dir().join("backup.db");
    let mode = fs::metadata(&file)
        .expect("the backup")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        !entries(chat.dir())
            .iter()
            .any(|name| name.contains("partial"))
    );
    refused(&run(&chat, &["backup", "backup.db"]).await, 1, "--force");
    let again = run(&chat, &["backup", "backup.db", "--force"]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.contains("secret"), "{again:?}");

    // The load has not noticed.
    load.accepted(100).await;
    load.end(&chat).await;
    let after = numbered("after", 5);
    say_all(&socket, room, &after).await;
    let seen = last_number(&socket, "after 4").await;
    refused(
        &run(&chat, &["restore", "backup.db", "--force"]).await,
        1,
        "another chat process",
    );
    stop(&mut chat).await;

    refused(&run(&chat, &["restore", "backup.db"]).await, 1, "--force");
    refuse_bad_files(&chat, &file).await;
    let restored = json_of(&run(&chat, &["restore", "backup.db", "--force", "--json"]).await);
    let data = chat.dir().join("data");
    let replaced = chat
        .dir()
        .join(restored["replaced"].as_str().expect("a directory"));
    assert_eq!(entries(&replaced), ["chat.db", "secret"]);
    assert!(!data.join("restoring").exists());

    chat.edges[0].restart().await;
    // The token still counts: the secret is the same.
    assert_eq!(names(&chat, &ada, room).await, before);
    let mut socket = chat.connect(0, &ada).await;
    let resume = json!({"room": room, "afterSeq": seen, "epoch": joined["epoch"]});
    let resumed = socket.call("joinRoom", resume).await.expect("joined");
    let reset = socket.event("reset").await;
    // A new epoch, so that clients are reset as well whose position has been reached again.
    assert_ne!(resumed["epoch"], joined["epoch"]);
    assert_eq!(
        (&reset["room"], &reset["epoch"]),
        (&json!(room), &resumed["epoch"])
    );
    say_all(&socket, room, &after).await;
    let expected: Vec<&String> = before.iter().chain(&after).collect();
    last_number(&socket, "after 4").await;
    assert_eq!(
        names(&chat, &ada, room).await.iter().collect::<Vec<_>>(),
        expected
    );
    assert_no_secret(&data).await;
}

/// The number of a message of this name, once it has arrived.
async fn last_number(socket: &Socket, name: &str) -> i64 {
    let find = |received: &crate::harness::socket::Received| {
        received
            .events
            .iter()
            .rev()
            .map(|event| event.data())
            .find_map(|data| {
                (data["clientMsgId"] == name).then(|| data["seq"].as_i64().expect("a number"))
            })
    };
    socket.until(name, find).await
}

/// The restored database does not hold the secret, not even in free pages.
async fn assert_no_secret(data: &Path) {
    let secret = fs::read(data.join("secret")).expect("the secret");
    let file = fs::read(data.join("chat.db")).expect("the database");
    let found = file.windows(secret.len()).any(|window| window == secret);
    assert!(!found, "the secret is in the database");
}

/// Each of these is refused, and the data directory stays as it was.
/// Changes of the schema of a backup, and what the refusal names.
const FOREIGN: [(&str, &str); 5] = [
    (
        "CREATE TRIGGER users AFTER UPDATE OF password_hash ON users BEGIN DELETE FROM messages; END",
        "trigger users",
    ),
    ("CREATE VIEW chosen AS SELECT 1 AS one", "view chosen"),
    ("CREATE TABLE further (id INTEGER)", "table further"),
    ("CREATE VIRTUAL TABLE found USING fts5(text)", "table found"),
    ("ALTER TABLE users ADD COLUMN further TEXT", "table users"),
];

async fn change(file: &Path, statement: &'static str) {
    let url = format!("sqlite://{}", file.display());
    let mut changed = SqliteConnection::connect(&url).await.expect("a file");
    changed.execute(statement).await.expect("SQL");
    changed.close().await.expect("closed");
}

async fn refuse_bad_files(chat: &Chat, file: &Path) {
    let data = chat.dir().join("data");
    let before = entries(&data);
    let bad = chat.dir().join("bad.db");
    let shown = bad.to_string_lossy();
    let restore = ["restore", &shown, "--force"];
    fs::write(&bad, "no database").expect("written");
    refused(&run(chat, &restore).await, 2, "no backup");
    fs::copy(data.join("chat.db"), &bad).expect("copied");
    refused(&run(chat, &restore).await, 2, "no backup");

    let mut bytes = fs::read(file).expect("the backup");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 20_000].fill(0x5a);
    fs::write(&bad, &bytes).expect("written");
    refused(&run(chat, &restore).await, 1, "damaged");
    bytes.truncate(middle);
    fs::write(&bad, &bytes).expect("written");
    refused(&run(chat, &restore).await, 1, "damaged");

    for (statement, why) in FOREIGN {
        fs::copy(file, &bad).expect("copied");
        change(&bad, statement).await;
        refused(&run(chat, &restore).await, 2, why);
    }

    fs::copy(file, &bad).expect("copied");
    let mut newer = SqliteConnection::connect(&format!("sqlite://{shown}"))
        .await
        .expect("a file");
    newer
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'of the future', 1, x'00', 0)",
        )
        .await
        .expect("SQL");
    newer.close().await.expect("closed");
    refused(&run(chat, &restore).await, 1, "newer version");
    refused(
        &run(chat, &["restore", "missing.db", "--force"]).await,
        1,
        "missing.db",
    );
    assert_eq!(entries(&data), before);
}

#[tokio::test]
async fn an_interrupted_restore_starts_no_server_and_can_be_repeated() {
    let mut chat = Chat::plan(Kind::Standalone)
        .set("auth.secret", "")
        .start()
        .await;
    let ada = chat.register("ada").await;
    assert_eq!(run(&chat, &["backup", "backup.db"]).await.code, Some(0));
    let bob = chat.register("bob").await;
    stop(&mut chat).await;
    let data = chat.dir().join("data");
    // As a crash leaves it after the first of the files has been moved.
    fs::create_dir_all(data.join("restoring/new")).expect("a directory");
    fs::create_dir_all(data.join("restoring/old")).expect("a directory");
    fs::rename(data.join("chat.db"), data.join("restoring/old/chat.db")).expect("moved");
    refused(
        &run(&chat, &["standalone", "--port", "0"]).await,
        1,
        "chat restore",
    );
    assert!(!data.join("chat.db").exists());
    let restored = json_of(&run(&chat, &["restore", "backup.db", "--force", "--json"]).await);
    let replaced = chat
        .dir()
        .join(restored["replaced"].as_str().expect("a directory"));
    assert_eq!(entries(&replaced), ["chat.db", "secret"]);
    chat.edges[0].restart().await;
    chat.rest_as(0, &ada).get("/v1/me").await.ok(200);
    assert_ne!(chat.rest_as(0, &bob).get("/v1/me").await.status, 200);

    // Into a new directory.
    let other = run(&chat, &["restore", "backup.db", "--data", "other/dir"]).await;
    assert_eq!(other.code, Some(0), "{other:?}");
    assert_eq!(
        entries(&chat.dir().join("other/dir")),
        ["chat.db", "lock", "secret"]
    );
}

#[tokio::test]
async fn the_documented_commands_back_up_and_restore() {
    let mut chat = Chat::start(Kind::Standalone).await;
    let ada = chat.register("ada").await;
    let backups = chat.dir().join("backups");
    fs::create_dir(&backups).expect("a directory");
    let backups = backups.to_string_lossy().into_owned();
    let env = [("BACKUPS", backups.as_str())];
    let ended = guide::run("backup", chat.dir(), &env, &[]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    stop(&mut chat).await;
    let ended = guide::run("restore", chat.dir(), &env, &[]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("before-restore-"), "{ended:?}");
    chat.edges[0].restart().await;
    chat.rest_as(0, &ada).get("/v1/me").await.ok(200);
}

/// Nothing is left of a backup that does not fit.
#[tokio::test]
async fn a_backup_onto_a_full_disk_fails_and_leaves_nothing() {
    let chat = Chat::start(Kind::Standalone).await;
    register(&chat).await;
    let directory = chat.dir().join("small");
    let Some(_disk) = Tmpfs::mount(&directory, 64) else {
        return;
    };
    let ended = run(&chat, &["backup", "small/backup.db"]).await;
    refused(&ended, 1, "no backup was written");
    assert!(ended.stderr.contains("full"), "{ended:?}");
    assert!(entries(&directory).is_empty(), "{:?}", entries(&directory));
    // The other way round: the data directory of a restore.
    assert_eq!(run(&chat, &["backup", "backup.db"]).await.code, Some(0));
    let ended = run(&chat, &["restore", "backup.db", "--data", "small"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("No space left"), "{ended:?}");
    assert_eq!(entries(&directory), ["lock"]);
}

async fn register(chat: &Chat) -> User {
    chat.register("ada").await
}

/// The directory of the backup may be writable by others, who put files there first.
#[tokio::test]
async fn a_backup_is_a_file_of_its_own_whatever_is_in_its_directory() {
    let chat = Chat::start(Kind::Standalone).await;
    let (backups, precious) = (chat.dir().join("backups"), chat.dir().join("precious"));
    fs::create_dir(&backups).expect("a directory");
    fs::write(&precious, "precious").expect("written");
    let random = |digit: &str| backups.join(format!("a.db.{}.partial", digit.repeat(32)));
    let (link, left, used) = (random("0"), random("1"), random("2"));
    let guessed = backups.join("a.db.partial");
    for link in [&link, &guessed] {
        symlink(&precious, link).expect("a link");
    }
    symlink("nowhere", backups.join("b.db")).expect("a link");
    for name in [left.clone(), backups.join("other.db.partial")] {
        fs::write(&name, "of an earlier backup").expect("written");
    }
    let run = |args: &'static [&'static str]| run(&chat, args);

    // Another backup into the same file.
    let lock = fs::File::create(&used).expect("a file");
    lock.lock().expect("a lock");
    let ended = run(&["backup", "backups/a.db"]).await;
    refused(&ended, 1, "another `chat backup`");
    drop(lock);

    let ended = run(&["backup", "backups/a.db"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let made = fs::symlink_metadata(backups.join("a.db")).expect("the backup");
    assert!(made.is_file());
    assert_eq!(made.permissions().mode() & 0o777, 0o600);
    assert_eq!(
        entries(&backups),
        [
            "a.db",
            &*link.file_name().expect("a name").to_string_lossy(),
            "a.db.partial",
            "b.db",
            "other.db.partial"
        ]
    );
    // A link that leads nowhere is a file that exists, and is replaced itself.
    refused(&run(&["backup", "backups/b.db"]).await, 1, "--force");
    let ended = run(&["backup", "backups/b.db", "--force"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let made = fs::symlink_metadata(backups.join("b.db")).expect("the backup");
    assert!(made.is_file());
    assert!(!backups.join("nowhere").exists());
    assert_eq!(fs::read_to_string(&precious).expect("text"), "precious");
}

#[tokio::test]
async fn no_backup_is_made_that_could_not_be_restored() {
    let chat = Chat::start(Kind::Standalone).await;
    change(
        &chat.dir().join("data/chat.db"),
        "CREATE VIEW chosen AS SELECT 1 AS one",
    )
    .await;
    refused(
        &run(&chat, &["backup", "backup.db"]).await,
        1,
        "view chosen",
    );
    assert!(
        !entries(chat.dir())
            .iter()
            .any(|name| name.starts_with("backup.db"))
    );
}
