//! What the public protocol documents of Engine.IO 4 and Socket.IO 5 say, asked with plain HTTP requests and plain
//! WebSockets: the handshake, polling, the upgrade, heartbeats, and everything that is not what they say.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt, future::join};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest},
};

use super::socketio::open_sockets;
use crate::harness::{Chat, DEADLINE, Kind, User, deployment::Plan, eventually};

const POLLING: &str = "/socket.io/?EIO=4&transport=polling";
const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";

struct Answer {
    status: u16,
    text: String,
    headers: HeaderMap,
}

async fn ask(
    chat: &Chat,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let url = format!("{}{path}", chat.edge(0).url());
    let mut request = chat.http.request(method, url).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("an answer");
    Answer {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        text: answer.text().await.expect("a text"),
    }
}

impl Answer {
    #[track_caller]
    fn refused(&self, code: u64, message: &str) {
        assert_eq!(self.status, 400, "{}", self.text);
        let body: Value = serde_json::from_str(&self.text).expect("JSON");
        assert_eq!(body, json!({"code": code, "message": message}));
    }
}

/// A polling session.
struct Polling<'a> {
    chat: &'a Chat,
    path: String,
    open: Value,
}

impl<'a> Polling<'a> {
    async fn open(chat: &'a Chat) -> Self {
        let answer = ask(chat, Method::GET, POLLING, &[], "").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let open: Value =
            serde_json::from_str(answer.text.strip_prefix('0').expect("an open packet"))
                .expect("JSON");
        let sid = open["sid"].as_str().expect("a session id");
        Polling {
            chat,
            path: format!("{POLLING}&sid={sid}"),
            open,
        }
    }

    async fn connected(chat: &'a Chat, user: &User) -> Self {
        let polling = Polling::open(chat).await;
        polling
            .say(&format!("40{}", json!({"token": user.access})))
            .await;
        polling.until("42[\"connected\"").await;
        polling
    }

    async fn get(&self) -> Answer {
        ask(self.chat, Method::GET, &self.path, &[], "").await
    }

    async fn post(&self, body: &str) -> Answer {
        ask(self.chat, Method::POST, &self.path, &[], body).await
    }

