//! Many sockets: how fast they come in ([`connect`]), and what they cost the server while nothing happens ([`idle`]).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    client::{Registered, Socket, Target, Transport, failed, open},
    measure::{Latency, Meter, histogram, memory_bytes, process, progress},
    wire,
};
use crate::error::Result;

/// How long the server gets to come to rest before its memory is looked at.
const REST: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Args)]
pub struct Storm {
    /// The server, as it prints its address.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub url: String,
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    /// Sockets to open.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Users they belong to, in turns.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// Rooms that each socket joins.
    #[arg(long, default_value_t = 1)]
    pub join: u32,
    /// Sockets in each room.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Sockets being opened at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub at_once: u32,
    /// Only WebSocket handshakes, against a server that knows no users, such as `chat bench bare serve`.
    #[arg(long)]
    pub bare: bool,
    /// Processes on this machine whose CPU time is told, their children's included, as NAME=PID. `idle` wants the
    /// server first: its memory is what is measured.
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = process)]
    pub pid: Vec<(String, u32)>,
}

#[derive(Debug, Serialize)]
pub struct Connected {
    pub connections: u32,
    pub failed: u32,
    pub seconds: f64,
    pub per_s: f64,
    /// Of one socket: connected, authenticated, in its rooms.
    pub open_ms: Latency,
    pub cpu_us_per_connection: std::collections::BTreeMap<String, f64>,
}

#[derive(Debug, Serialize)]
pub struct Idle {
    pub connections: u32,
    pub rooms_each: u32,
    /// The server's resident memory.
    pub before_bytes: u64,
    pub connected_bytes: u64,
    pub bytes_per_connection: f64,
    /// Messages delivered in a burst, and the memory after it.
    pub burst_deliveries: u64,
    pub after_burst_bytes: u64,
    pub bytes_per_connection_after_burst: f64,
}

/// The users and rooms of a storm.
struct Cast {
    target: Target,
    users: Vec<Registered>,
    rooms: Vec<Uuid>,
}

async fn cast(storm: &Storm) -> Result<Cast> {
    let target = Target::new(&storm.url)?;
    if storm.bare {
        return Ok(Cast {
            target,
            users: Vec::new(),
            rooms: Vec::new(),
        });
    }
    let bar = progress("registering users", storm.users.into());
    let users: Vec<Registered> = stream::iter(0..storm.users)
        .map(|_| target.register())
        .buffered(8)
        .inspect(|_| bar.inc(1))
        .try_collect()
        .await?;
    bar.finish();
    let count = match storm.join {
        0 => 0,
        join => (u64::from(storm.connections) * u64::from(join)).div_ceil(storm.members.into()),
    };
    let bar = progress("making rooms", count);
    let rooms: Vec<Uuid> = stream::iter(0..count as usize)
        .map(|room| target.room(&users[room % users.len()].token))
        .buffered(16)
        .inspect(|_| bar.inc(1))
        .try_collect()
        .await?;
    bar.finish();
    let cast = Cast {
        target,
        users,
        rooms,
    };
    cast.make_members(storm).await?;
    Ok(cast)
}

impl Cast {
    /// Everyone is a member before the storm, as after the restart of an edge: to become one is a write.
    async fn make_members(&self, storm: &Storm) -> Result<()> {
        let all = (0..storm.connections).flat_map(|number| {
            let rooms = self.rooms_of(storm, number as usize);
            rooms.map(move |room| (room, number as usize % self.users.len()))
        });
        let pairs: BTreeSet<(Uuid, usize)> = all.collect();
        let bar = progress("making members", pairs.len() as u64);
        stream::iter(pairs)
            .map(|(room, user)| async move {
                let path = format!("/v1/rooms/{room}/join");
                let token = Some(self.users[user].token.as_str());
                self.target.post(&path, token, json!({})).await
            })
            .buffer_unordered(64)
            .inspect(|_| bar.inc(1))
            .try_for_each(|_| async { Ok(()) })
            .await?;
        bar.finish();
        Ok(())
    }

    /// Neighbours meet in one room, and others in the next.
    fn rooms_of(&self, storm: &Storm, number: usize) -> impl Iterator<Item = Uuid> {
        let (connections, members) = (storm.connections as usize, storm.members as usize);
        (0..storm.join as usize).map(move |join| {
            let room = (number + join * connections) / members;
            self.rooms[room % self.rooms.len()]
        })
    }

    async fn open(&self, storm: &Storm, number: u32) -> Result<Socket> {
        if storm.bare {
            let (reader, writer) =
                wire::connect(self.target.address, &self.target.authority, "/ws", "").await?;
            return Ok(Socket {
                transport: storm.transport,
                reader,
                writer,
            });
        }
        let number = number as usize;
        let user = &self.users[number % self.users.len()];
        let mut socket = open(&self.target, &user.token, storm.transport).await?;
        for (join, room) in self.rooms_of(storm, number).enumerate() {
            let id = join as u64 + 1;
            let request = socket.request(id, "joinRoom", json!({"room": room}));
            socket.say(&request).await?;
            socket.answered(id).await?;
        }
        Ok(socket)
    }

