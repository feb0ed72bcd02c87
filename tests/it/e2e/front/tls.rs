//! TLS on the edge's own port: every transport, the reload of the certificate, and peers that are slow or speak plain
//! HTTP.

use std::{path::Path, time::Instant};

use futures_util::{SinkExt, StreamExt};
use rustls::version::{TLS12, TLS13};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest, http::HeaderValue},
};
use uuid::Uuid;

use crate::harness::{
    Chat, DEADLINE, Kind, Rest, User,
    deployment::{Nowhere, Plan, authority},
    eventually,
    node::Clients,
    raw::{HERE, Raw},
    tls::{Authority, Pair, connect},
};

/// An edge with TLS, and what it was started with.
struct Edge {
    chat: Chat,
    authority: Authority,
    _files: Nowhere,
    dir: std::path::PathBuf,
}

impl Edge {
    async fn start(plan: Plan) -> Edge {
        let (authority, files) = (Authority::new(), Nowhere::new());
        let dir = files.dir().to_owned();
        let (cert, key) = authority.issue(2100).write(&dir);
        let mut chat = plan
            .set("edge.tls.cert", cert.display())
            .set("edge.tls.key", key.display())
            .start()
            .await;
        chat.http = authority.http();
        Edge {
            chat,
            authority,
            _files: files,
            dir,
        }
    }

    fn url(&self) -> &str {
        self.chat.edge(0).url()
    }

    /// A WebSocket of `user`.
    async fn socket(&self, user: &User) -> WebSocketStream<TlsStream<TcpStream>> {
        let stream = self.authority.connect(self.url()).await.expect("TLS");
        let url = format!("{}/ws", self.url().replacen("http", "ws", 1));
        let mut request = url.into_client_request().expect("a URL");
        let bearer = HeaderValue::from_str(&format!("Bearer {}", user.access)).expect("a header");
        request.headers_mut().insert("authorization", bearer);
        let (mut socket, _) = client_async(request, stream).await.expect("a WebSocket");
        until(&mut socket, "\"connected\"").await;
        socket
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self) -> Vec<u8> {
        let stream = self.authority.connect(self.url()).await.expect("TLS");
        let (_, session) = stream.get_ref();
        let certs = session.peer_certificates().expect("a certificate");
        certs[0].to_vec()
    }
}

/// The next text that contains `part`.
async fn until(socket: &mut WebSocketStream<TlsStream<TcpStream>>, part: &str) -> String {
    let reading = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) if text.contains(part) => return text.to_string(),
                Some(Ok(_)) => {}
                other => panic!("waiting for {part}: {other:?}"),
            }
        }
    };
    let read = tokio::time::timeout(DEADLINE, reading).await;
    read.unwrap_or_else(|_| panic!("no {part} in time"))
}

async fn say(socket: &mut WebSocketStream<TlsStream<TcpStream>>, text: String) {
    socket.send(Message::text(text)).await.expect("it is open");
}

