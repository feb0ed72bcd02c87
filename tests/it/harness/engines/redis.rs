//! Redis: a master, a replica and three Sentinels, with passwords; or one server without.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
    time::timeout,
};

use super::{
    server::{Account, Launch, Server, find},
    until_ready,
};
use crate::{
    harness::deployment::{Directory, Plan},
    support::free_ports,
};

/// The name of the master at the Sentinels.
const MASTER: &str = "chat";
/// Of the servers, and of the Sentinels.
const PASSWORD: &str = "of-the-servers";
const SENTINEL_PASSWORD: &str = "of-the-sentinels";

const SENTINELS: u16 = 3;
const NODES: u16 = 2;
/// After which silence a Sentinel counts the master as down.
const DOWN_AFTER_MS: u32 = 1000;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// One `redis-server`: a server or a Sentinel.
pub struct RedisServer {
    pub port: u16,
    password: Option<&'static str>,
    launch: Launch,
    server: Option<Server>,
    // Dropped after the server.
    _dir: Arc<Directory>,
}

impl RedisServer {
    /// A master without a password.
    pub async fn start() -> RedisServer {
        let dir = Arc::new(Directory::new());
        let settings = "save \"\"\nappendonly no\n";
        let mut server =
            RedisServer::spawn(&dir, "redis", free_ports(1), settings.to_owned(), None);
        server.until_answering().await;
        server
    }

    /// Starts it without waiting. `settings` follow those that all servers have in common.
    fn spawn(
        dir: &Arc<Directory>,
        name: &str,
        port: u16,
        mut settings: String,
        password: Option<&'static str>,
    ) -> RedisServer {
        let account = Account::of("redis");
        let program = find("redis-server", &[], "redis-server");
        let home = dir.path().join(name.replace(' ', "-"));
        account.make_dir(&home);
        if let Some(password) = password {
            let _ = writeln!(settings, "requirepass {password}");
        }
        account.write(&home.join("redis.conf"), &common(port, &home, &settings));
        let mut args = vec![home.join("redis.conf").display().to_string()];
        if settings.contains("sentinel monitor") {
            args.push("--sentinel".to_owned());
        }
        let launch = Launch {
            name: name.to_owned(),
            account,
            program,
            args,
            env: Vec::new(),
            dir: home,
        };
        RedisServer {
            port,
            password,
            server: Some(launch.start()),
            launch,
            _dir: dir.clone(),
        }
    }

    async fn until_answering(&mut self) {
        let (port, password) = (self.port, self.password);
        let server = self.server.as_mut().expect("it runs");
        until_ready(&self.launch.name, async || {
            let said = ask(port, password, &["PING"]).await;
            said.map_err(|error| server.not_ready(error))
        })
        .await;
    }

    /// `redis://127.0.0.1:port/0`, with the password.
    pub fn url(&self) -> String {
        let login = self.password.map(|password| format!(":{password}@"));
        let login = login.unwrap_or_default();
        format!("redis://{login}127.0.0.1:{}/0", self.port)
    }

    /// Sends one command; the strings and numbers of its answer, one a line.
    ///
    /// # Errors
    /// Its error, or why there is no answer.
    pub async fn ask(&self, command: &[&str]) -> Result<String, String> {
        ask(self.port, self.password, command).await
    }

    /// Makes it a replica of the server at this port of 127.0.0.1.
    pub async fn follow(&self, port: u16) {
        let port = port.to_string();
        let done = self.ask(&["REPLICAOF", "127.0.0.1", &port]).await;
        done.expect("it becomes a replica");
    }

    pub fn kill9(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill9();
        }
    }

    /// Stops it without closing its connections.
    pub fn freeze(&self) {
        self.server.as_ref().expect("it runs").freeze();
    }

    pub fn thaw(&self) {
        self.server.as_ref().expect("it runs").thaw();
    }

    /// Starts it again after it was killed.
    pub fn restart(&mut self) {
        assert!(self.server.is_none(), "{} runs already", self.launch.name);
        self.server = Some(self.launch.start());
    }

    fn is_running(&self) -> bool {
        self.server.is_some()
    }
}

