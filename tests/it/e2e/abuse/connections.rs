//! Idle connections, too many or too slow connections, and responses that are not read.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::json;
use uuid::Uuid;

use crate::harness::{
    Chat, Kind, Socket, both_ways, eventually,
    process::Process,
    raw::{ELSEWHERE, HERE, Raw},
};

both_ways!(
    connections_with_unread_responses_are_closed,
    unread_response_bytes_per_account_are_bounded,
    idle_connections_at_the_limit_do_not_block_clients,
    slowly_sent_request_heads_time_out,
    connections_per_address_are_limited,
);

/// Bound of an honest client's message during an attack. Loose: the tests share their machine.
const BOUND: Duration = Duration::from_secs(5);

/// An honest client on the attacked edge, in a room of its own.
struct Honest {
    socket: Socket,
    room: Uuid,
    slowest: Duration,
}

impl Honest {
    async fn start(chat: &Chat) -> Honest {
        let ada = chat.register("ada").await;
        let room = chat.room(&ada, "private", &[]).await;
        let socket = chat.connect(0, &ada).await;
        socket.join(room, None).await.expect("joined");
        Honest {
            socket,
            room,
            slowest: Duration::ZERO,
        }
    }

    /// Sends a message and waits for its event.
    async fn send_and_receive(&mut self) {
        let (started, name) = (Instant::now(), Uuid::new_v4().to_string());
        let data = json!({"room": self.room, "body": "x", "clientMsgId": name});
        self.socket
            .call("sendMessage", data)
            .await
            .expect("accepted");
        while self.socket.event("newMessage").await["clientMsgId"] != name.as_str() {}
        self.slowest = self.slowest.max(started.elapsed());
        assert!(self.slowest < BOUND, "a message took {:?}", self.slowest);
    }
}

/// Resident memory, in MiB.
fn memory(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()));
    let status = status.expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a number") / 1024
}

async fn connections_with_unread_responses_are_closed(kind: Kind) {
    const MANY: usize = 400;
    const MAX_GROWTH: u64 = 100;
    let chat = Chat::plan(kind)
        .set("edge.write_timeout", "4s")
        .start()
        .await;
    let mut honest = Honest::start(&chat).await;
    honest.send_and_receive().await;
    let url = chat.edge(0).url();
    let page = Raw::connect(url, HERE).await.ask("GET /api", &[], "").await;
    let page = page.expect("the page").body.len();
    let before = memory(chat.edge(0));
    let mut unread = Vec::new();
    for _ in 0..MANY {
        let mut raw = Raw::with_buffer(url, HERE, Some(4096))
            .await
            .expect("a connection");
        raw.request("GET /api", &[], "").await;
        unread.push(raw);
    }
    // Each response has started and is blocked by its reader.
    for raw in &unread {
        raw.stream.readable().await.expect("it is open");
    }
    let mut most = 0;
    for _ in 0..5 {
        honest.send_and_receive().await;
        most = most.max(memory(chat.edge(0)));
    }
    println!(
        "{MANY} unread answers of {page} bytes: {before} MiB, at most {most} MiB; slowest message {:?}",
        honest.slowest
    );
    assert!(
        most < before + MAX_GROWTH,
        "{before} MiB grew to {most} MiB by {MANY} unread answers"
    );
    // All of them are reset, including those that read a byte now and then.
    let mut trickling = unread.split_off(MANY - 5);
    eventually("all unread answers are cut off", || {
        let open = |raw: &Raw| !matches!(raw.stream.take_error(), Ok(Some(_)));
        unread.retain(open);
        // Read the error first: `try_read` would consume it.
        trickling.retain(|raw| {
            let is_open = open(raw);
            let _ = raw.stream.try_read(&mut [0]);
            is_open
        });
        let left = unread.len() + trickling.len();
        async move { (left == 0).then_some(()) }
    })
    .await;
    honest.send_and_receive().await;
}

