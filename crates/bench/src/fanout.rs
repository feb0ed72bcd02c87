//! The cost of one delivery: many sockets in one room, a burst of messages, and the CPU time of the server's process.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use memchr::memmem;
use serde::Serialize;
use tokio::sync::{Barrier, mpsc};
use uuid::Uuid;

use crate::{
    arguments::duration,
    client::{DEADLINE, Socket, Target, closed, read_more},
    error::{Result, failed},
    process::cpu_seconds,
    websocket::{Frame, Reader},
    wire::{JoinRoom, SendMessage, Transport},
};

/// Sockets opened at the same time.
const AT_ONCE: usize = 50;

#[derive(Debug, Args)]
pub struct Fanout {
    /// The server, as it prints its address.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub url: String,
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    /// Sockets in all rooms together.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub sockets: u32,
    /// Rooms: socket number n is in room n % rooms.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Users that own them, round-robin; all of them send. Each registration costs the server a password hash.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// Messages to each room; each user may send `limits.burst` at once.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub messages: u32,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub body: u32,
    /// Spreads the messages over this time instead of one burst.
    #[arg(long, value_parser = duration)]
    pub over: Option<Duration>,
    /// Against `chat bench baseline serve`: the port of its plain sockets, and no users.
    #[arg(long, alias = "bare")]
    pub baseline: bool,
    /// The server's process on this machine, whose CPU time is measured.
    #[arg(long)]
    pub pid: Option<u32>,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub transport: Transport,
    pub sockets: u32,
    pub rooms: u32,
    pub messages: u32,
    pub body_bytes: u32,
    /// The length of one delivery's frame.
    pub frame_bytes: usize,
    pub deliveries: u64,
    pub seconds: f64,
    pub deliveries_per_s: f64,
    /// User and system time of the server's process for everything that it did during the burst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_us_per_delivery: Option<f64>,
}

