//! The sockets of a run. Each has a task that reads; one task sends for all of them, so that a message costs no timer.

use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock, Weak},
    time::{Duration, Instant},
};

use memchr::memmem::Finder;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::plan::{MessageNo, Plan};
use crate::{
    bench::{
        client::{Transport, failed},
        judge::SeatNo,
        wire::{Frame, Reader, Writer},
    },
    error::Error,
    model::Seq,
};

/// Request ids below this belong to joins, those above to message number `id - FIRST_SEND`.
const FIRST_SEND: u64 = 1 << 32;
/// Before a socket that took not all of it is tried again.
const AGAIN: Duration = Duration::from_millis(1);

/// Where notes wait for the judge, who looks now and then: waking someone for each would cost as much as reading it.
pub struct Desk(Arc<Mutex<Vec<Note>>>);

impl Desk {
    /// A desk, and where to put things there.
    pub fn new() -> (Desk, Notes) {
        let notes = Arc::new(Mutex::default());
        let desk = Arc::downgrade(&notes);
        (Desk(notes), Notes(desk))
    }

    /// All that was put here, in that order.
    pub fn take(&self) -> Vec<Note> {
        std::mem::take(&mut self.0.lock())
    }
}

#[derive(Clone)]
pub struct Notes(Weak<Mutex<Vec<Note>>>);

impl Notes {
    /// Empties `notes`. `false` where nobody looks any more.
    fn put(&self, notes: &mut Vec<Note>) -> bool {
        let Some(desk) = self.0.upgrade() else {
            return false;
        };
        if !notes.is_empty() {
            desk.lock().append(notes);
        }
        true
    }
}

/// What sockets tell the judge, in the order in which it happened.
pub enum Note {
    /// About to be sent.
    Sent(MessageNo),
    Answered {
        message: MessageNo,
        after: Duration,
        refused: Option<String>,
    },
    Delivered {
        seat: SeatNo,
        seq: Seq,
        change_seq: Seq,
        message: MessageNo,
        after: Duration,
    },
    Other {
        seat: SeatNo,
        change_seq: Seq,
    },
    /// A socket ended, and why.
    Ended(Error),
}

/// A socket's place in a room, and the room's number when everyone was in.
#[derive(Clone, Copy)]
pub struct Seated {
    pub seat: SeatNo,
    pub base: Seq,
}

/// A socket, by the number of its user, and what it has to answer.
pub struct Answer {
    user: usize,
    ping: bool,
}

/// A socket's places, by the room's id as frames have it. They are few.
pub type Seats = Vec<(String, Seated)>;

/// Reads one socket until it ends.
pub async fn listen(
    user: usize,
    mut reader: Reader,
    seats: Seats,
    plan: Arc<Plan>,
    notes: Notes,
    answers: mpsc::UnboundedSender<Answer>,
) {
    let mut heard = Vec::new();
    loop {
        // What is there already is read at once.
        let now = Instant::now();
        while let Some(frame) = reader.next() {
            match frame {
                Frame::Text(b"2") => {
                    let _ = answers.send(Answer { user, ping: false });
                }
                Frame::Ping => {
                    let _ = answers.send(Answer { user, ping: true });
                }
                Frame::Text(text) => heard.extend(read(text, &seats, &plan, now)),
                Frame::Close(code, reason) => {
                    let why = format!("{code} {reason}");
                    heard.push(Note::Ended(failed("a socket was closed", why)));
                }
                Frame::Other => {}
            }
        }
        if !notes.put(&mut heard) {
            return;
        }
        let ended = match reader.more().await {
            Ok(true) => continue,
            Ok(false) => failed("a socket ended", "without a word"),
            Err(error) => failed("a socket broke", error),
        };
        notes.put(&mut vec![Note::Ended(ended)]);
        return;
    }
}

/// Sends every message when it is due, and the answers to pings, until all readers are gone.
pub async fn speak(
    mut writers: Vec<Writer>,
    transport: Transport,
    plan: Arc<Plan>,
    notes: Notes,
    mut answers: mpsc::UnboundedReceiver<Answer>,
) {
    let rooms: Vec<String> = plan.rooms.iter().map(Uuid::to_string).collect();
    let mut next: MessageNo = 0;
    let mut text = String::new();
    let mut sent = Vec::new();
    // Sockets with something to write, each once or more.
    let mut busy: Vec<usize> = Vec::new();
    loop {
        let due = match (busy.is_empty(), next < plan.script.messages) {
            (false, _) => Instant::now() + AGAIN,
            (true, true) => plan.intended(next),
            (true, false) => Instant::now() + Duration::from_secs(3600),
        };
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            answer = answers.recv() => match answer {
                Some(Answer { user, ping }) => {
                    match ping {
                        true => writers[user].add_pong(),
                        false => writers[user].add("3"),
                    }
                    busy.push(user);
                }
                None => return,
            }
        }
        let now = Instant::now();
        while next < plan.script.messages && plan.intended(next) <= now {
            if let Some(room) = plan.room(next) {
                let (id, room, body) = (FIRST_SEND + next, &rooms[room], plan.body(next));
                let data = format_args!(
                    "{{\"room\":\"{room}\",\"clientMsgId\":\"{next}\",\"body\":{body}}}"
                );
                text.clear();
                let written = match transport {
                    Transport::Ws => write!(
                        text,
                        "{{\"id\":{id},\"event\":\"sendMessage\",\"data\":{data}}}"
                    ),
                    Transport::Socketio => write!(text, "42{id}[\"sendMessage\",{data}]"),
                };
                debug_assert!(written.is_ok(), "a string takes everything");
                let user = plan.sender(next);
                writers[user].add(&text);
                busy.push(user);
                sent.push(Note::Sent(next));
            }
            next += 1;
        }
        if !notes.put(&mut sent) {
            return;
        }
        let mut failure = None;
        busy.retain(|user| match writers[*user].try_write() {
            Ok(done) => !done,
            Err(error) => {
                failure = Some(failed("sending", error));
                false
            }
        });
        if let Some(error) = failure {
            notes.put(&mut vec![Note::Ended(error)]);
            return;
        }
    }
}

