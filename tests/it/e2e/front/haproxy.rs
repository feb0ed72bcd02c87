//! The real HAProxy with the configuration of `deploy/` in front of two edges.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    harness::{
        Chat, DEADLINE, Kind, Rest, User,
        deployment::{Plan, authority},
        eventually,
        haproxy::Haproxy,
        node::{Client, Clients},
        raw::{ELSEWHERE, HERE, Raw},
        server,
        socket::Dial,
        tls::Authority,
    },
    support::TcpProxy,
};

fn plan() -> Plan {
    Chat::plan(Kind::Cluster)
        .workers(1)
        .set("edge.trusted_proxies", HERE)
        .set("limits.messages_per_second", 1_000_000)
        .set("limits.burst", 1_000_000)
}

/// The number of open Socket.IO sessions of edge `i`.
async fn sessions(chat: &Chat, i: usize) -> usize {
    let metrics = chat.rest(i).get("/metrics").await.text;
    let name = "chat_sockets_open{transport=\"socketio\"} ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

async fn greet(client: &mut Client, room: Uuid) {
    client.event("connected").await;
    client.join(room, None).await;
    let name = client.name.clone();
    client.say(room, &name, "hello").await;
}

/// Stock clients with their default options keep no cookies in Node.js. Each request of a polling session must reach the
/// edge that made it.
#[tokio::test]
async fn stock_clients_poll_and_upgrade_over_two_edges() {
    let chat = plan().start().await;
    let authority = Authority::new();
    let pair = authority.issue(2100);
    let pem = chat.dir().join("proxy.pem");
    std::fs::write(&pem, format!("{}{}", pair.cert, pair.key)).expect("a file");
    let Some(proxy) = Haproxy::start(&chat, &[]).await else {
        return;
    };
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let clients = Clients::start();
    let mut open = Vec::new();
    for transports in [json!(["polling"]), json!(["polling", "websocket"])] {
        for i in 0..10 {
            let options = json!({
                "transports": transports,
                "auth": {"token": ada.access},
                "reconnection": false,
            });
            let mut client = clients.open(&format!("{transports} {i}"), &proxy.url, options);
            greet(&mut client, room).await;
            open.push(client);
        }
    }
    for client in &open[10..] {
        let upgraded = client.until("the upgrade", |received| {
            (received.transport == "websocket").then_some(())
        });
        upgraded.await;
    }
    for client in &open {
        client.received(|received| {
            assert_eq!(
                (received.connects, received.disconnects.len()),
                (1, 0),
                "{}",
                client.name
            );
        });
    }
    let shares = [sessions(&chat, 0).await, sessions(&chat, 1).await];
    assert_eq!(shares[0] + shares[1], 20, "{shares:?}");
    assert!(shares[0] > 0 && shares[1] > 0, "{shares:?}");
    proxy.end().await;

    // TLS, and a redirect to it.
    let cert = pem.display().to_string();
    let proxy = Haproxy::start(&chat, &[("HAPROXY_CERT", &cert)]).await;
    let proxy = proxy.expect("it has started before");
    let answer = Rest::new(authority.http(), &proxy.secure_url)
        .get("/healthz")
        .await;
    assert!(answer.headers.contains_key("strict-transport-security"));
    answer.ok(200);
    let mut raw = Raw::connect(&proxy.url, HERE).await;
    let answer = raw.ask("GET /v1/me", &[], "").await.expect("an answer");
    assert_eq!(answer.status, 308, "{answer:?}");
    for transports in [json!(["polling", "websocket"]), json!(["websocket"])] {
        let options = json!({
            "transports": transports,
            "auth": {"token": ada.access},
            "ca": authority.pem(),
        });
        let name = format!("{transports} over TLS");
        greet(&mut clients.open(&name, &proxy.secure_url, options), room).await;
    }
}

/// Clients that send all the time: over REST, where every answer must be a success, and over sockets, which connect
/// again and repeat what was not acknowledged.
struct Senders {
    stop: CancellationToken,
    sent: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Senders {
    fn start(chat: &Chat, proxy: &Haproxy, user: &User, room: Uuid) -> Senders {
        let (stop, sent) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let rest = Rest::new(chat.http.clone(), &proxy.url).with_token(&user.access);
            let (stop, sent) = (stop.clone(), sent.clone());
            tasks.push(tokio::spawn(async move {
                let mut ids = Vec::new();
                while !stop.is_cancelled() {
                    let id = Uuid::new_v4().to_string();
                    let body = json!({"body": "by REST", "clientMsgId": id});
                    let path = format!("/v1/rooms/{room}/messages");
                    let answer = rest.post(&path, body).await;
                    assert!(matches!(answer.status, 200..=202), "{answer:?}");
                    sent.fetch_add(1, Ordering::Relaxed);
                    ids.push(id);
                }
                ids
            }));
        }
        for _ in 0..4 {
            let (url, token) = (proxy.url.clone(), user.access.clone());
            let (stop, sent) = (stop.clone(), sent.clone());
            tasks.push(tokio::spawn(async move {
                let mut ids = Vec::new();
                let mut next = Uuid::new_v4().to_string();
                while !stop.is_cancelled() {
                    let Ok(socket) = Dial::new(&url).bearer(&token).attempt().await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    while !stop.is_cancelled() {
                        let data = json!({"room": room, "body": "by socket", "clientMsgId": next});
                        if socket.call("sendMessage", data).await.is_err() {
                            break;
                        }
                        sent.fetch_add(1, Ordering::Relaxed);
                        ids.push(std::mem::replace(&mut next, Uuid::new_v4().to_string()));
                    }
                }
                ids
            }));
        }
        Senders { stop, sent, tasks }
    }

    /// Waits until `more` further messages are accepted.
    async fn accepted(&self, more: usize) {
        let enough = self.sent.load(Ordering::Relaxed) + more;
        eventually("messages are accepted", || async {
            (self.sent.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }

    /// Stops, and checks that each accepted message is stored once.
    async fn end(self, rest: &Rest, room: Uuid) {
        self.stop.cancel();
        let mut ids = Vec::new();
        for task in self.tasks {
            let ended = tokio::time::timeout(DEADLINE, task).await;
            ids.extend(ended.expect("in time").expect("every request was accepted"));
        }
        eventually("all messages are stored", || async {
            let mut stored = Vec::new();
            let first = format!("/v1/rooms/{room}/messages?limit=100&after=0");
            let mut path = first.clone();
            loop {
                let page = rest.get(&path).await.ok(200);
                let items = page["items"].as_array().expect("a list");
                stored.extend(
                    items
                        .iter()
                        .filter_map(|item| item["clientMsgId"].as_str().map(str::to_owned)),
                );
                if page["hasMore"] != true {
                    break;
                }
                path = format!("{first}&cursor={}", page["nextCursor"]);
            }
            let mut once = stored.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), stored.len(), "a message is stored twice");
            ids.iter()
                .all(|id| once.binary_search(id).is_ok())
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_edge_is_drained_without_a_refused_request() {
    // The proxy checks every second, and two failures take an edge out.
    let mut chat = plan().set("edge.drain_delay", "8s").start().await;
    let Some(proxy) = Haproxy::start(&chat, &[]).await else {
        return;
    };
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let senders = Senders::start(&chat, &proxy, &ada, room);
    senders.accepted(200).await;
    chat.edge(0).sigterm();
    proxy.until(&chat, 0, "DOWN").await;
    assert_eq!(chat.edge_mut(0).ended().await, Some(0));
    senders.accepted(200).await;
    senders.end(&chat.rest_as(1, &ada), room).await;
}

#[tokio::test]
async fn clients_of_a_killed_edge_go_on_with_the_other() {
    let mut chat = plan().start().await;
    let Some(proxy) = Haproxy::start(&chat, &[]).await else {
        return;
    };
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let clients = Clients::start();
    let mut stock = Vec::new();
    for transports in [json!(["polling"]), json!(["websocket"])] {
        for i in 0..4 {
            let options = json!({"transports": transports, "auth": {"token": ada.access}});
            let mut client = clients.open(&format!("{transports} {i}"), &proxy.url, options);
            greet(&mut client, room).await;
            stock.push(client);
        }
    }
    chat.edge_mut(0).kill9().await;
    // Reads are repeated on the other edge, also before the proxy has noticed.
    let rest = Rest::new(chat.http.clone(), &proxy.url).with_token(&ada.access);
    for _ in 0..50 {
        rest.get("/v1/me").await.ok(200);
    }
    proxy.until(&chat, 0, "DOWN").await;
    for client in &stock {
        let name = client.name.clone();
        client.join(room, None).await;
        client.say(room, &format!("{name} again"), "again").await;
    }
    assert_eq!(sessions(&chat, 1).await, stock.len());
}

#[tokio::test]
async fn both_edges_stay_in_rotation_without_their_database() {
    let database = TcpProxy::to(&authority(&server("DATABASE_URL"))).await;
    let chat = plan().via("DATABASE_URL", database.address).start().await;
    let Some(proxy) = Haproxy::start(&chat, &[]).await else {
        return;
    };
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let dial = Dial::new(&proxy.url).bearer(&ada.access);
        let socket = dial.connect().await.expect("a socket");
        socket.join(room, None).await.expect("joined");
        sockets.push(socket);
    }
    database.freeze();
    for edge in 0..2 {
        eventually("the edge reports it", || async {
            let ready = chat.rest(edge).get("/readyz").await.ok(200);
            (ready["status"] == "degraded").then_some(())
        })
        .await;
    }
    // Longer than the proxy needs to take an edge out.
    let until = Instant::now() + Duration::from_secs(5);
    eventually("the outage lasts", || async {
        for edge in 0..2 {
            assert_eq!(proxy.state(&chat, edge).await.as_deref(), Some("UP"));
        }
        for socket in &sockets {
            let data = json!({"room": room, "body": "x", "clientMsgId": Uuid::new_v4()});
            socket.call("sendMessage", data).await.expect("accepted");
        }
        (Instant::now() > until).then_some(())
    })
    .await;
    database.thaw();
}

#[tokio::test]
async fn floods_slow_requests_and_forged_addresses_end_at_the_proxy() {
    let chat = plan()
        .edges(1)
        .set("limits.registrations_per_minute", 3)
        .start()
        .await;
    let Some(proxy) = Haproxy::start(&chat, &[("CHAT_REQUESTS_PER_10S", "200")]).await else {
        return;
    };
    let ask = async |source: Ipv4Addr, line: &str, headers: &[&str], body: &str| {
        let mut raw = Raw::connect(&proxy.url, source).await;
        raw.ask(line, headers, body).await.expect("an answer")
    };
    // What a client claims is discarded: all of these registrations come from one address.
    let mut limited = false;
    for i in 0..7 {
        let body = json!({"username": format!("user{i}"), "password": "long enough"}).to_string();
        let forged = [
            &*format!("x-forwarded-for: 198.51.100.{i}"),
            "forwarded: for=192.0.2.1",
        ];
        let answer = ask(HERE, "POST /v1/auth/register", &forged, &body).await;
        limited |= answer.status == 429;
    }
    assert!(limited, "a forged address was believed");
    let body = json!({"username": "elsewhere", "password": "long enough"}).to_string();
    let answer = ask(ELSEWHERE, "POST /v1/auth/register", &[], &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(ask(HERE, "GET /metrics", &[], "").await.status, 404);
    // A head that is sent byte by byte.
    let mut slow = Raw::connect(&proxy.url, ELSEWHERE).await;
    let started = Instant::now();
    slow.trickle(b"GET / HTTP/1.1\r\nx-filler: ", Duration::from_millis(100))
        .await;
    assert!(started.elapsed() < DEADLINE / 2, "{:?}", started.elapsed());
    // A flood.
    let flood = async {
        loop {
            let mut raw = Raw::connect(&proxy.url, HERE).await;
            for _ in 0..100 {
                let answer = raw.ask("GET /healthz", &[], "").await.expect("an answer");
                if answer.status == 429 {
                    return answer;
                }
                assert_eq!(answer.status, 200);
            }
        }
    };
    let denied = tokio::time::timeout(DEADLINE, flood).await;
    let denied = denied.expect("a flood is denied");
    assert_eq!(denied.header("retry-after"), Some("10"), "{denied:?}");
    assert_eq!(ask(ELSEWHERE, "GET /healthz", &[], "").await.status, 200);
}