/// Sends one burst, or spreads the messages over `--over`.
///
/// # Errors
/// A request that the server refuses, or a delivery that does not arrive.
pub async fn run(fanout: &Fanout) -> Result<Report> {
    let target = &Target::new(&fanout.url)?;
    let (mut users, mut rooms) = (Vec::new(), Vec::new());
    if !fanout.baseline {
        for _ in 0..fanout.users {
            users.push(target.register().await?.token);
        }
        let made = stream::iter(0..fanout.rooms as usize)
            .map(|room| target.create_room(&users[room % users.len()]))
            .buffered(AT_ONCE);
        rooms = made.try_collect().await?;
    }
    let (users, rooms) = (&users, &rooms);

    let all_joined = Arc::new(Barrier::new(fanout.sockets as usize + 1));
    let (done, mut finished) = mpsc::channel(fanout.sockets as usize);
    let sockets: Vec<(Socket, Uuid)> = stream::iter(0..fanout.sockets as usize)
        .map(|number| join(fanout, target, users, rooms, number))
        .buffered(if fanout.baseline { 1 } else { AT_ONCE })
        .try_collect()
        .await?;
    for (number, (socket, room)) in sockets.into_iter().enumerate() {
        let burst = Burst {
            send: fanout.share(number),
            receive: u64::from(fanout.messages),
            over: fanout.over.unwrap_or_default(),
            body: "x".repeat(fanout.body as usize),
            room,
        };
        let (barrier, done) = (all_joined.clone(), done.clone());
        tokio::spawn(async move {
            let result = run_burst(socket, burst, &barrier).await;
            let _ = done.send(result).await;
        });
    }
    drop(done);

    let cpu = fanout.pid.map(cpu_seconds).transpose()?;
    all_joined.wait().await;
    let started = Instant::now();
    let mut frame_bytes = 0;
    while let Some(result) = finished.recv().await {
        frame_bytes = result?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let deliveries = u64::from(fanout.sockets) * u64::from(fanout.messages);
    let spent = match (fanout.pid, cpu) {
        (Some(pid), Some(before)) => Some(cpu_seconds(pid)? - before),
        _ => None,
    };
    Ok(Report {
        transport: fanout.transport,
        sockets: fanout.sockets,
        rooms: fanout.rooms,
        messages: fanout.messages,
        body_bytes: fanout.body,
        frame_bytes,
        deliveries,
        seconds: rounded(seconds),
        deliveries_per_s: (deliveries as f64 / seconds).round(),
        server_cpu_us_per_delivery: spent.map(|spent| rounded(spent * 1e6 / deliveries as f64)),
    })
}

impl Fanout {
    /// How many messages the socket with this number sends: the first sockets of a room share them, so that each user
    /// sends some.
    fn share(&self, number: usize) -> u32 {
        let index = number as u32 / self.rooms;
        let in_room = (self.sockets / self.rooms).max(1);
        let senders = if self.baseline {
            1
        } else {
            self.users.min(in_room)
        };
        if index < senders {
            share(self.messages, senders, index)
        } else {
            0
        }
    }
}

/// Opens socket `number` and joins its room.
async fn join(
    fanout: &Fanout,
    target: &Target,
    users: &[String],
    rooms: &[Uuid],
    number: usize,
) -> Result<(Socket, Uuid)> {
    if fanout.baseline {
        let socket = Socket::open_plain(target, fanout.transport).await?;
        return Ok((socket, Uuid::nil()));
    }
    let user = &users[number / rooms.len() % users.len()];
    let room = rooms[number % rooms.len()];
    let mut socket = Socket::open(target, user, fanout.transport).await?;
    socket.request(1, "joinRoom", &JoinRoom { room }).await?;
    Ok((socket, room))
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// How many of `messages` the sender with this number sends.
fn share(messages: u32, senders: u32, number: u32) -> u32 {
    messages / senders + u32::from(number < messages % senders)
}

struct Burst {
    send: u32,
    receive: u64,
    over: Duration,
    body: String,
    room: Uuid,
}

/// Sends a socket's share once all sockets are ready, and waits for all messages of the room. Returns the length of one.
async fn run_burst(socket: Socket, burst: Burst, ready: &Barrier) -> Result<usize> {
    let requests: Vec<String> = (0..burst.send)
        .map(|i| {
            let data = SendMessage {
                room: burst.room,
                body: &burst.body,
                client_msg_id: &i.to_string(),
            };
            let id = u64::from(i) + 2;
            socket.transport.request(id, "sendMessage", &data)
        })
        .collect();
    let Socket {
        transport,
        reader,
        mut writer,
    } = socket;
    ready.wait().await;
    let started = Instant::now();
    let sending = async {
        for (i, request) in requests.iter().enumerate() {
            writer.add(request);
            if !burst.over.is_zero() {
                let due = burst.over.mul_f64(i as f64 / f64::from(burst.send));
                tokio::time::sleep_until((started + due).into()).await;
                writer.flush().await.map_err(|e| failed("sending", e))?;
            }
        }
        writer.flush().await.map_err(|e| failed("sending", e))
    };
    let receiving = tokio::time::timeout(
        DEADLINE + burst.over,
        receive(reader, transport, burst.receive),
    );
    let (sent, received) = tokio::join!(sending, receiving);
    sent?;
    received.unwrap_or_else(|_| Err(failed("waiting for messages", "not all of them arrived")))
}

/// Waits for so many messages. Returns the length of the last one.
async fn receive(mut reader: Reader, transport: Transport, messages: u64) -> Result<usize> {
    const REFUSAL: &[u8] = b"\"ok\":false";
    let event = transport.new_message_prefix();
    let (mut received, mut length) = (0, 0);
    loop {
        while let Some(frame) = reader.next() {
            match frame {
                Frame::Text(text) if text.starts_with(event) => {
                    received += 1;
                    length = text.len();
                }
                Frame::Text(text)
                    if memmem::find(&text[..text.len().min(40)], REFUSAL).is_some() =>
                {
                    let why = String::from_utf8_lossy(text);
                    return Err(failed("a message was refused", why));
                }
                Frame::Close(code, reason) => return Err(closed(code, reason)),
                _ => {}
            }
        }
        if received >= messages {
            return Ok(length);
        }
        read_more(&mut reader).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!((0..3).map(|i| share(10, 3, i)).sum::<u32>(), 10);
        assert_eq!(share(2, 3, 2), 0);
    }
}
