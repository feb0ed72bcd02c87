//! Operator mistakes: readable files, a lost secret, passwords in logs.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::harness::{Chat, Kind, deployment::Nowhere};

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    metadata.permissions().mode() & 0o777
}

#[tokio::test]
async fn the_data_directory_is_readable_by_its_owner_only() {
    let plan = Chat::plan(Kind::Standalone).set("auth.secret", "");
    let mut chat = plan.start().await;
    let ada = chat.register("ada").await;
    chat.room(&ada, "public", &[]).await;
    let data = chat.dir().join("data");
    const FILES: [&str; 5] = ["chat.db", "chat.db-wal", "chat.db-shm", "secret", "lock"];
    let closed = || {
        assert_eq!(mode(&data), 0o700);
        for name in FILES {
            assert_eq!(mode(&data.join(name)), 0o600, "{name}");
        }
    };
    closed();
    // The permissions that an earlier version set. The process is killed so that SQLite's side files remain.
    chat.edge_mut(0).kill9().await;
    fs::set_permissions(&data, Permissions::from_mode(0o755)).expect("ours");
    for name in FILES {
        fs::set_permissions(data.join(name), Permissions::from_mode(0o644)).expect("ours");
    }
    chat.edge_mut(0).restart().await;
    chat.rest_as(0, &ada).get("/v1/me").await.ok(200);
    closed();

    // An empty or truncated secret stops the start, and the file is left as it is.
    chat.edge_mut(0).kill9().await;
    let secret = data.join("secret");
    let kept = fs::read(&secret).expect("a secret");
    for bad in [&b""[..], b"\n", &kept[..31]] {
        fs::write(&secret, bad).expect("ours");
        let args = ["standalone", "--data", &data.to_string_lossy()];
        let ended = chat.program("again", &args).run().await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        for says in ["secret", "backup", "auth.secret"] {
            assert!(ended.stderr.contains(says), "{}", ended.stderr);
        }
        assert_eq!(fs::read(&secret).expect("still there"), bad);
    }
    fs::write(&secret, kept).expect("ours");
    chat.edge_mut(0).restart().await;
    chat.rest_as(0, &ada).get("/v1/me").await.ok(200);
}

#[tokio::test]
async fn database_passwords_are_never_logged() {
    let nowhere = Nowhere::new();
    let home = nowhere.dir().to_string_lossy().into_owned();
    let pgpass = nowhere.dir().join(".pgpass");
    fs::write(&pgpass, "not:enough:hunter3\n").expect("a file");
    fs::set_permissions(&pgpass, Permissions::from_mode(0o600)).expect("ours");
    let url = "postgres://nobody:hunter1@127.0.0.1:9/none?sslpassword=hunter2&connect_timeout=5";
    let env = [
        ("DATABASE_URL", url),
        ("HOME", home.as_str()),
        ("RUST_LOG", "trace"),
        ("CHAT__START__TIMEOUT", "0s"),
    ];
    let ended = nowhere.program(&["migrate"], &env).run().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("sslpassword, connect_timeout"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("hunter"), "{}", ended.stderr);
}
