//! A WebSocket client for `/ws` that records everything it receives, in order of arrival, and waits for conditions. Its
//! reading task can be paused, which makes a slow reader.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error as WsError, Message, Utf8Bytes,
        client::IntoClientRequest,
        http::HeaderValue,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};
use uuid::Uuid;

use super::DEADLINE;

/// The parameters of a connection that is not made yet.
pub struct Dial {
    url: String,
    headers: Vec<(&'static str, String)>,
    /// Sent as the first frame.
    first_frame: Option<Value>,
    receive_buffer: Option<u32>,
}

/// Why the connection failed.
#[derive(Debug)]
pub enum Failed {
    Refused(Refused),
    /// Nothing listens there, or the connection broke during the handshake.
    Unreachable(String),
}

/// The handshake was refused.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub content_type: String,
    pub body: Value,
}

impl Dial {
    /// `http` is an edge's URL.
    pub fn new(http: &str) -> Self {
        Dial {
            url: format!("{}/ws", http.replacen("http", "ws", 1)),
            headers: Vec::new(),
            first_frame: None,
            receive_buffer: None,
        }
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub fn ticket(self, ticket: &str) -> Self {
        self.query("ticket", ticket)
    }

    /// Sends the token in a first `auth` frame with the id 1.
    pub fn first_frame(mut self, token: &str) -> Self {
        self.first_frame = Some(json!({"token": token}));
        self
    }

    pub fn query(mut self, key: &str, value: &str) -> Self {
        self.url = format!("{}?{key}={value}", self.url);
        self
    }

    pub fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The size of the receive buffer in bytes; small values make a slow reader sooner.
    pub fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// # Panics
    /// If the edge cannot be reached.
    pub async fn connect(self) -> Result<Socket, Refused> {
        match self.attempt().await {
            Ok(socket) => Ok(socket),
            Err(Failed::Refused(refused)) => Err(refused),
            Err(Failed::Unreachable(why)) => panic!("{why}"),
        }
    }

    /// As [`Dial::connect`], for an edge that may be down.
    pub async fn attempt(self) -> Result<Socket, Failed> {
        let mut request = self
            .url
            .as_str()
            .into_client_request()
            .expect("a WebSocket URL");
        for (name, value) in self.headers {
            let value = HeaderValue::from_str(&value).expect("a header");
            request.headers_mut().insert(name, value);
        }
        let address = request.uri().authority().expect("an address").to_string();
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes).expect("a buffer size");
        }
        let connecting = socket.connect(address.parse().expect("an IP address and a port"));
        let unreachable = |why: String| Failed::Unreachable(format!("{address}: {why}"));
        let stream = connecting
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let stream = match tokio::time::timeout(DEADLINE, client_async(request, stream)).await {
            Ok(Ok((stream, _))) => stream,
            Ok(Err(WsError::Http(answer))) => {
                let content_type = answer.headers().get("content-type");
                return Err(Failed::Refused(Refused {
                    status: answer.status().as_u16(),
                    content_type: content_type
                        .map_or("", |v| v.to_str().unwrap_or(""))
                        .to_owned(),
                    body: serde_json::from_slice(answer.body().as_deref().unwrap_or_default())
                        .unwrap_or_default(),
                }));
            }
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable("no answer to the handshake".to_owned())),
        };
        let socket = Socket::new(stream);
        if let Some(data) = self.first_frame {
            // A refusal is visible in the close code.
            let _ = socket.call("auth", data).await;
        }
        Ok(socket)
    }
}

/// An event from the server.
#[derive(Debug, Clone)]
pub struct Event {
    pub name: String,
    /// The whole frame.
    pub text: Utf8Bytes,
}

impl Event {
    /// The event's data.
    #[track_caller]
    pub fn data(&self) -> Value {
        self.read()
    }

    /// The event's data as `T`.
    #[track_caller]
    pub fn read<T: DeserializeOwned>(&self) -> T {
        #[derive(Deserialize)]
        struct OnlyData<T> {
            data: T,
        }
        serde_json::from_str::<OnlyData<T>>(&self.text)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text))
            .data
    }
}

/// An error in an ack.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireError {
    pub code: String,
    pub message: String,
    pub retry_after_ms: Option<u64>,
    #[serde(default)]
    pub errors: Vec<Value>,
    pub id: Option<Uuid>,
}

impl WireError {
    /// The code of an ack that never came because the socket ended.
    pub const CLOSED: &'static str = "closed";

    /// The first field that the error names.
    pub fn field(&self) -> &str {
        self.errors
            .first()
            .and_then(|error| error["field"].as_str())
            .unwrap_or("")
    }
}

pub type Ack = Result<Value, WireError>;

/// How a socket ended. Without a close frame the code is 1006, as in a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

