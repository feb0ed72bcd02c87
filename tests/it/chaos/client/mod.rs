//! A client: it holds one connection, resumes its rooms after each reconnect, performs operations at a steady rate, and
//! records everything it receives.

pub mod membership;
mod operations;
pub mod shared;
mod wire;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use self::{
    shared::Shared,
    wire::{Frame, Wire},
};
use super::{
    random::Random,
    record::{Action, Copy, Event, Outcome, Seen, View, subject},
};

/// Longer than `queue.confirm_timeout`, after which a send is `busy`: a connection without an answer is given up.
const ANSWER: Duration = Duration::from_secs(15);
/// A connection on which nothing is outstanding is tested this often.
const PROBE: Duration = Duration::from_secs(3);
/// Requests in flight.
const WINDOW: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Not subscribed. The next `joinRoom` is sent at this time.
    Out(Instant),
    Joining,
    Live,
}

enum Request {
    Join { room: usize, op: Option<usize> },
    Op(usize),
    Probe,
}

struct InRoom {
    state: State,
    view: View,
    epoch: Option<Value>,
    /// The membership has ended: the next join is an operation of its own.
    left: bool,
    /// Own messages that can be edited and deleted, and any that can be reacted to.
    own: Vec<Uuid>,
    any: VecDeque<Uuid>,
}

pub struct Client {
    shared: Arc<Shared>,
    number: usize,
    rooms: Vec<InRoom>,
    random: Random,
    /// Numbers the messages.
    said: usize,
    /// Sends whose outcome is unknown, to be repeated.
    again: VecDeque<usize>,
    ticks: Interval,
    connection: usize,
    waiting: HashMap<u64, (Request, Instant)>,
    heard: Instant,
}

impl Client {
    /// `pace` is the time between two operations.
    pub fn new(shared: Arc<Shared>, number: usize, seed: u64, pace: Duration) -> Client {
        let mut ticks = interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        let rooms = shared.rooms.iter().map(|_| InRoom {
            state: State::Out(now),
            view: View::default(),
            epoch: None,
            left: false,
            own: Vec::new(),
            any: VecDeque::new(),
        });
        Client {
            number,
            rooms: rooms.collect(),
            random: Random::new(seed, 100 + number as u64),
            said: 0,
            again: VecDeque::new(),
            ticks,
            connection: 0,
            waiting: HashMap::new(),
            heard: now,
            shared,
        }
    }

    /// Runs until it is stopped; returns what it received, by room.
    pub async fn run(mut self) -> Vec<View> {
        let mut edge = self.number;
        let shared = self.shared.clone();
        while !shared.is_stopped() {
            let address = &shared.edges[edge % shared.edges.len()];
            let token = &shared.users[self.number].token;
            let mut pause = self.random.millis(20, 300);
            if let Some(wire) = Wire::connect(address, token).await {
                let hint = self.talk(wire).await;
                pause += hint.unwrap_or_default().min(3_000);
                self.disconnected();
            }
            edge += 1;
            sleep(Duration::from_millis(pause)).await;
        }
        self.rooms.into_iter().map(|room| room.view).collect()
    }

    fn disconnected(&mut self) {
        let now = Instant::now();
        for (room, state) in self.rooms.iter_mut().enumerate() {
            state.state = State::Out(now);
            self.shared.set_position(self.number, room, None);
        }
        let lost = self
            .waiting
            .drain()
            .filter_map(|(_, (request, _))| match request {
                Request::Op(op) => Some(op),
                Request::Join { .. } | Request::Probe => None,
            });
        let mut lost: Vec<usize> = lost.collect();
        lost.sort_unstable();
        let book = self.shared.book();
        let sends = lost.into_iter();
        let sends = sends.filter(|op| matches!(book.ops[*op].action, Action::Send { .. }));
        self.again.extend(sends);
        self.shared.set_pending(self.number, self.again.len());
    }

    /// Sends and receives until the connection ends. Returns the server's reconnect delay in milliseconds.
    async fn talk(&mut self, mut wire: Wire) -> Option<u64> {
        self.connection = self.shared.new_connection();
        self.heard = Instant::now();
        loop {
            tokio::select! {
                frame = wire.frame() => {
                    self.heard = Instant::now();
                    match frame {
                        Frame::Closed(hint) => return hint,
                        Frame::Ack(id, answer) => {
                            if let Some((request, _)) = self.waiting.remove(&id) {
                                self.answered(request, answer);
                            }
                        }
                        Frame::Event(name, data) => self.event(&name, &data),
                    }
                }
                _ = self.ticks.tick() => {
                    if self.shared.is_stopped() || self.is_silent() {
                        return None;
                    }
                    self.tick(&mut wire).await?;
                }
            }
        }
    }

    /// An answer is overdue.
    fn is_silent(&self) -> bool {
        let mut sent = self.waiting.values().map(|(_, at)| at);
        sent.any(|at| at.elapsed() > ANSWER)
    }

    /// `None` if the connection is broken.
    async fn tick(&mut self, wire: &mut Wire) -> Option<()> {
        for room in 0..self.rooms.len() {
            let State::Out(due) = self.rooms[room].state else {
                continue;
            };
            if due <= Instant::now() {
                self.join(wire, room).await?;
            }
        }
        if let Some((op, event, data)) = self.next_operation() {
            self.request(wire, Request::Op(op), event, &data).await?;
        } else if self.waiting.is_empty() && self.heard.elapsed() > PROBE {
            let data = json!({"room": Uuid::nil()});
            self.request(wire, Request::Probe, "leaveRoom", &data)
                .await?;
        }
        let requests = self.waiting.values();
        let waiting = requests.filter(|(request, _)| matches!(request, Request::Op(_)));
        let pending = waiting.count() + self.again.len();
        self.shared.set_pending(self.number, pending);
        Some(())
    }

