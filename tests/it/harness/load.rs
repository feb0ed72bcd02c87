//! A steady load that survives faults: clients that send to several rooms, repeat what was not acknowledged and resume
//! on any running edge, while the judge records everything.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bench::judge::{Judge, RoomNo, SubscriptionNo, Verdict};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval},
};
use uuid::Uuid;

use super::{
    Chat, Kind, Socket, User,
    deployment::{Plan, uuid},
    eventually,
    outage::{Outage, Watch},
    socket::{Dial, Event, Pending, WireError},
};

/// A client sends nothing new while this many of its sends are not answered.
const WINDOW: usize = 500;

/// Expected duration of a response, on a busy machine.
pub const PROMPT: Duration = Duration::from_millis(500);

pub struct Load {
    shared: Arc<Shared>,
    rooms: Vec<Room>,
    subscriptions: Vec<SubscriptionNo>,
    reader: User,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Clone, Copy)]
struct Room {
    id: Uuid,
    no: RoomNo,
    /// The head before the first message.
    base: i64,
}

struct Shared {
    book: Mutex<Book>,
    edges: Mutex<Vec<String>>,
    quiet: AtomicBool,
    /// Bytes that bodies contain after their name.
    padding: AtomicUsize,
}

#[derive(Default)]
struct Book {
    judge: Judge,
    figures: Figures,
    watch: Watch,
    /// Unacknowledged sends of each client.
    open: Vec<usize>,
}

/// Counters of the responses to clients.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    pub accepted: u64,
    /// `busy` responses; each of these sends was repeated.
    pub busy: u64,
    /// The longest time from a send to its response.
    pub slowest: Duration,
    /// Responses that took longer than [`PROMPT`].
    pub late: u64,
    /// Connections after the first one of each client.
    pub reconnects: u64,
    /// Connections closed with 1012 and a reconnect delay, which the client followed.
    pub restarts: u64,
}

impl Load {
    /// A plan with limits that do not slow the load down.
    pub fn plan(kind: Kind) -> Plan {
        Chat::plan(kind)
            .set("limits.messages_per_second", 1_000_000)
            .set("limits.burst", 1_000_000)
    }

    /// Each client is a member of each room and sends one message every `pace`.
    pub async fn start(chat: &Chat, rooms: usize, clients: usize, pace: Duration) -> Load {
        let names: Vec<String> = (0..clients).map(|i| format!("talker{i}")).collect();
        let users: Vec<User> = join_all(names.iter().map(|name| chat.register(name))).await;
        let others: Vec<&User> = users.iter().skip(1).collect();
        let mut book = Book {
            open: vec![0; clients],
            ..Book::default()
        };
        let mut made = Vec::new();
        for i in 0..rooms {
            let id = chat.room(&users[0], "public", &others).await;
            let rest = chat.rest_as(0, &users[0]);
            let room = rest.get(&format!("/v1/rooms/{id}")).await.ok(200);
            let base = room["seq"].as_i64().expect("a number");
            let no = book.judge.room(format!("room {i}"));
            made.push(Room { id, no, base });
        }
        let shared = Arc::new(Shared {
            book: Mutex::new(book),
            edges: Mutex::default(),
            quiet: AtomicBool::new(false),
            padding: AtomicUsize::new(0),
        });
        let mut load = Load {
            shared,
            rooms: made,
            subscriptions: Vec::new(),
            reader: users[0].clone(),
            clients: Vec::new(),
        };
        load.update_edges(chat);
        for (number, user) in users.into_iter().enumerate() {
            let mut book = load.shared.book();
            let subscriptions = load.rooms.iter().map(|room| {
                let subscription = book.judge.subscribe(room.no, &user.username, room.base);
                (*room, subscription)
            });
            let subscriptions: Vec<(Room, SubscriptionNo)> = subscriptions.collect();
            drop(book);
            load.subscriptions
                .extend(subscriptions.iter().map(|(_, subscription)| *subscription));
            let mut ticks = interval(pace);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let client = Client {
                shared: load.shared.clone(),
                number,
                user,
                subscriptions,
                edge: number,
                said: 0,
                again: VecDeque::new(),
                ticks,
            };
            load.clients.push(tokio::spawn(client.run()));
        }
        load
    }

    /// Updates the addresses of the edges, after one has been restarted.
    pub fn update_edges(&self, chat: &Chat) {
        let edges = chat.edges.iter().map(|edge| edge.url().to_owned());
        *lock(&self.shared.edges) = edges.collect();
    }

