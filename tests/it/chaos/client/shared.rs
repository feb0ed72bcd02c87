//! The state that all clients of a run share: the operations, and where each client is.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use uuid::Uuid;

use crate::chaos::record::{Action, Millis, Op, Outcome, Seq};

/// A room of the run.
#[derive(Debug, Clone)]
pub struct Room {
    pub id: Uuid,
    pub public: bool,
}

/// A user with their token. Client 0 owns the rooms.
#[derive(Debug, Clone)]
pub struct User {
    pub id: Uuid,
    pub token: String,
}

pub struct Shared {
    started: Instant,
    pub users: Vec<User>,
    pub rooms: Vec<Room>,
    /// `host:port` of each edge, through its proxy.
    pub edges: Vec<String>,
    book: Mutex<Book>,
    /// No new operations.
    pub quiet: AtomicBool,
    /// Clients close their connections and end.
    pub stop: AtomicBool,
    connections: AtomicUsize,
    pub busy: AtomicU64,
    /// By client and room: the position, or -1 while the client is not live there.
    positions: Vec<Vec<AtomicI64>>,
    pending: Vec<AtomicUsize>,
}

#[derive(Default)]
pub struct Book {
    pub ops: Vec<Op>,
    /// The time of each acknowledgement.
    pub acks: Vec<Millis>,
    pub failed: Vec<(usize, String, String)>,
    pub surprises: Vec<(Millis, String)>,
}

impl Shared {
    pub fn new(started: Instant, users: Vec<User>, rooms: Vec<Room>, edges: Vec<String>) -> Shared {
        let of_rooms = || rooms.iter().map(|_| AtomicI64::new(-1)).collect();
        Shared {
            started,
            positions: users.iter().map(|_| of_rooms()).collect(),
            pending: users.iter().map(|_| AtomicUsize::new(0)).collect(),
            users,
            rooms,
            edges,
            book: Mutex::default(),
            quiet: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            busy: AtomicU64::new(0),
        }
    }

    pub fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).expect("a short time")
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn new_connection(&self) -> usize {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Records where a client is; `None` if it is not live in the room.
    pub fn set_position(&self, client: usize, room: usize, position: Option<Seq>) {
        self.positions[client][room].store(position.unwrap_or(-1), Ordering::Relaxed);
    }

    pub fn position(&self, client: usize, room: usize) -> Option<Seq> {
        let position = self.positions[client][room].load(Ordering::Relaxed);
        (position >= 0).then_some(position)
    }

    /// Records an operation before its first attempt; returns its number.
    pub fn begin(
        &self,
        client: usize,
        room: usize,
        action: Action,
        connection: usize,
        position: Seq,
    ) -> usize {
        let sent = self.now();
        let mut book = self.book();
        book.ops.push(Op {
            client,
            room,
            action,
            connection,
            attempts: 1,
            sent,
            answered: None,
            position,
            outcome: Outcome::Unknown,
        });
        book.ops.len() - 1
    }

    /// Records an answer. A refusal leaves the outcome unknown if an earlier attempt may have succeeded.
    pub fn answer(&self, op: usize, outcome: Outcome) {
        let now = self.now();
        let mut book = self.book();
        if matches!(outcome, Outcome::Done { .. } | Outcome::Accepted) {
            book.acks.push(now);
        }
        let op = &mut book.ops[op];
        op.answered = Some(now);
        if op.attempts == 1 || !matches!(outcome, Outcome::Refused(_)) {
            op.outcome = outcome;
        }
    }

    pub fn surprise(&self, text: String) {
        let now = self.now();
        self.book().surprises.push((now, text));
    }

    /// Records how many operations of a client wait for an answer or to be repeated.
    pub fn set_pending(&self, client: usize, count: usize) {
        self.pending[client].store(count, Ordering::Relaxed);
    }

    pub fn pending(&self) -> usize {
        let counts = self.pending.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}
