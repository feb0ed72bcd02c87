//! Sockets that stop reading during a request: no shared resource may wait for them.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::harness::{
    Chat, Kind, Socket, User, both_ways, deployment::Plan, engineio::Raw, eventually,
};

both_ways!(
    stalled_sockets_do_not_hold_database_connections,
    slowly_draining_sockets_are_closed,
    a_stalled_socket_ends_with_its_login,
);

/// More than the database connections of a process: 4 SQLite readers, and at most 4 PostgreSQL connections in this
/// test.
const STALLED: usize = 24;
/// Bound of an honest client's request, on a loaded machine.
const PROMPT: Duration = Duration::from_secs(3);
const BODY: usize = 7000;

/// Disables the limits that other tests cover.
fn plan(kind: Kind, write_timeout: &str) -> Plan {
    Chat::plan(kind)
        .set("edge.write_timeout", write_timeout)
        // The byte limit must not be what closes the sockets.
        .set("edge.send_queue_bytes", 64 << 20)
        .set("limits.messages_per_second", 1_000_000)
        .set("limits.burst", 1_000_000)
}

/// A socket that is live in the room and reads nothing from now on.
async fn stall(chat: &Chat, edge: usize, user: &User, room: Uuid) -> Socket {
    let dial = chat.dial(edge).bearer(&user.access).receive_buffer(4096);
    let socket = dial.connect().await.expect("a socket");
    socket.join(room, None).await.expect("joined");
    socket.stop_reading();
    socket
}

async fn metric(chat: &Chat, name: &str) -> usize {
    let mut sum = 0;
    for edge in 0..chat.edges.len() {
        let metrics = chat.rest(edge).get("/metrics").await.text;
        let mut values = metrics.lines().filter_map(|line| line.strip_prefix(name));
        let value = values
            .next()
            .and_then(|value| value.trim().parse::<usize>().ok());
        sum += value.expect("the metric is there");
    }
    sum
}

async fn stalled(chat: &Chat) -> usize {
    metric(chat, "chat_slow_readers_closed_total ").await
}

async fn open_sockets(chat: &Chat) -> usize {
    metric(chat, "chat_sockets_open{transport=\"ws\"} ").await
}

/// Reads and joins of an honest client on this edge; returns the longest duration.
async fn honest(chat: &Chat, edge: usize, user: &User, room: Uuid) -> Duration {
    let rest = chat.rest_as(edge, user);
    let messages = format!("/v1/rooms/{room}/messages?limit=10");
    let mut longest = Duration::ZERO;
    let mut time = |started: Instant| longest = longest.max(started.elapsed());
    for path in ["/readyz", "/v1/me", &messages] {
        let started = Instant::now();
        rest.get(path).await.ok(200);
        time(started);
    }
    let started = Instant::now();
    let socket = chat.connect(edge, user).await;
    socket.join(room, None).await.expect("a quiet room");
    time(started);
    longest
}

async fn say(talker: &Socket, room: Uuid, count: usize) {
    let body = "x".repeat(BODY);
    let sends = (0..count).map(|_| {
        let data = json!({"room": room, "body": body, "clientMsgId": Uuid::new_v4()});
        async move {
            talker
                .send("sendMessage", data)
                .await
                .ack()
                .await
                .expect("accepted")
        }
    });
    join_all(sends).await;
}

/// Each socket is in a busy room and always has a request in flight that reads the database, so a request is in
/// progress whenever the socket's buffers are full.
async fn stalled_sockets_do_not_hold_database_connections(kind: Kind) {
    let chat = plan(kind, "2s").start().await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let busy = chat.room(&ada, "public", &[]).await;
    let quiet = chat.room(&bob, "public", &[]).await;
    let foreign = chat.room(&bob, "private", &[]).await;
    let sockets = (0..STALLED).map(|i| stall(&chat, i, &ada, busy));
    let sockets: Vec<Socket> = join_all(sockets).await;
    let talker = chat.connect(0, &ada).await;
    let before = open_sockets(&chat).await;

    let requests = sockets.iter().map(|socket| async move {
        for id in 1..1500 {
            let data = json!({"room": foreign, "seq": 1});
            let read = json!({"id": id + 10_000, "event": "markRead", "data": data}).to_string();
            // Once the server stops reading, the write blocks.
            let sent = tokio::time::timeout(Duration::from_secs(1), socket.raw(&read));
            if sent.await.is_err() {
                return;
            }
        }
    });
    let talking = async {
        for _ in 0..8 {
            say(&talker, busy, 10).await;
        }
    };
    tokio::join!(join_all(requests), talking);

    // The sockets are stalled now, or already closed.
    let started = Instant::now();
    let mut longest = Duration::ZERO;
    let closed = async {
        let mut edge = 0;
        while stalled(&chat).await < STALLED {
            longest = longest.max(honest(&chat, edge, &bob, quiet).await);
            edge += 1;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), closed).await;
    assert!(
        in_time.is_ok(),
        "{} of {STALLED} closed",
        stalled(&chat).await
    );
    for edge in 0..2 {
        longest = longest.max(honest(&chat, edge, &bob, quiet).await);
    }
    eventually("their sockets to be gone", || async {
        (open_sockets(&chat).await <= before - STALLED).then_some(())
    })
    .await;
    eprintln!(
        "{kind:?}: all {STALLED} closed after {:.1?}; an honest request took {longest:.1?} at most",
        started.elapsed()
    );
    assert!(longest < PROMPT, "{longest:?}");
    assert_eq!(stalled(&chat).await, STALLED, "and no others");
}

