//! Private servers and clusters of the engines, for tests that kill, freeze and fail them over: each test starts its own
//! nodes on free ports of 127.0.0.1, with their data in a temporary directory. They end with the test.
//!
//! The programs are those that `scripts/services` installs; as root each engine runs as its own system user.

mod postgres;
mod rabbit;
mod redis;
mod server;

pub use postgres::{Postgres, Stop};
pub use rabbit::{PartitionHandling, RabbitMq};
pub use redis::{Redis, RedisServer};

use std::{fmt::Write as _, time::Duration};

use tokio::time::Instant;

/// How long an engine may take to start, join or fail over. Generous: a busy machine is no failure.
pub const READY_WITHIN: Duration = Duration::from_secs(180);

/// Polls until there is an answer; panics after [`READY_WITHIN`] with the last reason.
async fn until_ready<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + READY_WITHIN;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(reason) => assert!(
                Instant::now() < end,
                "{what}: not within {READY_WITHIN:?}: {reason}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Number of established TCP connections to this port of the loopback interface, as the kernel reports them.
pub fn connections_to(port: u16) -> usize {
    const ESTABLISHED: &str = "01";
    let mut local = String::new();
    let _ = write!(local, ":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let texts = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let lines = texts.iter().flat_map(|text| text.lines());
    lines
        .filter(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (address, state) = (fields.next(), fields.nth(1));
            address.is_some_and(|address| address.ends_with(&local)) && state == Some(ESTABLISHED)
        })
        .count()
}
