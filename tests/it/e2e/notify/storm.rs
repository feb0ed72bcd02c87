//! Thousands of notifications to a provider that fails three times in ten, while every process is killed in turn:
//! each notification is delivered once, or the ledger says what became of it.
//!
//! 300 of them by default. The 10,000 of the promise:
//! `CHAT_TEST_NOTIFICATIONS=10000 scripts/test --test it e2e::notify::storm -- --nocapture`

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{prove, start};
use crate::harness::{
    Chat, DEADLINE, Kind, User, both_ways,
    provider::{Asked, Does, Provider},
};

both_ways!(everyone_is_told_once_or_it_is_accounted_for);

/// Senders at once.
const SENDERS: usize = 8;
/// Processes killed while messages are sent, and again while their notifications are.
const KILLS: usize = 4;
/// Attempts before a dead letter: few enough that some die.
const ATTEMPTS: usize = 4;

fn count() -> usize {
    let count = std::env::var("CHAT_TEST_NOTIFICATIONS");
    count.ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

/// Thirty of a hundred fail, in every way a provider can; the five last of those took the mail.
fn stumbling(before: usize, _: &Asked) -> Does {
    match (before * 37 + 11) % 100 {
        0..=8 => Does::fail(),
        9..=13 => Does::Answer(429, "", "{}"),
        14..=17 => Does::Answer(429, "Retry-After: 1\r\n", "{}"),
        18..=24 => Does::Reset,
        25..=28 => Does::TakeAndReset,
        29 => Does::TakeLate(Duration::from_secs(10)),
        _ => Does::take(),
    }
}

/// What the ledger has of one message.
struct Row {
    state: String,
    reason: String,
    delivery: String,
    attempts: Vec<Value>,
}

impl Row {
    fn read(row: &Value) -> Row {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        Row {
            state: text("state"),
            reason: text("reason"),
            delivery: text("delivery"),
            attempts: row["attempts"].as_array().cloned().unwrap_or_default(),
        }
    }

    fn is_final(&self) -> bool {
        ["sent", "dead"].contains(&self.state.as_str())
    }

    /// Attempts of which the ledger says that nobody knows whether the provider has it.
    fn unclear(&self) -> usize {
        let unclear = |attempt: &&Value| {
            let said = attempt["answer"].as_str().unwrap_or_default();
            ["no answer", "the connection", "the provider did not answer"]
                .iter()
                .any(|words| said.starts_with(words))
        };
        self.attempts.iter().filter(unclear).count()
    }
}

type Rows = HashMap<String, Row>;

async fn everyone_is_told_once_or_it_is_accounted_for(kind: Kind) {
    let count = count();
    let mail = Arc::new(Provider::start().await);
    let attempts = ATTEMPTS.to_string();
    let settings = [
        // As many deliveries as there can be.
        ("notify.digest_window", "0s"),
        ("notify.max_attempts", attempts.as_str()),
        ("notify.delay", "100ms"),
        ("notify.concurrency", "16"),
    ];
    let mut chat = start(kind, &mail, &settings).await;
    let ada = chat.register("ada").await;
    let began = Instant::now();
    let readers = readers(&chat, &mail, (count / 20).clamp(4, 200)).await;
    let rooms = join_all(readers.iter().map(|reader| {
        let (chat, ada) = (&chat, &ada);
        async move { chat.room(ada, "direct", &[reader]).await }
    }))
    .await;
    mail.forget();
    mail.does(stumbling);
    let ready = began.elapsed();

    let began = Instant::now();
    let sending = Sending::start(&chat, &ada, rooms, count);
    let mut kills = 0;
    for kill in 1..=KILLS {
        let goal = count * kill / (KILLS + 1);
        moves(|| sending.accepted() >= goal, || sending.accepted()).await;
        sending.kill(&mut chat, kills).await;
        kills += 1;
    }
    let messages = sending.finished().await;
    let sent = began.elapsed();
    for _ in 0..KILLS {
        // Deliveries are joined to digests while they wait, so nobody knows how many requests will come.
        let goal = mail.count() + count / 40;
        if !more_requests(&chat, &readers, &mail, goal, count).await {
            break;
        }
        sending.kill(&mut chat, kills).await;
        kills += 1;
    }
    assert!(
        kills > KILLS,
        "nothing was killed while notifications were sent"
    );
    let rows = settled(&chat, &readers, count, &mail).await;
    let took = began.elapsed();
    let asked = mail.asked();
    let figures = judge(&messages, &rows, &asked);
    eprintln!(
        "{kind:?}: {count} notifications in {} deliveries, {} requests; {} dead, {} taken twice and said so; \
         {kills} kills; ready after {ready:?}, sent after {sent:?}, all told after {took:?}",
        figures.deliveries,
        asked.len(),
        figures.dead,
        figures.twice
    );

    // What was given up is in the dead letters, once each, and can be sent from there.
    let letters = letters(&chat, &["list", "--limit", "100000"]).await;
    let letters = letters.as_array().expect("a list");
    // A worker that dies between letter and ledger writes it again, under the same id.
    let ids: HashSet<_> = letters.iter().map(|letter| letter["id"].as_str()).collect();
    assert_eq!(ids.len(), figures.dead);
    mail.does(|_, _| Does::take());
    letters_replay(&chat).await;
    let rows = eventually_all(&chat, &readers, count, &mail, |row| row.state == "sent").await;
    let asked = mail.asked();
    judge(&messages, &rows, &asked);
}

struct Figures {
    deliveries: usize,
    dead: usize,
    twice: usize,
}

/// Holds what the provider saw against what the ledger says.
fn judge(messages: &[String], rows: &Rows, asked: &[Asked]) -> Figures {
    let mut requests: HashMap<String, Vec<&Asked>> = HashMap::new();
    for asked in asked {
        requests
            .entry(asked.notification())
            .or_default()
            .push(asked);
    }
    let mut deliveries: HashMap<&str, (&Row, Vec<usize>)> = HashMap::new();
    for (i, message) in messages.iter().enumerate() {
        let row = &rows[message];
        let entry = deliveries.entry(&row.delivery);
        entry.or_insert((row, Vec::new())).1.push(i);
    }
    let (mut dead, mut twice) = (0, 0);
    for (id, (row, contents)) in &deliveries {
        let said = || format!("{id}: {}, {}, {:?}", row.state, row.reason, row.attempts);
        let came = requests.remove(*id).unwrap_or_default();
        // An attempt is on disk before its request leaves.
        assert!(
            came.len() <= row.attempts.len(),
            "{} requests: {}",
            came.len(),
            said()
        );
        let taken: Vec<_> = came.iter().filter(|asked| asked.taken()).collect();
        match row.state.as_str() {
            "sent" => {
                assert!(!taken.is_empty(), "was never taken: {}", said());
                assert!(
                    taken.len() <= 1 + row.unclear(),
                    "taken {} times: {}",
                    taken.len(),
                    said()
                );
            }
            _ => {
                dead += 1;
                assert!(
                    taken.len() <= row.unclear(),
                    "taken {} times: {}",
                    taken.len(),
                    said()
                );
            }
        }
        twice += usize::from(taken.len() > 1);
        for asked in taken {
            let text = asked.text();
            let there: Vec<usize> = text
                .split("message-")
                .skip(1)
                .filter_map(|rest| rest.split('-').next()?.parse().ok())
                .collect();
            // A mail shows 20 messages and tells the number of the others.
            assert_eq!(there.len(), contents.len().min(20), "{}: {text}", said());
            assert!(
                there.iter().all(|i| contents.contains(i)),
                "{}: {text}",
                said()
            );
        }
    }
    let unknown: Vec<_> = requests.keys().collect();
    assert!(unknown.is_empty(), "sent and in no ledger: {unknown:?}");
    Figures {
        deliveries: deliveries.len(),
        dead,
        twice,
    }
}

async fn readers(chat: &Chat, mail: &Provider, count: usize) -> Vec<User> {
    let mut readers = Vec::new();
    for i in 0..count {
        readers.push(chat.register(&format!("reader{i}")).await);
    }
    // A few at once: this process is the provider as well.
    for some in readers.chunks(16) {
        join_all(some.iter().map(|reader| {
            let address = format!("{}@example.com", reader.username);
            async move { prove(chat, reader, mail, "email", &address).await }
        }))
        .await;
        mail.forget();
    }
    readers
}

/// Clients that send, and send again what was not accepted, to whichever edge is there.
struct Sending {
    shared: Arc<Shared>,
    senders: Vec<tokio::task::JoinHandle<()>>,
}

struct Shared {
    http: reqwest::Client,
    token: String,
    rooms: Vec<Uuid>,
    urls: Mutex<Vec<String>>,
    next: AtomicUsize,
    accepted: AtomicUsize,
    ids: Mutex<Vec<String>>,
}

impl Sending {
    fn start(chat: &Chat, user: &User, rooms: Vec<Uuid>, count: usize) -> Sending {
        let shared = Arc::new(Shared {
            http: chat.http.clone(),
            token: user.access.clone(),
            rooms,
            urls: Mutex::default(),
            next: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            ids: Mutex::new(vec![String::new(); count]),
        });
        let sending = Sending {
            senders: (0..SENDERS)
                .map(|_| tokio::spawn(send(shared.clone(), count)))
                .collect(),
            shared,
        };
        sending.tell(chat);
        sending
    }

    /// Where the edges are now.
    fn tell(&self, chat: &Chat) {
        let urls = chat.edges.iter().map(|edge| edge.url().to_owned());
        *self.shared.urls.lock().expect("no panic") = urls.collect();
    }

    fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Kills a process and starts it again: workers and edges in turn, or the only one.
    async fn kill(&self, chat: &mut Chat, turn: usize) {
        let victim = match turn % 2 {
            0 => chat.worker_mut(turn / 2),
            _ => chat.edge_mut(turn / 2),
        };
        victim.kill9().await;
        victim.restart().await;
        self.tell(chat);
    }

    /// The ids, in the order of their numbers.
    async fn finished(&self) -> Vec<String> {
        let all = self.shared.ids.lock().expect("no panic").len();
        moves(|| self.accepted() == all, || self.accepted()).await;
        self.shared.ids.lock().expect("no panic").clone()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.senders.iter().for_each(|sender| sender.abort());
    }
}

async fn send(shared: Arc<Shared>, count: usize) {
    loop {
        let i = shared.next.fetch_add(1, Ordering::Relaxed);
        if i >= count {
            return;
        }
        let room = shared.rooms[i % shared.rooms.len()];
        let body = json!({"body": format!("message-{i}-"), "clientMsgId": i.to_string()});
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        for turn in i.. {
            let url = {
                let urls = shared.urls.lock().expect("no panic");
                urls.get(turn % urls.len().max(1))
                    .cloned()
                    .unwrap_or_default()
            };
            let request = shared
                .http
                .post(format!("{url}/v1/rooms/{room}/messages"))
                .bearer_auth(&shared.token)
                .header("content-type", "application/json")
                .body(body.to_string());
            if let Ok(answer) = request.send().await
                && answer.status() == 202
                && let Ok(bytes) = answer.bytes().await
                && let Ok(said) = serde_json::from_slice::<Value>(&bytes)
            {
                let id = said["id"].as_str().expect("an id").to_owned();
                shared.ids.lock().expect("no panic")[i] = id;
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                break;
            }
            pause.tick().await;
        }
    }
}

/// Waits until so many requests came; `false` if everything is told before that.
async fn more_requests(
    chat: &Chat,
    readers: &[User],
    mail: &Provider,
    goal: usize,
    count: usize,
) -> bool {
    let mut poll = tokio::time::interval(Duration::from_millis(10));
    let (mut last, mut since) = (mail.count(), Instant::now());
    loop {
        poll.tick().await;
        let now = mail.count();
        if now >= goal {
            return true;
        }
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > Duration::from_secs(1) {
            if all_final(&ledger(chat, readers).await, count) {
                return false;
            }
            assert!(
                since.elapsed() < DEADLINE,
                "no request comes any more: {last}"
            );
        }
    }
}

/// Waits for a condition for as long as a figure still changes.
async fn moves(done: impl Fn() -> bool, figure: impl Fn() -> usize) {
    let mut poll = tokio::time::interval(Duration::from_millis(10));
    let (mut last, mut since) = (figure(), Instant::now());
    while !done() {
        poll.tick().await;
        let now = figure();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < DEADLINE, "nothing moves any more: {last}");
    }
}

