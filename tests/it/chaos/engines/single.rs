//! RabbitMQ, PostgreSQL and Redis of this run's own, one node each, controlled by `scripts/services`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use sqlx::{ConnectOptions, Executor, postgres::PgConnectOptions};
use tokio::{
    process::Command,
    sync::Mutex,
    time::{sleep, timeout},
};

use super::Failed;
use crate::{
    chaos::plan::{Engine, Fault, Kind},
    support::ROOT,
};

/// A command of `scripts/services` on a busy machine. A start waits for at most 90 s itself.
const COMMAND: Duration = Duration::from_secs(150);

/// The size of the file system that PostgreSQL's data is on, if this process may mount one.
const DISK: &str = "384m";

pub struct Single {
    directory: PathBuf,
    port: u16,
    /// PostgreSQL's data is on a file system of its own, which can be filled.
    has_disk: bool,
    /// One fault at a time: on a busy machine, a server may still be starting when the next one is planned.
    faulty: Mutex<()>,
}

impl Engine {
    fn service(self) -> &'static str {
        match self {
            Engine::RabbitMq => "rabbitmq",
            Engine::Postgres => "postgres",
            Engine::Redis => "redis",
        }
    }
}

impl Single {
    /// Takes about fifteen seconds.
    pub async fn start() -> Single {
        remove_stale();
        let directory = std::env::temp_dir().join(format!("chat-chaos-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let mut engines = Single {
            directory,
            port: six_free_ports(),
            has_disk: false,
            faulty: Mutex::default(),
        };
        engines.has_disk = engines.mount().await;
        let started = engines.services(&["up"]).await;
        started.expect("the servers start");
        engines.keep_little_wal().await;
        engines
    }

    /// `host:port`.
    pub fn address(&self, engine: Engine) -> String {
        let port = match engine {
            Engine::RabbitMq => self.port,
            Engine::Postgres => self.port + 4,
            Engine::Redis => self.port + 5,
        };
        format!("127.0.0.1:{port}")
    }

    /// Carries out a fault of an engine.
    pub async fn inject(&self, fault: &Fault, engine: Engine) -> Result<(), Failed> {
        let _alone = self.faulty.lock().await;
        let (begin, end) = match fault.kind {
            Kind::KillRabbit | Kind::KillPostgres | Kind::KillRedis => ("kill", "start"),
            Kind::PauseRabbit | Kind::PausePostgres | Kind::PauseRedis => ("pause", "resume"),
            Kind::RestartRabbit | Kind::RestartPostgres | Kind::RestartRedis => ("stop", "start"),
            Kind::AlarmDisk => return self.alarm_disk(fault).await,
            Kind::FillDisk => return self.fill_disk(fault).await,
            other => return Err(Failed::Skipped(format!("{} needs a cluster", other.name()))),
        };
        self.control(begin, engine).await?;
        sleep(fault.lasting).await;
        self.control(end, engine).await
    }

    /// `start`, `stop`, `kill`, `pause` or `resume`. A start is repeated: on a busy machine RabbitMQ may end while it
    /// starts after a kill.
    async fn control(&self, command: &str, engine: Engine) -> Result<(), Failed> {
        let attempts = if command == "start" { 4 } else { 1 };
        let mut done = Ok(());
        for _ in 0..attempts {
            done = self.services(&[command, engine.service()]).await;
            if done.is_ok() {
                break;
            }
        }
        done.map_err(Failed::Process)
    }

    /// RabbitMQ's disk alarm, which blocks publishers.
    async fn alarm_disk(&self, fault: &Fault) -> Result<(), Failed> {
        let limit = async |limit| {
            let arguments = ["rabbitmqctl", "set_disk_free_limit", limit];
            self.services(&arguments).await.map_err(Failed::Process)
        };
        limit("900000GB").await?;
        sleep(fault.lasting).await;
        limit("50MB").await
    }

    /// Fills the file system of PostgreSQL's data, and frees it again.
    async fn fill_disk(&self, fault: &Fault) -> Result<(), Failed> {
        if !self.has_disk {
            let why = "this process may not mount a file system";
            return Err(Failed::Skipped(why.to_owned()));
        }
        let ballast = self.directory.join("postgres/ballast");
        let mut command = Command::new("dd");
        command
            .arg("if=/dev/zero")
            .arg(format!("of={}", ballast.display()));
        command
            .args(["bs=64k", "status=none"])
            .stderr(Stdio::null());
        // It fails when the disk is full.
        let filled = timeout(COMMAND, command.status()).await;
        sleep(fault.lasting).await;
        let freed = std::fs::remove_file(ballast);
        if filled.is_err() || freed.is_err() {
            let why = format!("the disk was not filled: {filled:?}, {freed:?}");
            return Err(Failed::Process(why));
        }
        // PostgreSQL ends if it cannot write its log.
        self.control("start", Engine::Postgres).await
    }

    async fn mount(&self) -> bool {
        let mount = self.directory.join("postgres");
        std::fs::create_dir_all(&mount).expect("a directory");
        let mut command = Command::new("mount");
        let options = format!("size={DISK},mode=700");
        command
            .args(["-t", "tmpfs", "-o", &options, "chat-chaos"])
            .arg(mount);
        let mounted = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        mounted.await.is_ok_and(|status| status.success())
    }

    /// The small disk must have room for the log of a long run.
    async fn keep_little_wal(&self) {
        let socket = self.directory.join("postgres");
        let options = PgConnectOptions::new()
            .socket(socket)
            .port(self.port + 4)
            .username("postgres")
            .database("postgres");
        let mut connection = options.connect().await.expect("the superuser");
        for sql in [
            "ALTER SYSTEM SET min_wal_size = '32MB'",
            "ALTER SYSTEM SET max_wal_size = '96MB'",
            "ALTER SYSTEM SET checkpoint_timeout = '1min'",
            "SELECT pg_reload_conf()",
        ] {
            connection.execute(sql).await.expect("a setting");
        }
    }

    async fn services(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::from(self.command(arguments));
        let output = command.kill_on_drop(true).output();
        let what = format!("scripts/services {}", arguments.join(" "));
        match timeout(COMMAND, output).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => Err(format!(
                "{what}: {}",
                String::from_utf8_lossy(&output.stderr)
            )),
            Ok(Err(error)) => Err(format!("{what}: {error}")),
            Err(_) => Err(format!("{what}: not within {COMMAND:?}")),
        }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(format!("{ROOT}/scripts/services"));
        command
            .args(arguments)
            .env("CHAT_SERVICES_DIR", &self.directory)
            .env("CHAT_AMQP_PORT", self.port.to_string())
            .env_remove("CHAT_RABBIT_MGMT_PORT")
            .env("CHAT_PG_PORT", (self.port + 4).to_string())
            .env("CHAT_REDIS_PORT", (self.port + 5).to_string());
        command
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        let _ = self.command(&["down", "--wipe"]).output();
        remove(&self.directory);
    }
}

fn remove(directory: &Path) {
    let mount = directory.join("postgres");
    let _ = std::process::Command::new("umount")
        .arg(mount)
        .stderr(Stdio::null())
        .status();
    let _ = std::fs::remove_dir_all(directory);
}

/// Stops and removes what a killed run has left.
fn remove_stale() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let of = name
            .strip_prefix("chat-chaos-")
            .and_then(|of| of.parse::<u32>().ok());
        if of.is_some_and(|of| !Path::new(&format!("/proc/{of}")).exists()) {
            let mut stop = std::process::Command::new(format!("{ROOT}/scripts/services"));
            stop.args(["down", "--wipe"])
                .env("CHAT_SERVICES_DIR", entry.path());
            let _ = stop.output();
            remove(&entry.path());
        }
    }
}

/// The first of six consecutive free ports below the ephemeral range, apart from those of other tests' servers.
fn six_free_ports() -> u16 {
    let offset = u16::try_from(std::process::id() % 400).expect("a small number");
    let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..400)
        .map(|i| 17_000 + (offset + i) % 400 * 6)
        .find(|first| (*first..first + 6).all(free))
        .expect("six ports in a row")
}
