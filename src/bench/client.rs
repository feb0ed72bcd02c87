//! The generator's side of the wire: a server's REST calls, and sockets that look at the beginning of each frame only, so
//! that they keep up with the server on the same machine.

use std::{net::SocketAddr, time::Duration};

use clap::ValueEnum;
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, Utf8Bytes, client::IntoClientRequest, protocol::WebSocketConfig},
};
use uuid::Uuid;

use crate::error::{Code, Error, Result};

/// How long anything may take that is not the load itself.
pub const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Ws,
    Socketio,
}

/// A server under test.
pub struct Target {
    base: String,
    authority: String,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Target {
    pub fn new(url: &str) -> Result<Target> {
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

    /// A new user. Waits as long as the server asks where it registers only so many a minute.
    pub async fn register(&self) -> Result<Registered> {
        let name = format!("bench{}", Uuid::new_v4().simple());
        let body = json!({"username": &name[..20], "password": Uuid::new_v4().to_string()});
        let answer = loop {
            match self.post("/v1/auth/register", None, body.clone()).await {
                Err(error) if let Some(wait) = error.retry_after => tokio::time::sleep(wait).await,
                other => break other?,
            }
        };
        let registered = || {
            Some(Registered {
                token: answer["accessToken"].as_str()?.to_owned(),
                id: answer["user"]["id"].as_str()?.parse().ok()?,
            })
        };
        registered().ok_or_else(|| failed("registering", "no accessToken"))
    }

    /// A new public room.
    pub async fn room(&self, owner: &str) -> Result<Uuid> {
        let body = json!({"kind": "public", "name": "bench"});
        let room = self.post("/v1/rooms", Some(owner), body).await?;
        let id = room["id"].as_str().and_then(|id| id.parse().ok());
        id.ok_or_else(|| failed("making a room", "no id"))
    }

    pub async fn post(&self, path: &str, token: Option<&str>, body: Value) -> Result<Value> {
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
        if status.is_success() {
            return serde_json::from_slice(&text).map_err(|e| failed(path, e));
        }
        let problem: Value = serde_json::from_slice(&text).unwrap_or_default();
        Err(Error {
            retry_after: problem["retryAfterMs"].as_u64().map(Duration::from_millis),
            ..failed(path, String::from_utf8_lossy(&text))
        })
    }
}

/// A user made for the run.
#[derive(Debug, Clone)]
pub struct Registered {
    pub token: String,
    pub id: Uuid,
}

pub fn failed(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Code::Conflict, format!("{what}: {why}"))
}

/// The CPU time of a process so far.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
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

/// An authenticated socket.
pub struct Socket {
    pub transport: Transport,
    pub stream: WebSocketStream<TcpStream>,
}

/// Opens a socket and authenticates it.
pub async fn open(target: &Target, token: &str, transport: Transport) -> Result<Socket> {
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
        let mut socket = Socket { transport, stream };
        if transport == Transport::Socketio {
            socket.say(format!("40{}", json!({"token": token}))).await?;
        }
        Ok(socket)
    };
    tokio::time::timeout(DEADLINE, opening)
        .await
        .unwrap_or_else(|_| Err(failed("opening a socket", "no answer")))
}

impl Socket {
    pub fn request(&self, id: u64, event: &str, data: Value) -> String {
        match self.transport {
            Transport::Ws => json!({"id": id, "event": event, "data": data}).to_string(),
            Transport::Socketio => format!("42{id}{}", json!([event, data])),
        }
    }

    pub async fn say(&mut self, text: String) -> Result<()> {
        let sent = self.stream.send(Message::Text(text.into())).await;
        sent.map_err(|e| failed("sending", e))
    }

    pub async fn hear(&mut self) -> Result<Utf8Bytes> {
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

    /// Waits for the answer to request `id`, and gives it back whole; what else comes is passed over.
    pub async fn answered(&mut self, id: u64) -> Result<Utf8Bytes> {
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
                return Ok(text);
            }
            if text.starts_with(&any) || text.starts_with("44") {
                return Err(failed("the server refused", text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_some_time() {
        assert!(cpu_seconds(std::process::id()).is_ok());
        assert!(cpu_seconds(0).is_err());
    }
}