/// Every reader's whole history.
async fn ledger(chat: &Chat, readers: &[User]) -> Rows {
    let mut rows = Rows::new();
    for (i, reader) in readers.iter().enumerate() {
        let rest = chat.rest_as(i, reader);
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/me/notifications/history?limit=200{cursor}");
            let page = rest.get(&path).await.ok(200);
            for row in page["items"].as_array().expect("rows") {
                let message = row["message"].as_str().expect("an id").to_owned();
                let before = rows.insert(message, Row::read(row));
                assert!(
                    before.is_none(),
                    "two rows for one message and one reader: {row}"
                );
            }
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
    rows
}

fn all_final(rows: &Rows, count: usize) -> bool {
    rows.len() == count && rows.values().all(Row::is_final)
}

async fn settled(chat: &Chat, readers: &[User], count: usize, mail: &Provider) -> Rows {
    eventually_all(chat, readers, count, mail, Row::is_final).await
}

/// The ledger, once all of its rows are right. Gives up when nothing has moved for a while.
async fn eventually_all(
    chat: &Chat,
    readers: &[User],
    count: usize,
    mail: &Provider,
    right: impl Fn(&Row) -> bool,
) -> Rows {
    let mut poll = tokio::time::interval(Duration::from_millis(300));
    let (mut last, mut since) = ((0, 0), Instant::now());
    loop {
        poll.tick().await;
        let rows = ledger(chat, readers).await;
        let ready = rows.values().filter(|row| right(row)).count();
        if ready == count {
            assert_eq!(rows.len(), count, "more rows than messages");
            return rows;
        }
        let now = (ready, mail.count());
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let stuck = since.elapsed() > DEADLINE;
        let first = rows.iter().find(|(_, row)| !right(row));
        assert!(
            !stuck,
            "{ready} of {count} are settled, {} have a row, and nothing moves any more: {:?}",
            rows.len(),
            first.map(|(id, row)| (id, &row.state, &row.reason, &row.attempts))
        );
    }
}

fn dead_args<'a>(chat: &Chat, data: &'a str, what: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["queue", "--json", "dead"];
    args.extend(what);
    if chat.kind == Kind::Standalone {
        args.extend(["--data", data]);
    }
    args
}

async fn letters(chat: &Chat, what: &[&str]) -> Value {
    let data = chat.dir().join("data").to_string_lossy().into_owned();
    let ended = chat
        .recipe("dead", &dead_args(chat, &data, what))
        .run()
        .await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap_or_default()
}

async fn letters_replay(chat: &Chat) {
    letters(chat, &["replay", "--all"]).await;
}
