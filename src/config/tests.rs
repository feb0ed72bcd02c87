//! `Config::load` and its problems.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

mod servers;
mod values;

/// Files of one test, removed with it.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("chat-config-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&dir).unwrap();
        Dir(dir)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn env<const N: usize>(vars: [(&str, &str); N]) -> Sources {
    Sources::default().with_env(vars)
}

fn load(sources: Sources) -> Result<Config, Problems> {
    Config::load(&sources, Role::Tool)
}

/// The problems as lines of text.
fn problems(sources: Sources) -> Vec<String> {
    load(sources)
        .unwrap_err()
        .to_string()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn problem(sources: Sources) -> String {
    let mut lines = problems(sources);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.remove(0)
}

#[test]
fn every_key_of_the_file_is_read_and_every_key_read_is_in_the_file() {
    let (entries, _) = layers::merge(&Sources::default());
    let config = load(Sources::default()).unwrap();
    let read: BTreeSet<&str> = config.shown.iter().map(|shown| shown.key).collect();
    assert_eq!(read, entries.keys().map(String::as_str).collect());
    assert_eq!(read.len(), config.shown.len(), "a key is read twice");
}

#[test]
fn every_key_of_the_file_has_a_comment() {
    let lines: Vec<&str> = DEFAULTS.lines().collect();
    for pair in lines
        .windows(2)
        .filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with('#'))
    {
        assert!(pair[0].starts_with("# "), "{} has no comment", pair[1]);
    }
}