fn common(port: u16, dir: &Path, more: &str) -> String {
    format!(
        "bind 127.0.0.1\nport {port}\ndir {}\ndaemonize no\nprotected-mode no\n{more}",
        dir.display()
    )
}

pub struct Redis {
    nodes: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl Redis {
    /// Node 0 is the master.
    pub async fn start() -> Redis {
        let dir = Arc::new(Directory::new());
        let first = free_ports(NODES + SENTINELS);
        let nodes = (0..NODES).map(|i| {
            let mut settings = format!(
                "save \"\"\nappendonly no\nrepl-diskless-sync-delay 0\nmasterauth {PASSWORD}\n"
            );
            if i > 0 {
                let _ = writeln!(settings, "replicaof 127.0.0.1 {first}");
            }
            let name = format!("redis {i}");
            RedisServer::spawn(&dir, &name, first + i, settings, Some(PASSWORD))
        });
        let nodes: Vec<RedisServer> = nodes.collect();
        let sentinels = (0..SENTINELS).map(|i| {
            let settings = format!(
                "sentinel monitor {MASTER} 127.0.0.1 {first} 2\n\
                 sentinel auth-pass {MASTER} {PASSWORD}\n\
                 sentinel sentinel-pass {SENTINEL_PASSWORD}\n\
                 sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n\
                 sentinel failover-timeout {MASTER} 10000\nsentinel parallel-syncs {MASTER} 1\n"
            );
            let (name, port) = (format!("sentinel {i}"), first + NODES + i);
            RedisServer::spawn(&dir, &name, port, settings, Some(SENTINEL_PASSWORD))
        });
        let mut redis = Redis {
            sentinels: sentinels.collect(),
            nodes,
        };
        redis.until_complete().await;
        redis
    }

    /// Waits until the replica is in sync and every Sentinel knows it and the other Sentinels.
    pub async fn until_complete(&mut self) {
        for server in self.nodes.iter_mut().chain(&mut self.sentinels) {
            server.until_answering().await;
        }
        until_ready("the Sentinels know all nodes", async || {
            for sentinel in &self.sentinels {
                let said = sentinel.ask(&["INFO", "sentinel"]).await?;
                let expected = format!("status=ok,address=127.0.0.1:{}", self.master_port().await?);
                let others = format!("slaves={},sentinels={SENTINELS}", NODES - 1);
                if !said.contains(&expected) || !said.contains(&others) {
                    return Err(said);
                }
            }
            let master = self.node_at(self.master_port().await?)?;
            let said = self.nodes[master].ask(&["INFO", "replication"]).await?;
            let in_sync = said.contains("role:master") && said.contains("state=online");
            in_sync.then_some(()).ok_or(said)
        })
        .await;
    }

    /// The settings of a process that follows the Sentinels: environment variables and values.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let of = |sentinel: &RedisServer| format!("127.0.0.1:{}", sentinel.port);
        let sentinels: Vec<String> = self.sentinels.iter().map(of).collect();
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

    /// A deployment that follows the Sentinels.
    pub fn serve(&self, plan: Plan) -> Plan {
        let settings = self.settings().into_iter();
        settings.fold(plan, |plan, (variable, value)| {
            plan.address(variable, value)
        })
    }

    async fn master_port(&self) -> Result<u16, String> {
        let running = self.sentinels.iter().find(|sentinel| sentinel.is_running());
        let sentinel = running.ok_or("no Sentinel runs")?;
        let said = sentinel.ask(&["SENTINEL", "get-master-addr-by-name", MASTER]);
        let said = said.await?;
        let last = said.lines().last().and_then(|line| line.parse().ok());
        last.ok_or(said)
    }

    fn node_at(&self, port: u16) -> Result<usize, String> {
        let found = self.nodes.iter().position(|node| node.port == port);
        found.ok_or_else(|| format!("none of the nodes has the port {port}"))
    }

    /// The master, as the Sentinels see it.
    pub async fn master(&self) -> usize {
        until_ready("a master", async || self.node_at(self.master_port().await?)).await
    }

    /// Waits until at least this many connections of node `i` have subscribed, besides those of the Sentinels.
    pub async fn until_subscribers(&self, i: usize, count: usize) {
        until_ready("the subscribers of the new master", async || {
            let said = self.nodes[i].ask(&["CLIENT", "LIST", "TYPE", "pubsub"]);
            let said = said.await?;
            let clients = said.lines().filter(|line| line.starts_with("id="));
            let sentinels = self
                .sentinels
                .iter()
                .filter(|sentinel| sentinel.is_running());
            let found = clients.count().saturating_sub(sentinels.count());
            let done = found >= count;
            done.then_some(()).ok_or(said)
        })
        .await;
    }

    /// Waits until the Sentinels have made another node the master and it accepts writes; returns it.
    pub async fn failed_over(&self, from: usize) -> usize {
        until_ready("the Sentinels fail over", async || {
            let node = self.node_at(self.master_port().await?)?;
            if node == from {
                return Err("not yet".to_owned());
            }
            let said = self.nodes[node].ask(&["ROLE"]).await?;
            let done = said.contains("master");
            done.then_some(node).ok_or(said)
        })
        .await
    }

    pub fn kill9(&mut self, i: usize) {
        self.nodes[i].kill9();
    }

    pub fn freeze(&self, i: usize) {
        self.nodes[i].freeze();
    }

    pub fn thaw(&self, i: usize) {
        self.nodes[i].thaw();
    }

    /// Starts node `i` again after it was killed. The Sentinels make it a replica of the current master.
    pub fn restart(&mut self, i: usize) {
        self.nodes[i].restart();
    }

    pub fn kill_sentinel(&mut self, i: usize) {
        self.sentinels[i].kill9();
    }
}

async fn ask(port: u16, password: Option<&str>, command: &[&str]) -> Result<String, String> {
    let asking = async {
        let mut redis = BufStream::new(TcpStream::connect(("127.0.0.1", port)).await?);
        if let Some(password) = password {
            let said = one_command(&mut redis, &["AUTH", password]).await?;
            if said.starts_with('-') {
                return Ok(said);
            }
        }
        one_command(&mut redis, command).await
    };
    match timeout(ANSWER_WITHIN, asking).await {
        Ok(Ok(said)) if said.starts_with('-') => Err(said),
        Ok(Ok(said)) => Ok(said),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

async fn one_command(
    redis: &mut BufStream<TcpStream>,
    command: &[&str],
) -> std::io::Result<String> {
    let mut request = format!("*{}\r\n", command.len());
    for word in command {
        let _ = write!(request, "${}\r\n{word}\r\n", word.len());
    }
    redis.write_all(request.as_bytes()).await?;
    redis.flush().await?;
    read_answer(redis).await
}

/// One answer in RESP2.
async fn read_answer(redis: &mut BufStream<TcpStream>) -> std::io::Result<String> {
    let (mut lines, mut expected) = (Vec::new(), 1_i64);
    while expected > 0 {
        expected -= 1;
        let mut line = String::new();
        redis.read_line(&mut line).await?;
        let line = line.trim_end();
        let number = || line[1..].parse::<i64>().map_err(std::io::Error::other);
        match line.chars().next() {
            Some('*') => expected += number()?.max(0),
            Some('$') => {
                // A null has the length -1, and no end of line.
                if let Ok(length) = usize::try_from(number()?) {
                    let mut text = vec![0; length + 2];
                    redis.read_exact(&mut text).await?;
                    lines.push(String::from_utf8_lossy(&text[..length]).into_owned());
                }
            }
            Some('-') => lines.push(line.to_owned()),
            Some(_) => lines.push(line[1..].to_owned()),
            None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
    Ok(lines.join("\n"))
}
