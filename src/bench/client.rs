//! The generator's side of the wire: a server's REST calls, and sockets that look at the beginning of each frame only, so
//! that they keep up with the server on the same machine.

use std::{net::SocketAddr, time::Duration};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::wire::{self, Frame, Reader, Writer};
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
    pub authority: String,
    pub address: SocketAddr,
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
#[derive(Clone)]
pub struct Registered {
    pub token: String,
    pub id: Uuid,
}

debug_of!(Registered { id });

pub fn failed(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Code::Conflict, format!("{what}: {why}"))
}

/// An authenticated socket.
pub struct Socket {
    pub transport: Transport,
    pub reader: Reader,
    pub writer: Writer,
}

/// Opens a socket and authenticates it.
pub async fn open(target: &Target, token: &str, transport: Transport) -> Result<Socket> {
    let opening = async {
        let (path, headers) = match transport {
            Transport::Ws => ("/ws", format!("Authorization: Bearer {token}\r\n")),
            Transport::Socketio => ("/socket.io/?EIO=4&transport=websocket", String::new()),
        };
        let (reader, writer) =
            wire::connect(target.address, &target.authority, path, &headers).await?;
        let mut socket = Socket {
            transport,
            reader,
            writer,
        };
        if transport == Transport::Socketio {
            socket
                .say(&format!("40{}", json!({"token": token})))
                .await?;
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

    pub async fn say(&mut self, text: &str) -> Result<()> {
        self.writer.add(text);
        let sent = self.writer.flush().await;
        sent.map_err(|e| failed("sending", e))
    }

    /// The next text for which `wanted` has a use; pings are answered, other texts passed over.
    pub async fn hear<T>(&mut self, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> Result<T> {
        loop {
            let mut pinged = false;
            while let Some(frame) = self.reader.next() {
                match frame {
                    Frame::Text(b"2") => {
                        self.writer.add("3");
                        pinged = true;
                    }
                    Frame::Ping => {
                        self.writer.add_pong();
                        pinged = true;
                    }
                    Frame::Text(text) => {
                        if let Some(found) = wanted(text) {
                            return Ok(found);
                        }
                    }
                    Frame::Close(code, reason) => {
                        let why = format!("{code} {reason}");
                        return Err(failed("a socket was closed", why));
                    }
                    Frame::Other => {}
                }
            }
            if pinged {
                let sent = self.writer.flush().await;
                sent.map_err(|e| failed("sending", e))?;
            }
            match self.reader.more().await {
                Ok(true) => {}
                Ok(false) => return Err(failed("a socket ended", "without a word")),
                Err(error) => return Err(failed("a socket broke", error)),
            }
        }
    }

    /// Waits for the answer to request `id`, and gives it back whole; what else comes is passed over.
    pub async fn answered(&mut self, id: u64) -> Result<String> {
        let (good, any) = match self.transport {
            Transport::Ws => (
                format!("{{\"ack\":{id},\"ok\":true"),
                format!("{{\"ack\":{id},"),
            ),
            Transport::Socketio => (format!("43{id}[{{\"ok\":true"), format!("43{id}[")),
        };
        let answer = self.hear(|text| {
            let good = text.starts_with(good.as_bytes());
            let bad = text.starts_with(any.as_bytes()) || text.starts_with(b"44");
            (good || bad).then(|| (good, String::from_utf8_lossy(text).into_owned()))
        });
        match answer.await? {
            (true, answer) => Ok(answer),
            (false, answer) => Err(failed("the server refused", answer)),
        }
    }
}
