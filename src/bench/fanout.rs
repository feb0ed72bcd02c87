//! What one delivery costs: many sockets in one room, a burst of messages, and the server's CPU time from /proc. The
//! sockets of this side look at the beginning of each frame only, so that they keep up on the same machine.

use std::{sync::Arc, time::Instant};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use memchr::memmem;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Barrier, mpsc};
use uuid::Uuid;

use super::client::{DEADLINE, Socket, Target, Transport, cpu_seconds, failed, open};
use crate::error::Result;

/// Sockets opened at once.
const OPENING: usize = 50;
#[derive(Debug, Args)]
pub struct Fanout {
    /// The server, as it prints its address.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub url: String,
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    /// Sockets in the room.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub sockets: u32,
    /// Users they belong to, in turns; all of them send. Registering takes the server's time for a password.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// Messages in the burst; each user may send `limits.burst` at once.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub messages: u32,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub body: u32,
    /// The server's process, on this machine, for its CPU time.
    #[arg(long)]
    pub pid: Option<u32>,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub transport: Transport,
    pub sockets: u32,
    pub messages: u32,
    pub body_bytes: u32,
    /// Of one delivery, as it came.
    pub frame_bytes: usize,
    pub deliveries: u64,
    pub seconds: f64,
    pub deliveries_per_s: f64,
    /// User and system time of the server's process, everything it did for the burst included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_us_per_delivery: Option<f64>,
}

/// Runs one burst.
///
/// # Errors
/// Where the server refuses anything, or a delivery does not come.
pub async fn run(fanout: &Fanout) -> Result<Report> {
    let target = Target::new(&fanout.url)?;
    let mut users = Vec::new();
    for _ in 0..fanout.users {
        users.push(target.register().await?.token);
    }
    let room = target.room(&users[0]).await?;

    let everyone_is_in = Arc::new(Barrier::new(fanout.sockets as usize + 1));
    let (done, mut finished) = mpsc::channel(fanout.sockets as usize);
    let (target, users) = (&target, &users);
    let sockets: Vec<Socket> = stream::iter(0..fanout.sockets as usize)
        .map(|i| async move {
            let mut socket = open(target, &users[i % users.len()], fanout.transport).await?;
            let join = socket.request(1, "joinRoom", json!({"room": room}));
            socket.say(&join).await?;
            socket.answered(1).await?;
            Ok::<_, crate::error::Error>(socket)
        })
        .buffered(OPENING)
        .try_collect()
        .await?;
    for (number, socket) in sockets.into_iter().enumerate() {
        // The first socket of each user sends the user's share.
        let share = match number < users.len() {
            true => share(fanout.messages, users.len(), number),
            false => 0,
        };
        let burst = Burst {
            send: share,
            receive: u64::from(fanout.messages),
            body: "x".repeat(fanout.body as usize),
            room,
        };
        let (barrier, done) = (everyone_is_in.clone(), done.clone());
        tokio::spawn(async move {
            let result = run_burst(socket, burst, &barrier).await;
            let _ = done.send(result).await;
        });
    }
    drop(done);

    let cpu = fanout.pid.map(cpu_seconds).transpose()?;
    everyone_is_in.wait().await;
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
        messages: fanout.messages,
        body_bytes: fanout.body,
        frame_bytes,
        deliveries,
        seconds: rounded(seconds),
        deliveries_per_s: (deliveries as f64 / seconds).round(),
        server_cpu_us_per_delivery: spent.map(|spent| rounded(spent * 1e6 / deliveries as f64)),
    })
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// How many of `messages` the sender with this number sends.
fn share(messages: u32, senders: usize, number: usize) -> u32 {
    let (senders, number) = (senders as u32, number as u32);
    messages / senders + u32::from(number < messages % senders)
}

struct Burst {
    send: u32,
    receive: u64,
    body: String,
    room: Uuid,
}

/// Sends its share when everyone is ready, and waits for all the messages. Returns the length of one.
async fn run_burst(mut socket: Socket, burst: Burst, ready: &Barrier) -> Result<usize> {
    let (event, refusal) = match socket.transport {
        Transport::Ws => (&b"{\"event\":\"newMessage\""[..], &b"\"ok\":false"[..]),
        Transport::Socketio => (&b"42[\"newMessage\""[..], &b"[{\"ok\":false"[..]),
    };
    let requests: Vec<String> = (0..burst.send)
        .map(|i| {
            let data =
                json!({"room": burst.room, "body": burst.body, "clientMsgId": i.to_string()});
            socket.request(u64::from(i) + 2, "sendMessage", data)
        })
        .collect();
    ready.wait().await;
    requests
        .iter()
        .for_each(|request| socket.writer.add(request));
    let flushed = socket.writer.flush().await;
    flushed.map_err(|e| failed("sending", e))?;
    let (mut received, mut length) = (0, 0);
    let all = socket.hear(|text| {
        if text.starts_with(event) {
            received += 1;
            length = text.len();
        } else if memmem::find(&text[..text.len().min(40)], refusal).is_some() {
            return Some(Err(failed(
                "a message was refused",
                String::from_utf8_lossy(text),
            )));
        }
        (received == burst.receive).then_some(Ok(()))
    });
    match tokio::time::timeout(DEADLINE, all).await {
        Ok(heard) => heard??,
        Err(_) => {
            let why = format!("{received} of {} came", burst.receive);
            return Err(failed("waiting for messages", why));
        }
    }
    Ok(length)
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