/// Every read is progress, but the backlog does not shrink.
async fn slowly_draining_sockets_are_closed(kind: Kind) {
    let chat = plan(kind, "1s").start().await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let (room, quiet) = tokio::join!(
        chat.room(&ada, "public", &[]),
        chat.room(&bob, "public", &[])
    );
    let talker = chat.connect(0, &ada).await;
    let mut dribblers = Vec::new();
    for edge in 0..6 {
        let headers = [("authorization", format!("Bearer {}", ada.access))];
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let mut raw = Raw::dial_at(chat.edge(edge).url(), "/ws", &headers, Some(4096))
            .await
            .expect("a socket");
        raw.until("{\"event\":\"connected\"").await;
        let join = json!({"id": 1, "event": "joinRoom", "data": {"room": room}});
        raw.say(&join.to_string()).await;
        raw.until("{\"ack\":1,\"ok\":true").await;
        dribblers.push(raw);
    }
    // 4 MiB are queued for each socket; it reads about 100 KiB per second.
    let dribbling: Vec<_> = dribblers
        .into_iter()
        .map(|mut raw| {
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(65));
                loop {
                    ticks.tick().await;
                    match raw.0.next().await {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return,
                    }
                }
            })
        })
        .collect();
    for _ in 0..6 {
        say(&talker, room, 100).await;
    }
    let started = Instant::now();
    eventually("all of them to be closed", || async {
        (stalled(&chat).await == 6).then_some(())
    })
    .await;
    let took = started.elapsed();
    eprintln!("{kind:?}: closed {took:.1?} after the last message");
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(honest(&chat, 0, &bob, quiet).await < PROMPT);
    dribbling.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A socket with a backlog does not outlive its login, although each of its reads is progress.
async fn a_stalled_socket_ends_with_its_login(kind: Kind) {
    let chat = plan(kind, "60s").start().await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "public", &[&bob]).await;
    let talker = chat.connect(0, &ada).await;
    let bearer = format!("Bearer {}", bob.access);
    let headers = [("authorization", bearer.as_str())];
    let mut raw = Raw::dial_at(chat.edge(0).url(), "/ws", &headers, Some(4096))
        .await
        .expect("a socket");
    raw.until("{\"event\":\"connected\"").await;
    let join = json!({"id": 1, "event": "joinRoom", "data": {"room": room}});
    raw.say(&join.to_string()).await;
    raw.until("{\"ack\":1,\"ok\":true").await;
    let reading = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(65));
        let mut after_the_end = 0;
        loop {
            ticks.tick().await;
            match raw.0.next().await {
                Some(Ok(Message::Text(text))) if text.contains("after the end") => {
                    after_the_end += 1;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return after_the_end,
            }
        }
    });
    // 7 MiB, more than the kernel's buffers.
    for _ in 0..10 {
        say(&talker, room, 100).await;
    }
    let open = open_sockets(&chat).await;
    let logout = json!({"refreshToken": bob.refresh});
    chat.rest(0).post("/v1/auth/logout", logout).await.ok(204);
    let ended = Instant::now();
    let rest = chat.rest_as(0, &bob);
    eventually("the edge to know it", || async {
        (rest.get("/v1/me").await.status == 401).then_some(())
    })
    .await;
    talker.say(room, "late", "after the end").await;
    eventually("the socket to be gone", || async {
        (open_sockets(&chat).await < open).then_some(())
    })
    .await;
    let took = ended.elapsed();
    eprintln!("{kind:?}: gone {took:.1?} after the logout");
    assert!(took < Duration::from_secs(12), "{took:?}");
    let after_the_end = tokio::time::timeout(Duration::from_secs(60), reading);
    let after_the_end = after_the_end
        .await
        .expect("a closed socket")
        .expect("a count");
    assert_eq!(after_the_end, 0);
}

/// Locks the feed table, so that requests that read it block until they time out after five seconds.
struct Held(PgConnection);

