//! The sockets of a run. Each has a task that reads; one task sends for all of them, so that a message costs no timer.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use memchr::memmem;
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

/// Reads one socket until it ends.
pub async fn listen(
    user: usize,
    mut reader: Reader,
    seats: HashMap<Uuid, Seated>,
    plan: Arc<Plan>,
    notes: mpsc::UnboundedSender<Vec<Note>>,
    answers: mpsc::UnboundedSender<Answer>,
) {
    loop {
        // What is there already is read at once; one note for all of it.
        let now = Instant::now();
        let mut heard = Vec::new();
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
        if !heard.is_empty() && notes.send(heard).is_err() {
            return;
        }
        let ended = match reader.more().await {
            Ok(true) => continue,
            Ok(false) => failed("a socket ended", "without a word"),
            Err(error) => failed("a socket broke", error),
        };
        let _ = notes.send(vec![Note::Ended(ended)]);
        return;
    }
}

/// Sends every message when it is due, and the answers to pings, until all readers are gone.
pub async fn speak(
    mut writers: Vec<Writer>,
    transport: Transport,
    plan: Arc<Plan>,
    notes: mpsc::UnboundedSender<Vec<Note>>,
    mut answers: mpsc::UnboundedReceiver<Answer>,
) {
    let rooms: Vec<String> = plan.rooms.iter().map(Uuid::to_string).collect();
    let bodies = |message| serde_json::to_string(plan.body(message)).unwrap_or_default();
    let mut next: MessageNo = 0;
    let mut text = String::new();
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
        let mut sent = Vec::new();
        while next < plan.script.messages && plan.intended(next) <= now {
            if let Some(room) = plan.room(next) {
                let (id, room, body) = (FIRST_SEND + next, &rooms[room], bodies(next));
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
        if !sent.is_empty() && notes.send(sent).is_err() {
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
            let _ = notes.send(vec![Note::Ended(error)]);
            return;
        }
    }
}

/// What a frame says, by a look at a few bytes of it.
fn read(text: &[u8], seats: &HashMap<Uuid, Seated>, plan: &Plan, now: Instant) -> Option<Note> {
    let after = |message| now.saturating_duration_since(plan.intended(message));
    if let Some(rest) = text
        .strip_prefix(b"{\"ack\":")
        .or_else(|| text.strip_prefix(b"43"))
    {
        let message = digits(rest)?.checked_sub(FIRST_SEND)?;
        let refused = match memmem::find(rest, b"\"ok\":true") {
            Some(_) => None,
            None => Some(
                text_after(rest, b"\"code\":\"")
                    .unwrap_or("unknown")
                    .to_owned(),
            ),
        };
        return Some(Note::Answered {
            message,
            after: after(message),
            refused,
        });
    }
    let room = text_after(text, b"\"room\":\"")?.parse().ok()?;
    let Seated { seat, base } = *seats.get(&room)?;
    let change_seq = number_after(text, b"\"changeSeq\":")?;
    if change_seq <= base {
        return None;
    }
    let is_new =
        text.starts_with(b"{\"event\":\"newMessage\"") || text.starts_with(b"42[\"newMessage\"");
    if !is_new {
        return Some(Note::Other { seat, change_seq });
    }
    let message = text_after(text, b"\"clientMsgId\":\"")?.parse().ok()?;
    Some(Note::Delivered {
        seat,
        seq: number_after(text, b"\"seq\":")?,
        change_seq,
        message,
        after: after(message),
    })
}

fn text_after<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let rest = &text[memmem::find(text, key)? + key.len()..];
    std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
}

pub fn number_after(text: &[u8], key: &[u8]) -> Option<Seq> {
    let rest = &text[memmem::find(text, key)? + key.len()..];
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
        let seats = HashMap::from([(room, Seated { seat, base: 0 })]);
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