    /// Everyone, as fast as it goes.
    async fn open_all(&self, storm: &Storm) -> (Vec<Socket>, u32, Histogram<u64>, Duration) {
        let bar = progress("connecting", storm.connections.into());
        let mut took = histogram(3);
        let started = Instant::now();
        let mut opened = stream::iter(0..storm.connections)
            .map(|number| async move {
                let started = Instant::now();
                (self.open(storm, number).await, started.elapsed())
            })
            .buffer_unordered(storm.at_once as usize);
        let (mut sockets, mut failures) = (Vec::new(), 0);
        while let Some((socket, elapsed)) = opened.next().await {
            bar.inc(1);
            match socket {
                Ok(socket) => {
                    took.saturating_record(elapsed.as_micros() as u64);
                    sockets.push(socket);
                }
                Err(error) => {
                    if failures == 0 {
                        eprintln!("the first failure: {}", error.chain());
                    }
                    failures += 1;
                }
            }
        }
        let elapsed = started.elapsed();
        bar.finish();
        (sockets, failures, took, elapsed)
    }
}

/// Opens them all and says how long it took.
///
/// # Errors
/// Where users or rooms cannot be made. A socket that fails is counted.
pub async fn connect(storm: &Storm) -> Result<Connected> {
    let cast = cast(storm).await?;
    let meter = Meter::start(&storm.pid)?;
    let (sockets, failures, took, elapsed) = cast.open_all(storm).await;
    let seconds = elapsed.as_secs_f64();
    Ok(Connected {
        connections: sockets.len() as u32,
        failed: failures,
        seconds,
        per_s: (sockets.len() as f64 / seconds).round(),
        open_ms: Latency::of(&took),
        cpu_us_per_connection: meter.per(sockets.len() as u64)?,
    })
}

/// Opens them all, lets the server rest, sends one message to every room, lets it rest again.
///
/// # Errors
/// Where a socket fails, or no `--pid` says which process is the server.
pub async fn idle(storm: &Storm) -> Result<Idle> {
    let Some((_, pid)) = storm.pid.first() else {
        return Err(crate::error::Error::field(
            "--pid",
            "which process is the server: NAME=PID",
        ));
    };
    let cast = cast(storm).await?;
    tokio::time::sleep(REST).await;
    let before_bytes = memory_bytes(*pid)?;
    let (mut sockets, failures, ..) = cast.open_all(storm).await;
    if failures > 0 {
        return Err(failed("connecting", format!("{failures} sockets failed")));
    }
    tokio::time::sleep(REST).await;
    let connected_bytes = memory_bytes(*pid)?;
    let burst_deliveries = burst(&cast, &mut sockets).await?;
    tokio::time::sleep(REST).await;
    let after_burst_bytes = memory_bytes(*pid)?;
    let each = |bytes: u64| {
        (bytes.saturating_sub(before_bytes) as f64 / f64::from(storm.connections)).round()
    };
    Ok(Idle {
        connections: storm.connections,
        rooms_each: storm.join,
        before_bytes,
        connected_bytes,
        bytes_per_connection: each(connected_bytes),
        burst_deliveries,
        after_burst_bytes,
        bytes_per_connection_after_burst: each(after_burst_bytes),
    })
}

/// One message to each room, sent by its maker over REST; every socket waits for those of its rooms.
async fn burst(cast: &Cast, sockets: &mut [Socket]) -> Result<u64> {
    const MARK: &[u8] = b"\"event\":\"newMessage\"";
    let bar = progress("burst", cast.rooms.len() as u64);
    let sent = stream::iter(cast.rooms.iter().enumerate()).map(|(i, room)| {
        let maker = &cast.users[i % cast.users.len()].token;
        let path = format!("/v1/rooms/{room}/messages");
        let body = json!({"body": "x".repeat(200)});
        async move { cast.target.post(&path, Some(maker), body).await }
    });
    let sent: Vec<_> = sent
        .buffer_unordered(32)
        .inspect(|_| bar.inc(1))
        .try_collect()
        .await?;
    bar.finish();
    // Whoever has heard one has room in its buffers again; the rest may still be under way.
    let heard = sockets.iter_mut().map(|socket| {
        let one = socket.hear(|text| memchr::memmem::find(text, MARK).map(|_| ()));
        tokio::time::timeout(super::client::DEADLINE, one)
    });
    let mut heard = stream::iter(heard).buffer_unordered(1024);
    let mut deliveries = 0;
    while let Some(one) = heard.next().await {
        one.map_err(|_| failed("the burst", "a socket heard nothing"))??;
        deliveries += 1;
    }
    debug_assert_eq!(sent.len(), cast.rooms.len());
    Ok(deliveries)
}
