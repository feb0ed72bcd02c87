//! The stock Socket.IO client: one Node.js process with any number of clients, each of which records its events and
//! waits for conditions. `scripts/test` installs it.

use std::{
    collections::HashMap,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::{mpsc, watch},
};
use uuid::Uuid;

use super::{DEADLINE, User};

type Inboxes = Arc<Mutex<HashMap<String, Arc<Inbox>>>>;

/// The Node.js process; dropping it ends its clients.
pub struct Clients {
    say: mpsc::UnboundedSender<String>,
    inboxes: Inboxes,
    _child: Child,
}

/// One client.
pub struct Client {
    pub name: String,
    say: mpsc::UnboundedSender<String>,
    inbox: Arc<Inbox>,
    next: AtomicU64,
    /// The index of the first event that [`Client::event`] has not returned.
    cursor: usize,
}

/// Everything that a client has received so far.
#[derive(Default)]
pub struct Received {
    /// Name and data, in order of arrival.
    pub events: Vec<(String, Value)>,
    pub acks: HashMap<u64, Value>,
    /// Number of `connect` events.
    pub connects: usize,
    /// The current transport.
    pub transport: String,
    /// Message and data of each `connect_error`.
    pub errors: Vec<(String, Value)>,
    /// The reason of each `disconnect`, and the WebSocket's close code.
    pub disconnects: Vec<(String, Option<u16>)>,
}

#[derive(Default)]
struct Inbox {
    received: Mutex<Received>,
    changed: watch::Sender<()>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a script of `tests/node` that communicates over stdin and stdout; `package` must be installed.
pub fn script(name: &str, package: &str) -> Child {
    let dir = Path::new(crate::support::ROOT).join("tests/node");
    assert!(
        dir.join("node_modules").join(package).is_dir(),
        "{package} is not installed: run the tests with scripts/test, or npm ci in tests/node"
    );
    Command::new("node")
        .arg(name)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node can be started")
}

impl Clients {
    pub fn start() -> Clients {
        let mut child = script("clients.mjs", "socket.io-client");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (say, mut said) = mpsc::unbounded_channel::<String>();
        tokio::spawn(async move {
            while let Some(mut line) = said.recv().await {
                line.push('\n');
                if stdin.write_all(line.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        let inboxes = Inboxes::default();
        let known = inboxes.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                record(&known, &line);
            }
        });
        Clients {
            say,
            inboxes,
            _child: child,
        }
    }

    /// Opens a client with these options of the library, without waiting.
    pub fn open(&self, name: &str, url: &str, options: Value) -> Client {
        self.open_as(name, url, options, false)
    }

    /// As [`Clients::open`]; messages contain only the fields that a replay compares.
    pub fn open_brief(&self, name: &str, url: &str, options: Value) -> Client {
        self.open_as(name, url, options, true)
    }

    fn open_as(&self, name: &str, url: &str, options: Value, brief: bool) -> Client {
        let inbox = Arc::<Inbox>::default();
        let mut inboxes = self.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = inboxes.insert(name.to_owned(), inbox.clone());
        assert!(before.is_none(), "two clients called {name}");
        let line =
            json!({"do": "open", "client": name, "url": url, "options": options, "brief": brief});
        let _ = self.say.send(line.to_string());
        Client {
            name: name.to_owned(),
            say: self.say.clone(),
            inbox,
            next: AtomicU64::new(1),
            cursor: 0,
        }
    }

    /// Opens a client of `user` with these transports and waits for `connected`.
    pub async fn connect(&self, name: &str, url: &str, user: &User, transports: &[&str]) -> Client {
        let options = json!({"transports": transports, "auth": {"token": user.access}});
        let mut client = self.open(name, url, options);
        client.event("connected").await;
        client
    }
}

impl Client {
    fn act(&self, line: &Value) {
        let _ = self.say.send(line.to_string());
    }

    /// Sends an event without requesting an ack.
    pub fn emit(&self, event: &str, data: Value) {
        self.act(&json!({"do": "emit", "client": self.name, "event": event, "data": data}));
    }

    /// Sends an event; [`Client::ack`] waits for its ack.
    pub fn send(&self, event: &str, data: Value) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.act(
            &json!({"do": "emit", "client": self.name, "event": event, "data": data, "ack": id}),
        );
        id
    }

    pub async fn ack(&self, id: u64) -> Value {
        let name = &self.name;
        self.until(&format!("{name}'s ack {id}"), |received| {
            received.acks.get(&id).cloned()
        })
        .await
    }