    /// The head of a post with this header, and the beginning of its body.
    async fn half_a_post(&self, header: &str, body: &str) -> TcpStream {
        let authority = self
            .chat
            .edge(0)
            .url()
            .strip_prefix("http://")
            .expect("http");
        let mut stream = TcpStream::connect(authority).await.expect("the edge");
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {authority}\r\n{header}\r\n\r\n{body}",
            self.path
        );
        stream
            .write_all(head.as_bytes())
            .await
            .expect("an open connection");
        stream
    }

    async fn say(&self, body: &str) {
        let answer = self.post(body).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "ok"));
    }

    /// Polls until a packet begins like this; returns it.
    async fn until(&self, start: &str) -> String {
        loop {
            let answer = self.get().await;
            assert_eq!(answer.status, 200, "waiting for {start}: {}", answer.text);
            if let Some(packet) = answer
                .text
                .split('\x1e')
                .find(|packet| packet.starts_with(start))
            {
                return packet.to_owned();
            }
        }
    }

    /// Polls to the end, which must come at once.
    async fn ends(&self, what: &str) {
        let ending = async {
            loop {
                let answer = self.get().await;
                if answer.status == 400 {
                    return answer.refused(1, "Session ID unknown");
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(5), ending).await;
        assert!(ended.is_ok(), "{what} did not end the session");
    }
}

/// A WebSocket that says what it is told.
struct Raw(WebSocketStream<TcpStream>);

impl Raw {
    async fn dial(
        chat: &Chat,
        path: &str,
        headers: &[(&str, &str)],
        buffer: Option<u32>,
    ) -> Result<Raw, u16> {
        let url = format!("{}{path}", chat.edge(0).url().replacen("http", "ws", 1));
        let mut request = url.into_client_request().expect("a WebSocket URL");
        for (name, value) in headers {
            let name: reqwest::header::HeaderName = name.parse().expect("a header");
            request
                .headers_mut()
                .insert(name, value.parse().expect("a header"));
        }
        let address = request.uri().authority().expect("an address").to_string();
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes).expect("a buffer size");
        }
        let stream = socket
            .connect(address.parse().expect("an address"))
            .await
            .expect("the edge");
        match client_async(request, stream).await {
            Ok((stream, _)) => Ok(Raw(stream)),
            Err(WsError::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn open(chat: &Chat) -> (Raw, Value) {
        let mut raw = Raw::dial(chat, WEBSOCKET, &[], None)
            .await
            .expect("a WebSocket");
        let open = raw.hear().await.expect("an open packet");
        let open =
            serde_json::from_str(open.strip_prefix('0').expect("an open packet")).expect("JSON");
        (raw, open)
    }

    async fn connected(chat: &Chat, user: &User) -> Raw {
        let (mut raw, _) = Raw::open(chat).await;
        raw.say(&format!("40{}", json!({"token": user.access})))
            .await;
        raw.until("40{").await;
        raw.until("42[\"connected\"").await;
        raw
    }

    async fn say(&mut self, text: &str) {
        let _ = self.0.send(Message::text(text)).await;
    }

    /// The next text, or the code it was closed with.
    async fn hear(&mut self) -> Result<String, u16> {
        let next = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                    Some(Ok(Message::Close(frame))) => {
                        return Err(frame.map_or(1005, |frame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(1006),
                }
            }
        };
        tokio::time::timeout(DEADLINE, next)
            .await
            .expect("a word or the end")
    }

    async fn until(&mut self, start: &str) -> String {
        loop {
            match self.hear().await {
                Ok(text) if text.starts_with(start) => return text,
                Ok(_) => {}
                Err(code) => panic!("closed with {code} before {start}"),
            }
        }
    }

    async fn closed(&mut self) -> u16 {
        loop {
            if let Err(code) = self.hear().await {
                return code;
            }
        }
    }
}

fn plan() -> Plan {
    Chat::plan(Kind::Standalone)
}

/// Whatever happened, no session is left behind.
async fn nothing_is_left(chat: &Chat) {
    eventually("every session to be gone", || async {
        (open_sockets(chat).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_handshake_tells_the_settings() {
    let settings = plan()
        .set("socketio.ping_interval_ms", 12_000)
        .set("socketio.ping_timeout_ms", 7000)
        .set("socketio.max_payload", 5000);
    let chat = settings.start().await;
    let ada = chat.register("ada").await;
    let polling = Polling::open(&chat).await;
    let (mut raw, open) = Raw::open(&chat).await;
    for (open, upgrades) in [(&polling.open, json!(["websocket"])), (&open, json!([]))] {
        let expected = json!({
            "sid": open["sid"], "upgrades": upgrades, "pingInterval": 12_000, "pingTimeout": 7000, "maxPayload": 5000,
        });
        assert_eq!(open, &expected);
        assert!(
            open["sid"].as_str().is_some_and(|sid| sid.len() >= 20),
            "{open}"
        );
    }
    assert_ne!(polling.open["sid"], open["sid"]);

    let limits = json!({"maxFrameBytes": 5000, "maxBodyBytes": 8000, "pingIntervalMs": 12_000});
    raw.say(&format!("40{}", json!({"token": ada.access})))
        .await;
    assert!(
        raw.hear()
            .await
            .is_ok_and(|text| text.starts_with("40{\"sid\":"))
    );
    let connected = raw.until("42[").await;
    let connected: Value = serde_json::from_str(&connected[2..]).expect("JSON");
    assert_eq!(connected[1]["limits"], limits);

    // A payload over the limit is refused, announced or not; a message over it ends the socket.
    let large = format!("42[\"typing\",{:?}]", "x".repeat(5000));
    assert_eq!(polling.post(&large).await.status, 413);
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let mut post = polling
        .half_a_post("transfer-encoding: chunked", &chunk)
        .await;
    let mut status = [0; 12];
    post.read_exact(&mut status).await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 413");
    raw.say(&large).await;
    assert!(raw.until("42[\"exception\"").await.contains("too_large"));
    assert_eq!(raw.closed().await, 1009);
}

#[tokio::test]
async fn a_wrong_handshake_is_refused() {
    let chat = plan().start().await;
    let get = |path: &'static str| {
        let chat = &chat;
        async move { ask(chat, Method::GET, path, &[], "").await }
    };
    for version in [
        "/socket.io/?transport=polling",
        "/socket.io/?EIO=3&transport=polling",
        "/socket.io/?EIO=x&transport=polling",
    ] {
        get(version)
            .await
            .refused(5, "Unsupported protocol version");
    }
    for transport in [
        "/socket.io/",
        "/socket.io/?EIO=4",
        "/socket.io/?EIO=4&transport=webtransport",
    ] {
        get(transport).await.refused(0, "Transport unknown");
    }
    for sid in ["x", "00000000000000000000000000000000", "", "%00"] {
        let path = format!("{POLLING}&sid={sid}");
        ask(&chat, Method::GET, &path, &[], "")
            .await
            .refused(1, "Session ID unknown");
        ask(&chat, Method::POST, &path, &[], "40")
            .await
            .refused(1, "Session ID unknown");
        let path = format!("{WEBSOCKET}&sid={sid}");
        assert_eq!(Raw::dial(&chat, &path, &[], None).await.err(), Some(400));
    }
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        ask(&chat, method, POLLING, &[], "40")
            .await
            .refused(2, "Bad handshake method");
    }
    let polling = Polling::open(&chat).await;
    ask(&chat, Method::PUT, &polling.path, &[], "40")
        .await
        .refused(2, "Bad handshake method");
    // A WebSocket that is none.
    get(WEBSOCKET).await.refused(3, "Bad request");
    for path in [
        "/socket.io/?transport=websocket",
        "/socket.io/?EIO=3&transport=websocket",
        "/socket.io/?EIO=4&transport=x",
    ] {
        assert_eq!(
            Raw::dial(&chat, path, &[], None).await.err(),
            Some(400),
            "{path}"
        );
    }
    // The library's own default has the slash; others leave it out.
    assert_eq!(get("/socket.io?EIO=4&transport=polling").await.status, 200);
}

#[tokio::test]
async fn polling_has_one_of_each() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;

    // Two polls: the first hears the end, the second is refused, the session is gone.
    let polling = Polling::connected(&chat, &ada).await;
    let second = async {
        // It is second once the first one waits, which only the server knows: one of the two is.
        tokio::task::yield_now().await;
        polling.get().await
    };
    let (one, two) = join(polling.get(), second).await;
    let mut statuses = [
        (one.status, one.text.as_str()),
        (two.status, two.text.as_str()),
    ];
    statuses.sort_unstable();
    assert_eq!(statuses[0], (200, "1"));
    assert_eq!(statuses[1].0, 400);
    polling.ends("a second poll").await;

    // Two posts: the first is still being read when the second comes.
    let polling = Polling::connected(&chat, &ada).await;
    let slow = polling.half_a_post("content-length: 10", "42[\"x").await;
    eventually("the second post to be refused", || async {
        let answer = polling.post("3").await;
        (answer.status == 400).then_some(())
    })
    .await;
    polling.ends("a second post").await;
    drop(slow);

    // A poll that its client gives up.
    let polling = Polling::connected(&chat, &ada).await;
    let given_up = tokio::time::timeout(Duration::from_millis(200), polling.get()).await;
    assert!(given_up.is_err(), "there was nothing to say");
    eventually("the session to end", || async {
        (polling.get().await.status == 400).then_some(())
    })
    .await;
    nothing_is_left(&chat).await;
}

#[tokio::test]
async fn what_is_no_packet_ends_the_session() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;
    for bad in [
        "",
        "abc",
        "0",
        "2",
        "5",
        "7",
        "4",
        "4abc",
        "49",
        "42",
        "42{}",
        "42[]",
        "42[null]",
        "42[\"a\"",
        "42abc[\"a\"]",
        "4299999999999999999999[\"a\"]",
        "40{\"token\":\"twice\"}",
        "44{}",
        "451-[\"a\",{\"_placeholder\":true,\"num\":0}]\x1e42[\"a\"]",
        "4599-[\"a\"]",
        "bAQID",
        "42/elsewhere,[\"a\"]",
        "43[]",
    ] {
        let polling = Polling::connected(&chat, &ada).await;
        let answer = polling.post(bad).await;
        assert!(
            [200, 400].contains(&answer.status),
            "{bad:?}: {}",
            answer.status
        );
        polling.ends(bad).await;

        let mut raw = Raw::connected(&chat, &ada).await;
        for packet in bad.split('\x1e') {
            raw.say(packet).await;
        }
        assert_eq!(raw.closed().await, 4400, "{bad:?}");
    }
    // Before CONNECT there is nothing to say.
    let polling = Polling::open(&chat).await;
    polling.say("42[\"joinRoom\",{}]").await;
    polling.ends("an event before CONNECT").await;
    let (mut raw, _) = Raw::open(&chat).await;
    raw.say("42[\"joinRoom\",{}]").await;
    assert_eq!(raw.closed().await, 4400);
    // Not UTF-8.
    let polling = Polling::connected(&chat, &ada).await;
    let url = format!("{}{}", chat.edge(0).url(), polling.path);
    let answer = chat
        .http
        .post(url)
        .body(vec![0x34, 0xff])
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status().as_u16(), 400);
    polling.ends("bytes").await;
    nothing_is_left(&chat).await;
}

#[tokio::test]
async fn binary_data_is_answered_where_it_was_announced() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;
    let event = "[\"sendMessage\",{\"body\":{\"_placeholder\":true,\"num\":0}}]";

    let mut raw = Raw::connected(&chat, &ada).await;
    raw.say(&format!("451-7{event}")).await;
    assert!(
        raw.until("437[{\"ok\":false").await.contains("malformed"),
        "before the data comes"
    );
    raw.0
        .send(Message::binary(vec![1, 2, 3]))
        .await
        .expect("an open socket");
    raw.say("428[\"leaveRoom\",{\"room\":\"00000000-0000-0000-0000-000000000000\"}]")
        .await;
    raw.until("438[{\"ok\":true").await;
    // Nothing announced these.
    raw.0
        .send(Message::binary(vec![1, 2, 3]))
        .await
        .expect("an open socket");
    assert_eq!(raw.closed().await, 4400);

    let polling = Polling::connected(&chat, &ada).await;
    polling.say(&format!("452-{event}\x1ebAQID\x1ebAQID")).await;
    assert!(
        polling
            .until("42[\"exception\"")
            .await
            .contains("malformed")
    );
    polling.say("bAQID").await;
    polling.ends("binary data nothing announced").await;
    nothing_is_left(&chat).await;
}

