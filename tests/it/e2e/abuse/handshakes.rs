//! Handshakes without an account, in floods and malformed; and too many sockets of one user.

use std::{net::Ipv4Addr, time::Duration};

use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::harness::{
    Chat, DEADLINE, Kind, User, both_ways,
    engineio::{POLLING, Polling, Raw, WEBSOCKET, ask, plan},
    eventually,
};

both_ways!(
    a_handshake_flood_exhausts_only_the_slots_of_its_address,
    unauthenticated_sockets_do_not_exhaust_the_connection_limit,
    sockets_per_user_are_limited,
    offered_subprotocols_are_not_selected,
);

const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A connection that sends exactly what the test writes.
struct Wire(TcpStream);

/// A response: its status, head and body.
#[derive(Debug)]
struct RawResponse {
    status: u16,
    head: String,
    body: String,
}

impl Wire {
    /// Connects from one of this machine's loopback addresses.
    async fn from(source: Ipv4Addr, chat: &Chat) -> Wire {
        let address = chat.edge(0).url().strip_prefix("http://").expect("http");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind((source, 0).into())
            .expect("an address of this machine");
        let connecting = socket.connect(address.parse().expect("an address"));
        Wire(connecting.await.expect("the edge"))
    }

    async fn say(&mut self, text: &str) {
        self.0
            .write_all(text.as_bytes())
            .await
            .expect("an open connection");
    }

    /// Reads the next response.
    async fn answer(&mut self) -> RawResponse {
        let reading = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await.expect("an answer"));
            }
            let head = String::from_utf8(head).expect("text").to_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            self.0.read_exact(&mut body).await.expect("a body");
            RawResponse {
                status: head[9..12].parse().expect("a status"),
                head,
                body: String::from_utf8_lossy(&body).into_owned(),
            }
        };
        tokio::time::timeout(DEADLINE, reading)
            .await
            .expect("an answer")
    }

    async fn ask(&mut self, text: &str) -> RawResponse {
        self.say(text).await;
        self.answer().await
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: chat\r\n\r\n")
}

