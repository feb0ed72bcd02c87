//! Startup failures: invalid settings, unreachable servers, addresses and files in use. Each prints a clear error and
//! exits with code 2 for invalid settings or 1 for the environment.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::harness::{
    Chat, Kind,
    deployment::{Database, Nowhere, SECRET},
    process::Ended,
    server,
};

#[track_caller]
fn assert_ended(ended: &Ended, code: i32, says: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    for text in says {
        assert!(
            ended.stderr.contains(text),
            "no {text:?} in: {}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn all_invalid_settings_are_reported_at_once() {
    let nowhere = Nowhere::new();
    std::fs::write(
        nowhere.dir().join("mine.toml"),
        "[edge]\ndrain = \"soon\"\nport_ = 1\n",
    )
    .expect("a file");
    let env = [
        ("CHAT_CONFIG", "mine.toml"),
        ("CHAT__EDGE__PORT", "99999"),
        ("CHAT__EDGE__MAX_BODY_BYTES", "60000"),
        ("CHAT__LIMITS__BRUST", "5"),
        ("CHAT__QUEUE__PREFIX", "Has Capitals"),
        ("DATABASE_URL", "mysql://somewhere"),
        ("CHAT__AUTH__SECRET", "hunter2"),
    ];
    let says = [
        "edge.port: ",
        "CHAT__EDGE__PORT",
        "99999",
        "edge.drain: ",
        "mine.toml:2",
        "mine.toml:3",
        "port_",
        "max_body_bytes",
        "max_frame_bytes",
        "limits.brust",
        "burst",
        "queue.prefix: ",
        "database.url: ",
        "DATABASE_URL",
        "auth.secret: ",
    ];
    for args in [
        &["edge"][..],
        &["config", "--check"],
        &["standalone", "--data", "data"],
    ] {
        let ended = nowhere.program(args, &env).run().await;
        assert_ended(&ended, 2, &says);
        assert!(
            !ended.stderr.contains("hunter2"),
            "a secret is never shown: {}",
            ended.stderr
        );
        assert_eq!(ended.stdout, "", "{args:?}");
    }
    assert!(
        !nowhere.dir().join("data").exists(),
        "nothing is begun with wrong settings"
    );
}

#[tokio::test]
async fn a_missing_secret_is_reported_with_instructions() {
    let nowhere = Nowhere::new();
    let ended = nowhere.program(&["edge"], &[]).run().await;
    assert_ended(&ended, 2, &["auth.secret", "openssl rand"]);
}

#[tokio::test]
async fn valid_settings_are_confirmed() {
    let nowhere = Nowhere::new();
    let check = ["config", "--check"];
    let ended = nowhere.program(&check, &[]).run().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("also needs auth.secret"), "{ended:?}");
    let secret = ("CHAT__AUTH__SECRET", "0123456789abcdef0123456789abcdef");
    let ended = nowhere.program(&check, &[secret]).run().await;
    assert_eq!(ended.stdout, "the settings are valid\n", "{ended:?}");
}

#[tokio::test]
async fn doctor_checks_a_standalone_directory() {
    let nowhere = Nowhere::new();
    let doctor = ["doctor", "--data", "data"];
    let ended = nowhere.program(&doctor, &[]).run().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("problem  database"), "{ended:?}");
    assert!(!nowhere.dir().join("data").exists(), "nothing is created");

    let chat = Chat::start(Kind::Standalone).await;
    let data = chat.dir().join("data").display().to_string();
    let ended = nowhere
        .program(&["doctor", "--data", &data], &[])
        .run()
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("chat.db is complete"), "{ended:?}");
}

#[tokio::test]
async fn a_damaged_database_file_is_named() {
    let nowhere = Nowhere::new();
    let data = nowhere.dir().join("data");
    std::fs::create_dir(&data).expect("a directory");
    std::fs::write(data.join("chat.db"), [b'x'; 5000]).expect("a file");
    let args = ["standalone", "--data", "data", "--port", "0"];
    let ended = nowhere.program(&args, &[]).run().await;
    assert_ended(&ended, 1, &["data/chat.db", "not a database"]);
    let ended = nowhere
        .program(&["doctor", "--data", "data"], &[])
        .run()
        .await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("restored from a backup"), "{ended:?}");
}

