//! Low-level Engine.IO and Socket.IO clients: plain HTTP requests and plain WebSockets that send exactly what the test
//! writes.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest},
};

use super::{Chat, DEADLINE, Kind, User, deployment::Plan, eventually};

pub const POLLING: &str = "/socket.io/?EIO=4&transport=polling";
pub const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";

pub struct EngineResponse {
    pub status: u16,
    pub text: String,
    pub headers: HeaderMap,
}

pub async fn ask(
    chat: &Chat,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> EngineResponse {
    let url = format!("{}{path}", chat.edge(0).url());
    let mut request = chat.http.request(method, url).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("an answer");
    EngineResponse {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        text: answer.text().await.expect("a text"),
    }
}

impl EngineResponse {
    #[track_caller]
    pub fn refused(&self, code: u64, message: &str) {
        assert_eq!(self.status, 400, "{}", self.text);
        let body: Value = serde_json::from_str(&self.text).expect("JSON");
        assert_eq!(body, json!({"code": code, "message": message}));
    }
}

/// A polling session.
pub struct Polling<'a> {
    chat: &'a Chat,
    pub path: String,
    pub open: Value,
}

impl<'a> Polling<'a> {
    pub async fn open(chat: &'a Chat) -> Self {
        let answer = ask(chat, Method::GET, POLLING, &[], "").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let open: Value =
            serde_json::from_str(answer.text.strip_prefix('0').expect("an open packet"))
                .expect("JSON");
        let sid = open["sid"].as_str().expect("a session id");
        Polling {
            chat,
            path: format!("{POLLING}&sid={sid}"),
            open,
        }
    }

    pub async fn connected(chat: &'a Chat, user: &User) -> Self {
        let polling = Polling::open(chat).await;
        polling
            .say(&format!("40{}", json!({"token": user.access})))
            .await;
        polling.until("42[\"connected\"").await;
        polling
    }

    /// Opens a WebSocket for the same session, the first step of an upgrade; returns the status if it is refused.
    pub async fn websocket(&self) -> Result<Raw, u16> {
        let path = self.path.replacen(POLLING, WEBSOCKET, 1);
        Raw::dial(self.chat, &path, &[], None).await
    }

    pub async fn get(&self) -> EngineResponse {
        ask(self.chat, Method::GET, &self.path, &[], "").await
    }

    pub async fn post(&self, body: &str) -> EngineResponse {
        ask(self.chat, Method::POST, &self.path, &[], body).await
    }

    /// Sends the head of a post with this header, and the beginning of its body.
    pub async fn begin_post(&self, header: &str, body: &str) -> TcpStream {
        let authority = self
            .chat
            .edge(0)
            .url()
            .strip_prefix("http://")
            .expect("http");
        let mut stream = TcpStream::connect(authority).await.expect("the edge");
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {authority}\r\n{header}\r\n\r\n{body}",
            self.path
        );
        stream
            .write_all(head.as_bytes())
            .await
            .expect("an open connection");
        stream
    }

    pub async fn say(&self, body: &str) {
        let answer = self.post(body).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "ok"));
    }

    /// Polls until a packet with this prefix arrives; returns it.
    pub async fn until(&self, start: &str) -> String {
        loop {
            let answer = self.get().await;
            assert_eq!(answer.status, 200, "waiting for {start}: {}", answer.text);
            if let Some(packet) = answer
                .text
                .split('\x1e')
                .find(|packet| packet.starts_with(start))
            {
                return packet.to_owned();
            }
        }
    }

    /// Polls until the session ends, which must happen at once.
    pub async fn assert_ended(&self, what: &str) {
        let ending = async {
            loop {
                let answer = self.get().await;
                if answer.status == 400 {
                    return answer.refused(1, "Session ID unknown");
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(5), ending).await;
        assert!(ended.is_ok(), "{what} did not end the session");
    }
}

/// A WebSocket that sends exactly what the test writes.
pub struct Raw(pub WebSocketStream<TcpStream>);

impl Raw {
    pub async fn dial(
        chat: &Chat,
        path: &str,
        headers: &[(&str, &str)],
        buffer: Option<u32>,
    ) -> Result<Raw, u16> {
        Raw::dial_at(chat.edge(0).url(), path, headers, buffer).await
    }

    /// As [`Raw::dial`], with an edge's URL.
    pub async fn dial_at(
        http: &str,
        path: &str,
        headers: &[(&str, &str)],
        buffer: Option<u32>,
    ) -> Result<Raw, u16> {
        let url = format!("{}{path}", http.replacen("http", "ws", 1));
        let mut request = url.into_client_request().expect("a WebSocket URL");
        for (name, value) in headers {
            let name: reqwest::header::HeaderName = name.parse().expect("a header");
            request
                .headers_mut()
                .insert(name, value.parse().expect("a header"));
        }
        let address = request.uri().authority().expect("an address").to_string();
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes).expect("a buffer size");
        }
        let stream = socket
            .connect(address.parse().expect("an address"))
            .await
            .expect("the edge");
        match client_async(request, stream).await {
            Ok((stream, _)) => Ok(Raw(stream)),
            Err(WsError::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn open(chat: &Chat) -> (Raw, Value) {
        let mut raw = Raw::dial(chat, WEBSOCKET, &[], None)
            .await
            .expect("a WebSocket");
        let open = raw.receive().await.expect("an open packet");
        let open =
            serde_json::from_str(open.strip_prefix('0').expect("an open packet")).expect("JSON");
        (raw, open)
    }

    pub async fn connected(chat: &Chat, user: &User) -> Raw {
        let (mut raw, _) = Raw::open(chat).await;
        raw.say(&format!("40{}", json!({"token": user.access})))
            .await;
        raw.until("40{").await;
        raw.until("42[\"connected\"").await;
        raw
    }

    pub async fn say(&mut self, text: &str) {
        let _ = self.0.send(Message::text(text)).await;
    }

    /// The next text frame, or the close code.
    pub async fn receive(&mut self) -> Result<String, u16> {
        let next = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                    Some(Ok(Message::Close(frame))) => {
                        return Err(frame.map_or(1005, |frame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(1006),
                }
            }
        };
        tokio::time::timeout(DEADLINE, next)
            .await
            .expect("a frame or the close")
    }

    pub async fn until(&mut self, start: &str) -> String {
        loop {
            match self.receive().await {
                Ok(text) if text.starts_with(start) => return text,
                Ok(_) => {}
                Err(code) => panic!("closed with {code} before {start}"),
            }
        }
    }

    pub async fn closed(&mut self) -> u16 {
        loop {
            if let Err(code) = self.receive().await {
                return code;
            }
        }
    }
}

pub fn plan() -> Plan {
    Chat::plan(Kind::Standalone)
}

/// Waits until no session is open.
pub async fn until_no_session_is_open(chat: &Chat) {
    eventually("every session to be gone", || async {
        (open_sockets(chat).await == 0).then_some(())
    })
    .await;
}

/// The number of open sessions according to the metrics.
pub async fn open_sockets(chat: &Chat) -> u64 {
    let metrics = chat.rest(0).get("/metrics").await.text;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("chat_sockets_open{transport=\"socketio\"} "));
    line.and_then(|number| number.parse().ok())
        .expect("the metric is there")
}