    /// The owner of the rooms.
    pub fn owner(&self) -> &User {
        &self.reader
    }

    /// A room's id, and its head before the first message.
    pub fn room(&self, i: usize) -> (Uuid, i64) {
        (self.rooms[i].id, self.rooms[i].base)
    }

    /// Makes bodies `bytes` longer.
    pub fn pad(&self, bytes: usize) {
        self.shared.padding.store(bytes, Ordering::Relaxed);
    }

    pub fn figures(&self) -> Figures {
        self.shared.book().figures
    }

    /// Begins to measure the time without service. The load must go on until [`Load::outage`].
    pub fn watch(&self) {
        let mut book = self.shared.book();
        book.watch.begin();
        book.figures.slowest = Duration::ZERO;
    }

    /// The longest times without service since [`Load::watch`].
    pub fn outage(&self) -> Outage {
        self.shared.book().watch.end()
    }

    /// The judge's counts so far. Meaningful after [`Load::settled`].
    pub fn verdict(&self) -> Verdict {
        self.shared.book().judge.verdict()
    }

    /// The number of unanswered sends.
    pub fn in_flight(&self) -> usize {
        self.shared.book().open.iter().sum()
    }

    /// Waits until `more` further sends are acknowledged.
    pub async fn accepted(&self, more: u64) {
        let goal = self.figures().accepted + more;
        self.until(&format!("{more} more accepted"), || {
            self.figures().accepted >= goal
        })
        .await;
    }

    /// Waits until `more` further messages are delivered to clients.
    pub async fn delivered(&self, more: u64) {
        let delivered = || self.shared.book().watch.delivered;
        let goal = delivered() + more;
        self.until(&format!("{more} more delivered"), || delivered() >= goal)
            .await;
    }

    /// Goes on for `lasting` and asserts that nine of ten sends are answered within [`PROMPT`], and all of them within
    /// `limit`.
    pub async fn answers_within(&self, limit: Duration, lasting: Duration) {
        self.shared.book().figures.slowest = Duration::ZERO;
        let (started, before) = (Instant::now(), self.figures());
        self.until("the time to pass", || started.elapsed() >= lasting)
            .await;
        self.answered().await;
        let now = self.figures();
        eprintln!("the slowest answer took {:.0?}", now.slowest);
        assert!(now.slowest < limit, "{now:?}");
        let answers = now.accepted + now.busy - before.accepted - before.busy;
        let late = now.late - before.late;
        assert!(late * 10 <= answers, "{late} of {answers}: {now:?}");
        assert!(now.accepted > before.accepted, "{before:?}, then {now:?}");
        self.resume_sending();
    }

    /// Waits for a condition; prints the state of the load if it is never met.
    pub async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let waiting = eventually(what, || {
            self.check();
            let met = condition();
            async move { met.then_some(()) }
        });
        tokio::pin!(waiting);
        let mut explained = Explained(Some(self));
        waiting.await;
        explained.0 = None;
    }

    /// Stops sending and waits until every send is acknowledged, though not necessarily delivered.
    pub async fn answered(&self) {
        self.shared.quiet.store(true, Ordering::Relaxed);
        self.until("every send to be acknowledged", || {
            self.shared.book().open.iter().all(|open| *open == 0)
        })
        .await;
    }

    /// Resumes sending after [`Load::answered`] or [`Load::settled`].
    pub fn resume_sending(&self) {
        self.shared.quiet.store(false, Ordering::Relaxed);
    }

    /// Stops sending and waits until everything is acknowledged and delivered to every client.
    pub async fn settled(&self) {
        self.answered().await;
        self.until("every message to be delivered to every client", || {
            let book = self.shared.book();
            self.subscriptions
                .iter()
                .all(|subscription| book.judge.missing(*subscription) == 0)
        })
        .await;
    }

    /// Settles, compares with the history, and evaluates the judge's verdict.
    ///
    /// # Panics
    /// If a message was lost, duplicated, out of order or wrongly numbered, or if a room's numbers have a gap.
    pub async fn end(self, chat: &Chat) -> Verdict {
        self.settled().await;
        for client in &self.clients {
            client.abort();
        }
        let rest = chat.rest_as(0, &self.reader);
        for room in &self.rooms {
            let subscription = self
                .shared
                .book()
                .judge
                .subscribe(room.no, "the history", 0);
            let (mut after, mut seqs) = (0, Vec::new());
            loop {
                let path = format!("/v1/rooms/{}/messages?after={after}&limit=200", room.id);
                let page = rest.get(&path).await.ok(200);
                let items = page["items"].as_array().expect("a list");
                after = items.last().map_or(after, number);
                seqs.extend(items.iter().map(number));
                self.shared
                    .book()
                    .caught_up(*room, subscription, items, after);
                if page["hasMore"] == json!(false) {
                    break;
                }
            }
            let expected: Vec<i64> = (room.base + 1..).take(seqs.len()).collect();
            assert!(seqs == expected, "a gap in the numbers: {seqs:?}");
        }
        let verdict = self.shared.book().judge.verdict();
        assert!(verdict.is_clean(), "{}", verdict.explain());
        assert_eq!(verdict.sent, verdict.accepted, "{}", verdict.explain());
        assert_eq!(verdict.gaps, 0, "{}", verdict.explain());
        verdict
    }

    /// Panics if a client has failed.
    fn check(&self) {
        let failed = self.clients.iter().any(JoinHandle::is_finished);
        assert!(!failed, "a client failed; its panic is above");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for client in &self.clients {
            client.abort();
        }
    }
}

