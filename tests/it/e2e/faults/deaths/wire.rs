//! Proxies between a worker and its servers that parse the traffic, in order to kill the worker at a chosen step of a
//! batch.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// When the worker is killed, in the order of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the statement that writes messages reaches the database.
    BeforeWrite,
    /// After it was forwarded, before its response.
    Writing,
    /// Before COMMIT, or the writing statement outside of a transaction, reaches the database.
    BeforeCommit,
    /// After it was forwarded, before its response.
    Committing,
    /// Before the database's response to it reaches the worker.
    Committed,
    /// Before the events reach Redis.
    BeforePublish,
    /// Before Redis's response to them reaches the worker.
    Published,
    /// Before the acknowledgement reaches the broker.
    BeforeAck,
    /// After the acknowledgement was forwarded.
    Acked,
}

pub const MOMENTS: [Moment; 9] = [
    Moment::BeforeWrite,
    Moment::Writing,
    Moment::BeforeCommit,
    Moment::Committing,
    Moment::Committed,
    Moment::BeforePublish,
    Moment::Published,
    Moment::BeforeAck,
    Moment::Acked,
];

impl Moment {
    /// Whether the frame that shows the moment is withheld.
    fn withholds(self) -> bool {
        !matches!(self, Moment::Writing | Moment::Committing | Moment::Acked)
    }
}

/// Kills a worker once, at the first frame of any connection that shows the moment.
#[derive(Default)]
pub struct Snare {
    set: Mutex<Option<(Moment, u32)>>,
    sprung: Notify,
}

impl Snare {
    /// Waits until `worker` is killed.
    pub async fn kill_at(&self, moment: Moment, worker: u32) {
        *self.set.lock().unwrap() = Some((moment, worker));
        crate::support::soon(&format!("{moment:?}"), self.sprung.notified()).await;
    }

    /// Disarms the snare if it is set for one of these moments; returns that moment and the worker's process id.
    fn disarm_on(&self, moments: &[Moment]) -> Option<(Moment, u32)> {
        let mut set = self.set.lock().unwrap();
        let (moment, worker) = (*set)?;
        moments.contains(&moment).then(|| {
            *set = None;
            (moment, worker)
        })
    }

    fn kill(&self, worker: u32) {
        let pid = i32::try_from(worker).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), Signal::KILL).unwrap();
        self.sprung.notify_one();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Postgres,
    Redis,
    Amqp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Worker,
    Server,
}

pub struct Wire {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Wire {
    /// `target` is `host:port`.
    pub async fn to(target: String, protocol: Protocol, snare: Arc<Snare>) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((worker, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&target).await {
                    let talk = Arc::new(Mutex::new(Talk::new(protocol)));
                    tokio::spawn(relay(worker, server, talk, snare.clone()));
                }
            }
        });
        Wire { address, accepting }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(worker: TcpStream, server: TcpStream, talk: Arc<Mutex<Talk>>, snare: Arc<Snare>) {
    worker.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_worker, to_worker) = worker.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(Side::Worker, from_worker, to_server, &talk, &snare) => {}
        () = pump(Side::Server, from_server, to_worker, &talk, &snare) => {}
    }
}

/// Forwards frame by frame until either end closes or the worker is killed.
async fn pump(
    side: Side,
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    talk: &Mutex<Talk>,
    snare: &Snare,
) {
    let mut buffer = Vec::with_capacity(64 * 1024);
    while from
        .read_buf(&mut buffer)
        .await
        .is_ok_and(|count| count > 0)
    {
        let (mut passes, mut sprung) = (0, None);
        while sprung.is_none()
            && let Some((length, moments)) = talk.lock().unwrap().frame(side, &buffer[passes..])
        {
            sprung = snare.disarm_on(&moments);
            if sprung.is_none_or(|(moment, _)| !moment.withholds()) {
                passes += length;
            }
        }
        let passed = to.write_all(&buffer[..passes]).await;
        if let Some((_, worker)) = sprung {
            snare.kill(worker);
            return;
        }
        if passed.is_err() {
            return;
        }
        buffer.drain(..passes);
    }
}

/// The state of one connection, as far as it is parsed.
struct Talk {
    protocol: Protocol,
    /// The first frame, which has its own format, has passed.
    begun: bool,
    /// PostgreSQL: the worker has requested TLS, which the server answers with one byte.
    asked_for_tls: bool,
    /// PostgreSQL: prepared statements by name, and whether each writes messages.
    writes: HashMap<Vec<u8>, bool>,
    in_transaction: bool,
    /// PostgreSQL: the statement in flight writes messages.
    writing: bool,
    /// PostgreSQL: the open transaction wrote messages. Redis: events were published. Not answered yet.
    pending: bool,
}