#[tokio::test]
async fn answers_and_namespaces() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;
    let (mut raw, _) = Raw::open(&chat).await;
    raw.say("40/random").await;
    assert_eq!(
        raw.hear().await.as_deref(),
        Ok("44/random,{\"message\":\"Invalid namespace\"}")
    );
    raw.say("40").await;
    let refused = raw.hear().await.expect("an answer");
    let refused: Value =
        serde_json::from_str(refused.strip_prefix("44").expect("a refusal")).expect("JSON");
    assert_eq!(refused["data"]["code"], "unauthorized");
    // It may try again, and leave and come back, on the same connection.
    for id in ["0", "5", "18446744073709551615"] {
        raw.say(&format!("40{}", json!({"token": ada.access})))
            .await;
        raw.until("40{\"sid\":\"").await;
        raw.until("42[\"connected\"").await;
        raw.say("41/random,").await;
        raw.say(&format!("42{id}[\"nobodyKnows\",{{}}]")).await;
        assert!(
            raw.until(&format!("43{id}["))
                .await
                .contains("unknown_event")
        );
        raw.say("43[\"unasked\"]".replace("43", "4312").as_str())
            .await;
        raw.say("41").await;
    }
    raw.say("1").await;
    raw.closed().await;

    // Nobody can try for ever.
    let (mut raw, _) = Raw::open(&chat).await;
    for _ in 0..30 {
        raw.say("40{\"token\":\"x\"}").await;
    }
    assert_eq!(raw.closed().await, 4400);

    // The header of the handshake will do as well.
    let bearer = format!("Bearer {}", ada.access);
    let mut raw = Raw::dial(&chat, WEBSOCKET, &[("authorization", &bearer)], None)
        .await
        .expect("a WebSocket");
    raw.say("40").await;
    raw.until("42[\"connected\"").await;
    // `disconnect` is an event of ours too.
    raw.say("42[\"disconnect\"]").await;
    raw.until("41").await;
    raw.closed().await;
    nothing_is_left(&chat).await;
}

