//! The history benchmark: how fast recent messages are read over REST, by clients with persistent connections.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use memchr::memmem;
use serde::{Serialize, de::IgnoredAny};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    arguments::{duration, process},
    client::Target,
    error::{Error, Result, failed},
    measure::{Latency, histogram},
    process::Meter,
    wire::NewMessage,
};

#[derive(Debug, Clone, Args)]
pub struct History {
    /// The server, as it prints its address.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub url: String,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Rooms that are read, round-robin.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Messages in each room, and on each page.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub messages: u32,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub body: u32,
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Reads this path repeatedly instead, from any HTTP server.
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Writes one page here, for `chat bench baseline serve --page`.
    #[arg(long, value_name = "FILE")]
    pub page: Option<std::path::PathBuf>,
    /// Processes on this machine whose CPU time is reported, including their children, as NAME=PID.
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = process)]
    pub pid: Vec<(String, u32)>,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub requests: u64,
    pub per_s: f64,
    /// The length of one answer with its head.
    pub answer_bytes: usize,
    pub latency_ms: Latency,
    pub cpu_us_per_request: std::collections::BTreeMap<String, f64>,
}

/// Fills the rooms, then reads them.
///
/// # Errors
/// A request that the server refuses.
pub async fn run(history: &History) -> Result<Report> {
    let target = Target::new(&history.url)?;
    let (paths, head) = match &history.path {
        Some(path) => (vec![path.clone()], String::new()),
        None => fill(history, &target).await?,
    };
    let request = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\n{head}\r\n",
            target.authority
        )
        .into_bytes()
    };
    let requests: Vec<Vec<u8>> = paths.iter().map(|path| request(path)).collect();

    // Each path is read once before the measurement, to fill the server's caches.
    let mut first = Connection::open(&target).await?;
    let mut page = Vec::new();
    for request in &requests {
        page = first.get(request).await?.to_vec();
    }
    if let Some(file) = &history.page {
        let body = memmem::find(&page, b"\r\n\r\n").map_or(0, |end| end + 4);
        std::fs::write(file, &page[body..]).map_err(|e| failed("--page", e))?;
    }

    let meter = Meter::start(&history.pid)?;
    let started = Instant::now();
    let until = started + history.duration;
    let readers = (0..history.connections as usize).map(|reader| {
        let (target, requests) = (&target, &requests);
        async move {
            let mut connection = Connection::open(target).await?;
            let mut took = histogram(3);
            let mut next = reader;
            while Instant::now() < until {
                let started = Instant::now();
                connection.get(&requests[next % requests.len()]).await?;
                took.saturating_record(started.elapsed().as_micros() as u64);
                next += 1;
            }
            Ok::<_, Error>(took)
        }
    });
    let mut latency = histogram(3);
    for took in futures_util::future::try_join_all(readers).await? {
        latency += took;
    }
    let elapsed = started.elapsed().as_secs_f64();
    Ok(Report {
        requests: latency.len(),
        per_s: (latency.len() as f64 / elapsed).round(),
        answer_bytes: page.len(),
        latency_ms: Latency::of(&latency),
        cpu_us_per_request: meter.per(latency.len())?,
    })
}

/// Creates a user and rooms full of messages. Returns the paths of their newest pages, and the header that authorises
/// reading them.
async fn fill(history: &History, target: &Target) -> Result<(Vec<String>, String)> {
    let user = target.register().await?;
    let token = Some(user.token.as_str());
    let body = "x".repeat(history.body as usize);
    let message = &NewMessage { body: &body };
    let paths = stream::iter(0..history.rooms)
        .map(|_| async {
            let room = target.create_room(&user.token).await?;
            let path = format!("/v1/rooms/{room}/messages");
            for number in 1..=history.messages {
                let wait = if number == history.messages {
                    "?wait=stored"
                } else {
                    ""
                };
                target
                    .post::<IgnoredAny>(&format!("{path}{wait}"), token, message)
                    .await?;
            }
            Ok::<_, Error>(format!("{path}?limit={}", history.messages))
        })
        .buffered(32)
        .try_collect()
        .await?;
    Ok((paths, format!("Authorization: Bearer {}\r\n", user.token)))
}

/// A persistent connection with as much HTTP as is needed to find the end of an answer.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(target: &Target) -> Result<Connection> {
        let stream = TcpStream::connect(target.address).await;
        let stream = stream.map_err(|e| failed("connecting", e))?;
        let _ = stream.set_nodelay(true);
        let buffer = Vec::with_capacity(64 * 1024);
        Ok(Connection { stream, buffer })
    }

    /// Sends a request and returns the whole answer with its head.
    async fn get(&mut self, request: &[u8]) -> Result<&[u8]> {
        let broken = |e: std::io::Error| failed("reading", e);
        self.stream.write_all(request).await.map_err(broken)?;
        self.buffer.clear();
        let mut whole = None;
        while whole.is_none_or(|whole| self.buffer.len() < whole) {
            let read = self.stream.read_buf(&mut self.buffer).await;
            if read.map_err(broken)? == 0 {
                return Err(failed("reading", "the server closed the connection"));
            }
            if whole.is_none() {
                whole = length(&self.buffer)?;
            }
        }
        Ok(&self.buffer)
    }
}

/// The length of an answer with its head; `None` until the head is complete.
fn length(answer: &[u8]) -> Result<Option<usize>> {
    let Some(head) = memmem::find(answer, b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let wrong = || failed("reading", String::from_utf8_lossy(answer));
    if !text.starts_with("http/1.1 200") {
        return Err(wrong());
    }
    let body = text
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length: "));
    let body: usize = body.and_then(|n| n.trim().parse().ok()).ok_or_else(wrong)?;
    Ok(Some(head + 4 + body))
}