impl Talk {
    fn new(protocol: Protocol) -> Talk {
        Talk {
            protocol,
            begun: false,
            asked_for_tls: false,
            writes: HashMap::new(),
            in_transaction: false,
            writing: false,
            pending: false,
        }
    }

    /// The length of the first frame, if it is complete, and the moments that it shows.
    fn frame(&mut self, side: Side, bytes: &[u8]) -> Option<(usize, Vec<Moment>)> {
        let length = self.length(side, bytes)?;
        let frame = bytes.get(..length).filter(|frame| !frame.is_empty())?;
        let moments = match self.protocol {
            Protocol::Postgres => self.postgres(side, frame),
            Protocol::Redis => self.redis(side, frame),
            Protocol::Amqp => amqp(side, frame),
        };
        Some((length, moments))
    }

    fn length(&mut self, side: Side, bytes: &[u8]) -> Option<usize> {
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().unwrap()) as usize)
        };
        match self.protocol {
            // One read counts as a frame: the test needs only its beginning.
            Protocol::Redis => Some(bytes.len()),
            Protocol::Amqp if side == Side::Worker && !self.begun => {
                self.begun = bytes.len() >= 8;
                Some(8)
            }
            Protocol::Amqp => Some(number(3)? + 8),
            Protocol::Postgres if side == Side::Worker && !self.begun => {
                let (length, code) = (number(0)?, number(4)?);
                self.asked_for_tls = code == 80_877_103;
                self.begun = !self.asked_for_tls;
                Some(length)
            }
            Protocol::Postgres if side == Side::Server && self.asked_for_tls => {
                self.asked_for_tls = false;
                Some(1)
            }
            Protocol::Postgres => Some(number(1)? + 1),
        }
    }

    fn postgres(&mut self, side: Side, frame: &[u8]) -> Vec<Moment> {
        let body = frame.get(5..).unwrap_or_default();
        let mut texts = body.split(|byte| *byte == 0);
        let mut text = || texts.next().unwrap_or_default();
        match (side, frame[0]) {
            (Side::Worker, b'P') => {
                let (name, sql) = (text(), text());
                let writes = contains(sql, b"INSERT INTO messages");
                self.writes.insert(name.to_vec(), writes);
                Vec::new()
            }
            // Bind: a portal name, then a statement name.
            (Side::Worker, b'B') => {
                let (_, name) = (text(), text());
                self.writing = self.writes.get(name).copied().unwrap_or_default();
                self.pending |= self.writing;
                match (self.writing, self.in_transaction) {
                    (true, true) => vec![Moment::BeforeWrite],
                    (true, false) => vec![Moment::BeforeWrite, Moment::BeforeCommit],
                    (false, _) => Vec::new(),
                }
            }
            // Sync: ends the extended query.
            (Side::Worker, b'S') if std::mem::take(&mut self.writing) => {
                if self.in_transaction {
                    vec![Moment::Writing]
                } else {
                    vec![Moment::Writing, Moment::Committing]
                }
            }
            (Side::Worker, b'Q') if body.starts_with(b"BEGIN") => {
                self.in_transaction = true;
                Vec::new()
            }
            (Side::Worker, b'Q') if body.starts_with(b"COMMIT") && self.pending => {
                vec![Moment::BeforeCommit, Moment::Committing]
            }
            // ReadyForQuery: `I` is "idle, not in a transaction".
            (Side::Server, b'Z') => {
                self.in_transaction = body != b"I";
                let committed = !self.in_transaction && std::mem::take(&mut self.pending);
                committed.then_some(Moment::Committed).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn redis(&mut self, side: Side, bytes: &[u8]) -> Vec<Moment> {
        match side {
            Side::Worker if contains(bytes, b"\r\nPUBLISH\r\n") => {
                self.pending = true;
                vec![Moment::BeforePublish]
            }
            Side::Server if std::mem::take(&mut self.pending) => vec![Moment::Published],
            _ => Vec::new(),
        }
    }
}

/// A method frame with `basic.ack` (class 60, method 80).
fn amqp(side: Side, frame: &[u8]) -> Vec<Moment> {
    let is_ack = frame[0] == 1 && frame.get(7..11) == Some(&[0, 60, 0, 80]);
    match side {
        Side::Worker if is_ack => vec![Moment::BeforeAck, Moment::Acked],
        _ => Vec::new(),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|found| found == part)
}