#[tokio::test]
async fn completions_and_manual_pages_name_the_program() {
    let nowhere = Nowhere::new();
    for shell in ["bash", "fish", "zsh"] {
        let ended = nowhere.program(&["completions", shell], &[]).run().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains("standalone"), "{shell}");
    }
    let ended = nowhere.program(&["man", "pages"], &[]).run().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let page = nowhere.dir().join("pages/chat-standalone.1");
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.contains("data directory"), "{page}");
}

#[tokio::test]
async fn the_queue_command_without_servers_says_what_to_do() {
    let nowhere = Nowhere::new();
    let url = ("AMQP_URL", "amqp://user:hunter2@127.0.0.1:1/%2f");
    let ended = nowhere.program(&["queue", "list"], &[url]).run().await;
    assert_ended(&ended, 1, &["queue.url", "127.0.0.1:1", "--data"]);
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
}

#[tokio::test]
async fn invalid_usage_is_reported() {
    let nowhere = Nowhere::new();
    for args in [
        &[""][..],
        &["serve"],
        &["edge", "--prot", "1"],
        &["edge", "--port", "web"],
    ] {
        let ended = nowhere.program(args, &[]).run().await;
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(
            ended.stderr.contains("Usage") || ended.stderr.contains("--help"),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn settings_come_from_the_file_the_environment_and_flags() {
    let nowhere = Nowhere::new();
    std::fs::write(
        nowhere.dir().join("mine.toml"),
        "[edge]\ndrain = \"1s\"\nwait = \"1s\"\n",
    )
    .expect("a file");
    std::fs::write(
        nowhere.dir().join(".env"),
        "CHAT__EDGE__WAIT=3s\nCHAT__REDIS__POOL=3\n",
    )
    .expect("a file");
    let env = [("CHAT__REDIS__POOL", "4"), ("CHAT__AUTH__SECRET", SECRET)];
    let ended = nowhere
        .program(&["config", "--config", "mine.toml"], &env)
        .run()
        .await;
    assert_ended(&ended, 0, &[]);
    let line = |key: &str| {
        let mut lines = ended.stdout.lines();
        lines
            .find(|line| line.trim_start().starts_with(key))
            .unwrap_or_else(|| panic!("no {key} in {}", ended.stdout))
    };
    assert!(line("drain").contains("1s"), "{}", line("drain"));
    assert!(line("wait").contains("3s"), "{}", line("wait"));
    assert!(line("pool").contains('4'), "{}", line("pool"));
    assert!(!ended.stdout.contains(SECRET), "a secret is never shown");
}

/// An address where nothing listens.
async fn unused_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("its address").to_string()
}

#[tokio::test]
async fn a_missing_server_is_retried_and_named() {
    let (nobody, silent) = (
        unused_address().await,
        TcpListener::bind("127.0.0.1:0").await.expect("a port"),
    );
    // Accepts connections and never responds.
    let silent_address = silent.local_addr().expect("its address").to_string();
    let database = Database::create().await;
    let nowhere = Nowhere::new();
    let migrated = nowhere
        .program(&["migrate"], &[("DATABASE_URL", &database.url)])
        .run()
        .await;
    assert_ended(&migrated, 0, &[]);
    let good = [
        ("DATABASE_URL", database.url.clone()),
        ("AMQP_URL", server("AMQP_URL")),
        ("REDIS_URL", server("REDIS_URL")),
    ];
    let mut runs = Vec::new();
    for address in [&nobody, &silent_address] {
        let bad = [
            (
                "DATABASE_URL",
                format!("postgres://chat@{address}/chat"),
                "PostgreSQL",
            ),
            ("AMQP_URL", format!("amqp://{address}/%2f"), "RabbitMQ"),
            ("REDIS_URL", format!("redis://{address}"), "Redis"),
        ];
        for (variable, url, name) in bad {
            for role in ["edge", "worker"] {
                let mut env: Vec<(&str, &str)> = vec![
                    ("CHAT__START__TIMEOUT", "1500ms"),
                    ("CHAT__EDGE__PORT", "0"),
                    ("CHAT__AUTH__SECRET", SECRET),
                    ("CHAT__QUEUE__PREFIX", &database.name),
                ];
                env.extend(good.iter().map(|(key, value)| (*key, value.as_str())));
                env.retain(|(key, _)| *key != variable);
                env.push((variable, &url));
                let program = nowhere.program(&[role], &env);
                runs.push((name, address, program));
            }
        }
    }
    // The waits for several servers run concurrently.
    let started = Instant::now();
    let ended =
        futures_util::future::join_all(runs.iter().map(|(name, address, program)| async move {
            let ended = program.run().await;
            (name, address, &program.args, ended, started.elapsed())
        }))
        .await;
    for (name, address, args, ended, took) in ended {
        let what = format!("{args:?} without {name} at {address} ended after {took:?}: {ended:?}");
        assert_eq!(ended.code, Some(1), "{what}");
        // It stops early when the next attempt would come too late.
        assert!(
            took >= Duration::from_millis(500),
            "it tries until start.timeout: {what}"
        );
        assert!(took < Duration::from_secs(15), "and no longer: {what}");
        assert_eq!(ended.stdout, "", "it was never ready: {what}");
        // On a busy machine a reachable server may not have answered in time either.
        let mut lines = ended.stderr.lines();
        assert!(
            lines.any(|line| line.contains(address.as_str()) && line.contains(name)),
            "a clear line: {what}"
        );
    }
    let env = [
        ("DATABASE_URL", &*format!("postgres://chat@{nobody}/chat")),
        ("CHAT__START__TIMEOUT", "1s"),
    ];
    assert_ended(
        &nowhere.program(&["migrate"], &env).run().await,
        1,
        &["PostgreSQL", &nobody],
    );
}

#[tokio::test]
async fn a_database_without_migrations_is_reported() {
    let database = Database::create().await;
    let nowhere = Nowhere::new();
    for role in ["edge", "worker"] {
        let env = [
            ("DATABASE_URL", &*database.url),
            ("AMQP_URL", &server("AMQP_URL")),
            ("REDIS_URL", &server("REDIS_URL")),
            ("CHAT__START__TIMEOUT", "1s"),
            ("CHAT__EDGE__PORT", "0"),
            ("CHAT__AUTH__SECRET", SECRET),
            ("CHAT__QUEUE__PREFIX", &database.name),
        ];
        assert_ended(
            &nowhere.program(&[role], &env).run().await,
            1,
            &["chat migrate"],
        );
    }
    // A second migration changes nothing.
    let env = [("DATABASE_URL", &*database.url)];
    for _ in 0..2 {
        assert_ended(&nowhere.program(&["migrate"], &env).run().await, 0, &[]);
    }
}

#[tokio::test]
async fn addresses_and_files_in_use_are_reported() {
    let nowhere = Nowhere::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("its address");
    let port = address.port().to_string();
    let args = ["standalone", "--data", "data", "--port", &port];
    assert_ended(
        &nowhere.program(&args, &[]).run().await,
        1,
        &[&address.to_string(), "edge.port"],
    );

    let args = ["standalone", "--data", "data", "--port", "0"];
    let first = nowhere.program(&args, &[]).start().await;
    assert_ended(&nowhere.program(&args, &[]).run().await, 1, &["data"]);
    drop(first);

    std::fs::write(nowhere.dir().join("file"), "not a directory").expect("a file");
    let args = ["standalone", "--data", "file", "--port", "0"];
    assert_ended(&nowhere.program(&args, &[]).run().await, 1, &["file"]);
}