/// Everything received so far.
#[derive(Default)]
pub struct Received {
    /// In order of arrival.
    pub events: Vec<Event>,
    pub acks: HashMap<u64, Ack>,
    /// Errors without a request id.
    pub unasked: Vec<WireError>,
    pub closed: Option<Closed>,
}

/// The state shared by the reading task and the test.
struct Inbox {
    received: Mutex<Received>,
    changed: watch::Sender<()>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Stream = WebSocketStream<TcpStream>;

pub struct Socket {
    writer: tokio::sync::Mutex<SplitSink<Stream, Message>>,
    inbox: Arc<Inbox>,
    reading: watch::Sender<bool>,
    reader: JoinHandle<()>,
    next: AtomicU64,
    /// The index of the first event that [`Socket::event`] has not returned.
    cursor: usize,
}

/// A request whose ack has not been taken.
#[must_use]
pub struct Pending {
    id: u64,
    inbox: Arc<Inbox>,
}

impl Socket {
    fn new(stream: Stream) -> Self {
        let (writer, reader) = stream.split();
        let inbox = Arc::new(Inbox {
            received: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let reading = watch::Sender::new(true);
        Socket {
            writer: writer.into(),
            reader: tokio::spawn(read(reader, inbox.clone(), reading.subscribe())),
            inbox,
            reading,
            next: AtomicU64::new(1),
            cursor: 0,
        }
    }

    // ---- sending

    /// Sends an event and waits for its ack.
    pub async fn call(&self, event: &str, data: Value) -> Ack {
        self.send(event, data).await.ack().await
    }

    /// Sends an event; the ack can be awaited later, so that many requests are in flight at once.
    pub async fn send(&self, event: &str, data: Value) -> Pending {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.raw(&json!({"id": id, "event": event, "data": data}).to_string())
            .await;
        Pending {
            id,
            inbox: self.inbox.clone(),
        }
    }

    /// Sends any text as one frame.
    pub async fn raw(&self, text: &str) {
        self.message(Message::text(text)).await;
    }

    /// Sends bytes as a text frame, valid UTF-8 or not.
    pub async fn raw_bytes(&self, bytes: Vec<u8>) {
        let frame = Frame::message(bytes, OpCode::Data(Data::Text), true);
        self.message(Message::Frame(frame)).await;
    }

    /// Sends any frame. If the socket has ended, [`Socket::closed`] returns.
    pub async fn message(&self, message: Message) {
        let _ = self.writer.lock().await.send(message).await;
    }

    pub async fn join(&self, room: Uuid, after: Option<i64>) -> Ack {
        let mut data = json!({"room": room});
        if let Some(after) = after {
            data["afterSeq"] = after.into();
        }
        self.call("joinRoom", data).await
    }

    /// Sends a message and returns its id.
    pub async fn say(&self, room: Uuid, client_msg_id: &str, body: &str) -> Uuid {
        let data = json!({"room": room, "body": body, "clientMsgId": client_msg_id});
        let ack = self.call("sendMessage", data).await;
        super::deployment::uuid(&ack.expect("the message is accepted")["id"])
    }

    // ---- receiving

    /// Evaluates everything received so far.
    pub fn received<T>(&self, check: impl FnOnce(&Received) -> T) -> T {
        check(&self.inbox.lock())
    }

    /// Waits until `check` returns something.
    pub async fn until<T>(&self, what: &str, check: impl FnMut(&Received) -> Option<T>) -> T {
        self.within(DEADLINE, what, check).await
    }

    /// As [`Socket::until`], with another deadline.
    pub async fn within<T>(
        &self,
        deadline: Duration,
        what: &str,
        check: impl FnMut(&Received) -> Option<T>,
    ) -> T {
        match tokio::time::timeout(deadline, wait_for(&self.inbox, check)).await {
            Ok(found) => found,
            Err(_) => panic!(
                "waited {deadline:?} in vain for {what}; {}",
                summary(&self.inbox.lock())
            ),
        }
    }

    /// The data of the next event with this name since the last call; other events are skipped.
    pub async fn event(&mut self, name: &str) -> Value {
        let start = self.cursor;
        let (at, event) = self
            .until(name, |received| {
                let rest = received.events.iter().enumerate().skip(start);
                rest.filter(|(_, event)| event.name == name)
                    .map(|(at, event)| (at, event.clone()))
                    .next()
            })
            .await;
        self.cursor = at + 1;
        event.data()
    }

    /// The data of all events with this name so far.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let events: Vec<Event> = self.received(|received| {
            received
                .events
                .iter()
                .filter(|event| event.name == name)
                .cloned()
                .collect()
        });
        events.iter().map(Event::data).collect()
    }

    /// Waits until the socket has closed.
    pub async fn closed(&self) -> Closed {
        self.until("the socket to close", |received| received.closed.clone())
            .await
    }