impl Held {
    async fn feed(chat: &Chat) -> Held {
        let mut connection = PgConnection::connect(chat.database_url())
            .await
            .expect("PostgreSQL");
        let lock = "BEGIN; LOCK TABLE feed IN ACCESS EXCLUSIVE MODE";
        connection
            .execute(sqlx::raw_sql(lock))
            .await
            .expect("it can be locked");
        Held(connection)
    }

    /// Waits until `count` requests wait for the lock.
    async fn until_blocked(&mut self, count: i64) {
        let sql = "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let deadline = Instant::now() + Duration::from_secs(4);
        loop {
            // Statistics are cached within a transaction: clear the snapshot.
            let fresh = self.0.execute("SELECT pg_stat_clear_snapshot()").await;
            fresh.expect("PostgreSQL");
            let waiting: i64 = sqlx::query_scalar(sql)
                .fetch_one(&mut self.0)
                .await
                .expect("PostgreSQL");
            if waiting >= count {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{waiting} requests are in progress"
            );
        }
    }

    async fn release(mut self) {
        self.0
            .execute("ROLLBACK")
            .await
            .expect("it can be released");
    }
}

fn recovery_request(room: Uuid) -> Value {
    json!({"id": 7, "event": "joinRoom", "data": {"room": room, "afterSeq": 0}})
}

/// Blocks a read of the feed, so that requests are in progress while their sockets are full.
#[tokio::test]
async fn a_request_continues_while_its_socket_is_stalled() {
    let chat = plan(Kind::Cluster, "30s").start().await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let busy = chat.room(&ada, "public", &[&bob]).await;
    let quiet = chat.room(&bob, "public", &[]).await;
    let another = chat.room(&ada, "public", &[]).await;
    let sockets = (0..4).map(|_| stall(&chat, 0, &ada, busy));
    let sockets: Vec<Socket> = join_all(sockets).await;
    let talker = chat.connect(1, &bob).await;
    let listener = chat.connect(0, &bob).await;
    listener.join(busy, None).await.expect("a member");
    assert!(honest(&chat, 0, &bob, quiet).await < PROMPT);

    let mut held = Held::feed(&chat).await;
    for socket in &sockets {
        socket.raw(&recovery_request(another).to_string()).await;
    }
    held.until_blocked(4).await;
    // Stalled requests use every database connection of this edge; now the sockets fill up.
    say(&talker, busy, 100).await;
    listener
        .until("all messages", |received| {
            let events = received.events.iter();
            let said = events.filter(|event| event.name == "newMessage").count();
            (said == 100).then_some(())
        })
        .await;
    held.release().await;

    let started = Instant::now();
    let longest = tokio::time::timeout(Duration::from_secs(10), honest(&chat, 0, &bob, quiet));
    let longest = longest
        .await
        .expect("the database connections are free again");
    eprintln!("{longest:.1?} at most, {:.1?} in all", started.elapsed());
    assert!(longest < PROMPT, "{longest:?}");
    assert_eq!(
        stalled(&chat).await,
        0,
        "the sockets are still there, and full"
    );
}

/// Pings are sent, and must be answered, also during a request.
#[tokio::test]
async fn pings_continue_during_a_request() {
    let chat = plan(Kind::Cluster, "30s")
        .set("edge.ping_interval", "200ms")
        .set("edge.pong_timeout", "600ms")
        .start()
        .await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let bearer = format!("Bearer {}", ada.access);
    let headers = [("authorization", bearer.as_str())];
    let dial = || Raw::dial_at(chat.edge(0).url(), "/ws", &headers, None);
    let (mut alive, mut dead) = (
        dial().await.expect("a socket"),
        dial().await.expect("a socket"),
    );
    for raw in [&mut alive, &mut dead] {
        raw.until("{\"event\":\"connected\"").await;
    }

    let mut held = Held::feed(&chat).await;
    for raw in [&mut alive, &mut dead] {
        raw.say(&recovery_request(room).to_string()).await;
    }
    held.until_blocked(2).await;
    // One client reads, and so answers pings; the other does not.
    let mut pings = 0;
    let pinged = async {
        while pings < 8 {
            match alive.0.next().await {
                Some(Ok(Message::Ping(_))) => pings += 1,
                Some(Ok(Message::Text(text))) => panic!("answered before its time: {text}"),
                other => panic!("{other:?}"),
            }
        }
    };
    let pinged = tokio::time::timeout(Duration::from_secs(4), pinged).await;
    assert!(pinged.is_ok(), "{pings} pings");
    held.release().await;
    let answer = alive.until("{\"ack\":7,").await;
    assert!(answer.starts_with("{\"ack\":7,\"ok\":true"), "{answer}");
    // It reads what was sent before the close.
    let ended = async {
        loop {
            match dead.0.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return u16::from(frame.code),
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let code = tokio::time::timeout(Duration::from_secs(5), ended).await;
    assert_eq!(code.expect("it is closed during its request"), 4009);
}
