//! The cluster under test: two edges and three workers, each connected to its engines and its clients through proxies.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{
    engines::Engines,
    node::Node,
    options::Options,
    plan::{EDGES, ENGINES, Engine, WORKERS},
    proxy::{Mode, Proxy},
};

/// How long a process is started again and again while its engines recover.
const BRING_UP: Duration = Duration::from_secs(240);

pub struct Cluster {
    // Dropped before the engines.
    pub nodes: Vec<Mutex<Node>>,
    /// Between clients and edges.
    pub clients: Vec<Proxy>,
    /// By process (edges first), then by engine: one for each of its servers.
    links: Vec<Vec<Vec<Proxy>>>,
    pub engines: Engines,
    /// The program that a rolling upgrade installs.
    pub program: PathBuf,
    pub directory: PathBuf,
    /// The file that moves the clocks of one edge and one worker; `None` without libfaketime.
    clocks: bool,
}

fn setting(key: &str, value: &str) -> (String, String) {
    let name = format!("CHAT__{}", key.replace('.', "__").to_uppercase());
    (name, value.to_owned())
}

fn settings() -> Vec<(String, String)> {
    let mut settings = vec![
        setting("edge.port", "0"),
        setting("edge.drain", "300ms"),
        setting("auth.secret", crate::harness::deployment::SECRET),
        // Longer than a run, and than the jumps of clocks.
        setting("auth.access_ttl", "20d"),
        setting("queue.partitions", "6"),
        setting("database.max_connections", "4"),
        setting("worker.maintenance_interval", "30s"),
    ];
    for limit in [
        "messages_per_second",
        "burst",
        "reads_per_second",
        "read_burst",
        "registrations_per_minute",
        "address_requests_per_second",
        "address_burst",
    ] {
        settings.push(setting(&format!("limits.{limit}"), "1000000"));
    }
    settings
}

/// Debian's package `faketime`.
fn faketime() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let places = places.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    places.into_iter().find(|path| path.exists())
}

/// Whether the clock of this process can be changed.
fn has_clock(process: usize) -> bool {
    process == 1 || process == EDGES + 2
}

impl Cluster {
    pub async fn start(options: &Options, program: PathBuf, directory: PathBuf) -> Cluster {
        let engines = Engines::start(options.clustered).await;
        let first = options.upgrade_from.clone().unwrap_or(program.clone());
        let faketime = faketime();
        let (mut nodes, mut links, mut clients) = (Vec::new(), Vec::new(), Vec::new());
        for process in 0..EDGES + WORKERS {
            let (role, index) = match process.checked_sub(EDGES) {
                None => ("edge", process),
                Some(worker) => ("worker", worker),
            };
            let name = format!("{role} {index}");
            let mut node = Node::new(name, role, first.clone(), directory.clone());
            node.env = settings();
            let mut proxies = Vec::new();
            for engine in ENGINES {
                let addresses = engines.addresses(engine).await;
                let made = addresses.iter().map(|address| Proxy::to(address));
                let made = futures_util::future::join_all(made).await;
                let through = made.iter().map(|proxy| proxy.address.to_string());
                let through: Vec<String> = through.collect();
                node.env.extend(engines.settings(engine, &through).await);
                proxies.push(made);
            }
            if let Some(library) = faketime.as_ref().filter(|_| has_clock(process)) {
                let file = clock_file(&directory, process);
                std::fs::write(&file, "+0\n").expect("a file");
                let variable = |name: &str, value: String| (name.to_owned(), value);
                node.env.extend([
                    variable("LD_PRELOAD", library.display().to_string()),
                    variable("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
                    variable("FAKETIME_CACHE_DURATION", "1".to_owned()),
                    variable("FAKETIME_DONT_RESET", "1".to_owned()),
                    variable("DONT_FAKE_MONOTONIC", "1".to_owned()),
                    variable("NO_FAKE_STAT", "1".to_owned()),
                ]);
            }
            links.push(proxies);
            nodes.push(Mutex::new(node));
        }
        for _ in 0..EDGES {
            clients.push(Proxy::to("127.0.0.1:9").await);
        }
        let cluster = Cluster {
            nodes,
            clients,
            links,
            engines,
            program,
            directory,
            clocks: faketime.is_some(),
        };
        cluster.migrate().await;
        let of = &cluster;
        let all = of
            .nodes
            .iter()
            .enumerate()
            .map(|(process, node)| async move {
                let mut node = node.lock().await;
                let started = of.bring_up(process, &mut node).await;
                started.expect("the cluster starts");
            });
        futures_util::future::join_all(all).await;
        cluster
    }

    async fn migrate(&self) {
        let mut node = Node::new(
            "migrate".to_owned(),
            "migrate",
            self.program.clone(),
            self.directory.clone(),
        );
        node.env = self.nodes[0].lock().await.env.clone();
        node.run().await.expect("the schema is made");
    }

    /// The client's addresses of the edges.
    pub fn edges(&self) -> Vec<String> {
        self.clients
            .iter()
            .map(|proxy| proxy.address.to_string())
            .collect()
    }

    /// Starts a process until it is ready, as a supervisor would: it ends if its engines are away for too long.
    pub async fn bring_up(&self, process: usize, node: &mut Node) -> Result<(), String> {
        let end = Instant::now() + BRING_UP;
        loop {
            match node.start().await {
                Ok(address) => {
                    if let (Some(address), Some(proxy)) = (address, self.clients.get(process)) {
                        proxy.redirect(&address);
                    }
                    return Ok(());
                }
                Err(why) if Instant::now() > end => return Err(why),
                Err(_) => sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// `false` if there is no proxy between the two.
    pub fn set_link(&self, process: usize, engine: Engine, mode: Mode) -> bool {
        let engine = ENGINES.iter().position(|known| *known == engine);
        let proxies = &self.links[process][engine.expect("one of them")];
        proxies.iter().for_each(|proxy| proxy.set(mode));
        !proxies.is_empty()
    }

    /// `false` if the clocks cannot be changed here.
    pub fn set_clock(&self, process: usize, seconds: i64) -> bool {
        if self.clocks {
            let text = format!("{seconds:+}\n");
            let _ = std::fs::write(clock_file(&self.directory, process), text);
        }
        self.clocks
    }

    /// Starts what has ended by itself and reports it, until it is stopped.
    pub async fn supervise(self: Arc<Cluster>, stop: Arc<AtomicBool>, report: impl Fn(String)) {
        while !stop.load(Ordering::Relaxed) {
            for (process, node) in self.nodes.iter().enumerate() {
                // A locked process is being restarted.
                let Ok(mut node) = node.try_lock() else {
                    continue;
                };
                if let Some(how) = node.ended() {
                    report(how);
                    if let Err(why) = self.bring_up(process, &mut node).await {
                        report(why);
                    }
                }
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn clock_file(directory: &Path, process: usize) -> PathBuf {
    directory.join(format!("clock-{process}"))
}