    /// Sends an event and returns the data of its ack, which must be ok.
    pub async fn call(&self, event: &str, data: Value) -> Value {
        let answer = self.ack(self.send(event, data)).await;
        assert_eq!(answer["ok"], true, "{event}: {answer}");
        answer["data"].clone()
    }

    pub async fn join(&self, room: Uuid, after: Option<i64>) -> Value {
        let mut data = json!({"room": room});
        if let Some(after) = after {
            data["afterSeq"] = after.into();
        }
        self.call("joinRoom", data).await
    }

    pub async fn say(&self, room: Uuid, client_msg_id: &str, body: &str) {
        let data = json!({"room": room, "body": body, "clientMsgId": client_msg_id});
        self.call("sendMessage", data).await;
    }

    pub fn disconnect(&self) {
        self.act(&json!({"do": "disconnect", "client": self.name}));
    }

    pub fn received<T>(&self, check: impl FnOnce(&Received) -> T) -> T {
        check(&self.inbox.lock())
    }

    /// Waits until `check` returns something.
    pub async fn until<T>(&self, what: &str, mut check: impl FnMut(&Received) -> Option<T>) -> T {
        let mut changes = self.inbox.changed.subscribe();
        let checking = async {
            loop {
                changes.mark_unchanged();
                if let Some(found) = check(&self.inbox.lock()) {
                    return found;
                }
                let _ = changes.changed().await;
            }
        };
        match tokio::time::timeout(DEADLINE, checking).await {
            Ok(found) => found,
            Err(_) => panic!(
                "{} waited {DEADLINE:?} in vain for {what}; {}",
                self.name,
                summary(&self.inbox.lock())
            ),
        }
    }

    /// The data of the next event with this name since the last call; other events are skipped.
    pub async fn event(&mut self, name: &str) -> Value {
        let start = self.cursor;
        let (at, data) = self
            .until(name, |received| {
                let mut rest = received.events.iter().enumerate().skip(start);
                rest.find(|(_, (event, _))| event == name)
                    .map(|(at, (_, data))| (at, data.clone()))
            })
            .await;
        self.cursor = at + 1;
        data
    }

    /// The data of all events with this name so far.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.received(|received| {
            let named = received.events.iter().filter(|(event, _)| event == name);
            named.map(|(_, data)| data.clone()).collect()
        })
    }

    pub async fn connect_error(&self) -> (String, Value) {
        self.until("a connect_error", |received| {
            received.errors.last().cloned()
        })
        .await
    }
}

fn summary(received: &Received) -> String {
    let latest = received.events.len().saturating_sub(5);
    let texts: Vec<String> = received.events[latest..]
        .iter()
        .map(|(name, data)| format!("{name} {data}"))
        .collect();
    format!(
        "{} events received, the latest {texts:#?}; {} acks; connected {} times, now over {:?}; connect errors {:?}; disconnects {:?}",
        received.events.len(),
        received.acks.len(),
        received.connects,
        received.transport,
        received.errors,
        received.disconnects
    )
}

fn record(inboxes: &Inboxes, line: &str) {
    #[derive(Deserialize)]
    struct ClientLine {
        client: String,
        #[serde(flatten)]
        what: Flat,
    }
    #[derive(Deserialize)]
    #[serde(tag = "what", rename_all = "snake_case")]
    enum Flat {
        Connect { transport: String },
        Transport { transport: String },
        Event { event: String, data: Value },
        Ack { id: u64, answer: Value },
        ConnectError { message: String, data: Value },
        Disconnect { reason: String, code: Option<u16> },
    }
    let ClientLine { client, what } =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let inbox = inboxes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&client)
        .cloned()
        .expect("a known client");
    let mut received = inbox.lock();
    match what {
        Flat::Connect { transport } => {
            received.connects += 1;
            received.transport = transport;
        }
        Flat::Transport { transport } => received.transport = transport,
        Flat::Event { event, data } => received.events.push((event, data)),
        Flat::Ack { id, answer } => {
            let before = received.acks.insert(id, answer);
            assert!(
                before.is_none(),
                "{client}: request {id} was answered twice"
            );
        }
        Flat::ConnectError { message, data } => received.errors.push((message, data)),
        Flat::Disconnect { reason, code } => received.disconnects.push((reason, code)),
    }
    drop(received);
    inbox.changed.send_replace(());
}
