//! Redis: a master, a replica and three Sentinels.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
    time::timeout,
};

use super::{
    server::{Account, Launch, Server, find},
    until_ready,
};
use crate::{harness::deployment::Directory, support::free_ports};

/// The name of the master at the Sentinels.
pub const MASTER: &str = "chat";

const SENTINELS: u16 = 3;
const NODES: u16 = 2;
/// After which silence a Sentinel counts the master as down.
const DOWN_AFTER_MS: u32 = 1000;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

pub struct Redis {
    nodes: Vec<Node>,
    sentinels: Vec<Node>,
    // Dropped after the servers.
    _dir: Directory,
}

struct Node {
    port: u16,
    launch: Launch,
    server: Option<Server>,
}

impl Redis {
    /// Node 0 is the master.
    pub async fn start() -> Redis {
        let dir = Directory::new();
        let account = Account::of("redis");
        let places: [PathBuf; 0] = [];
        let program = find("redis-server", &places, "redis-server");
        let first = free_ports(NODES + SENTINELS);
        let make = |name: String, port: u16, settings: String, args: &[&str]| {
            let dir = dir.path().join(name.replace(' ', "-"));
            account.make_dir(&dir);
            let file = dir.join("redis.conf");
            let common = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\ndaemonize no\nprotected-mode no\n",
                dir.display()
            );
            account.write(&file, &format!("{common}{settings}"));
            let mut all = vec![file.to_string_lossy().into_owned()];
            all.extend(args.iter().map(|arg| (*arg).to_owned()));
            let launch = Launch {
                name,
                account: account.clone(),
                program: program.clone(),
                args: all,
                env: Vec::new(),
                dir,
            };
            Node {
                port,
                server: Some(launch.start()),
                launch,
            }
        };
        let nodes = (0..NODES).map(|i| {
            let role = if i == 0 {
                String::new()
            } else {
                format!("replicaof 127.0.0.1 {first}\n")
            };
            let settings = format!("save \"\"\nappendonly no\nrepl-diskless-sync-delay 0\n{role}");
            make(format!("redis {i}"), first + i, settings, &[])
        });
        let nodes: Vec<Node> = nodes.collect();
        let sentinels = (0..SENTINELS).map(|i| {
            let settings = format!(
                "sentinel monitor {MASTER} 127.0.0.1 {first} 2\n\
                 sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n\
                 sentinel failover-timeout {MASTER} 10000\nsentinel parallel-syncs {MASTER} 1\n"
            );
            let name = format!("sentinel {i}");
            make(name, first + NODES + i, settings, &["--sentinel"])
        });
        let mut redis = Redis {
            sentinels: sentinels.collect(),
            nodes,
            _dir: dir,
        };
        redis.until_complete().await;
        redis
    }

    /// Waits until the replica is in sync and every Sentinel knows it and the other Sentinels.
    pub async fn until_complete(&mut self) {
        let ports: Vec<u16> = self.sentinels.iter().map(|node| node.port).collect();
        for node in self.nodes.iter_mut().chain(&mut self.sentinels) {
            let port = node.port;
            let server = node.server.as_mut().expect("it runs");
            until_ready(&node.launch.name, async || {
                let said = ask(port, &["PING"]).await;
                said.map_err(|error| server.not_ready(error))
            })
            .await;
        }
        until_ready("the Sentinels know all nodes", async || {
            for port in &ports {
                let said = ask(*port, &["INFO", "sentinel"]).await?;
                let expected = format!("status=ok,address=127.0.0.1:{}", self.master_port().await?);
                let others = format!("slaves={},sentinels={SENTINELS}", NODES - 1);
                if !said.contains(&expected) || !said.contains(&others) {
                    return Err(said);
                }
            }
            let said = ask(self.master_port().await?, &["INFO", "replication"]).await?;
            let in_sync = said.contains("role:master") && said.contains("state=online");
            in_sync.then_some(()).ok_or(said)
        })
        .await;
    }

    /// `redis://127.0.0.1:port/0` of node `i`.
    pub fn url(&self, i: usize) -> String {
        format!("redis://127.0.0.1:{}/0", self.nodes[i].port)
    }

    pub fn port(&self, i: usize) -> u16 {
        self.nodes[i].port
    }

    /// The Sentinels as `host:port`, separated by commas.
    pub fn sentinels(&self) -> String {
        let of = |node: &Node| format!("127.0.0.1:{}", node.port);
        self.sentinels.iter().map(of).collect::<Vec<_>>().join(",")
    }

    async fn master_port(&self) -> Result<u16, String> {
        let running = self.sentinels.iter().find(|node| node.server.is_some());
        let port = running.ok_or("no Sentinel runs")?.port;
        let said = ask(port, &["SENTINEL", "get-master-addr-by-name", MASTER]).await?;
        let last = said.lines().last().and_then(|line| line.parse().ok());
        last.ok_or(said)
    }

    /// The master, as the Sentinels see it.
    pub async fn master(&self) -> usize {
        until_ready("a master", async || {
            let port = self.master_port().await?;
            let found = self.nodes.iter().position(|node| node.port == port);
            found.ok_or_else(|| format!("none of the nodes has the port {port}"))
        })
        .await
    }

    /// Waits until at least this many connections of node `i` have subscribed, besides those of the Sentinels.
    pub async fn until_subscribers(&self, i: usize, count: usize) {
        let port = self.nodes[i].port;
        until_ready("the subscribers of the new master", async || {
            let said = ask(port, &["CLIENT", "LIST", "TYPE", "pubsub"]).await?;
            let clients = said.lines().filter(|line| line.starts_with("id="));
            let found = clients.count().saturating_sub(self.sentinels.len());
            let done = found >= count;
            done.then_some(()).ok_or(said)
        })
        .await;
    }

    /// Waits until the Sentinels have made another node the master and it accepts writes; returns it.
    pub async fn failed_over(&self, from: usize) -> usize {
        until_ready("the Sentinels fail over", async || {
            let port = self.master_port().await?;
            let node = self.nodes.iter().position(|node| node.port == port);
            let node = node.filter(|node| *node != from).ok_or("not yet")?;
            let said = ask(port, &["ROLE"]).await?;
            let done = said.contains("master");
            done.then_some(node).ok_or(said)
        })
        .await
    }

    pub fn kill9(&mut self, i: usize) {
        if let Some(mut server) = self.nodes[i].server.take() {
            server.kill9();
        }
    }

    pub fn freeze(&self, i: usize) {
        self.nodes[i].server.as_ref().expect("it runs").freeze();
    }

    pub fn thaw(&self, i: usize) {
        self.nodes[i].server.as_ref().expect("it runs").thaw();
    }

    /// Starts node `i` again after it was killed. The Sentinels make it a replica of the current master.
    pub fn restart(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        assert!(node.server.is_none(), "{} runs already", node.launch.name);
        node.server = Some(node.launch.start());
    }

    pub fn kill_sentinel(&mut self, i: usize) {
        if let Some(mut server) = self.sentinels[i].server.take() {
            server.kill9();
        }
    }

    pub fn restart_sentinel(&mut self, i: usize) {
        let node = &mut self.sentinels[i];
        assert!(node.server.is_none(), "{} runs already", node.launch.name);
        node.server = Some(node.launch.start());
    }
}

/// Sends one command; the strings and numbers of its answer, one a line.
async fn ask(port: u16, command: &[&str]) -> Result<String, String> {
    let asking = async {
        let mut redis = BufStream::new(TcpStream::connect(("127.0.0.1", port)).await?);
        let mut request = format!("*{}\r\n", command.len());
        for word in command {
            let _ = write!(request, "${}\r\n{word}\r\n", word.len());
        }
        redis.write_all(request.as_bytes()).await?;
        redis.flush().await?;
        read_answer(&mut redis).await
    };
    match timeout(ANSWER_WITHIN, asking).await {
        Ok(Ok(said)) if said.starts_with('-') => Err(said),
        Ok(Ok(said)) => Ok(said),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
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