#[tokio::test]
async fn the_upgrade_takes_over() {
    let chat = plan().start().await;
    let ada = chat.register("ada").await;
    let polling = Polling::connected(&chat, &ada).await;
    let path = polling
        .path
        .replace("transport=polling", "transport=websocket");

    // A probe that goes no further changes nothing.
    let mut raw = Raw::dial(&chat, &path, &[], None)
        .await
        .expect("a WebSocket");
    raw.say("4hello").await;
    raw.closed().await;
    polling.say("421[\"nobodyKnows\"]").await;
    polling.until("431[").await;

    let upgrade = || async {
        eventually("the next upgrade to be allowed", || async {
            Raw::dial(&chat, &path, &[], None).await.ok()
        })
        .await
    };
    let mut raw = upgrade().await;
    assert_eq!(
        Raw::dial(&chat, &path, &[], None).await.err(),
        Some(400),
        "one at a time"
    );
    // The waiting poll ends with nothing to say, and so does the next.
    let probe = async {
        raw.say("2probe").await;
        assert_eq!(raw.hear().await.as_deref(), Ok("3probe"));
    };
    let (waiting, ()) = join(polling.get(), probe).await;
    assert_eq!((waiting.status, waiting.text.as_str()), (200, "6"));
    assert_eq!(polling.get().await.text, "6");
    // Polling still works until the last word.
    polling.say("422[\"nobodyKnows\"]").await;
    polling.until("432[").await;
    raw.say("5").await;
    raw.say("423[\"nobodyKnows\"]").await;
    raw.until("433[").await;
    polling.get().await.refused(1, "Session ID unknown");
    polling.post("3").await.refused(1, "Session ID unknown");
    assert_eq!(Raw::dial(&chat, &path, &[], None).await.err(), Some(400));
    raw.say("424[\"nobodyKnows\"]").await;
    raw.until("434[").await;
    assert_eq!(open_sockets(&chat).await, 1);
    drop(raw);
    nothing_is_left(&chat).await;
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_gone() {
    let settings = plan()
        .set("socketio.ping_interval_ms", 300)
        .set("socketio.ping_timeout_ms", 300);
    let chat = settings.start().await;
    let ada = chat.register("ada").await;
    // Before CONNECT and after it.
    for connected in [false, true] {
        let (mut raw, polling) = match connected {
            false => (Raw::open(&chat).await.0, Polling::open(&chat).await),
            true => (
                Raw::connected(&chat, &ada).await,
                Polling::connected(&chat, &ada).await,
            ),
        };
        for _ in 0..3 {
            assert_eq!(raw.hear().await.as_deref(), Ok("2"));
            raw.say("3").await;
        }
        assert_eq!(raw.hear().await.as_deref(), Ok("2"));
        // A word is no answer to a ping.
        raw.say("6").await;
        assert_eq!(raw.closed().await, 4009);
        polling.ends("silence").await;
    }
    nothing_is_left(&chat).await;
}

#[tokio::test]
async fn who_never_connects_is_dropped() {
    let chat = plan().set("edge.auth_timeout", "300ms").start().await;
    let ada = chat.register("ada").await;
    let polling = Polling::open(&chat).await;
    let (mut raw, _) = Raw::open(&chat).await;
    assert_eq!(raw.closed().await, 4001);
    polling.ends("no CONNECT").await;
    // Who leaves has as long to come back.
    let mut raw = Raw::connected(&chat, &ada).await;
    raw.say("41").await;
    assert_eq!(raw.closed().await, 4001);
    nothing_is_left(&chat).await;
}

#[tokio::test]
async fn polling_sessions_are_bounded() {
    let chat = plan()
        .set("edge.max_connections", 8)
        .set("edge.auth_timeout", "1s")
        .start()
        .await;
    let mut full = 0;
    for _ in 0..12 {
        full += usize::from(ask(&chat, Method::GET, POLLING, &[], "").await.status == 503);
    }
    assert_eq!(full, 4);
    nothing_is_left(&chat).await;
    Polling::open(&chat).await;
}

#[tokio::test]
async fn only_allowed_pages() {
    let chat = plan()
        .set("edge.allowed_origins", "https://app.example")
        .start()
        .await;
    let ok = [("origin", "https://app.example")];
    let bad = [("origin", "https://app.example.evil")];
    let answer = ask(&chat, Method::GET, POLLING, &ok, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.headers["access-control-allow-origin"],
        "https://app.example"
    );
    assert_eq!(answer.headers["access-control-allow-credentials"], "true");
    assert_eq!(answer.headers["vary"], "Origin");
    // A page may read its refusals as well.
    let answer = ask(&chat, Method::GET, &format!("{POLLING}&sid=x"), &ok, "").await;
    answer.refused(1, "Session ID unknown");
    assert_eq!(
        answer.headers["access-control-allow-origin"],
        "https://app.example"
    );

    let asked = [
        ok[0],
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,x-y"),
    ];
    let answer = ask(&chat, Method::OPTIONS, POLLING, &asked, "").await;
    assert_eq!(answer.status, 204);
    assert_eq!(
        answer.headers["access-control-allow-headers"],
        "authorization,x-y"
    );
    assert_eq!(answer.headers["access-control-allow-methods"], "GET, POST");

    for method in [Method::GET, Method::OPTIONS] {
        let answer = ask(&chat, method, POLLING, &bad, "").await;
        assert_eq!(answer.status, 403);
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
    assert_eq!(
        Raw::dial(&chat, WEBSOCKET, &bad, None).await.err(),
        Some(403)
    );
    assert!(Raw::dial(&chat, WEBSOCKET, &ok, None).await.is_ok());
    // Its own pages, and what is no browser.
    let own = chat.edge(0).url().to_owned();
    assert_eq!(
        ask(&chat, Method::GET, POLLING, &[("origin", &own)], "")
            .await
            .status,
        200
    );
    let answer = ask(&chat, Method::GET, POLLING, &[], "").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));

    let chat = plan().set("edge.allowed_origins", "*").start().await;
    let answer = ask(&chat, Method::GET, POLLING, &bad, "").await;
    assert_eq!(answer.headers["access-control-allow-origin"], bad[0].1);
    assert!(
        !answer
            .headers
            .contains_key("access-control-allow-credentials")
    );
}