const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// A handshake with these headers in place of the default ones; an empty value removes the header.
fn upgrade(line: &str, changes: &[(&str, &str)]) -> String {
    let mut text = format!("{line}\r\nhost: chat\r\n");
    let kept = UPGRADE
        .iter()
        .filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    for (name, value) in kept.chain(changes) {
        if !value.is_empty() {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    text.push_str("\r\n");
    text
}

/// RFC 6455, section 4.2.2: the server may select none. The sockets work all the same.
async fn offered_subprotocols_are_not_selected(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let bearer = format!("Bearer {}", ada.access);
    for (path, first) in [("/ws", "{\"event\":\"connected\""), (WEBSOCKET, "0{")] {
        for offered in ["chat", "v1.chat.example, graphql-ws, mqtt", "bearer, x.y.z"] {
            let mut wire = Wire::from(HOME, &chat).await;
            let headers = [
                ("Authorization", bearer.as_str()),
                ("Sec-WebSocket-Protocol", offered),
            ];
            let line = format!("GET {path} HTTP/1.1");
            let answer = wire.ask(&upgrade(&line, &headers)).await;
            assert_eq!(answer.status, 101, "{path}: {answer:?}");
            assert!(
                !answer.head.contains("sec-websocket-protocol"),
                "{answer:?}"
            );
            // The first frame: final, text, not masked, of less than 65,536 bytes.
            let frame = async {
                assert_eq!(wire.0.read_u8().await.expect("a frame"), 0x81);
                let length = match wire.0.read_u8().await.expect("a length") {
                    126 => usize::from(wire.0.read_u16().await.expect("a length")),
                    length => usize::from(length),
                };
                let mut text = vec![0; length];
                wire.0.read_exact(&mut text).await.expect("a payload");
                String::from_utf8(text).expect("text")
            };
            let text = tokio::time::timeout(DEADLINE, frame)
                .await
                .expect("a frame");
            assert!(text.starts_with(first), "{path}: {text}");
        }
    }
}

async fn a_handshake_flood_exhausts_only_the_slots_of_its_address(kind: Kind) {
    const PLACES: usize = 40;
    let chat = Chat::plan(kind)
        .set("edge.max_unauthenticated_per_address", PLACES)
        .set("edge.auth_timeout", "8s")
        .start()
        .await;
    let ada = chat.register("ada").await;
    // Pipelined on one connection, about a megabyte of requests.
    let mut flood = Wire::from(ELSEWHERE, &chat).await;
    let many = 5000;
    let (mut reading, mut writing) = flood.0.split();
    let text = get(POLLING).repeat(many);
    let flooding = async {
        writing
            .write_all(text.as_bytes())
            .await
            .expect("an open connection");
    };
    let counting = async {
        let (mut opened, mut refused, mut rest) = (0, 0, Vec::new());
        while opened + refused < many {
            let read = reading.read_buf(&mut rest).await.expect("answers");
            assert!(read > 0, "it ended after {opened} and {refused}");
            let text = String::from_utf8_lossy(&rest);
            let lines = |start: &str| text.matches(start).count();
            (opened, refused) = (lines("HTTP/1.1 200 "), lines("HTTP/1.1 429 "));
        }
        (opened, refused)
    };
    // Meanwhile another address opens both transports, and a user authenticates from the flooding address.
    let honest = async {
        let mut longest = Duration::ZERO;
        for _ in 0..10 {
            let started = std::time::Instant::now();
            let answer = Wire::from(HOME, &chat).await.ask(&get(POLLING)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let answer = Wire::from(HOME, &chat)
                .await
                .ask(&upgrade("GET /ws HTTP/1.1", &[]))
                .await;
            assert_eq!(answer.status, 101, "{answer:?}");
            longest = longest.max(started.elapsed());
        }
        longest
    };
    let (longest, (), (opened, refused)) = tokio::join!(honest, flooding, counting);
    eprintln!(
        "{kind:?}: {opened} opened, {refused} refused; an honest handshake took {longest:.1?} at most"
    );
    assert_eq!(opened, PLACES);
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    let refused = Wire::from(ELSEWHERE, &chat)
        .await
        .ask(&upgrade("GET /ws HTTP/1.1", &[]))
        .await;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.head.contains("retry-after: 1\r\n"), "{refused:?}");
    assert!(refused.body.contains("\"rate_limited\""), "{refused:?}");
    let bearer = format!("bearer {}", ada.access);
    let request = upgrade("GET /ws HTTP/1.1", &[("authorization", &bearer)]);
    let answer = Wire::from(ELSEWHERE, &chat).await.ask(&request).await;
    assert_eq!(
        answer.status, 101,
        "authenticated sockets do not count: {answer:?}"
    );
    // The flood's sessions end after `edge.auth_timeout` and free their slots.
    eventually("the flood's slots to be free again", || async {
        let answer = Wire::from(ELSEWHERE, &chat).await.ask(&get(POLLING)).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

async fn unauthenticated_sockets_do_not_exhaust_the_connection_limit(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("edge.max_unauthenticated", 10)
        .set("edge.auth_timeout", "60s")
        .start()
        .await;
    let ada = chat.register("ada").await;
    let mut strangers = Vec::new();
    for n in 1..=10 {
        // Ten addresses, one socket each.
        let mut wire = Wire::from(Ipv4Addr::new(127, 0, 1, n), &chat).await;
        assert_eq!(
            wire.ask(&upgrade("GET /ws HTTP/1.1", &[])).await.status,
            101
        );
        strangers.push(wire);
    }
    for path in [POLLING, WEBSOCKET, "/ws"] {
        let request = upgrade(&format!("GET {path} HTTP/1.1"), &[]);
        let answer = Wire::from(HOME, &chat).await.ask(&request).await;
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert!(
            answer.head.contains("retry-after: 1\r\n"),
            "{path}: {answer:?}"
        );
    }
    let socket = chat.connect(0, &ada).await;
    socket.settle().await;
    let ticket = chat
        .rest_as(0, &ada)
        .post("/v1/auth/ticket", json!({}))
        .await;
    let ticket = ticket.json()["ticket"]
        .as_str()
        .expect("a ticket")
        .to_owned();
    let mut socket = chat
        .dial(0)
        .ticket(&ticket)
        .connect()
        .await
        .expect("a ticket is good");
    socket.event("connected").await;
    // One free slot is enough to authenticate.
    strangers.pop();
    let mut socket = eventually("a free slot", || async {
        chat.dial(0).first_frame(&ada.access).attempt().await.ok()
    })
    .await;
    socket.event("connected").await;
    let mut raw = Wire::from(HOME, &chat).await;
    let answer = raw.ask(&upgrade("GET /ws HTTP/1.1", &[])).await;
    assert_eq!(
        answer.status, 101,
        "the authenticated socket freed its slot: {answer:?}"
    );
}

async fn sockets_per_user_are_limited(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("edge.max_sockets_per_user", 3)
        .start()
        .await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let polling = Polling::connected(&chat, &ada).await;
    let mut raw = Raw::connected(&chat, &ada).await;
    let third = chat.connect(0, &ada).await;

    let fourth = chat
        .dial(0)
        .bearer(&ada.access)
        .connect()
        .await
        .expect("the refusal is in the close code");
    let closed = fourth.closed().await;
    assert_eq!(closed.code, 4029, "{closed:?}");
    let error = fourth.unasked().await;
    assert_eq!(error.code, "rate_limited", "{error:?}");
    assert!(error.message.contains("3 sockets open"), "{error:?}");
    let socket = chat.dial(0).connect().await.expect("a socket");
    let error = socket
        .call("auth", json!({"token": ada.access}))
        .await
        .expect_err("too many");
    assert_eq!(error.code, "rate_limited", "{error:?}");
    assert_eq!(socket.closed().await.code, 4029);
    let refused = connect_error(&chat, &ada).await;
    assert!(refused.contains("rate_limited"), "{refused}");
    let another = Polling::open(&chat).await;
    another
        .say(&format!("40{}", json!({"token": ada.access})))
        .await;
    assert!(another.until("44{").await.contains("rate_limited"));

    // The first three sockets keep working, another user can connect, and closing a socket frees a slot.
    third.settle().await;
    raw.say("421[\"leaveRoom\",{\"room\":\"00000000-0000-0000-0000-000000000000\"}]")
        .await;
    raw.until("431[{\"ok\":true").await;
    polling.say("41").await;
    chat.connect(0, &bob).await.settle().await;
    eventually("a free slot", || async {
        let mut socket = chat.dial(0).bearer(&ada.access).connect().await.ok()?;
        let first = socket
            .until("the first event or the close", |received| {
                match (received.events.first(), &received.closed) {
                    (Some(_), _) => Some(true),
                    (None, Some(_)) => Some(false),
                    (None, None) => None,
                }
            })
            .await;
        first.then_some(socket.event("connected").await)
    })
    .await;
}

/// The CONNECT_ERROR packet that this user's CONNECT is answered with.
async fn connect_error(chat: &Chat, user: &User) -> String {
    let (mut raw, _) = Raw::open(chat).await;
    raw.say(&format!("40{}", json!({"token": user.access})))
        .await;
    raw.until("44{").await
}

#[tokio::test]
async fn only_a_valid_rfc_6455_handshake_is_upgraded() {
    let chat = plan().start().await;
    let ask = async |line: &str, changes: &[(&str, &str)]| {
        Wire::from(HOME, &chat)
            .await
            .ask(&upgrade(line, changes))
            .await
    };
    for path in ["/ws", WEBSOCKET] {
        let line = format!("GET {path} HTTP/1.1");
        for good in [
            &[][..],
            &[("Connection", "keep-alive, upgrade")],
            &[("Upgrade", "WebSocket")],
        ] {
            let answer = ask(&line, good).await;
            assert_eq!(answer.status, 101, "{path} {good:?}: {answer:?}");
            // The example of RFC 6455, section 1.3.
            assert!(
                answer
                    .head
                    .contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=")
            );
        }
        for bad in [
            ("Connection", ""),
            ("Connection", "keep-alive"),
            ("Upgrade", ""),
            ("Upgrade", "h2c"),
            ("Sec-WebSocket-Key", ""),
            ("Sec-WebSocket-Key", "short"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZTE="),
        ] {
            let answer = ask(&line, &[bad]).await;
            assert_eq!(answer.status, 400, "{path} {bad:?}: {answer:?}");
        }
        let twice = ("Sec-WebSocket-Key", UPGRADE[3].1);
        assert_eq!(ask(&line, &[twice, twice]).await.status, 400, "{path}");
        for bad in ["", "8", "12"] {
            let answer = ask(&line, &[("Sec-WebSocket-Version", bad)]).await;
            assert_eq!(answer.status, 426, "{path} {bad:?}: {answer:?}");
            for header in ["sec-websocket-version: 13\r\n", "upgrade: websocket\r\n"] {
                assert!(answer.head.contains(header), "{path} {bad:?}: {answer:?}");
            }
        }
        for line in [
            format!("GET {path} HTTP/1.0"),
            format!("POST {path} HTTP/1.1"),
        ] {
            assert_eq!(ask(&line, &[]).await.status, 400, "{line}");
        }
    }
    let problem = ask("GET /ws HTTP/1.1", &[("Sec-WebSocket-Version", "8")]).await;
    assert!(
        problem
            .head
            .contains("content-type: application/problem+json"),
        "{problem:?}"
    );
    assert!(problem.body.contains("\"status\":426"), "{problem:?}");
}

#[tokio::test]
async fn malformed_or_duplicate_credentials_are_refused() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let value = format!("{scheme} {}", ada.access);
        let header = [("authorization", value.as_str())];
        let mut raw = Raw::dial(&chat, "/ws", &header, None).await.expect(scheme);
        raw.until("{\"event\":\"connected\"").await;
        let mut raw = Raw::dial(&chat, WEBSOCKET, &header, None)
            .await
            .expect(scheme);
        raw.say("40").await;
        raw.until("42[\"connected\"").await;
        let (mut raw, _) = Raw::open(&chat).await;
        raw.say(&format!("40{}", json!({"token": value}))).await;
        raw.until("42[\"connected\"").await;
        let answer = ask(&chat, Method::GET, "/v1/me", &header, "").await;
        assert_eq!(answer.status, 200, "{scheme}: {}", answer.text);

        // A token in the URL is refused, also beside a valid header.
        for name in ["token", "access_token"] {
            let query = format!("{name}={}", ada.access);
            for path in [format!("/ws?{query}"), format!("{WEBSOCKET}&{query}")] {
                assert_eq!(
                    Raw::dial(&chat, &path, &header, None).await.err(),
                    Some(400),
                    "{path}"
                );
            }
            for path in [format!("{POLLING}&{query}"), format!("/v1/me?{query}")] {
                let answer = ask(&chat, Method::GET, &path, &header, "").await;
                assert_eq!(answer.status, 400, "{path}: {}", answer.text);
                assert!(
                    answer.text.contains("ever put an access token in"),
                    "{}",
                    answer.text
                );
            }
        }
    }
}

/// A client that sends its whole body before it reads, as browsers do, receives the 413.
#[tokio::test]
async fn an_oversized_post_is_answered_with_413() {
    let chat = plan().set("socketio.max_payload", 2000).start().await;
    let ada = chat.register("ada").await;
    for size in [2001, 3_000_000] {
        let body = "x".repeat(size);
        let chunk = format!("{size:x}\r\n{body}\r\n0\r\n\r\n");
        let announced = format!("content-length: {size}\r\n\r\n{body}");
        let chunked = format!("transfer-encoding: chunked\r\n\r\n{chunk}");
        for rest in [announced, chunked] {
            let polling = Polling::connected(&chat, &ada).await;
            let mut wire = Wire::from(HOME, &chat).await;
            let head = format!("POST {} HTTP/1.1\r\nhost: chat\r\n", polling.path);
            let answer = wire.ask(&format!("{head}{rest}")).await;
            assert_eq!(answer.status, 413, "{size}: {answer:?}");
            assert!(answer.head.contains("connection: close\r\n"), "{answer:?}");
            // The session stays open.
            polling
                .say("421[\"leaveRoom\",{\"room\":\"00000000-0000-0000-0000-000000000000\"}]")
                .await;
            polling.until("431[{\"ok\":true").await;
        }
    }
}