/// Pages of large messages, requested on many connections and not read: the unread response bytes of one account are
/// bounded, further requests get a 429, and requests succeed again once the responses are read.
async fn unread_response_bytes_per_account_are_bounded(kind: Kind) {
    const MANY: usize = 200;
    /// MiB: 8 of responses for the account, the rest for 200 connections and the allocator.
    const MAX_GROWTH: u64 = 64;
    let chat = Chat::plan(kind)
        .set("edge.write_timeout", "60s")
        .set("limits.messages_per_second", 100_000)
        .set("limits.burst", 100_000)
        .start()
        .await;
    let mut honest = Honest::start(&chat).await;
    let mallory = chat.register("mallory").await;
    let room = chat.room(&mallory, "private", &[]).await;
    let rest = chat.rest_as(0, &mallory);
    let body = "x".repeat(7000);
    for _ in 0..200 {
        let path = format!("/v1/rooms/{room}/messages");
        rest.post(&path, json!({"body": body})).await.ok(202);
    }
    let path = format!("/v1/rooms/{room}/messages?limit=200&before=1000");
    let page = eventually("all of them to be stored", || async {
        let page = rest.get(&path).await;
        let items = page.json()["items"].as_array().map(Vec::len);
        (items == Some(200)).then_some(page.text.len())
    })
    .await;
    honest.send_and_receive().await;
    let (url, before) = (chat.edge(0).url(), memory(chat.edge(0)));
    let authorization = format!("authorization: Bearer {}", mallory.access);
    let mut unread = Vec::new();
    for _ in 0..MANY {
        let raw = Raw::with_buffer(url, HERE, Some(4096)).await;
        let mut raw = raw.expect("a connection");
        raw.request(&format!("GET {path}"), &[&authorization], "")
            .await;
        raw.stream.readable().await.expect("it is open");
        unread.push(raw);
    }
    let mut most = 0;
    for _ in 0..5 {
        honest.send_and_receive().await;
        most = most.max(memory(chat.edge(0)));
    }
    println!(
        "{MANY} unread pages of {page} bytes: {before} MiB, at most {most} MiB; slowest message {:?}",
        honest.slowest
    );
    assert!(
        most < before + MAX_GROWTH,
        "{before} MiB grew to {most} MiB"
    );

    // Successful responses are complete; the others are 429 with `Retry-After`.
    let (mut whole, mut refused) = (0, 0);
    for mut raw in unread {
        let answer = raw.answer().await.expect("an answer");
        match answer.status {
            200 => {
                assert_eq!(answer.body.len(), page);
                whole += 1;
            }
            429 => {
                assert!(answer.text().contains("rate_limited"), "{}", answer.text());
                assert!(answer.header("retry-after").is_some());
                refused += 1;
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert!(
        whole > 0 && refused > MANY / 2,
        "{whole} whole, {refused} refused"
    );
    eventually(
        "a request to succeed after all responses were read",
        || async { (rest.get(&path).await.status == 200).then_some(()) },
    )
    .await;
}

async fn idle_connections_at_the_limit_do_not_block_clients(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("edge.max_connections", 50)
        .set("edge.request_timeout", "4s")
        .start()
        .await;
    let mut honest = Honest::start(&chat).await;
    let url = chat.edge(0).url();
    let mut silent = VecDeque::new();
    for _ in 0..60 {
        silent.push_back(Raw::connect(url, HERE).await);
    }
    let full = Instant::now();
    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        // New connections are opened faster than the old ones time out.
        for _ in 0..20 {
            silent.push_back(Raw::connect(url, HERE).await);
        }
        let started = Instant::now();
        for path in ["/healthz", "/readyz"] {
            let mut raw = Raw::connect(url, HERE).await;
            let answer = raw.ask(&format!("GET {path}"), &[], "").await.expect(path);
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        }
        slowest = slowest.max(started.elapsed());
        // The first 60 connections are still open.
        if round == 0 && full.elapsed() < Duration::from_secs(3) {
            let mut raw = Raw::connect(url, HERE).await;
            let answer = raw.ask("GET /v1/me", &[], "").await.expect("an answer");
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert_eq!(answer.header("retry-after"), Some("5"));
            assert_eq!(answer.header("connection"), Some("close"));
            assert!(
                answer.text().contains("edge.max_connections"),
                "{}",
                answer.text()
            );
            raw.closed().await;
        }
        honest.send_and_receive().await;
    }
    println!(
        "health while full: at most {slowest:?}; slowest message {:?}",
        honest.slowest
    );
    assert!(slowest < BOUND, "health took {slowest:?}");
    // The idle connections time out; the excess ones were closed at once.
    for raw in &mut silent {
        raw.closed().await;
    }
    let mut raw = Raw::connect(url, HERE).await;
    let answer = raw.ask("GET /v1/me", &[], "").await.expect("an answer");
    assert_eq!(answer.status, 401);
    honest.send_and_receive().await;
}

async fn slowly_sent_request_heads_time_out(kind: Kind) {
    const PACE: Duration = Duration::from_millis(100);
    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\nx-filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let chat = Chat::plan(kind)
        .set("edge.request_timeout", "2s")
        .start()
        .await;
    let mut honest = Honest::start(&chat).await;
    let url = chat.edge(0).url();
    let health = async || {
        let mut raw = Raw::connect(url, HERE).await;
        assert_eq!(
            raw.ask("GET /healthz", &[], "")
                .await
                .expect("health")
                .status,
            200
        );
        raw
    };
    // A new connection, one that was used before, one that sends nothing, and an idle keep-alive connection.
    let (mut fresh, mut used) = (Raw::connect(url, HERE).await, health().await);
    let (mut silent, mut resting) = (Raw::connect(url, HERE).await, health().await);
    let started = Instant::now();
    tokio::join!(
        fresh.trickle(HEAD, PACE),
        used.trickle(HEAD, PACE),
        silent.closed(),
        honest.send_and_receive(),
    );
    let took = started.elapsed();
    println!("cut off after {took:?}");
    assert!(
        took < Duration::from_secs(10),
        "they were cut off only after {took:?}"
    );
    // `edge.idle_timeout` is longer, and upgraded sockets have no request timeout.
    assert_eq!(
        resting
            .ask("GET /healthz", &[], "")
            .await
            .expect("health")
            .status,
        200
    );
    honest.send_and_receive().await;
}

async fn connections_per_address_are_limited(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("edge.max_connections", 200)
        .set("edge.max_connections_per_address", 30)
        .start()
        .await;
    let mut honest = Honest::start(&chat).await;
    let url = chat.edge(0).url();
    let mut held = Vec::new();
    for i in 0..40 {
        let mut raw = Raw::connect(url, ELSEWHERE).await;
        let answer = raw.ask("GET /v1/me", &[], "").await.expect("an answer");
        match i {
            0..30 => assert_eq!(answer.status, 401),
            _ => {
                assert_eq!(answer.status, 503, "{}", answer.text());
                assert!(
                    answer.text().contains("max_connections_per_address"),
                    "{}",
                    answer.text()
                );
            }
        }
        held.push(raw);
    }
    let answer = Raw::connect(url, HERE)
        .await
        .ask("GET /v1/me", &[], "")
        .await;
    assert_eq!(answer.expect("an answer").status, 401);
    honest.send_and_receive().await;
    // Slots of closed connections are available again.
    drop(held);
    eventually("a new connection from the address", || async {
        let answer = Raw::connect(url, ELSEWHERE)
            .await
            .ask("GET /v1/me", &[], "")
            .await?;
        (answer.status == 401).then_some(())
    })
    .await;
}
