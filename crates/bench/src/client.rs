//! A client of the server under test: REST calls, and authenticated sockets. Sockets look at the beginning of each frame
//! only, so that they keep up with a server on the same machine.

use std::{net::SocketAddr, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use uuid::Uuid;

use crate::{
    error::{Error, Result, failed},
    websocket::{self, Frame, Reader, Writer},
    wire::{Authentication, Identified, NewRoom, Problem, Registered, Registration, Transport},
};

/// How long any step may take that is not the load itself.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A server under test.
pub(crate) struct Target {
    base: String,
    pub authority: String,
    pub address: SocketAddr,
    http: reqwest::Client,
}

/// A user that was registered for the run.
#[derive(Clone)]
pub(crate) struct User {
    pub token: String,
    pub id: Uuid,
}

impl Target {
    pub fn new(url: &str) -> Result<Target> {
        let base = url.trim_end_matches('/').to_owned();
        let wrong = || Error::argument("--url", "must look like http://127.0.0.1:3000");
        let authority = base.strip_prefix("http://").ok_or_else(wrong)?.to_owned();
        let address = std::net::ToSocketAddrs::to_socket_addrs(&authority)
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or_else(wrong)?;
        let http = reqwest::Client::builder()
            .timeout(DEADLINE)
            .no_proxy()
            .build()
            .map_err(|e| failed("the HTTP client", e))?;
        Ok(Target {
            base,
            authority,
            address,
            http,
        })
    }

    /// Registers a new user. Where the server limits registrations, waits as long as it asks.
    pub async fn register(&self) -> Result<User> {
        let name = format!("bench{}", Uuid::new_v4().simple());
        let registration = Registration {
            username: &name[..20],
            password: &Uuid::new_v4().to_string(),
        };
        loop {
            let answer = self.post("/v1/auth/register", None, &registration);
            match answer.await {
                Err(Error::Refused {
                    retry_after: Some(wait),
                    ..
                }) => tokio::time::sleep(wait).await,
                Err(error) => return Err(error),
                Ok(Registered { access_token, user }) => {
                    return Ok(User {
                        token: access_token,
                        id: user.id,
                    });
                }
            }
        }
    }

    /// Creates a public room.
    pub async fn create_room(&self, owner: &str) -> Result<Uuid> {
        let room = NewRoom {
            kind: "public",
            name: "bench",
        };
        let room: Identified = self.post("/v1/rooms", Some(owner), &room).await?;
        Ok(room.id)
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        token: Option<&str>,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|e| failed(path, e))?;
        let mut request = self
            .http
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.map_err(|e| failed(path, e))?;
        let status = answer.status();
        let text = answer.bytes().await.map_err(|e| failed(path, e))?;
        if status.is_success() {
            return serde_json::from_slice(&text).map_err(|e| failed(path, e));
        }
        let problem: Problem = serde_json::from_slice(&text).unwrap_or_default();
        Err(Error::Refused {
            request: path.to_owned(),
            answer: String::from_utf8_lossy(&text).into_owned(),
            retry_after: problem.retry_after_ms.map(Duration::from_millis),
        })
    }
}

/// A connected socket.
pub(crate) struct Socket {
    pub transport: Transport,
    pub reader: Reader,
    pub writer: Writer,
}

impl Socket {
    /// Connects and authenticates.
    pub async fn open(target: &Target, token: &str, transport: Transport) -> Result<Socket> {
        let opening = async {
            let (path, headers) = match transport {
                Transport::Ws => ("/ws", format!("Authorization: Bearer {token}\r\n")),
                Transport::Socketio => ("/socket.io/?EIO=4&transport=websocket", String::new()),
            };
            let mut socket = Socket::connect(target, path, &headers, transport).await?;
            if transport == Transport::Socketio {
                let packet = format!("40{}", json!(Authentication { token }));
                socket.send(&packet).await?;
            }
            Ok(socket)
        };
        tokio::time::timeout(DEADLINE, opening)
            .await
            .unwrap_or_else(|_| Err(failed("opening a socket", "no answer")))
    }

    /// Connects without credentials: for the baseline server, which has no users.
    pub async fn open_plain(target: &Target, transport: Transport) -> Result<Socket> {
        Socket::connect(target, "/ws", "", transport).await
    }

    async fn connect(
        target: &Target,
        path: &str,
        headers: &str,
        transport: Transport,
    ) -> Result<Socket> {
        let (reader, writer) =
            websocket::connect(target.address, &target.authority, path, headers).await?;
        Ok(Socket {
            transport,
            reader,
            writer,
        })
    }

    pub async fn send(&mut self, text: &str) -> Result<()> {
        self.writer.add(text);
        let sent = self.writer.flush().await;
        sent.map_err(|e| failed("sending", e))
    }

    /// Sends a request and waits for its positive answer, which it returns whole. Other frames are dropped.
    pub async fn request(&mut self, id: u64, event: &str, data: &impl Serialize) -> Result<String> {
        let request = self.transport.request(id, event, data);
        self.send(&request).await?;
        let (positive, any) = self.transport.answer_prefixes(id);
        let answer = self.receive(|text| {
            let is_positive = text.starts_with(positive.as_bytes());
            // `44`: Socket.IO refuses the connection.
            let is_negative = text.starts_with(any.as_bytes()) || text.starts_with(b"44");
            (is_positive || is_negative)
                .then(|| (is_positive, String::from_utf8_lossy(text).into_owned()))
        });
        match answer.await? {
            (true, answer) => Ok(answer),
            (false, answer) => Err(failed("the server refused", answer)),
        }
    }

    /// The result of `select` for the first text where it has one. Pings are answered, other texts are dropped.
    pub async fn receive<T>(&mut self, mut select: impl FnMut(&[u8]) -> Option<T>) -> Result<T> {
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
                        if let Some(selected) = select(text) {
                            return Ok(selected);
                        }
                    }
                    Frame::Close(code, reason) => return Err(closed(code, reason)),
                    Frame::Other => {}
                }
            }
            if pinged {
                let sent = self.writer.flush().await;
                sent.map_err(|e| failed("sending", e))?;
            }
            read_more(&mut self.reader).await?;
        }
    }
}

/// Reads once; the end of the stream is an error. Cancel-safe.
pub(crate) async fn read_more(reader: &mut Reader) -> Result<()> {
    match reader.more().await {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed("a socket ended", "without a close frame")),
        Err(error) => Err(failed("a socket broke", error)),
    }
}

/// The error for a close frame.
pub(crate) fn closed(code: u16, reason: &str) -> Error {
    failed("a socket was closed", format!("{code} {reason}"))
}
