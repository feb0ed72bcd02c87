//! Servers fail, hang or are cut off, and workers fail: sends are answered in time, and everything is stored and
//! delivered after the recovery.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{AT_ONCE, PACE, until_edges_count, until_edges_report};
use crate::{
    chaos::proxy::{Mode, Proxy},
    harness::{Chat, Kind, deployment::authority, eventually, load::Load, server},
    support::TcpProxy,
};

const OUTAGE: Duration = Duration::from_secs(10);
/// A Redis database that this test may flush.
const OWN: u8 = 9;

async fn flush_redis() {
    let mut redis = TcpStream::connect(authority(&server("REDIS_URL")))
        .await
        .expect("Redis");
    let ask = format!("SELECT {OWN}\r\nFLUSHDB\r\n");
    redis.write_all(ask.as_bytes()).await.expect("a request");
    let mut answer = [0; 10];
    redis.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"+OK\r\n+OK\r\n");
}

/// A cluster under load that reaches [`OWN`] through a proxy.
async fn load_behind_a_redis_proxy() -> (TcpProxy, Chat, Load) {
    let proxy = TcpProxy::to(&authority(&server("REDIS_URL"))).await;
    let chat = Load::plan(Kind::Cluster)
        .address("REDIS_URL", format!("redis://{}/{OWN}", proxy.address))
        .start()
        .await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    load.accepted(200).await;
    (proxy, chat, load)
}

#[tokio::test]
async fn messages_flow_while_redis_is_down_and_emptied() {
    let (proxy, chat, load) = load_behind_a_redis_proxy().await;
    for _ in 0..2 {
        // Cuts the open connections and lets no new ones through.
        proxy.freeze();
        proxy.cut();
        load.accepted(400).await;
        until_edges_report(&chat, 200, "bus", false).await;
        until_edges_count(&chat, "chat_bus_state", 0).await;
        flush_redis().await;
        proxy.thaw();
        until_edges_report(&chat, 200, "bus", true).await;
        until_edges_count(&chat, "chat_bus_state", 1).await;
        load.accepted(200).await;
    }
    load.settled().await;
    load.resume_sending();
    // Connections that break repeatedly.
    for _ in 0..5 {
        proxy.cut();
        load.accepted(50).await;
    }
    load.end(&chat).await;
}

/// Closed logins are published over Redis. While Redis is unreachable, an edge compares its logins with the store and
/// closes the sockets of closed ones.
#[tokio::test]
async fn a_login_closed_during_a_redis_outage_closes_its_sockets() {
    let proxy = TcpProxy::to(&authority(&server("REDIS_URL"))).await;
    let chat = Chat::plan(Kind::Cluster)
        .via("REDIS_URL", proxy.address)
        .set("edge.wait", "1s")
        // Disables the periodic checks, which would find it as well.
        .set("edge.reconcile_interval", "1h")
        .set("edge.rights_interval", "1h")
        .start()
        .await;
    let ada = chat.register("ada").await;
    let login = json!({"username": "ada", "password": ada.password});
    let other = chat.rest(0).post("/v1/auth/login", login).await.ok(200);
    let other = other["accessToken"].as_str().expect("a token").to_owned();
    let closed = chat.connect(0, &ada).await;
    let stays = chat
        .dial(0)
        .bearer(&other)
        .connect()
        .await
        .expect("a socket");
    proxy.freeze();
    proxy.cut();
    until_edges_count(&chat, "chat_bus_state", 0).await;
    let refresh = json!({"refreshToken": ada.refresh});
    eventually("the login is closed", || async {
        let path = "/v1/auth/logout";
        let answer = chat.rest(1).post(path, refresh.clone()).await;
        assert!(
            [202, 204, 429, 503].contains(&answer.status),
            "{}",
            answer.text
        );
        let mut database = PgConnection::connect(chat.database_url()).await.ok()?;
        let sql = "SELECT 1 FROM logins WHERE revoked";
        database
            .fetch_optional(sql)
            .await
            .expect("an answer")
            .map(drop)
    })
    .await;
    // Found by the comparison with the store.
    assert_eq!(closed.closed().await.code, 4001);
    stays.settle().await;
    proxy.thaw();
    stays.settle().await;
}