/// What a frame says, by a look at a few bytes of it.
fn read(text: &[u8], seats: &Seats, plan: &Plan, now: Instant) -> Option<Note> {
    let keys = &*KEYS;
    let after = |message| now.saturating_duration_since(plan.intended(message));
    if let Some(rest) = text
        .strip_prefix(b"{\"ack\":")
        .or_else(|| text.strip_prefix(b"43"))
    {
        let message = digits(rest)?.checked_sub(FIRST_SEND)?;
        let refused = match keys.ok.find(rest) {
            Some(_) => None,
            None => Some(text_after(rest, &keys.code).unwrap_or("unknown").to_owned()),
        };
        return Some(Note::Answered {
            message,
            after: after(message),
            refused,
        });
    }
    let room = text_after(text, &keys.room)?;
    let (_, Seated { seat, base }) = *seats.iter().find(|(id, _)| id == room)?;
    let change_seq = number_after(text, &keys.change_seq)?;
    if change_seq <= base {
        return None;
    }
    let is_new =
        text.starts_with(b"{\"event\":\"newMessage\"") || text.starts_with(b"42[\"newMessage\"");
    if !is_new {
        return Some(Note::Other { seat, change_seq });
    }
    let message = text_after(text, &keys.client_msg_id)?.parse().ok()?;
    Some(Note::Delivered {
        seat,
        seq: number_after(text, &keys.seq)?,
        change_seq,
        message,
        after: after(message),
    })
}

/// What is looked for in a frame.
pub struct Keys {
    ok: Finder<'static>,
    code: Finder<'static>,
    room: Finder<'static>,
    pub seq: Finder<'static>,
    change_seq: Finder<'static>,
    client_msg_id: Finder<'static>,
}

pub static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    ok: Finder::new("\"ok\":true"),
    code: Finder::new("\"code\":\""),
    room: Finder::new("\"room\":\""),
    seq: Finder::new("\"seq\":"),
    change_seq: Finder::new("\"changeSeq\":"),
    client_msg_id: Finder::new("\"clientMsgId\":\""),
});

fn text_after<'a>(text: &'a [u8], key: &Finder) -> Option<&'a str> {
    let rest = &text[key.find(text)? + key.needle().len()..];
    std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
}

pub fn number_after(text: &[u8], key: &Finder) -> Option<Seq> {
    let rest = &text[key.find(text)? + key.needle().len()..];
    digits(rest)?.try_into().ok()
}

/// The number that the text begins with.
fn digits(text: &[u8]) -> Option<u64> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&text[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        judge::Judge,
        load::{Load, plan::Script},
    };

    #[test]
    fn a_frame_is_read_by_a_few_of_its_bytes() {
        let (room, started) = (Uuid::new_v4(), Instant::now());
        let mut judge = Judge::new();
        let number = judge.room("r");
        let seat = judge.seat(number, "s", 0);
        let seats = vec![(room.to_string(), Seated { seat, base: 0 })];
        let plan = Plan {
            script: Script::of(&Load::default()).unwrap(),
            users: Vec::new(),
            rooms: vec![room],
            started,
        };
        let text = format!(
            "{{\"event\":\"newMessage\",\"data\":{{\"id\":\"x\",\"room\":\"{room}\",\"seq\":7,\"changeSeq\":8,\"body\":\"\",\"clientMsgId\":\"42\"}}}}"
        );
        let Some(Note::Delivered {
            seq,
            change_seq,
            message,
            ..
        }) = read(text.as_bytes(), &seats, &plan, started)
        else {
            panic!("it is a delivery")
        };
        assert_eq!((seq, change_seq, message), (7, 8, 42));
        let ack = format!(
            "{{\"ack\":{},\"ok\":false,\"error\":{{\"code\":\"busy\",\"message\":\"\"}}}}",
            FIRST_SEND + 3
        );
        assert!(
            matches!(read(ack.as_bytes(), &seats, &plan, started), Some(Note::Answered { message: 3, refused: Some(code), .. }) if code == "busy")
        );
    }
}