    async fn request(
        &mut self,
        wire: &mut Wire,
        request: Request,
        event: &str,
        data: &Value,
    ) -> Option<()> {
        // Recorded first: what cannot be sent completely may have been sent.
        let sent = wire.send(event, data).await;
        let id = sent.unwrap_or(u64::MAX);
        self.waiting.insert(id, (request, Instant::now()));
        sent.map(drop)
    }

    async fn join(&mut self, wire: &mut Wire, room: usize) -> Option<()> {
        let state = &mut self.rooms[room];
        state.state = State::Joining;
        let about = &self.shared.rooms[room];
        let position = state.view.position;
        let mut data = json!({"room": about.id, "afterSeq": position});
        if let Some(epoch) = &state.epoch {
            data["epoch"] = epoch.clone();
        }
        let op = (state.left && about.public).then(|| {
            let (shared, connection) = (&self.shared, self.connection);
            shared.begin(self.number, room, Action::Join, connection, position)
        });
        let request = Request::Join { room, op };
        self.request(wire, request, "joinRoom", &data).await
    }

    fn answered(&mut self, request: Request, answer: Result<Value, Value>) {
        match request {
            Request::Probe => {}
            Request::Op(op) => self.operation_answered(op, answer),
            Request::Join { room, op } => {
                if let Some(op) = op {
                    let outcome = match &answer {
                        Ok(_) => Outcome::Done {
                            id: None,
                            change: None,
                        },
                        Err(_) => Outcome::Unknown,
                    };
                    self.shared.answer(op, outcome);
                }
                match answer {
                    Ok(joined) => self.joined(room, &joined),
                    Err(error) => {
                        self.check_refusal("joinRoom", &error);
                        let pause = Duration::from_millis(self.random.millis(200, 900));
                        self.rooms[room].state = State::Out(Instant::now() + pause);
                    }
                }
            }
        }
    }

    fn joined(&mut self, room: usize, joined: &Value) {
        let state = &mut self.rooms[room];
        state.left = false;
        state.epoch = Some(joined["epoch"].clone());
        let number = |value: &Value| value.as_i64().expect("a number");
        let mut messages = Vec::new();
        for message in joined["messages"].as_array().into_iter().flatten() {
            let id = subject(Event::New, message);
            messages.push((id, number(&message["changeSeq"])));
            state.view.messages.insert(id, Copy::read(message));
        }
        let mut events = Vec::new();
        for event in joined["events"].as_array().into_iter().flatten() {
            let kind = event["event"].as_str().and_then(Event::named);
            let kind = kind.expect("a known event");
            events.push((number(&event["data"]["changeSeq"]), kind));
            if kind == Event::Reaction {
                apply(&mut state.view, kind, &event["data"]);
            }
        }
        let gaps = joined["gaps"].as_array().into_iter().flatten();
        let gaps = gaps.map(|gap| (number(&gap["from"]), number(&gap["to"])));
        let upto = number(&joined["seq"]);
        let page = Seen::Page {
            at: self.shared.now(),
            after: state.view.position,
            upto,
            messages,
            events,
            gaps: gaps.collect(),
        };
        state.view.seen.push(page);
        state.view.position = upto;
        let more = joined["hasMore"] == true;
        state.state = if more {
            State::Out(Instant::now())
        } else {
            State::Live
        };
        let live = (!more).then_some(upto);
        self.shared.set_position(self.number, room, live);
    }

    fn event(&mut self, name: &str, data: &Value) {
        let id = data["room"].as_str().and_then(|room| room.parse().ok());
        let Some(room) = self
            .shared
            .rooms
            .iter()
            .position(|room| Some(room.id) == id)
        else {
            return;
        };
        let at = self.shared.now();
        let number = |name: &str| data[name].as_i64().unwrap_or_default();
        let state = &mut self.rooms[room];
        match (name, Event::named(name)) {
            ("gap", _) => {
                let (from, to) = (number("from"), number("to"));
                state.view.seen.push(Seen::Gap { at, from, to });
                // Perhaps it is no member any more: the answer to the next join tells.
                state.state = State::Out(Instant::now());
            }
            ("reset", _) => {
                state.view.seen.push(Seen::Reset { at });
                state.view.position = 0;
                state.view.messages.clear();
                state.state = State::Out(Instant::now());
            }
            ("sendFailed", _) => {
                let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
                let failed = (room, text("clientMsgId"), text("code"));
                self.shared.book().failed.push(failed);
                return;
            }
            (_, Some(event)) => {
                let (seq, subject) = (number("changeSeq"), subject(event, data));
                let live = Seen::Live {
                    at,
                    seq,
                    event,
                    subject,
                };
                state.view.seen.push(live);
                state.view.position = seq;
                apply(&mut state.view, event, data);
                if event == Event::New {
                    state.any.push_back(subject);
                    if state.any.len() > 30 {
                        state.any.pop_front();
                    }
                }
                if event == Event::Left && subject == self.shared.users[self.number].id {
                    state.left = true;
                    let pause = Duration::from_millis(self.random.millis(300, 2_500));
                    state.state = State::Out(Instant::now() + pause);
                }
            }
            (_, None) => return,
        }
        let live = (state.state == State::Live).then_some(state.view.position);
        self.shared.set_position(self.number, room, live);
    }
}

/// Updates the client's copy of a message.
fn apply(view: &mut View, event: Event, data: &Value) {
    let id = subject(event, data);
    if event == Event::Reaction {
        // Of a message that the client has not seen, because its history begins later.
        if let Some(copy) = view.messages.get_mut(&id) {
            copy.react(data);
        }
    } else if event.is_of_message() {
        view.messages.insert(id, Copy::read(data));
    }
}