#[tokio::test]
async fn every_transport_works_over_tls() {
    let edge = Edge::start(Chat::plan(Kind::Standalone)).await;
    let chat = &edge.chat;
    assert!(
        edge.url().starts_with("https://127.0.0.1:"),
        "{}",
        edge.url()
    );
    // REST.
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let answer = chat.rest(0).get("/healthz").await;
    let hsts = answer.headers.get("strict-transport-security");
    assert_eq!(hsts.and_then(|v| v.to_str().ok()), Some("max-age=31536000"));
    // Both versions, and only HTTP/1.1.
    for version in [&TLS12, &TLS13] {
        let client = edge.authority.client(&[version]);
        let mut client = (*client).clone();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let connected = connect(client.into(), &authority(edge.url())).await;
        let stream = connected.expect("TLS");
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(version.version));
        assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    // The WebSocket.
    let mut socket = edge.socket(&ada).await;
    let join = json!({"id": 1, "event": "joinRoom", "data": {"room": room}});
    say(&mut socket, join.to_string()).await;
    until(&mut socket, "\"ack\":1,\"ok\":true").await;
    // Socket.IO, over both of its transports and with an upgrade.
    let clients = Clients::start();
    for (name, transports) in [
        ("polling", json!(["polling"])),
        ("websocket", json!(["websocket"])),
        ("upgraded", json!(["polling", "websocket"])),
    ] {
        let options = json!({
            "transports": transports,
            "auth": {"token": ada.access},
            "ca": edge.authority.pem(),
        });
        let mut client = clients.open(name, edge.url(), options);
        client.event("connected").await;
        client.join(room, None).await;
        client.say(room, name, &format!("by {name}")).await;
        until(&mut socket, &format!("by {name}")).await;
        if name == "upgraded" {
            let upgraded = |received: &crate::harness::node::Received| {
                (received.transport == "websocket").then_some(())
            };
            client.until("the upgrade", upgraded).await;
        }
    }
    // The end is announced: close frame, then the end of the TLS connection.
    socket.close(None).await.expect("it is open");
    let ending = async {
        loop {
            match socket.next().await {
                Some(Ok(_)) => {}
                Some(Err(WsError::ConnectionClosed)) | None => return,
                other => panic!("{other:?}"),
            }
        }
    };
    let ended = tokio::time::timeout(DEADLINE, ending).await;
    ended.expect("the socket is closed in time");
}

#[tokio::test]
async fn pages_of_the_edges_own_origin_are_those_over_https() {
    let edge = Edge::start(Chat::plan(Kind::Standalone)).await;
    for (scheme, status) in [("https", 101), ("http", 403)] {
        let mut stream = edge.authority.connect(edge.url()).await.expect("TLS");
        let host = authority(edge.url());
        let request = format!(
            "GET /ws HTTP/1.1\r\nhost: {host}\r\norigin: {scheme}://{host}\r\nupgrade: websocket\r\n\
             connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it is open");
        let mut head = [0; 12];
        let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut head)).await;
        read.expect("an answer in time").expect("an answer");
        assert_eq!(head, format!("HTTP/1.1 {status}").as_bytes(), "{scheme}");
    }
}

