//! Open-loop load over real sockets, and the judge of what comes back: every accepted message must come to every member
//! once and in order. Latency counts from when a message was *meant* to be sent, so that a server that makes the
//! generator wait does not look fast.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::{
    client::{Registered, Socket, Target, Transport, cpu_seconds, failed, open},
    judge::{ConnectionNo, Judge, RoomNo, SeatNo, Verdict},
};
use crate::{
    config::parse_duration,
    error::{Error, Result},
    model::Seq,
};

/// Users registered, rooms made and sockets opened at once.
const AT_ONCE: usize = 32;
/// Request ids below this belong to joins, those above to message number `id - FIRST_SEND`.
const FIRST_SEND: u64 = 1 << 32;
/// The longest latency told apart from longer ones, in microseconds.
const MAX_LATENCY: u64 = 10 * 60 * 1_000_000;
/// How long what was accepted may take to arrive once nothing more is sent.
const LAST_ARRIVALS: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Args)]
pub struct Load {
    /// The server, as it prints its address; several are used in turns.
    #[arg(long, default_value = "http://127.0.0.1:3000", value_delimiter = ',')]
    pub url: Vec<String>,
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Online members of each room.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Users that send, in turns; each has one socket and is a member of several rooms.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub senders: u32,
    /// Messages a second, all senders together; limits.messages_per_second bounds each of them.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// How long to send, such as 30s or 2m.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub duration: Duration,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub body: u32,
    /// Processes on this machine whose CPU time is told, as NAME=PID.
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = process)]
    pub pid: Vec<(String, u32)>,
    /// Writes the result here as well.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a whole number and one of ms, s, m, h, d".to_owned())
}

fn process(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').ok_or("NAME=PID")?;
    Ok((name.to_owned(), pid.parse().map_err(|_| "PID is a number")?))
}

/// What a run came to.
#[derive(Debug, Serialize)]
pub struct Report {
    pub sent: u64,
    pub accepted: u64,
    pub stored: u64,
    pub delivered: u64,
    pub expected: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub accepted_per_s: f64,
    pub delivered_per_s: f64,
    /// From the intended send to each member.
    pub latency_ms: Latency,
    /// From the intended send to the acknowledgement.
    pub accept_ms: Latency,
    /// Refused sends by code.
    pub errors: BTreeMap<String, u64>,
    /// CPU microseconds an accepted message, of this generator and of each `--pid`.
    pub cpu_us_per_message: BTreeMap<String, f64>,
    /// A few faults, for people.
    pub examples: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Report {
    /// Nothing lost, repeated or out of order.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered == 0 && self.examples.is_empty()
    }
}