    /// Waits for an error without a request id.
    pub async fn unasked(&self) -> WireError {
        self.until("an error", |received| received.unasked.last().cloned())
            .await
    }

    /// Round trip: everything that the server sent before has been received afterwards.
    pub async fn settle(&self) {
        let answer = self.call("leaveRoom", json!({"room": Uuid::nil()})).await;
        assert!(answer.is_ok(), "{answer:?}");
    }

    // ---- pausing

    /// Stops reading: what arrives fills the buffers on the way.
    pub fn stop_reading(&self) {
        self.reading.send_replace(false);
    }

    pub fn read_on(&self) {
        self.reading.send_replace(true);
    }

    /// Closes the socket and waits for the server's close frame.
    pub async fn close(&self) {
        let _ = self.writer.lock().await.close().await;
        self.closed().await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Dropping both halves closes the connection.
        self.reader.abort();
    }
}

impl Pending {
    /// The ack, if it has arrived.
    pub fn now(&self) -> Option<Ack> {
        self.inbox.lock().acks.get(&self.id).cloned()
    }

    /// Waits for the ack. If the socket ends first, the error has the code [`WireError::CLOSED`].
    pub async fn ack(self) -> Ack {
        let id = self.id;
        let answer = wait_for(&self.inbox, |received| {
            match (received.acks.get(&id), &received.closed) {
                (Some(ack), _) => Some(ack.clone()),
                (None, Some(closed)) => Some(Err(WireError {
                    code: WireError::CLOSED.to_owned(),
                    message: format!("{closed:?}"),
                    retry_after_ms: None,
                    errors: Vec::new(),
                    id: None,
                })),
                (None, None) => None,
            }
        });
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(ack) => ack,
            Err(_) => panic!("no answer to request {id}; {}", summary(&self.inbox.lock())),
        }
    }
}

async fn wait_for<T>(inbox: &Inbox, mut check: impl FnMut(&Received) -> Option<T>) -> T {
    let mut changes = inbox.changed.subscribe();
    loop {
        changes.mark_unchanged();
        if let Some(found) = check(&inbox.lock()) {
            return found;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn summary(received: &Received) -> String {
    let latest = received.events.len().saturating_sub(5);
    let texts: Vec<&str> = received.events[latest..]
        .iter()
        .map(|event| event.text.as_str())
        .collect();
    format!(
        "{} events received, the latest {texts:#?}; {} acks; unasked errors {:?}; closed {:?}",
        received.events.len(),
        received.acks.len(),
        received.unasked,
        received.closed
    )
}

async fn read(
    mut stream: SplitStream<Stream>,
    inbox: Arc<Inbox>,
    mut reading: watch::Receiver<bool>,
) {
    let mut closed = Closed {
        code: 1006,
        reason: String::new(),
    };
    loop {
        let allowed = reading.wait_for(|reading| *reading).await.map(|_| ());
        if allowed.is_err() {
            return;
        }
        let message = tokio::select! {
            message = stream.next() => message,
            changed = reading.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match message {
            Some(Ok(Message::Text(text))) => {
                let frame = parse(text);
                let mut received = inbox.lock();
                match frame {
                    Heading::Event(event) => received.events.push(event),
                    Heading::Ack(Some(id), ack) => {
                        let before = received.acks.insert(id, ack);
                        assert!(before.is_none(), "request {id} was answered twice");
                    }
                    Heading::Ack(None, Err(error)) => received.unasked.push(error),
                    Heading::Ack(None, Ok(_)) => {}
                }
            }
            Some(Ok(Message::Close(frame))) => {
                if let Some(frame) = frame {
                    closed = Closed {
                        code: frame.code.into(),
                        reason: frame.reason.to_string(),
                    };
                }
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
        inbox.changed.send_replace(());
    }
    inbox.lock().closed = Some(closed);
    inbox.changed.send_replace(());
}

enum Heading {
    Event(Event),
    Ack(Option<u64>, Ack),
}

fn parse(text: Utf8Bytes) -> Heading {
    #[derive(Deserialize)]
    struct ServerFrame<'a> {
        event: Option<String>,
        ack: Option<u64>,
        ok: Option<bool>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
        error: Option<WireError>,
    }
    let frame: ServerFrame =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    match frame {
        ServerFrame {
            event: Some(name), ..
        } => Heading::Event(Event {
            name,
            text: text.clone(),
        }),
        ServerFrame {
            ok: Some(true),
            ack,
            data,
            ..
        } => {
            let data = data.map(|data| serde_json::from_str(data.get()));
            Heading::Ack(
                ack,
                Ok(data
                    .transpose()
                    .expect("JSON within JSON")
                    .unwrap_or_default()),
            )
        }
        ServerFrame {
            ok: Some(false),
            ack,
            error: Some(error),
            ..
        } => Heading::Ack(ack, Err(error)),
        _ => panic!("neither an event nor an answer: {text}"),
    }
}
