//! Redis servers and Sentinels of a test's own, which can be killed and frozen.

use std::{
    io::Write,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};
use uuid::Uuid;

use super::eventually;

/// The name under which the Sentinels watch the master.
pub const MASTER: &str = "main";
const PASSWORD: &str = "of-the-servers";
const SENTINEL_PASSWORD: &str = "of-the-sentinels";

/// One `redis-server`; killed when dropped.
pub struct RedisServer {
    pub port: u16,
    password: &'static str,
    child: Child,
    dir: PathBuf,
}

impl RedisServer {
    /// A server without a password.
    pub async fn start() -> RedisServer {
        RedisServer::start_as("", String::new()).await
    }

    /// `configuration` follows the parts that all servers have in common.
    async fn start_as(password: &'static str, configuration: String) -> RedisServer {
        // Another process may take the port before the server does.
        for _ in 0..5 {
            let mut server = RedisServer::spawn(password, &configuration);
            let started = Instant::now();
            while started.elapsed() < super::DEADLINE {
                if server.ask("PING").await.is_some_and(|a| a.contains("PONG")) {
                    return server;
                }
                if matches!(server.child.try_wait(), Ok(Some(_))) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        panic!("redis-server does not start");
    }

    fn spawn(password: &'static str, configuration: &str) -> RedisServer {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let dir = std::env::temp_dir().join(format!("chat-redis-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).expect("a directory");
        let file = dir.join("redis.conf");
        let mut text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nlogfile log\n{configuration}",
            dir.display()
        );
        if !password.is_empty() {
            text.push_str(&format!("requirepass {password}\n"));
        }
        let written = std::fs::File::create(&file).and_then(|mut f| f.write_all(text.as_bytes()));
        written.expect("a configuration");
        let mut command = Command::new("redis-server");
        command.arg(&file);
        if configuration.contains("sentinel monitor") {
            command.arg("--sentinel");
        }
        command
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let child = command.spawn().expect("redis-server is installed");
        RedisServer {
            port,
            password,
            child,
            dir,
        }
    }

    /// `redis://…`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends a command and returns the answer as Redis encodes it; `None` without one.
    pub async fn ask(&self, command: &str) -> Option<String> {
        let asked = async {
            let mut connection = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            let login = match self.password {
                "" => String::new(),
                password => format!("AUTH {password}\r\n"),
            };
            let text = format!("{login}{command}\r\n");
            connection.write_all(text.as_bytes()).await.ok()?;
            // It closes the connection after its answer.
            connection.shutdown().await.ok()?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        timeout(Duration::from_secs(1), asked).await.ok()?
    }

    /// Sends SIGKILL and waits until it is gone.
    pub async fn kill9(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// Stops it without closing its connections.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("it runs");
        kill_process(pid, signal).expect("it can be signalled");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A master, its replica, and three Sentinels that replace a master which does not answer for half a second.
pub struct RedisGroup {
    /// The first one is the master at the start.
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<RedisServer>,
}

impl RedisGroup {
    pub async fn start() -> RedisGroup {
        let data = format!("save \"\"\nmasterauth {PASSWORD}\nrepl-diskless-sync-delay 0\n");
        let master = RedisServer::start_as(PASSWORD, data.clone()).await;
        let replicates = format!("{data}replicaof 127.0.0.1 {}\n", master.port);
        let replica = RedisServer::start_as(PASSWORD, replicates).await;
        eventually("the replica is connected", || async {
            let state = replica.ask("INFO replication").await?;
            state.contains("master_link_status:up").then_some(())
        })
        .await;
        let watches = format!(
            "sentinel monitor {MASTER} 127.0.0.1 {} 2\n\
             sentinel auth-pass {MASTER} {PASSWORD}\n\
             sentinel down-after-milliseconds {MASTER} 500\n\
             sentinel failover-timeout {MASTER} 3000\n\
             sentinel sentinel-pass {SENTINEL_PASSWORD}\n",
            master.port
        );
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(RedisServer::start_as(SENTINEL_PASSWORD, watches.clone()).await);
        }
        for sentinel in &sentinels {
            eventually("the Sentinels know each other", || async {
                let state = sentinel.ask(&format!("SENTINEL MASTER {MASTER}")).await?;
                let is = |name: &str, value: &str| {
                    state.contains(&format!("{name}\r\n${}\r\n{value}\r\n", value.len()))
                };
                (is("num-slaves", "1") && is("num-other-sentinels", "2")).then_some(())
            })
            .await;
        }
        RedisGroup {
            servers: vec![master, replica],
            sentinels,
        }
    }

    /// The settings of a node: variables and values.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let sentinels = self.sentinels.iter();
        let sentinels: Vec<String> = sentinels
            .map(|sentinel| format!("127.0.0.1:{}", sentinel.port))
            .collect();
        vec![
            // No server has this address: it supplies the password.
            ("REDIS_URL", format!("redis://:{PASSWORD}@127.0.0.1:1/0")),
            ("CHAT__REDIS__SENTINELS", sentinels.join(",")),
            ("CHAT__REDIS__MASTER", MASTER.to_owned()),
            (
                "CHAT__REDIS__SENTINEL_PASSWORD",
                SENTINEL_PASSWORD.to_owned(),
            ),
        ]
    }

    /// The index of the server that a majority of the Sentinels names.
    pub async fn master(&self) -> Option<usize> {
        let mut votes = vec![0; self.servers.len()];
        for sentinel in &self.sentinels {
            let question = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {MASTER}");
            let answer = sentinel.ask(&question).await.unwrap_or_default();
            let named = |server: &RedisServer| answer.contains(&format!("\r\n{}\r\n", server.port));
            if let Some(server) = self.servers.iter().position(named) {
                votes[server] += 1;
            }
        }
        votes.iter().position(|votes| *votes >= 2)
    }

    /// Waits until the Sentinels name another master than `before`.
    pub async fn failed_over(&self, before: usize) -> usize {
        eventually("a failover", || async {
            self.master().await.filter(|master| *master != before)
        })
        .await
    }
}