/// What sockets tell the judge, in the order in which it happened.
enum Note {
    Sent {
        by: u32,
        message: u64,
    },
    Answered {
        message: u64,
        after: Duration,
        refused: Option<String>,
    },
    Delivered {
        seat: SeatNo,
        seq: Seq,
        change_seq: Seq,
        message: u64,
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
struct Seated {
    seat: SeatNo,
    base: Seq,
}

/// Who sends what where: message `n` is sent by user `n % senders` at `n / rate` seconds.
struct Plan {
    load: Load,
    users: Vec<Registered>,
    rooms: Vec<Uuid>,
    started: Instant,
}

impl Plan {
    fn intended(&self, message: u64) -> Instant {
        self.started + Duration::from_secs_f64(message as f64 / f64::from(self.load.rate))
    }

    fn sender(&self, message: u64) -> usize {
        (message % u64::from(self.load.senders)) as usize
    }

    /// A sender's rooms take turns.
    fn room(&self, message: u64) -> Option<usize> {
        let rooms = rooms_of(self.sender(message), &self.load);
        let turn = (message / u64::from(self.load.senders)) as usize;
        rooms.get(turn % rooms.len().max(1)).copied()
    }
}

fn users(load: &Load) -> usize {
    load.senders.max(load.members) as usize
}

/// The rooms of a user: room `r` has the users `r × members …`, counted round.
fn rooms_of(user: usize, load: &Load) -> Vec<usize> {
    let (all, members) = (users(load), load.members as usize);
    (0..load.rooms as usize)
        .filter(|room| (user + all - (room * members) % all) % all < members)
        .collect()
}

/// Runs the load against running servers.
///
/// # Errors
/// Where a server refuses to register users, make rooms or open sockets.
pub async fn run(load: &Load) -> Result<Report> {
    let targets = load
        .url
        .iter()
        .map(|url| Target::new(url))
        .collect::<Result<Vec<_>>>()?;
    let target = |i: usize| &targets[i % targets.len()];

    let bar = progress("registering users", users(load) as u64);
    let users: Vec<Registered> = stream::iter(0..users(load))
        .map(|i| counted(&bar, target(i).register()))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    bar.finish();

    let bar = progress("making rooms", u64::from(load.rooms));
    let rooms: Vec<Uuid> = stream::iter(0..load.rooms as usize)
        .map(|room| {
            let owner = &users[room * load.members as usize % users.len()].token;
            counted(&bar, target(room).room(owner))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    bar.finish();

    let bar = progress("joining", users.len() as u64);
    let joined: Vec<(Socket, Vec<(usize, Seq)>)> = stream::iter(0..users.len())
        .map(|user| {
            let (token, rooms) = (&users[user].token, &rooms);
            let mine = rooms_of(user, load);
            counted(&bar, join(target(user), token, load.transport, mine, rooms))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    bar.finish();

    let mut judge = Judge::new();
    // Everyone is in: what is heard from here on lies above what anyone's joining made.
    let mut bases: Vec<Seq> = vec![0; rooms.len()];
    for (room, base) in joined.iter().flat_map(|(_, joined)| joined) {
        bases[*room] = bases[*room].max(*base);
    }
    let room_numbers: Vec<RoomNo> = rooms.iter().map(|id| judge.room(id.to_string())).collect();
    let messages = (load.duration.as_secs_f64() * f64::from(load.rate)) as u64;
    let pids: Vec<_> = load
        .pid
        .iter()
        .cloned()
        .chain([("generator".to_owned(), std::process::id())])
        .collect();
    let before = pids
        .iter()
        .map(|(_, pid)| cpu_seconds(*pid))
        .collect::<Result<Vec<_>>>()?;
    let plan = Arc::new(Plan {
        load: load.clone(),
        users,
        rooms,
        started: Instant::now() + Duration::from_millis(200),
    });
    let (notes, mut heard) = mpsc::unbounded_channel();
    let mut connections = Vec::new();
    for (user, (socket, joined)) in joined.into_iter().enumerate() {
        let seats = joined
            .into_iter()
            .map(|(room, _)| {
                let base = bases[room];
                let seat = judge.seat(room_numbers[room], format!("user {user}"), base);
                (plan.rooms[room], Seated { seat, base })
            })
            .collect();
        connections.push(judge.connection());
        start(user, socket, seats, &plan, messages, notes.clone());
    }
    drop(notes);

    let mut tally = Tally::new(&plan, judge, room_numbers, connections);
    let bar = progress("sending", messages);
    let deadline = plan.intended(messages) + LAST_ARRIVALS;
    while tally.answered < messages || tally.delivered < tally.expected {
        match tokio::time::timeout_at(deadline.into(), heard.recv()).await {
            Ok(Some(notes)) => tally.take(notes)?,
            Ok(None) | Err(_) => break,
        }
        bar.set_position(tally.answered);
    }
    bar.finish();
    let cpu = pids
        .iter()
        .zip(before)
        .map(|((name, pid), before)| {
            let spent = (cpu_seconds(*pid)? - before) * 1e6;
            Ok((name.clone(), rounded(spent / tally.accepted.max(1) as f64)))
        })
        .collect::<Result<_>>()?;
    Ok(tally.report(cpu))
}

/// Opens a socket and takes its place in every room it belongs to.
async fn join(
    target: &Target,
    token: &str,
    transport: Transport,
    mine: Vec<usize>,
    rooms: &[Uuid],
) -> Result<(Socket, Vec<(usize, Seq)>)> {
    let mut socket = open(target, token, transport).await?;
    let mut joined = Vec::new();
    for (i, room) in mine.into_iter().enumerate() {
        let request = socket.request(i as u64 + 1, "joinRoom", json!({"room": rooms[room]}));
        socket.say(request).await?;
        let answer = socket.answered(i as u64 + 1).await?;
        let base = number_after(&answer, "\"seq\":").ok_or_else(|| failed("joinRoom", &answer))?;
        joined.push((room, base));
    }
    Ok((socket, joined))
}

/// Starts a socket's two halves.
fn start(
    user: usize,
    socket: Socket,
    seats: HashMap<Uuid, Seated>,
    plan: &Arc<Plan>,
    messages: u64,
    notes: mpsc::UnboundedSender<Vec<Note>>,
) {
    let (mut sink, mut source) = socket.stream.split();
    let transport = socket.transport;
    let (pongs, mut pings) = mpsc::channel::<()>(4);

    let (reading, told) = (plan.clone(), notes.clone());
    tokio::spawn(async move {
        // What is there already is read at once; one note for all of it.
        let mut chunks = (&mut source).ready_chunks(256);
        while let Some(frames) = chunks.next().await {
            let now = Instant::now();
            let mut batch = Vec::with_capacity(frames.len());
            for frame in frames {
                match frame {
                    Ok(Message::Text(text)) if text.as_str() == "2" => {
                        let _ = pongs.try_send(());
                    }
                    Ok(Message::Text(text)) => batch.extend(read(&text, &seats, &reading, now)),
                    Ok(Message::Close(frame)) => {
                        batch.push(Note::Ended(failed(
                            "a socket was closed",
                            format!("{frame:?}"),
                        )));
                    }
                    Ok(_) => {}
                    Err(error) => batch.push(Note::Ended(failed("a socket broke", error))),
                }
            }
            if told.send(batch).is_err() {
                return;
            }
        }
    });

    let plan = plan.clone();
    tokio::spawn(async move {
        let body = "x".repeat(plan.load.body as usize);
        let senders = u64::from(plan.load.senders);
        let mut next = user as u64;
        loop {
            let more = (user as u64) < senders && next < messages;
            let due = if more {
                plan.intended(next)
            } else {
                Instant::now() + Duration::from_secs(3600)
            };
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                ping = pings.recv() => match ping {
                    Some(()) => {
                        let _ = sink.send(Message::Text("3".into())).await;
                        continue;
                    }
                    None => return,
                }
            }
            // All that is due by now, in one write.
            let now = Instant::now();
            let mut sent = Vec::new();
            while next < messages && plan.intended(next) <= now {
                let Some(room) = plan.room(next) else { break };
                let id = FIRST_SEND + next;
                let (room, message) = (plan.rooms[room], next);
                let text = match transport {
                    Transport::Ws => format!(
                        "{{\"id\":{id},\"event\":\"sendMessage\",\"data\":{{\"room\":\"{room}\",\"clientMsgId\":\"{message}\",\"body\":\"{body}\"}}}}"
                    ),
                    Transport::Socketio => format!(
                        "42{id}[\"sendMessage\",{{\"room\":\"{room}\",\"clientMsgId\":\"{message}\",\"body\":\"{body}\"}}]"
                    ),
                };
                if notes
                    .send(vec![Note::Sent {
                        by: user as u32,
                        message,
                    }])
                    .is_err()
                    || sink.feed(Message::Text(text.into())).await.is_err()
                {
                    return;
                }
                sent.push(message);
                next += senders;
            }
            if sink.flush().await.is_err() {
                return;
            }
        }
    });
}

/// What a frame says, by a look at a few bytes of it.
fn read(text: &str, seats: &HashMap<Uuid, Seated>, plan: &Plan, now: Instant) -> Option<Note> {
    if let Some(rest) = text
        .strip_prefix("{\"ack\":")
        .or_else(|| text.strip_prefix("43"))
    {
        let id: u64 = rest[..rest.find(|c: char| !c.is_ascii_digit())?]
            .parse()
            .ok()?;
        let message = id.checked_sub(FIRST_SEND)?;
        let refused = match rest.contains("\"ok\":true") {
            true => None,
            false => Some(
                text_after(rest, "\"code\":\"")
                    .unwrap_or("unknown")
                    .to_owned(),
            ),
        };
        let after = now.saturating_duration_since(plan.intended(message));
        return Some(Note::Answered {
            message,
            after,
            refused,
        });
    }
    let Seated { seat, base } = *seats.get(&text_after(text, "\"room\":\"")?.parse().ok()?)?;
    let change_seq = number_after(text, "\"changeSeq\":")?;
    if change_seq <= base {
        return None;
    }
    let is_new =
        text.starts_with("{\"event\":\"newMessage\"") || text.starts_with("42[\"newMessage\"");
    if !is_new {
        return Some(Note::Other { seat, change_seq });
    }
    let message: u64 = text_after(text, "\"clientMsgId\":\"")?.parse().ok()?;
    Some(Note::Delivered {
        seat,
        seq: number_after(text, "\"seq\":")?,
        change_seq,
        message,
        after: now.saturating_duration_since(plan.intended(message)),
    })
}

fn text_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = &text[text.find(key)? + key.len()..];
    Some(&rest[..rest.find('"')?])
}

fn number_after(text: &str, key: &str) -> Option<Seq> {
    let rest = &text[text.find(key)? + key.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit())?]
        .parse()
        .ok()
}

/// The judge's desk.
struct Tally<'a> {
    plan: &'a Plan,
    judge: Judge,
    rooms: Vec<RoomNo>,
    connections: Vec<ConnectionNo>,
    answered: u64,
    accepted: u64,
    delivered: u64,
    expected: u64,
    errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    accept: Histogram<u64>,
    last: Instant,
}

impl<'a> Tally<'a> {
    fn new(
        plan: &'a Plan,
        judge: Judge,
        rooms: Vec<RoomNo>,
        connections: Vec<ConnectionNo>,
    ) -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("bounds that fit three digits");
        Tally {
            plan,
            judge,
            rooms,
            connections,
            answered: 0,
            accepted: 0,
            delivered: 0,
            expected: 0,
            errors: BTreeMap::new(),
            latency: histogram(),
            accept: histogram(),
            last: plan.started,
        }
    }

    fn take(&mut self, notes: Vec<Note>) -> Result<()> {
        for note in notes {
            match note {
                Note::Sent { by, message } => {
                    if let Some((room, sender)) = self.place(message) {
                        let connection = self.connections[by as usize];
                        self.judge
                            .sent(connection, room, sender, &message.to_string());
                    }
                }
                Note::Answered {
                    message,
                    after,
                    refused: None,
                } => {
                    self.answered += 1;
                    self.accepted += 1;
                    self.expected += u64::from(self.plan.load.members);
                    self.accept.saturating_record(after.as_micros() as u64);
                    if let Some((room, sender)) = self.place(message) {
                        let key = self.judge.key(room, sender, &message.to_string());
                        self.judge.accepted(key);
                    }
                }
                Note::Answered {
                    refused: Some(code),
                    ..
                } => {
                    self.answered += 1;
                    *self.errors.entry(code).or_default() += 1;
                }
                Note::Delivered {
                    seat,
                    seq,
                    change_seq,
                    message,
                    after,
                } => {
                    self.delivered += 1;
                    self.last = Instant::now();
                    self.latency.saturating_record(after.as_micros() as u64);
                    if let Some((room, sender)) = self.place(message) {
                        let key = self.judge.key(room, sender, &message.to_string());
                        self.judge.delivered(seat, seq, change_seq, key);
                    }
                }
                Note::Other { seat, change_seq } => self.judge.event(seat, change_seq),
                Note::Ended(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn place(&self, message: u64) -> Option<(RoomNo, Uuid)> {
        let room = self.rooms[self.plan.room(message)?];
        Some((room, self.plan.users[self.plan.sender(message)].id))
    }

    fn report(self, cpu_us_per_message: BTreeMap<String, f64>) -> Report {
        let Verdict {
            sent,
            accepted,
            stored,
            delivered,
            expected,
            lost,
            duplicated,
            reordered,
            examples,
            ..
        } = self.judge.verdict();
        let sending = self.plan.load.duration.as_secs_f64();
        let receiving = self.last.saturating_duration_since(self.plan.started);
        Report {
            sent,
            accepted,
            stored,
            delivered,
            expected,
            lost,
            duplicated,
            reordered,
            accepted_per_s: (accepted as f64 / sending).round(),
            delivered_per_s: (delivered as f64 / receiving.as_secs_f64().max(sending)).round(),
            latency_ms: latency(&self.latency),
            accept_ms: latency(&self.accept),
            errors: self.errors,
            cpu_us_per_message,
            examples,
        }
    }
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Latency {
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        max: histogram.max() as f64 / 1000.0,
    }
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// A bar on a terminal; a line elsewhere.
fn progress(what: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    if bar.is_hidden() {
        eprintln!("{what}: {total}");
    }
    if let Ok(style) = ProgressStyle::with_template("{msg:>18} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar
}

async fn counted<T>(bar: &ProgressBar, what: impl Future<Output = Result<T>>) -> Result<T> {
    let result = what.await;
    bar.inc(1);
    result
}

/// Writes the report where `--json` says.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_json(load: &Load, report: &Report) -> Result<()> {
    let Some(file) = &load.json else {
        return Ok(());
    };
    let value: Value = json!(report);
    std::fs::write(file, format!("{value:#}\n")).map_err(|e| {
        Error::field(
            "--json",
            format!("{} cannot be written: {e}", file.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(rooms: u32, members: u32, senders: u32) -> Load {
        Load {
            url: Vec::new(),
            transport: Transport::Ws,
            rooms,
            members,
            senders,
            rate: 10,
            duration: Duration::from_secs(1),
            body: 1,
            pid: Vec::new(),
            json: None,
        }
    }

    #[test]
    fn every_room_has_its_members() {
        for (rooms, members, senders) in [(10, 3, 7), (5, 10, 4), (1, 1, 1), (100, 3, 300)] {
            let load = load(rooms, members, senders);
            let mut count = vec![0; rooms as usize];
            for user in 0..users(&load) {
                for room in rooms_of(user, &load) {
                    count[room] += 1;
                }
            }
            assert!(
                count.iter().all(|n| *n == members),
                "{rooms} {members} {senders}: {count:?}"
            );
        }
    }

    #[test]
    fn a_frame_is_read_by_a_few_of_its_bytes() {
        let (room, started) = (Uuid::new_v4(), Instant::now());
        let mut judge = Judge::new();
        let number = judge.room("r");
        let seats = HashMap::from([(
            room,
            Seated {
                seat: judge.seat(number, "s", 0),
                base: 0,
            },
        )]);
        let plan = Plan {
            load: load(1, 1, 1),
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
        }) = read(&text, &seats, &plan, started)
        else {
            panic!("it is a delivery")
        };
        assert_eq!((seq, change_seq, message), (7, 8, 42));
        let ack = format!(
            "{{\"ack\":{},\"ok\":false,\"error\":{{\"code\":\"busy\",\"message\":\"\"}}}}",
            FIRST_SEND + 3
        );
        assert!(
            matches!(read(&ack, &seats, &plan, started), Some(Note::Answered { message: 3, refused: Some(code), .. }) if code == "busy")
        );
    }
}
