//! `/readyz` says whether an edge can accept messages, `/healthz` whether it is alive, whatever its servers do.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::{
    harness::{Chat, Kind, Rest, both_ways, deployment::authority, eventually, server},
    support::TcpProxy,
};

/// Bound of an answer that must not wait for a server, on a loaded machine. The server hangs for longer.
const PROMPT: Duration = Duration::from_secs(4);

/// The database hangs: it accepts connections and answers nothing. Requests that need it use up every connection of the
/// pool, and logins every hashing thread.
#[tokio::test]
async fn an_edge_whose_database_hangs_is_alive_ready_and_accepts_messages() {
    let proxy = TcpProxy::to(&authority(&server("DATABASE_URL"))).await;
    let mut chat = Chat::plan(Kind::Cluster)
        .via("DATABASE_URL", proxy.address)
        .set("metrics.port", free_port())
        .edges(1)
        .workers(0)
        .start()
        .await;
    // The worker's `metrics.port` would be the same.
    let worker = chat.program_with("worker 0", &["worker"], &[("CHAT__METRICS__PORT", "0")]);
    chat.workers.push(worker.start().await);
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("joined");
    let metrics = Rest::new(
        chat.http.clone(),
        &format!("http://127.0.0.1:{}", chat.setting("metrics.port")),
    );
    let rest = chat.rest(0);
    assert_eq!(rest.get("/readyz").await.ok(200)["status"], "ready");

    proxy.freeze();
    let reads = (0..50).map(|_| {
        let rest = chat.rest_as(0, &ada);
        tokio::spawn(async move { rest.get("/v1/rooms").await.status })
    });
    let logins = (0..10).map(|_| {
        let (rest, login) = (
            rest.clone(),
            json!({"username": "ada", "password": "wrong"}),
        );
        tokio::spawn(async move { rest.post("/v1/auth/login", login).await.status })
    });
    let hanging: Vec<_> = reads.chain(logins).collect();
    for rest in [&rest, &metrics] {
        let ready = eventually("the database is reported", || async {
            let started = Instant::now();
            assert_eq!(rest.get("/healthz").await.ok(200)["status"], "ok");
            let ready = rest.get("/readyz").await.ok(200);
            assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
            (ready["status"] == "degraded").then_some(ready)
        })
        .await;
        assert_eq!(ready["checks"]["store"]["ok"], false, "{ready}");
        assert!(ready["checks"]["store"]["error"].is_string(), "{ready}");
        assert_eq!(ready["checks"]["queue"]["ok"], true, "{ready}");
        assert_eq!(ready["checks"]["bus"]["ok"], true, "{ready}");
    }
    let started = Instant::now();
    let message = json!({"room": room, "body": "hello", "clientMsgId": "1"});
    let sent = socket.call("sendMessage", message).await;
    sent.expect("accepted while the database hangs");
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());

    proxy.thaw();
    for status in join_all(hanging).await {
        let status = status.expect("an answer");
        assert!([200, 401, 429, 503].contains(&status), "{status}");
    }
    eventually("the edge is ready again", || async {
        let ready = rest.get("/readyz").await.ok(200);
        (ready["status"] == "ready").then_some(())
    })
    .await;
    eventually("the message is stored", || async {
        let path = format!("/v1/rooms/{room}/messages");
        let page = chat.rest_as(0, &ada).get(&path).await.ok(200);
        (page["items"][0]["body"] == "hello").then_some(())
    })
    .await;
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

both_ways!(a_stopping_edge_leaves_the_rotation_before_it_refuses_connections);

async fn a_stopping_edge_leaves_the_rotation_before_it_refuses_connections(kind: Kind) {
    let mut chat = Chat::plan(kind)
        .set("edge.drain_delay", "1m")
        .edges(1)
        .workers(1)
        .start()
        .await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("joined");
    chat.edge(0).sigterm();
    let rest = chat.rest_as(0, &ada);
    let stopping = eventually("/readyz: 503", || async {
        let answer = rest.get("/readyz").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(stopping.json()["status"], "stopping");
    // It still serves: open sockets, new connections and new sockets.
    for socket in [socket, chat.connect(0, &ada).await] {
        let message = json!({"room": room, "body": "x", "clientMsgId": uuid::Uuid::new_v4()});
        let sent = socket.call("sendMessage", message).await;
        sent.expect("accepted before it closes its sockets");
    }
    rest.get("/v1/me").await.ok(200);
    rest.get("/healthz").await.ok(200);
    // A second signal does not wait.
    chat.edge(0).sigterm();
    assert_eq!(chat.edge_mut(0).ended().await, Some(1));
}

#[tokio::test]
async fn after_the_delay_sockets_are_closed_and_the_edge_ends() {
    let mut chat = Chat::plan(Kind::Standalone)
        .set("edge.drain_delay", "500ms")
        .start()
        .await;
    let ada = chat.register("ada").await;
    let socket = chat.connect(0, &ada).await;
    chat.edge(0).sigterm();
    assert_eq!(socket.closed().await.code, 1012);
    assert_eq!(chat.edge_mut(0).ended().await, Some(0));
}