/// Events lost at the end: no later event reveals the missing range.
#[tokio::test]
async fn a_missing_range_at_the_end_is_filled() {
    let (proxy, chat, load) = load_behind_a_redis_proxy().await;
    for _ in 0..3 {
        load.settled().await;
        proxy.freeze();
        proxy.cut();
        load.resume_sending();
        load.accepted(50).await;
        load.answered().await;
        proxy.thaw();
        // Heads are compared every three seconds; the bus needs time to reconnect.
        let started = Instant::now();
        load.settled().await;
        assert!(started.elapsed() < Duration::from_secs(15));
        load.resume_sending();
        load.accepted(50).await;
    }
    load.end(&chat).await;
}

#[tokio::test]
async fn sends_are_answered_while_the_database_is_unreachable() {
    let proxy = TcpProxy::to(&authority(&server("DATABASE_URL"))).await;
    let chat = Load::plan(Kind::Cluster)
        .via("DATABASE_URL", proxy.address)
        .start()
        .await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    load.accepted(200).await;
    until_edges_report(&chat, 200, "store", true).await;
    proxy.freeze();
    load.answers_within(AT_ONCE, OUTAGE).await;
    until_edges_report(&chat, 200, "store", false).await;
    proxy.thaw();
    until_edges_report(&chat, 200, "store", true).await;
    load.settled().await;
    load.resume_sending();
    load.accepted(200).await;
    proxy.freeze();
    proxy.cut();
    load.answers_within(AT_ONCE, OUTAGE).await;
    proxy.thaw();
    load.accepted(200).await;
    load.end(&chat).await;
}

/// A load balancer without a server behind it accepts connections and closes them. That is no command's fault: nothing
/// is refused after it was accepted, and nothing becomes a dead letter.
#[tokio::test]
async fn nothing_is_refused_while_connections_to_the_database_are_closed() {
    let closing = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed_at_once = closing.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = closing.accept().await {
            // After the request for TLS was read, so that the client sees the end of the connection and no reset.
            let _ = client.read_exact(&mut [0; 8]).await;
        }
    });
    let database = authority(&server("DATABASE_URL"));
    let proxy = Proxy::to(&database).await;
    let chat = Load::plan(Kind::Cluster)
        .via("DATABASE_URL", proxy.address)
        .start()
        .await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    load.accepted(200).await;
    for _ in 0..2 {
        proxy.redirect(&closed_at_once);
        proxy.set(Mode::Cut);
        load.accepted(20).await;
        proxy.set(Mode::Pass);
        load.accepted(200).await;
        proxy.redirect(&database);
        load.accepted(100).await;
    }
    load.end(&chat).await;
}

#[tokio::test]
async fn sends_are_accepted_without_workers() {
    let mut chat = Load::plan(Kind::Cluster).start().await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    load.accepted(200).await;
    for worker in &chat.workers {
        worker.sigstop();
    }
    load.answers_within(AT_ONCE, OUTAGE).await;
    for worker in &chat.workers {
        worker.sigcont();
    }
    load.settled().await;
    load.resume_sending();
    load.accepted(200).await;
    for worker in &mut chat.workers {
        worker.kill9().await;
    }
    load.answers_within(AT_ONCE, OUTAGE).await;
    for worker in &mut chat.workers {
        worker.restart().await;
    }
    load.accepted(200).await;
    load.end(&chat).await;
}

#[tokio::test]
async fn sends_are_refused_as_busy_at_the_backlog_limit() {
    let mut chat = Load::plan(Kind::Cluster)
        .set("queue.max_backlog", 200)
        .start()
        .await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    load.accepted(200).await;
    load.settled().await;
    for worker in &mut chat.workers {
        worker.kill9().await;
    }
    let before = load.figures().accepted;
    load.resume_sending();
    load.until("it is full", || load.figures().busy > 200).await;
    let full = load.figures();
    assert!(full.accepted - before >= 100, "{full:?}");
    assert!(full.slowest < AT_ONCE, "{full:?}");
    for worker in &mut chat.workers {
        worker.restart().await;
    }
    load.accepted(200).await;
    load.end(&chat).await;
}