#[test]
fn defaults_arrive_as_values() {
    let config = load(Sources::default()).unwrap();
    assert_eq!(
        (config.edge.host.as_str(), config.edge.port),
        ("127.0.0.1", 3000)
    );
    assert_eq!((config.edge.public_url, config.worker.id), (None, None));
    assert_eq!(config.edge.drain, Duration::from_secs(10));
    assert_eq!(config.worker.heartbeat, Duration::from_millis(300));
    assert_eq!(config.auth.refresh_ttl, Duration::from_secs(30 * 86_400));
    assert_eq!(
        config.queue.url.expose(),
        ["amqp://guest:guest@127.0.0.1:5672/%2f"]
    );
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn flags_beat_environment_beats_dotenv_beats_file_beats_default() {
    let dir = Dir::new();
    let file = dir.file(
        "my.toml",
        "[edge]\nhost = \"0.0.0.0\"\nport = 1\nwait = \"1s\"\ndrain = \"1s\"\n\n[queue]\npartitions = 0x10\n",
    );
    let dotenv = dir.file(
        ".env",
        "PORT=2\nCHAT__EDGE__WAIT=2s\nexport CHAT__EDGE__DRAIN='2s'\nOTHER=x\n",
    );
    let sources = Sources {
        file: Some(file.clone()),
        dotenv: Some(dotenv),
        ..Sources::default()
    }
    .with_env([
        ("CHAT__EDGE__PORT", "3"),
        ("CHAT__EDGE__WAIT", "3s"),
        ("HOME", "/"),
    ])
    .with_flag("edge.port", "4", "--port");
    let config = load(sources).unwrap();
    assert_eq!(
        (
            config.edge.host.as_str(),
            config.edge.port,
            config.queue.partitions
        ),
        ("0.0.0.0", 4, 16)
    );
    assert_eq!(
        (config.edge.wait, config.edge.drain),
        (Duration::from_secs(3), Duration::from_secs(2))
    );

    let source = |key| config.source(key).unwrap().to_string();
    assert_eq!(source("edge.port"), "--port");
    assert_eq!(source("edge.wait"), "CHAT__EDGE__WAIT");
    assert_eq!(source("edge.drain"), "CHAT__EDGE__DRAIN in .env");
    assert_eq!(source("edge.host"), format!("{}:2", file.display()));
    assert_eq!(source("queue.partitions"), format!("{}:8", file.display()));
    assert_eq!(source("redis.pool"), "default");
    assert_eq!(config.source("edge.prot"), None);
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    let dir = Dir::new();
    let by_env = dir.file("env.toml", "edge.port = 1");
    let by_flag = dir.file("flag.toml", "edge.port = 2");
    let sources = Sources::default().with_env([("CHAT_CONFIG", by_env)]);
    assert_eq!(load(sources.clone()).unwrap().edge.port, 1);
    assert_eq!(load(sources.with_file(Some(by_flag))).unwrap().edge.port, 2);

    let missing = problem(env([("CHAT_CONFIG", "/nowhere/my.toml")]));
    assert!(
        missing.starts_with("the settings file cannot be read: "),
        "{missing}"
    );
    assert!(missing.ends_with("[from /nowhere/my.toml]"), "{missing}");
}

#[test]
fn well_known_names_work_and_empty_ones_count_as_unset() {
    let config = load(env([
        ("DATABASE_URL", "postgresql://a@db/x"),
        ("AMQP_URL", "amqps://mq"),
        ("REDIS_URL", "rediss://cache"),
        ("PORT", ""),
        ("RUST_LOG", "warn,chat=debug"),
    ]))
    .unwrap();
    assert_eq!(config.database.url.expose(), ["postgresql://a@db/x"]);
    assert_eq!(config.queue.url.expose(), ["amqps://mq"]);
    assert_eq!(config.redis.url.expose(), "rediss://cache");
    assert_eq!(config.log.filter, "warn,chat=debug");
    assert_eq!(config.edge.port, 3000);
}

#[test]
fn lists_come_from_toml_commas_or_brackets() {
    let (a, b) = ("https://a.example", "http://localhost:5173");
    for word in [
        format!("{a},{b}"),
        format!(" {a} , {b},"),
        format!("[\"{a}\", '{b}']"),
    ] {
        assert_eq!(
            load(env([("CHAT__EDGE__ALLOWED_ORIGINS", &word)]))
                .unwrap()
                .edge
                .allowed_origins,
            [a, b]
        );
    }
    let dir = Dir::new();
    let file = dir.file("c.toml", "edge.allowed_origins = [\"*\"]");
    assert_eq!(
        load(Sources::default().with_file(Some(file)))
            .unwrap()
            .edge
            .allowed_origins,
        ["*"]
    );
}

#[test]
fn all_problems_come_at_once_with_key_source_and_what_is_allowed() {
    let dir = Dir::new();
    let file = dir.file(
        "bad.toml",
        "[edge]\nhost = 7\nprot = 1\ndrain = 10\n[quue]\n[limits]\nburst = 1.5\n",
    );
    let lines = problems(
        Sources::default()
            .with_file(Some(file.clone()))
            .with_env([
                ("CHAT__EDGE__PORT", "eighty"),
                ("CHAT__QUEUE__PARTITIONS", "257"),
                ("CHAT__QUEUE__PREFIX", "Chat"),
                ("CHAT__EDGE__WAIT", "2"),
                ("CHAT__LOG__FORMAT", "xml"),
                ("RUST_LOG", "chat=loud"),
            ])
            .with_flag("metrics.port", "-1", "--metrics-port"),
    );
    let file = file.display();
    let units = "a whole number and one of ms, s, m, h, d";
    let expected = [
        format!("edge.prot: there is no such setting; did you mean edge.port?   [from {file}:3]"),
        format!("quue: there is no such setting; allowed: the keys that `chat config` prints   [from {file}:5]"),
        format!("edge.host: 7 is not a text; allowed: an IP address or a host name   [from {file}:2]"),
        "edge.port: \"eighty\" is not a number; allowed: 0..=65535 (0 picks a free port)   [from CHAT__EDGE__PORT]".into(),
        format!("edge.drain: 10 is not a duration; allowed: 0s..=1h, {units}   [from {file}:4]"),
        format!("edge.wait: \"2\" is not a duration; allowed: 0s..=1m, {units}   [from CHAT__EDGE__WAIT]"),
        "queue.prefix: \"Chat\" has a capital letter; allowed: 1 to 64 of a-z 0-9 _ . -   [from CHAT__QUEUE__PREFIX]".into(),
        "queue.partitions: 257 is out of range; allowed: 1..=256 (the same on all nodes)   [from CHAT__QUEUE__PARTITIONS]".into(),
        format!("limits.burst: a number with a fraction is not a number; allowed: 1..=1000000000   [from {file}:7]"),
        "log.format: \"xml\" is no format; allowed: text, json   [from CHAT__LOG__FORMAT]".into(),
        "metrics.port: -1 is out of range; allowed: 0..=65535 (0: none)   [from --metrics-port]".into(),
    ];
    for line in &expected {
        assert!(
            lines.contains(line),
            "{line}\nis missing in\n{}",
            lines.join("\n")
        );
    }
    let filter = lines
        .iter()
        .find(|line| line.starts_with("log.filter: \"chat=loud\" is no filter"))
        .unwrap();
    assert!(filter.ends_with("[from RUST_LOG]"), "{filter}");
    assert_eq!(lines.len(), expected.len() + 1, "{}", lines.join("\n"));
}

#[test]
fn an_unknown_key_gets_the_nearest_name() {
    for (variable, meant) in [
        ("CHAT__EGDE__PORT", "edge.port"),
        ("CHAT__EDGE__MAX_FRAME", "edge.max_frame_bytes"),
        ("CHAT__EDGE__MAX_BACKLOG", "queue.max_backlog"),
        ("CHAT__PREFIX", "queue.prefix"),
        ("CHAT__DATABASE__URI", "database.url"),
        ("CHAT__EDGE_PORT", "edge.port"),
    ] {
        let line = problem(env([(variable, "x")]));
        assert!(
            line.ends_with(&format!("did you mean {meant}?   [from {variable}]")),
            "{line}"
        );
    }
    let line = problem(env([("CHAT__REDIS__XXXXXXXXXXXXXXXX", "x")]));
    assert!(
        line.contains("allowed: redis.master, redis.pool, redis.recent_messages, redis.recent_ttl, redis.sentinel"),
        "{line}"
    );
    let line = problem(env([("CHAT__REDIS", "x")]));
    assert!(
        line.starts_with("redis: is a section, not a setting; allowed: redis.master, redis.pool, "),
        "{line}"
    );
    let line = problem(Sources::default().with_flag("edge.colour", "red", "--set"));
    assert!(line.ends_with("[from --set]"), "{line}");
}

#[test]
fn two_names_for_one_key_must_agree() {
    let line = problem(env([("PORT", "1"), ("CHAT__EDGE__PORT", "2")]));
    assert!(
        line.starts_with(
            "edge.port: CHAT__EDGE__PORT and PORT contradict each other; set one of them"
        ),
        "{line}"
    );
    assert_eq!(
        load(env([("PORT", "1"), ("CHAT__EDGE__PORT", "1")]))
            .unwrap()
            .edge
            .port,
        1
    );

    // Of different layers, the higher one wins under either name.
    let dir = Dir::new();
    let dotenv = Some(dir.file(".env", "CHAT__EDGE__PORT=2"));
    let sources = Sources {
        dotenv,
        ..env([("PORT", "1")])
    };
    assert_eq!(load(sources).unwrap().edge.port, 1);
}

#[test]
fn settings_that_contradict_each_other_name_both_sources() {
    let line = problem(env([
        ("CHAT__EDGE__MAX_FRAME_BYTES", "10000"),
        ("CHAT__EDGE__MAX_BODY_BYTES", "8000"),
    ]));
    assert_eq!(
        line,
        "edge.max_body_bytes: 8000 is more than half of edge.max_frame_bytes = 10000 [from CHAT__EDGE__MAX_FRAME_BYTES]; \
         allowed: at most 5000 here, or a larger edge.max_frame_bytes   [from CHAT__EDGE__MAX_BODY_BYTES]"
    );
    // Twice the largest message: 2 * (6 * 1000 + 51870).
    let queue = |bytes| {
        env([
            ("CHAT__EDGE__SEND_QUEUE_BYTES", bytes),
            ("CHAT__EDGE__MAX_BODY_BYTES", "1000"),
        ])
    };
    assert_eq!(
        problem(queue("115739")),
        "edge.send_queue_bytes: 115739 does not hold two of the largest messages with edge.max_body_bytes = 1000 \
         [from CHAT__EDGE__MAX_BODY_BYTES]; allowed: at least 115740 here, or a smaller edge.max_body_bytes   \
         [from CHAT__EDGE__SEND_QUEUE_BYTES]"
    );
    assert!(load(queue("115740")).is_ok());
    // A small frame alone is no contradiction.
    assert!(load(env([("CHAT__EDGE__MAX_FRAME_BYTES", "4096")])).is_ok());
    let line = problem(env([("CHAT__WORKER__HEARTBEAT", "500ms")]));
    assert!(
        line.starts_with(
            "worker.heartbeat_ttl: \"1200ms\" is less than three times worker.heartbeat"
        ),
        "{line}"
    );
    let line = problem(env([(
        "CHAT__EDGE__ALLOWED_ORIGINS",
        "*,https://a.example",
    )]));
    assert!(
        line.starts_with("edge.allowed_origins: \"*\" admits every origin"),
        "{line}"
    );

    let same_port = env([("CHAT__METRICS__PORT", "3000")]);
    assert!(Config::load(&same_port, Role::Worker).is_ok());
    let problems = Config::load(&same_port, Role::Standalone).unwrap_err();
    assert!(
        problems
            .to_string()
            .starts_with("metrics.port: 3000 is taken by edge.port = 3000"),
        "{problems}"
    );

    // An invalid value is not compared with others.
    let line = problem(env([
        ("CHAT__WORKER__HEARTBEAT", "soon"),
        ("CHAT__WORKER__HEARTBEAT_TTL", "100ms"),
    ]));
    assert!(line.starts_with("worker.heartbeat: "), "{line}");
}

#[test]
fn an_edge_needs_a_secret_and_others_do_not() {
    for role in [Role::Standalone, Role::Worker, Role::Tool] {
        assert!(
            Config::load(&Sources::default(), role)
                .unwrap()
                .auth
                .secret
                .is_empty()
        );
    }
    let problems = Config::load(&Sources::default(), Role::Edge).unwrap_err();
    assert!(
        problems
            .to_string()
            .starts_with("auth.secret: is empty, but every edge needs it"),
        "{problems}"
    );

    let secret = "0123456789abcdef0123456789abcdef";
    let config = Config::load(&env([("CHAT__AUTH__SECRET", secret)]), Role::Edge).unwrap();
    let secrets = Secrets::new([Secret::new(secret)]);
    assert_eq!(config.auth.secret, secrets);
}

#[test]
fn an_edge_needs_no_key_to_send_and_the_token_to_verify_callbacks() {
    let load = |sms, role| {
        let vars = [
            ("CHAT__AUTH__SECRET", "0123456789abcdef0123456789abcdef"),
            ("CHAT__NOTIFY__EMAIL__PROVIDER", "sendgrid"),
            ("CHAT__NOTIFY__EMAIL__FROM", "chat@example.com"),
            ("CHAT__NOTIFY__SMS__PROVIDER", sms),
            ("CHAT__NOTIFY__SMS__FROM", "+15005550006"),
        ];
        let loaded = Config::load(&env(vars), role);
        loaded.map_or_else(|problems| problems.to_string(), |_| String::new())
    };
    assert_eq!(load("log", Role::Edge), "");
    let twilio = load("twilio", Role::Edge);
    assert!(twilio.contains("notify.sms.auth_token"), "{twilio}");
    for role in [Role::Worker, Role::Standalone, Role::Tool, Role::Check] {
        let problems = load("log", role);
        assert!(problems.contains("notify.email.api_key"), "{problems}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let config = load(env([
        (
            "CHAT__AUTH__SECRET",
            "hunter2-hunter2-hunter2-hunter2-hunter2",
        ),
        ("AMQP_URL", "amqp://mq:hunter2@mq.example:5672/vh"),
        (
            "DATABASE_URL",
            "postgres://db.example/chat?user=chat&password=hunter2",
        ),
        ("REDIS_URL", "redis://:hunter2@cache.example"),
    ]))
    .unwrap();
    let effective = config.effective();
    assert!(!effective.contains("hunter2"), "{effective}");
    assert!(
        effective.contains("url = \"amqp://mq:***@mq.example:5672/vh\""),
        "{effective}"
    );
    assert!(effective.contains("secret = \"***\""), "{effective}");
    assert!(!format!("{config:?}").contains("hunter2"));

    let dir = Dir::new();
    let dotenv = dir.file(".env", "A=b\nhunter2 = = 'x\n");
    let sources = Sources {
        dotenv: Some(dotenv),
        ..Sources::default()
    }
    .with_env([
        ("CHAT__AUTH__SECRET", "hunter2"),
        ("CHAT__AUTH__SECRT", "hunter2"),
        ("CHAT__EDGE__PUBLIC_URL", "https://me:hunter2@chat.example"),
        ("AMQP_URL", "http://mq:hunter2@mq.example"),
        ("DATABASE_URL", "postgres://chat:hunt/hunter2@db.example"),
        ("REDIS_URL", "redis://cache:hunter2"),
        ("CHAT__REDIS__URL", "redis://:hunter2@other"),
    ]);
    let lines = problems(sources).join("\n");
    assert!(!lines.contains("hunter2"), "{lines}");
    for start in [
        "line 2 ",
        "auth.secret: ",
        "auth.secrt: ",
        "edge.public_url: ",
        "queue.url: ",
        "database.url: ",
        "redis.url: ",
    ] {
        assert!(
            lines.lines().any(|line| line.starts_with(start)),
            "{start} is missing in\n{lines}"
        );
    }

    let file = dir.file("bad.toml", "[auth]\nsecret = hunter2\n");
    let line = problem(Sources::default().with_file(Some(file.clone())));
    assert!(
        line.starts_with("the settings file is not TOML: "),
        "{line}"
    );
    assert!(
        line.ends_with(&format!("[from {}:2]", file.display())) && !line.contains("hunter2"),
        "{line}"
    );
}

#[test]
fn effective_settings_are_toml_with_sources_and_load_again() {
    let config = load(env([
        ("CHAT__EDGE__PORT", "0"),
        ("CHAT__EDGE__ALLOWED_ORIGINS", "https://a.example"),
    ]))
    .unwrap();
    let text = config.effective();
    assert!(text.starts_with("[edge]\nhost = \"127.0.0.1\" "), "{text}");
    let port = text
        .lines()
        .find(|line| line.starts_with("port = 0 "))
        .unwrap();
    assert!(port.ends_with(" # CHAT__EDGE__PORT"), "{port}");

    let dir = Dir::new();
    let again = load(Sources::default().with_file(Some(dir.file("again.toml", &text)))).unwrap();
    assert_eq!(again.edge.allowed_origins, ["https://a.example"]);
    let values = |config: &Config| {
        config
            .shown
            .iter()
            .map(|shown| shown.value.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&again), values(&config));
}
