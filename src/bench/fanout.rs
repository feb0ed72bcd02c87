//! What one delivery costs: many sockets in one room, a burst of messages, and the server's CPU time from /proc. The
//! sockets of this side look at the beginning of each frame only, so that they keep up on the same machine.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use futures_util::{SinkExt, StreamExt, stream::FuturesUnordered};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{Barrier, mpsc},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, Utf8Bytes, client::IntoClientRequest, protocol::WebSocketConfig},
};
use uuid::Uuid;

use crate::error::{Code, Error, Result};

/// Sockets opened at once.
const OPENING: usize = 50;
/// How long anything may take that is not the burst.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Ws,
    Socketio,
}

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
    let users = target.register(fanout.users).await?;
    let room = target.room(&users[0]).await?;

    let everyone_is_in = Arc::new(Barrier::new(fanout.sockets as usize + 1));
    let (done, mut finished) = mpsc::channel(fanout.sockets as usize);
    let mut opening = FuturesUnordered::new();
    let mut sockets = Vec::new();
    for i in 0..fanout.sockets as usize {
        if opening.len() >= OPENING {
            sockets.extend(opening.next().await.transpose()?);
        }
        let user = i % users.len();
        opening.push(open(&target, &users[user], fanout.transport, room, i));
    }
    while let Some(socket) = opening.next().await {
        sockets.push(socket?);
    }
    for socket in sockets {
        // The first socket of each user sends the user's share.
        let sender = socket.number < users.len();
        let share = match sender {
            true => share(fanout.messages, users.len(), socket.number),
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
            let result = socket.burst(burst, &barrier).await;
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

// ---- the server

struct Target {
    base: String,
    authority: String,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Target {
    fn new(url: &str) -> Result<Target> {
        let base = url.trim_end_matches('/').to_owned();
        let wrong = || Error::field("--url", "must look like http://127.0.0.1:3000");
        let authority = base.strip_prefix("http://").ok_or_else(wrong)?.to_owned();
        let address = std::net::ToSocketAddrs::to_socket_addrs(&authority)
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or_else(wrong)?;
        let http = reqwest::Client::builder()
            .timeout(DEADLINE)
            .no_proxy()
            .build()
            .map_err(Error::internal)?;
        Ok(Target {
            base,
            authority,
            address,
            http,
        })
    }

    /// The access tokens of new users.
    async fn register(&self, users: u32) -> Result<Vec<String>> {
        let mut tokens = Vec::new();
        for _ in 0..users {
            let name = format!("bench{}", Uuid::new_v4().simple());
            let body = json!({"username": &name[..20], "password": Uuid::new_v4().to_string()});
            let user = self.post("/v1/auth/register", None, body).await?;
            let token = user["accessToken"].as_str().map(str::to_owned);
            tokens.push(token.ok_or_else(|| failed("registering", "no accessToken"))?);
        }
        Ok(tokens)
    }

    async fn room(&self, owner: &str) -> Result<Uuid> {
        let body = json!({"kind": "public", "name": "fan-out"});
        let room = self.post("/v1/rooms", Some(owner), body).await?;
        let id = room["id"].as_str().and_then(|id| id.parse().ok());
        id.ok_or_else(|| failed("making a room", "no id"))
    }

    async fn post(&self, path: &str, token: Option<&str>, body: Value) -> Result<Value> {
        let mut request = self
            .http
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .body(body.to_string());
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.map_err(|e| failed(path, e))?;
        let status = answer.status();
        let text = answer.bytes().await.map_err(|e| failed(path, e))?;
        match status.is_success() {
            true => serde_json::from_slice(&text).map_err(|e| failed(path, e)),
            false => Err(failed(path, String::from_utf8_lossy(&text))),
        }
    }
}

fn failed(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Code::Conflict, format!("{what}: {why}"))
}

/// The CPU time of a process so far.
fn cpu_seconds(pid: u32) -> Result<f64> {
    /// `sysconf(_SC_CLK_TCK)`, which Linux has fixed for programs (man 7 time).
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|e| Error::field("--pid", format!("{pid} cannot be looked at: {e}")))?;
    // Fields 14 and 15; the second is the name, in parentheses, and may hold anything (man 5 proc).
    let ticks: Option<f64> = stat.rsplit_once(") ").and_then(|(_, fields)| {
        let mut fields = fields.split(' ').skip(11);
        let user: f64 = fields.next()?.parse().ok()?;
        let system: f64 = fields.next()?.parse().ok()?;
        Some(user + system)
    });
    ticks
        .map(|ticks| ticks / TICKS_PER_SECOND)
        .ok_or_else(|| failed("--pid", "an unknown format of /proc"))
}

// ---- a socket

struct Socket {
    number: usize,
    transport: Transport,
    stream: WebSocketStream<TcpStream>,
}

struct Burst {
    send: u32,
    receive: u64,
    body: String,
    room: Uuid,
}

/// Opens a socket and joins the room.
async fn open(
    target: &Target,
    token: &str,
    transport: Transport,
    room: Uuid,
    number: usize,
) -> Result<Socket> {
    let opening = async {
        let stream = TcpStream::connect(target.address)
            .await
            .map_err(|e| failed("connecting", e))?;
        let _ = stream.set_nodelay(true);
        let path = match transport {
            Transport::Ws => "/ws",
            Transport::Socketio => "/socket.io/?EIO=4&transport=websocket",
        };
        let mut request = format!("ws://{}{path}", target.authority)
            .into_client_request()
            .map_err(Error::internal)?;
        if transport == Transport::Ws {
            let value = format!("Bearer {token}").parse().map_err(Error::internal)?;
            request.headers_mut().insert("authorization", value);
        }
        let config = WebSocketConfig::default().read_buffer_size(16 * 1024);
        let (stream, _) = client_async_with_config(request, stream, Some(config))
            .await
            .map_err(|e| failed("the handshake", e))?;
        let mut socket = Socket {
            number,
            transport,
            stream,
        };
        if transport == Transport::Socketio {
            socket.say(format!("40{}", json!({"token": token}))).await?;
        }
        socket
            .say(socket.request(1, "joinRoom", json!({"room": room})))
            .await?;
        socket.answered(1).await?;
        Ok(socket)
    };
    tokio::time::timeout(DEADLINE, opening)
        .await
        .unwrap_or_else(|_| Err(failed("opening a socket", "no answer")))
}

impl Socket {
    fn request(&self, id: u32, event: &str, data: Value) -> String {
        match self.transport {
            Transport::Ws => json!({"id": id, "event": event, "data": data}).to_string(),
            Transport::Socketio => format!("42{id}{}", json!([event, data])),
        }
    }

    async fn say(&mut self, text: String) -> Result<()> {
        let sent = self.stream.send(Message::Text(text.into())).await;
        sent.map_err(|e| failed("sending", e))
    }

    async fn hear(&mut self) -> Result<Utf8Bytes> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                    self.say("3".to_owned()).await?;
                }
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Close(frame))) => {
                    return Err(failed("a socket was closed", format!("{frame:?}")));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(failed("a socket broke", error)),
                None => return Err(failed("a socket ended", "without a word")),
            }
        }
    }

    async fn answered(&mut self, id: u32) -> Result<()> {
        let (good, any) = match self.transport {
            Transport::Ws => (
                format!("{{\"ack\":{id},\"ok\":true"),
                format!("{{\"ack\":{id},"),
            ),
            Transport::Socketio => (format!("43{id}[{{\"ok\":true"), format!("43{id}[")),
        };
        loop {
            let text = self.hear().await?;
            if text.starts_with(&good) {
                return Ok(());
            }
            if text.starts_with(&any) || text.starts_with("44") {
                return Err(failed("the server refused", text));
            }
        }
    }

    /// Sends its share when everyone is ready, and waits for all the messages. Returns the length of one.
    async fn burst(mut self, burst: Burst, ready: &Barrier) -> Result<usize> {
        let (event, refusal) = match self.transport {
            Transport::Ws => ("{\"event\":\"newMessage\"", "\"ok\":false"),
            Transport::Socketio => ("42[\"newMessage\"", "[{\"ok\":false"),
        };
        let requests: Vec<String> = (0..burst.send)
            .map(|i| {
                let data =
                    json!({"room": burst.room, "body": burst.body, "clientMsgId": i.to_string()});
                self.request(i + 2, "sendMessage", data)
            })
            .collect();
        ready.wait().await;
        for request in requests {
            let fed = self.stream.feed(Message::Text(request.into())).await;
            fed.map_err(|e| failed("sending", e))?;
        }
        let flushed = self.stream.flush().await;
        flushed.map_err(|e| failed("sending", e))?;
        let (mut received, mut length) = (0, 0);
        while received < burst.receive {
            let heard = tokio::time::timeout(DEADLINE, self.hear()).await;
            let text = heard.unwrap_or_else(|_| {
                let why = format!("{received} of {} came", burst.receive);
                Err(failed("waiting for messages", why))
            })?;
            if text.starts_with(event) {
                received += 1;
                length = text.len();
            } else if text.chars().take(40).collect::<String>().contains(refusal) {
                return Err(failed("a message was refused", text));
            }
        }
        Ok(length)
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

    #[test]
    fn a_process_has_used_some_time() {
        assert!(cpu_seconds(std::process::id()).is_ok());
        assert!(cpu_seconds(0).is_err());
    }
}