/// Waits until new connections are shown this certificate.
async fn until_shown(edge: &Edge, pair: &Pair) {
    eventually("the new certificate", || async {
        (edge.shown().await == pair.der.to_vec()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_new_certificate_is_used_without_dropping_connections() {
    // Only SIGHUP reloads.
    let plan = Chat::plan(Kind::Standalone).set("edge.tls.reload_interval", "1d");
    let edge = Edge::start(plan).await;
    let ada = edge.chat.register("ada").await;
    let mut open = edge.socket(&ada).await;
    let first = edge.shown().await;
    let second = edge.authority.issue(2101);
    second.write(&edge.dir);
    assert_eq!(edge.shown().await, first);
    edge.chat.edge(0).sighup();
    until_shown(&edge, &second).await;
    let log = edge.chat.edge(0).log();
    assert!(log.contains("2101-01-01T00:00:00Z"), "{log}");
    // A pair that cannot be used changes nothing.
    std::fs::write(edge.dir.join("key.pem"), edge.authority.issue(2102).key).expect("a file");
    edge.chat.edge(0).sighup();
    eventually("the refusal is logged", || async {
        let log = edge.chat.edge(0).log();
        let why = "is not the key of the certificate in edge.tls.cert";
        (log.contains("edge.tls.key") && log.contains(why)).then_some(())
    })
    .await;
    assert_eq!(edge.shown().await, second.der.to_vec());
    // The first socket is still open.
    say(&mut open, json!({"id": 1, "event": "ping"}).to_string()).await;
    until(&mut open, "\"ack\":1").await;
}

#[tokio::test]
async fn changed_files_are_found_without_a_signal() {
    let plan = Chat::plan(Kind::Standalone).set("edge.tls.reload_interval", "50ms");
    let edge = Edge::start(plan).await;
    let second = edge.authority.issue(2101);
    second.write(&edge.dir);
    until_shown(&edge, &second).await;
}

#[tokio::test]
async fn plain_http_is_told_and_other_bytes_are_closed() {
    let edge = Edge::start(Chat::plan(Kind::Standalone)).await;
    let mut raw = Raw::connect(edge.url(), HERE).await;
    let answer = raw.ask("GET /healthz", &[], "").await.expect("an answer");
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("speaks TLS"), "{}", answer.text());
    raw.closed().await;
    for bytes in [&b"\0\0\0\0"[..], &[22; 64], &[22, 3, 1, 0, 2, 1, 0]] {
        let mut raw = Raw::connect(edge.url(), HERE).await;
        raw.send(bytes).await;
        raw.closed().await;
    }
}

/// Handshakes that do not proceed are bounded in time, and count as connections of their address.
#[tokio::test]
async fn unfinished_handshakes_are_limited() {
    const LIMIT: usize = 10;
    let plan = Chat::plan(Kind::Standalone)
        .set("edge.request_timeout", "5s")
        .set("edge.max_connections_per_address", LIMIT);
    let edge = Edge::start(plan).await;
    // On a busy machine the first ones may have timed out before the request: then all are opened again.
    let (started, mut slow, refused) = eventually("the limit is reached", || async {
        let started = Instant::now();
        let mut slow = Vec::new();
        for _ in 0..LIMIT {
            let mut raw = Raw::connect(edge.url(), HERE).await;
            // The header of a record that never comes.
            raw.send(&[22, 3, 1, 1, 0]).await;
            slow.push(raw);
        }
        // On a new connection.
        let rest = Rest::new(edge.authority.http(), edge.url());
        let answer = rest.get("/v1/me").await;
        (answer.status == 503).then_some((started, slow, answer))
    })
    .await;
    assert!(refused.text.contains("max_connections_per_address"));
    // Health checks are answered.
    edge.chat.rest(0).get("/healthz").await.ok(200);
    for raw in &mut slow {
        raw.closed().await;
    }
    assert!(started.elapsed() < DEADLINE / 2, "{:?}", started.elapsed());
    assert_eq!(edge.chat.rest(0).get("/v1/me").await.status, 401);
}

async fn closed_readers(chat: &Chat) -> Option<u64> {
    let metrics = chat.rest(0).get("/metrics").await.text;
    let name = "chat_slow_readers_closed_total ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(name))?;
    value.parse().ok()
}

/// A socket that stops reading is closed after `edge.write_timeout`, also if the edge waits in a flush of TLS records.
#[tokio::test]
async fn sockets_that_stop_reading_are_closed() {
    let plan = Chat::plan(Kind::Standalone)
        .set("edge.write_timeout", "1s")
        .set("edge.send_queue_bytes", 64 << 20)
        .set("limits.messages_per_second", 1_000_000)
        .set("limits.burst", 1_000_000);
    let edge = Edge::start(plan).await;
    let ada = edge.chat.register("ada").await;
    let room = edge.chat.room(&ada, "public", &[]).await;
    let mut stalled = edge.socket(&ada).await;
    let join = json!({"id": 1, "event": "joinRoom", "data": {"room": room}});
    say(&mut stalled, join.to_string()).await;
    until(&mut stalled, "\"ack\":1,\"ok\":true").await;
    let relay = edge.authority.relay(edge.url()).await;
    let talker = crate::harness::socket::Dial::new(&relay.url())
        .bearer(&ada.access)
        .connect()
        .await
        .expect("a socket");
    let body = "x".repeat(15_000);
    eventually("the stalled socket is closed", || async {
        for _ in 0..50 {
            let data = json!({"room": room, "body": body, "clientMsgId": Uuid::new_v4()});
            talker.call("sendMessage", data).await.expect("accepted");
        }
        (closed_readers(&edge.chat).await == Some(1)).then_some(())
    })
    .await;
}

/// A response that is not read ends the connection after `edge.write_timeout`.
#[tokio::test]
async fn responses_that_are_not_read_end_the_connection() {
    let plan = Chat::plan(Kind::Standalone).set("edge.write_timeout", "1s");
    let edge = Edge::start(plan).await;
    let mut stream = edge.authority.connect(edge.url()).await.expect("TLS");
    // 1.6 MB each.
    let request = "GET /api HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is open");
    let open = || async {
        let metrics = edge.chat.rest(0).get("/metrics").await.text;
        let line = metrics.lines().find(|line| {
            line.starts_with(
                "chat_http_requests_total{method=\"GET\",route=\"/api\",status=\"200\"}",
            )
        });
        line.is_some().then_some(())
    };
    eventually("the server answers", open).await;
    // The server resets the connection: what it buffered is gone, so the stream ends with an error.
    let (tcp, _) = stream.get_ref();
    eventually("the connection is reset", || async {
        tcp.take_error().ok().flatten().map(drop)
    })
    .await;
}

/// Problems of the files are problems of the settings: exit code 2, with the key's name.
#[tokio::test]
async fn pairs_that_cannot_be_used_are_problems_of_the_settings() {
    let nowhere = Nowhere::new();
    let authority = Authority::new();
    let write = |name: &str, pair: &Pair| {
        let dir = nowhere.dir().join(name);
        std::fs::create_dir(&dir).expect("a directory");
        pair.write(&dir)
    };
    let (cert, key) = write("good", &authority.issue(2100));
    let (_, other) = write("other", &authority.issue(2100));
    let (expired, its_key) = write("expired", &authority.issue(2021));
    let missing = nowhere.dir().join("missing");
    let none = Path::new("");
    for (cert, key, expected) in [
        (&*missing, &*key, ["edge.tls.cert", "cannot be read"]),
        (&cert, &missing, ["edge.tls.key", "cannot be read"]),
        (
            &expired,
            &its_key,
            ["edge.tls.cert", "expired on 2021-01-01"],
        ),
        (&cert, &other, ["edge.tls.key", "is not the key of"]),
        (&cert, none, ["edge.tls.key", "edge.tls.cert is set"]),
        (none, &key, ["edge.tls.cert", "edge.tls.key is set"]),
    ] {
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        let env = [
            ("CHAT__EDGE__TLS__CERT", &*cert),
            ("CHAT__EDGE__TLS__KEY", &*key),
            ("CHAT__EDGE__PORT", "0"),
        ];
        for args in [
            &["config", "--check"][..],
            &["doctor"],
            &["standalone", "--data", "data"],
        ] {
            let ended = nowhere.program(args, &env).run().await;
            assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
            for part in expected {
                assert!(ended.stderr.contains(part), "{args:?}, {part}: {ended:?}");
            }
        }
    }
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let env = [
        ("CHAT__EDGE__TLS__CERT", &*cert),
        ("CHAT__EDGE__TLS__KEY", &*key),
    ];
    let ended = nowhere.program(&["config", "--check"], &env).run().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// The header of the PROXY protocol precedes the handshake.
#[tokio::test]
async fn the_proxy_protocol_comes_before_tls() {
    let plan = Chat::plan(Kind::Standalone)
        .set("edge.trusted_proxies", HERE)
        .set("edge.proxy_protocol", true);
    let edge = Edge::start(plan).await;
    let mut tcp = TcpStream::connect(authority(edge.url()))
        .await
        .expect("a connection");
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x01\x7f\0\0\x01\0\x50\0\x50";
    tcp.write_all(header).await.expect("it is open");
    let client = edge.authority.client(rustls::ALL_VERSIONS);
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").expect("an address");
    let connecting = tokio_rustls::TlsConnector::from(client).connect(name, tcp);
    let connected = tokio::time::timeout(DEADLINE, connecting).await;
    let mut stream = connected.expect("in time").expect("TLS");
    let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("it is open");
    let mut answer = String::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await;
    read.expect("in time")
        .expect("the connection ends as TLS ends");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Without it, the connection is closed.
    let begun = tokio::time::timeout(DEADLINE, edge.authority.connect(edge.url()));
    assert!(begun.await.expect("in time").is_err());
}
