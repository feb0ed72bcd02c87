//! The idle benchmark: how much memory an open socket costs the server, before and after a burst of messages.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use memchr::memmem;
use serde::{Serialize, de::IgnoredAny};

use crate::{
    client::{DEADLINE, Socket},
    connections::{Connections, Setup},
    error::{Error, Result, failed},
    measure::progress,
    process::memory_bytes,
    wire::NewMessage,
};

/// How long the server may settle before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Debug, Serialize)]
pub struct Report {
    pub connections: u32,
    pub rooms_each: u32,
    /// The server's resident memory without sockets.
    pub before_bytes: u64,
    pub connected_bytes: u64,
    pub bytes_per_connection: f64,
    /// Messages delivered in the burst, and the memory after it.
    pub burst_deliveries: u64,
    pub after_burst_bytes: u64,
    pub bytes_per_connection_after_burst: f64,
}

/// Opens all sockets, reads the server's memory, sends one message to every room, and reads it again.
///
/// # Errors
/// A socket that fails, or no `--pid` that names the server's process.
pub async fn run(options: &Connections) -> Result<Report> {
    let Some((_, pid)) = options.pid.first() else {
        return Err(Error::argument(
            "--pid",
            "which process is the server: NAME=PID",
        ));
    };
    let setup = Setup::new(options).await?;
    tokio::time::sleep(SETTLE).await;
    let before_bytes = memory_bytes(*pid)?;
    let mut opened = setup.open_all().await;
    if opened.failures > 0 {
        let failures = format!("{} sockets failed", opened.failures);
        return Err(failed("connecting", failures));
    }
    tokio::time::sleep(SETTLE).await;
    let connected_bytes = memory_bytes(*pid)?;
    let burst_deliveries = burst(&setup, &mut opened.sockets).await?;
    tokio::time::sleep(SETTLE).await;
    let after_burst_bytes = memory_bytes(*pid)?;
    let each = |bytes: u64| {
        (bytes.saturating_sub(before_bytes) as f64 / f64::from(options.connections)).round()
    };
    Ok(Report {
        connections: options.connections,
        rooms_each: options.join,
        before_bytes,
        connected_bytes,
        bytes_per_connection: each(connected_bytes),
        burst_deliveries,
        after_burst_bytes,
        bytes_per_connection_after_burst: each(after_burst_bytes),
    })
}

/// Sends one message to each room over REST. Every socket waits for the first message of its rooms: then its buffers have
/// been used, while further messages may still be on their way.
async fn burst(setup: &Setup<'_>, sockets: &mut [Socket]) -> Result<u64> {
    const MARK: &[u8] = b"\"event\":\"newMessage\"";
    let bar = progress("burst", setup.rooms.len() as u64);
    let body = "x".repeat(200);
    let message = NewMessage { body: &body };
    let sends = setup.rooms.iter().enumerate().map(|(i, room)| {
        let owner = &setup.users[i % setup.users.len()].token;
        let path = format!("/v1/rooms/{room}/messages");
        let message = &message;
        async move {
            setup
                .target
                .post::<IgnoredAny>(&path, Some(owner), message)
                .await
        }
    });
    stream::iter(sends)
        .buffer_unordered(32)
        .inspect(|_| bar.inc(1))
        .try_for_each(|_| async { Ok(()) })
        .await?;
    bar.finish();
    let first_messages = sockets.iter_mut().map(|socket| {
        let message = socket.receive(|text| memmem::find(text, MARK).map(|_| ()));
        tokio::time::timeout(DEADLINE, message)
    });
    let mut first_messages = stream::iter(first_messages).buffer_unordered(1024);
    let mut deliveries = 0;
    while let Some(received) = first_messages.next().await {
        received.map_err(|_| failed("the burst", "a socket received nothing"))??;
        deliveries += 1;
    }
    Ok(deliveries)
}
