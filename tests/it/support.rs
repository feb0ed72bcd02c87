//! Shared tools: server addresses, waiting for conditions, and a TCP proxy that can be cut or frozen.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

/// The root of the repository. The tests' package is in bin/, and they run there.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn amqp_url() -> String {
    address("AMQP_URL")
}

pub fn redis_url() -> String {
    address("REDIS_URL")
}

fn address(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `scripts/test`, or `scripts/services up` and eval \"$(scripts/services env)\"")
    })
}

/// A unique name.
pub fn unique(what: &str) -> String {
    format!("test-{what}-{}", Uuid::new_v4().simple())
}

/// The future's result; panics after [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Polls until the answer is right; panics after [`PATIENCE`].
pub async fn until<T: fmt::Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> T,
    right: impl Fn(&T) -> bool,
) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        if right(&answer) {
            return answer;
        }
        assert!(
            Instant::now() < end,
            "not within {PATIENCE:?}: {what}; last: {answer:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

/// A RabbitMQ instance of the test's own, which can be killed and blocked. Stopped when dropped.
pub struct OwnBroker {
    directory: String,
    port: u16,
}

impl OwnBroker {
    /// Takes about ten seconds.
    pub async fn start(name: &str) -> OwnBroker {
        let target = format!("{ROOT}/target");
        let mut broker = OwnBroker {
            directory: String::new(),
            port: free_ports(4),
        };
        // Remove what a killed test run may have left.
        for entry in std::fs::read_dir(&target).unwrap() {
            let found = entry.unwrap().file_name().into_string().unwrap();
            let of = found.strip_prefix(&format!("services-{name}-"));
            if of.is_some_and(|of| !std::fs::exists(format!("/proc/{of}")).unwrap()) {
                broker.directory = format!("{target}/{found}");
                let _ = broker.command(&["down", "--wipe"]).output();
                let _ = std::fs::remove_dir_all(&broker.directory);
            }
        }
        broker.directory = format!("{target}/services-{name}-{}", std::process::id());
        broker.run(&["up", "rabbitmq"]).await;
        broker
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// The URL of its management API.
    pub fn api_url(&self) -> String {
        format!("http://guest:guest@127.0.0.1:{}/api", self.port + 1)
    }

    /// Runs `scripts/services` for this instance. One retry, because the machine may be busy.
    pub async fn run(&self, arguments: &[&str]) {
        let mut said = String::new();
        for _ in 0..2 {
            let mut command = tokio::process::Command::from(self.command(arguments));
            let done = command.output().await.unwrap();
            if done.status.success() {
                return;
            }
            said = String::from_utf8_lossy(&done.stderr).into_owned();
        }
        panic!("scripts/services {arguments:?}: {said}");
    }

    /// Raises or clears its memory alarm, which blocks publishers.
    pub async fn alarm(&self, on: bool) {
        let watermark = if on { "0.0001" } else { "0.6" };
        let arguments = ["rabbitmqctl", "set_vm_memory_high_watermark", watermark];
        self.run(&arguments).await;
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(format!("{ROOT}/scripts/services"));
        command
            .args(arguments)
            .env("CHAT_SERVICES_DIR", &self.directory)
            .env("CHAT_AMQP_PORT", self.port.to_string())
            .env_remove("CHAT_RABBIT_MGMT_PORT");
        command
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let _ = self.command(&["down", "--wipe"]).output();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The first of this many consecutive free ports below the ephemeral range. Never returns the same ports twice in this
/// process, because a server takes seconds to bind its own.
pub fn free_ports(count: u16) -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 2500) as u16 * 4;
    let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let first = start + GIVEN.fetch_add(count, Ordering::Relaxed);
        assert!(first < 32_000, "{count} ports in a row");
        if (first..first + count).all(free) {
            return first;
        }
    }
}

/// A TCP proxy to a server that a test can cut, or freeze without closing connections.
pub struct TcpProxy {
    pub address: SocketAddr,
    flows: watch::Sender<bool>,
    withheld: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    accepting: JoinHandle<()>,
}

impl TcpProxy {
    /// `target` is `host:port`.
    pub async fn to(target: &str) -> TcpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (flows, flowing) = watch::channel(true);
        let open: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let withheld: Arc<AtomicU64> = Arc::default();
        let target = target.to_owned();
        let accepting = tokio::spawn({
            let (open, withheld) = (open.clone(), withheld.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let relay = relay(client, target.clone(), flowing.clone(), withheld.clone());
                    open.lock()
                        .unwrap()
                        .push(tokio::spawn(relay).abort_handle());
                }
            }
        });
        TcpProxy {
            address,
            flows,
            withheld,
            open,
            accepting,
        }
    }

    /// Breaks every connection; new ones are possible at once.
    pub fn cut(&self) {
        for relay in self.open.lock().unwrap().drain(..) {
            relay.abort();
        }
    }

    /// Forwards nothing more, without closing connections.
    pub fn freeze(&self) {
        self.withheld.store(0, Ordering::Relaxed);
        self.flows.send_replace(false);
    }

    /// Whether it has an open connection.
    pub fn is_used(&self) -> bool {
        let open = self.open.lock().unwrap();
        open.iter().any(|relay| !relay.is_finished())
    }

    /// Bytes received while frozen.
    pub fn withheld(&self) -> u64 {
        self.withheld.load(Ordering::Relaxed)
    }

    pub fn thaw(&self) {
        self.flows.send_replace(true);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn relay(
    client: TcpStream,
    target: String,
    flowing: watch::Receiver<bool>,
    withheld: Arc<AtomicU64>,
) {
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, flowing.clone(), &withheld) => {}
        () = pump(from_server, to_client, flowing, &withheld) => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut flowing: watch::Receiver<bool>,
    withheld: &AtomicU64,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut buffer).await
        && count > 0
    {
        if !*flowing.borrow() {
            withheld.fetch_add(count as u64, Ordering::Relaxed);
        }
        if flowing.wait_for(|flows| *flows).await.is_err()
            || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}