#[tokio::test]
async fn a_slow_reader_hurts_only_itself() {
    let settings = plan()
        .set("edge.send_queue_bytes", 50_000)
        .set("limits.messages_per_second", 1_000_000)
        .set("limits.burst", 1_000_000);
    let chat = settings.start().await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let join = format!("421[\"joinRoom\",{}]", json!({"room": room}));
    let mut slow = Raw::dial(&chat, WEBSOCKET, &[], Some(4096))
        .await
        .expect("a WebSocket");
    slow.say(&format!("40{}", json!({"token": ada.access})))
        .await;
    slow.say(&join).await;
    slow.until("431[{\"ok\":true").await;
    // This one never polls again.
    let silent = Polling::connected(&chat, &ada).await;
    silent.say(&join).await;
    silent.until("431[{\"ok\":true").await;

    let talker = chat.connect(0, &ada).await;
    talker.join(room, None).await.expect("her own");
    let body = "x".repeat(7000);
    let mut said = 0;
    eventually("both to be given up", || {
        said += 1;
        let (talker, name, body, chat) = (&talker, said.to_string(), &body, &chat);
        async move {
            talker.say(room, &name, body).await;
            let metrics = chat.rest(0).get("/metrics").await.text;
            metrics
                .contains("chat_slow_readers_closed_total 2\n")
                .then_some(())
        }
    })
    .await;
    assert_eq!(slow.closed().await, 4008);
    nothing_is_left(&chat).await;
    silent.get().await.refused(1, "Session ID unknown");
    // Who listens has missed nothing.
    talker
        .until("every message", |heard| {
            let messages = heard
                .events
                .iter()
                .filter(|event| event.name == "newMessage");
            (messages.count() == said).then_some(())
        })
        .await;
}
