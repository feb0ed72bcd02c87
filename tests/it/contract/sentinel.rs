//! The bus over Redis Sentinel, with Sentinels that answer what the test wants.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use chat::bus::{
    Channel, Handles, Incoming, Publications,
    redis::{RedisBus, RedisSettings, SentinelSettings},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use crate::{
    harness::engines::RedisServer,
    support::{soon, unique, until},
};

/// A Sentinel that names a port of 127.0.0.1, and an epoch.
struct Sentinel {
    port: u16,
    names: Arc<Mutex<(u16, u64)>>,
    accepting: JoinHandle<()>,
}

impl Sentinel {
    async fn start(master: u16, epoch: u64) -> Sentinel {
        Sentinel::start_with(master, epoch, false).await
    }

    /// Its first connection is accepted and never answered.
    async fn start_late(master: u16, epoch: u64) -> Sentinel {
        Sentinel::start_with(master, epoch, true).await
    }

    async fn start_with(master: u16, epoch: u64, is_late: bool) -> Sentinel {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let names = Arc::new(Mutex::new((master, epoch)));
        let accepting = tokio::spawn({
            let names = names.clone();
            async move {
                let _unanswered = match is_late.then(|| listener.accept()) {
                    Some(accepting) => accepting.await.ok(),
                    None => None,
                };
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(answer(client, names.clone()));
                }
            }
        });
        Sentinel {
            port,
            names,
            accepting,
        }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn name(&self, master: u16, epoch: u64) {
        *self.names.lock().unwrap() = (master, epoch);
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(client: TcpStream, names: Arc<Mutex<(u16, u64)>>) -> Option<()> {
    let mut client = BufReader::new(client);
    loop {
        let command = command(&mut client).await?;
        let (port, epoch) = *names.lock().unwrap();
        let texts = match command.get(1).map(String::as_str) {
            Some("GET-MASTER-ADDR-BY-NAME") => ["127.0.0.1".to_owned(), port.to_string()],
            Some("MASTER") => ["config-epoch".to_owned(), epoch.to_string()],
            _ => {
                client.write_all(b"+OK\r\n").await.ok()?;
                continue;
            }
        };
        let texts = texts.map(|text| format!("${}\r\n{text}\r\n", text.len()));
        let answer = format!("*2\r\n{}", texts.concat());
        client.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// Reads one command: an array of texts.
async fn command(client: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let parts = number(client).await?;
    let mut command = Vec::new();
    for _ in 0..parts {
        let mut text = vec![0; number(client).await? + 2];
        client.read_exact(&mut text).await.ok()?;
        text.truncate(text.len() - 2);
        command.push(String::from_utf8(text).ok()?);
    }
    Some(command)
}

async fn number(client: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    client.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim_end().parse().ok()
}

fn bus(sentinels: &[&Sentinel], prefix: &str) -> Handles {
    let settings = RedisSettings {
        url: "redis://127.0.0.1:1".to_owned(),
        sentinel: Some(SentinelSettings {
            addresses: sentinels.iter().map(|s| s.address()).collect(),
            password: String::new(),
            master: "main".to_owned(),
        }),
        prefix: prefix.to_owned(),
        recent_messages: 5,
        recent_ttl: Duration::from_secs(60),
        pool: 4,
    };
    Handles::new(Arc::new(RedisBus::connect(settings).unwrap()))
}

/// A port on which nothing listens.
fn refused() -> u16 {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

fn notice(channel: Channel, text: &'static str) -> Publications {
    Publications {
        notices: vec![(channel, Bytes::from_static(text.as_bytes()))],
        ..Publications::default()
    }
}

async fn next(incoming: &mut mpsc::Receiver<Incoming>) -> Incoming {
    soon("an item", incoming.recv()).await.unwrap()
}

#[tokio::test]
async fn a_server_that_refuses_or_is_a_replica_is_passed_over() {
    let (master, replica) = tokio::join!(RedisServer::start(), RedisServer::start());
    replica.follow(master.port).await;
    // Their epochs are later than the right one's, as of a failover that was undone by hand.
    let dead = Sentinel::start(refused(), 9).await;
    let stale = Sentinel::start(replica.port, 8).await;
    // The majority that answers the first question names no master.
    let right = Sentinel::start_late(master.port, 1).await;
    let bus = bus(&[&dead, &stale, &right], &unique("sentinel"));
    bus.pubsub.ping().await.unwrap();
    let (subscriptions, mut incoming) = bus.pubsub.listen().await.unwrap();
    let subscribed = subscriptions.subscribe(&[Channel::Everyone]).await;
    assert!(subscribed.unwrap());
    let hello = notice(Channel::Everyone, "hello");
    bus.pubsub.publish(&hello).await.unwrap();
    assert!(matches!(
        next(&mut incoming).await,
        Incoming::Message { .. }
    ));
}

/// The old master stays up and accepts commands, as one that was cut off from its Sentinels does.
#[tokio::test]
async fn connections_move_to_the_master_of_the_latest_failover() {
    let (old, new) = tokio::join!(RedisServer::start(), RedisServer::start());
    let (one, two) = (
        Sentinel::start(old.port, 1).await,
        Sentinel::start(old.port, 1).await,
    );
    let prefix = unique("sentinel");
    let bus = bus(&[&one, &two], &prefix);
    bus.pubsub.ping().await.unwrap();
    let (subscriptions, mut incoming) = bus.pubsub.listen().await.unwrap();
    assert!(subscriptions.subscribe(&[Channel::Everyone]).await.unwrap());
    // The other Sentinel never notices.
    two.name(new.port, 2);
    assert!(matches!(next(&mut incoming).await, Incoming::Lost));
    assert!(matches!(next(&mut incoming).await, Incoming::Restored));
    bus.pubsub
        .publish(&notice(Channel::Everyone, "over the new one"))
        .await
        .unwrap();
    assert!(matches!(
        next(&mut incoming).await,
        Incoming::Message { .. }
    ));
    let open = async |server: &RedisServer| {
        let clients = server.ask(&["CLIENT", "LIST"]).await.unwrap();
        // The last one is this question.
        clients.matches("addr=").count() / 2
    };
    until(
        "the old one is left",
        async || open(&old).await,
        |open| *open <= 1,
    )
    .await;
    assert!(open(&new).await >= 2);
}

/// The subscriber dials again, also when the first dials are refused, and restores its subscriptions.
#[tokio::test]
async fn a_subscriber_survives_refused_dials() {
    let mut old = RedisServer::start().await;
    let sentinel = Sentinel::start(old.port, 1).await;
    let bus = bus(&[&sentinel], &unique("sentinel"));
    let (subscriptions, mut incoming) = bus.pubsub.listen().await.unwrap();
    assert!(subscriptions.subscribe(&[Channel::Everyone]).await.unwrap());
    old.kill9();
    assert!(matches!(next(&mut incoming).await, Incoming::Lost));
    // The Sentinel still names the dead master.
    for _ in 0..3 {
        bus.pubsub.ping().await.unwrap_err();
    }
    let new = RedisServer::start().await;
    sentinel.name(new.port, 2);
    assert!(matches!(next(&mut incoming).await, Incoming::Restored));
    bus.pubsub
        .publish(&notice(Channel::Everyone, "hello"))
        .await
        .unwrap();
    assert!(matches!(
        next(&mut incoming).await,
        Incoming::Message { .. }
    ));
}

/// A server of a fixed address that became a replica: each connection that answers so is closed, because a new one may
/// reach another server.
#[tokio::test]
async fn connections_that_answer_readonly_are_closed() {
    let server = RedisServer::start().await;
    let bus = RedisBus::connect(RedisSettings {
        url: server.url(),
        sentinel: None,
        prefix: unique("readonly"),
        recent_messages: 5,
        recent_ttl: Duration::from_secs(60),
        pool: 1,
    });
    let bus = Handles::new(Arc::new(bus.unwrap()));
    let write = async || {
        bus.coordination
            .increment("key", Duration::from_secs(9))
            .await
    };
    write().await.unwrap();
    server.follow(refused()).await;
    let accepted = async || -> u64 {
        let state = server.ask(&["INFO", "stats"]).await.unwrap();
        let (_, rest) = state.split_once("total_connections_received:").unwrap();
        rest.lines().next().unwrap().parse().unwrap()
    };
    let before = accepted().await;
    write().await.unwrap_err();
    write().await.unwrap_err();
    // This question is one of them.
    assert!(accepted().await >= before + 2);
    server.ask(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    write().await.unwrap();
}