/// Prints the state of the load when waiting ends in a panic.
struct Explained<'a>(Option<&'a Load>);

impl Drop for Explained<'_> {
    fn drop(&mut self) {
        if let Some(load) = self.0.filter(|_| std::thread::panicking()) {
            let book = load.shared.book();
            let verdict = book.judge.verdict();
            eprintln!(
                "{:?}, open {:?}; {}",
                book.figures,
                book.open,
                verdict.explain()
            );
        }
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(message: &Value) -> i64 {
    message["seq"].as_i64().expect("a number")
}

impl Book {
    fn caught_up(
        &mut self,
        room: Room,
        subscription: SubscriptionNo,
        messages: &[Value],
        upto: i64,
    ) {
        let found: Vec<_> = messages
            .iter()
            .map(|message| (number(message), self.key(room, message)))
            .collect();
        self.judge.caught_up(subscription, found, upto);
    }

    fn key(&self, room: Room, message: &Value) -> bench::judge::Key {
        let name = message["clientMsgId"].as_str().expect("a name");
        self.judge
            .key(room.no, uuid(&message["sender"]["id"]), name)
    }
}

/// One user with one connection at a time.
struct Client {
    shared: Arc<Shared>,
    number: usize,
    user: User,
    subscriptions: Vec<(Room, SubscriptionNo)>,
    /// The edge that it is connected to, or tries next.
    edge: usize,
    said: usize,
    /// Messages to send again: not acknowledged by an earlier connection, or refused as `busy`.
    again: VecDeque<usize>,
    ticks: Interval,
}

struct Sent {
    message: usize,
    answer: Pending,
    at: Instant,
}

impl Client {
    async fn run(mut self) {
        loop {
            let url = {
                let edges = lock(&self.shared.edges);
                edges[self.edge % edges.len()].clone()
            };
            let dial = Dial::new(&url).bearer(&self.user.access);
            if let Ok(socket) = dial.attempt().await {
                self.talk(&socket).await;
                self.shared.book().figures.reconnects += 1;
                self.wait_before_reconnect(&socket).await;
            }
            self.edge += 1;
            self.ticks.tick().await;
        }
    }

    /// An edge that shuts down announces a reconnect delay.
    async fn wait_before_reconnect(&self, socket: &Socket) {
        let closed = socket.received(|received| received.closed.clone());
        if let Some(closed) = closed.filter(|closed| closed.code == 1012) {
            let hint: Value = serde_json::from_str(&closed.reason).expect("the reason is JSON");
            let pause = hint["retryAfterMs"].as_u64().expect("a number");
            self.shared.book().figures.restarts += 1;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Sends and receives until the socket ends.
    async fn talk(&mut self, socket: &Socket) {
        for i in 0..self.subscriptions.len() {
            if !self.resume(socket, i).await {
                return;
            }
        }
        let connection = self.shared.book().judge.connection();
        let mut waiting: Vec<Sent> = Vec::new();
        let (mut taken, mut answers) = (0, 0);
        loop {
            let news = socket.until("anything at all", |received| {
                let new = received.events.len() > taken || received.acks.len() > answers;
                (new || received.closed.is_some()).then_some(())
            });
            tokio::select! {
                () = news => {}
                _ = self.ticks.tick() => {
                    if let Some(message) = self.next(waiting.len()) {
                        let (room, _) = self.subscriptions[message % self.subscriptions.len()];
                        let name = self.name(message);
                        {
                            let mut book = self.shared.book();
                            book.judge.sent(connection, room.no, self.user.id, &name);
                            book.open[self.number] = waiting.len() + self.again.len() + 1;
                        }
                        let padding = self.shared.padding.load(Ordering::Relaxed);
                        let body = format!("{name}{}", ".".repeat(padding));
                        let data = json!({"room": room.id, "body": body, "clientMsgId": name});
                        let at = Instant::now();
                        let answer = socket.send("sendMessage", data).await;
                        waiting.push(Sent { message, answer, at });
                    }
                }
            }
            let (events, closed);
            (events, answers, closed) = socket.received(|received| {
                let events = received.events[taken..].to_vec();
                (events, received.acks.len(), received.closed.is_some())
            });
            taken += events.len();
            for event in &events {
                self.record(event);
            }
            waiting.retain(|sent| !self.take_answer(sent));
            self.shared.book().open[self.number] = waiting.len() + self.again.len();
            if closed {
                self.again.extend(waiting.iter().map(|sent| sent.message));
                self.again.make_contiguous().sort_unstable();
                return;
            }
        }
    }

    fn name(&self, message: usize) -> String {
        format!("{} {message}", self.user.username)
    }

    fn next(&mut self, waiting: usize) -> Option<usize> {
        let again = self.again.pop_front();
        let quiet = self.shared.quiet.load(Ordering::Relaxed);
        if again.is_some() || quiet || waiting >= WINDOW {
            return again;
        }
        self.said += 1;
        Some(self.said - 1)
    }

    fn take_answer(&mut self, sent: &Sent) -> bool {
        let Some(answer) = sent.answer.now() else {
            return false;
        };
        let name = self.name(sent.message);
        let (room, _) = self.subscriptions[sent.message % self.subscriptions.len()];
        let mut book = self.shared.book();
        let took = sent.at.elapsed();
        book.figures.slowest = book.figures.slowest.max(took);
        book.figures.late += u64::from(took > PROMPT);
        match answer {
            Ok(_) => {
                let key = book.judge.key(room.no, self.user.id, &name);
                book.judge.accepted(key);
                book.figures.accepted += 1;
                book.watch.acked();
            }
            Err(error) => {
                assert_eq!(error.code, "busy", "{name}: {error:?}");
                assert!(error.retry_after_ms.is_some(), "{name}: {error:?}");
                book.figures.busy += 1;
                self.again.push_back(sent.message);
            }
        }
        true
    }

    fn record(&self, event: &Event) {
        let data = event.data();
        let subscription_of = |data: &Value| {
            let room = data["room"].as_str().and_then(|room| room.parse().ok());
            let found = self
                .subscriptions
                .iter()
                .find(|(at, _)| Some(at.id) == room);
            *found.unwrap_or_else(|| panic!("an event of no room: {data}"))
        };
        let mut book = self.shared.book();
        match event.name.as_str() {
            "newMessage" => {
                let (room, subscription) = subscription_of(&data);
                let key = book.key(room, &data);
                let change = data["changeSeq"].as_i64().expect("a number");
                book.judge
                    .delivered(subscription, number(&data), change, key);
                book.watch.delivered();
            }
            "gap" => {
                let (_, subscription) = subscription_of(&data);
                let end = |name: &str| data[name].as_i64().expect("a number");
                book.judge.gap(subscription, end("from"), end("to"));
            }
            "sendFailed" => panic!("refused after it was accepted: {data}"),
            _ => {
                if let Some(seq) = data["changeSeq"].as_i64() {
                    let (_, subscription) = subscription_of(&data);
                    book.judge.event(subscription, seq);
                }
            }
        }
    }

    /// Resumes a subscription at its position, page by page. `false` if the socket ended.
    async fn resume(&mut self, socket: &Socket, index: usize) -> bool {
        let (room, subscription) = self.subscriptions[index];
        loop {
            let after = self.shared.book().judge.position(subscription);
            match socket.join(room.id, Some(after)).await {
                Ok(joined) => {
                    let upto = joined["seq"].as_i64().expect("a number");
                    let messages = joined["messages"].as_array().expect("a list");
                    self.shared
                        .book()
                        .caught_up(room, subscription, messages, upto);
                    if joined["hasMore"] == json!(false) {
                        return true;
                    }
                }
                Err(error) if error.code == WireError::CLOSED => return false,
                Err(_) => {
                    self.ticks.tick().await;
                }
            }
        }
    }
}
