//! The stock Socket.IO client, unmodified, against real processes.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    Chat, Kind, User, both_ways,
    engineio::open_sockets,
    eventually,
    node::{Client, Clients},
};

pub(super) const POLLING: &[&str] = &["polling"];
pub(super) const WEBSOCKET: &[&str] = &["websocket"];
/// The client's default: polling first, then the upgrade.
pub(super) const UPGRADED: &[&str] = &["polling", "websocket"];

both_ways!(
    every_transport_sends_and_receives,
    no_event_is_lost_during_an_upgrade,
    connects_require_a_valid_token,
    a_client_resumes_after_a_restart,
    a_graceful_shutdown_announces_a_reconnect_delay,
    closing_a_login_disconnects_its_clients,
    two_hundred_clients_receive_every_message,
);

async fn every_transport_sends_and_receives(kind: Kind) {
    let (chat, clients) = (Chat::start(kind).await, Clients::start());
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    for (i, transports) in [POLLING, WEBSOCKET, UPGRADED].into_iter().enumerate() {
        let name = transports.join(" then ");
        let mut client = clients
            .connect(&name, chat.edge(i).url(), &ada, transports)
            .await;
        let last = *transports.last().expect("one at least");
        client
            .until("the last transport", |received| {
                (received.transport == last).then_some(())
            })
            .await;
        assert_eq!(client.events("connected")[0]["user"]["id"], json!(ada.id));

        let joined = client.join(room, None).await;
        assert_eq!(
            (&joined["room"], &joined["hasMore"]),
            (&json!(room), &json!(false))
        );
        let data = json!({"room": room, "body": "✓ hello", "clientMsgId": name});
        let accepted = client.call("sendMessage", data).await;
        assert_eq!(
            (&accepted["status"], &accepted["clientMsgId"]),
            (&json!("accepted"), &json!(name))
        );
        let message = client.event("newMessage").await;
        assert_eq!(
            (&message["id"], &message["body"]),
            (&accepted["id"], &json!("✓ hello"))
        );
        let data = json!({"room": room, "id": message["id"], "body": "edited"});
        client.call("editMessage", data).await;
        assert_eq!(client.event("messageUpdated").await["body"], "edited");

        // Errors are acked, or sent as `exception` if the client requested no ack.
        let refused = client.ack(client.send("nobodyKnows", json!({}))).await;
        assert_eq!(
            (&refused["ok"], &refused["error"]["code"]),
            (&json!(false), &json!("unknown_event"))
        );
        let data = json!({"room": Uuid::new_v4(), "body": "x", "clientMsgId": "y"});
        let refused = client.ack(client.send("sendMessage", data)).await;
        assert_eq!(refused["error"]["code"], "not_found");
        client.emit("sendMessage", json!({"room": room}));
        let exception = client.event("exception").await;
        assert_eq!(
            (&exception["code"], &exception["errors"][0]["field"]),
            (&json!("invalid"), &json!("body"))
        );
        client.emit("joinRoom", json!({"room": room}));
        assert_eq!(client.event("joined").await["room"], json!(room));

        client.disconnect();
        let (reason, _) = disconnected(&client, 0).await;
        assert_eq!(reason, "io client disconnect");
    }
}

async fn disconnected(client: &Client, nth: usize) -> (String, Option<u16>) {
    client
        .until("a disconnect", |received| {
            received.disconnects.get(nth).cloned()
        })
        .await
}

async fn no_event_is_lost_during_an_upgrade(kind: Kind) {
    const MESSAGES: usize = 150;
    let (chat, clients) = (Chat::start(kind).await, Clients::start());
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "public", &[]).await;
    let talker = chat.connect(1, &ada).await;
    talker.join(room, None).await.expect("joined");
    // Five clients connect during a stream of messages: each starts with polling and upgrades in the middle of it.
    let talk = async {
        for i in 0..MESSAGES {
            talker.say(room, &i.to_string(), "x").await;
        }
    };
    let listen = async {
        let mut listeners = Vec::new();
        for i in 0..5 {
            let options = json!({"transports": UPGRADED, "auth": {"token": bob.access}});
            let client = clients.open(&format!("bob {i}"), chat.edge(0).url(), options);
            let joined = client.join(room, None).await;
            listeners.push((client, joined["seq"].as_i64().expect("a number")));
        }
        listeners
    };
    let ((), listeners) = tokio::join!(talk, listen);
    let head = talker
        .until("the last message", |received| {
            let last = received
                .events
                .iter()
                .rev()
                .find(|event| event.name == "newMessage")?
                .data();
            (last["clientMsgId"] == json!((MESSAGES - 1).to_string()))
                .then(|| last["seq"].as_i64().expect("a number"))
        })
        .await;
    for (client, seq) in listeners {
        let expected: Vec<i64> = (seq + 1..=head).collect();
        let seqs = |client: &Client| client.received(|received| change_seqs(&received.events));
        client
            .until("everything", |received| {
                (change_seqs(&received.events).last() == Some(&head) || seq == head).then_some(())
            })
            .await;
        assert_eq!(seqs(&client), expected, "{}", client.name);
        client
            .until("the upgrade", |received| {
                (received.transport == "websocket").then_some(())
            })
            .await;
        assert!(client.received(|received| received.disconnects.is_empty()));
    }
}

/// The `changeSeq` of durable events, in order of arrival.
pub(super) fn change_seqs(events: &[(String, Value)]) -> Vec<i64> {
    events
        .iter()
        .filter_map(|(_, data)| data["changeSeq"].as_i64())
        .collect()
}

async fn connects_require_a_valid_token(kind: Kind) {
    let chat = Chat::plan(kind).set("auth.access_ttl", "1s").start().await;
    let clients = Clients::start();
    let ada = chat.register("ada").await;
    let url = chat.edge(0).url();
    let code = |data: &Value| data["code"].as_str().unwrap_or_default().to_owned();

    for (name, transports) in [("polling", POLLING), ("websocket", WEBSOCKET)] {
        for (what, auth) in [
            ("no token", json!({})),
            ("no text", json!({"token": 7})),
            ("a made-up token", json!({"token": "made.up.token"})),
        ] {
            let options = json!({"transports": transports, "auth": auth});
            let client = clients.open(&format!("{name}, {what}"), url, options);
            let (message, data) = client.connect_error().await;
            assert_eq!(code(&data), "unauthorized", "{what}: {message}");
            assert!(!message.is_empty());
        }
        let options = json!({"transports": transports, "auth": {"token": ada.access}});
        let other = clients.open(
            &format!("{name}, elsewhere"),
            &format!("{url}/elsewhere"),
            options,
        );
        assert_eq!(
            other.connect_error().await,
            ("Invalid namespace".to_owned(), Value::Null)
        );
    }

    // A fresh token is accepted, also in the handshake's `Authorization` header with the scheme.
    let fresh = chat
        .rest(0)
        .post(
            "/v1/auth/login",
            json!({"username": "ada", "password": ada.password}),
        )
        .await;
    let fresh = fresh.ok(200)["accessToken"]
        .as_str()
        .expect("a token")
        .to_owned();
    let mut header = clients.open(
        "header",
        url,
        json!({"extraHeaders": {"authorization": format!("Bearer {fresh}")}}),
    );
    let mut scheme = clients.open(
        "scheme",
        url,
        json!({"auth": {"token": format!("Bearer {fresh}")}}),
    );
    header.event("connected").await;
    scheme.event("connected").await;

    // An expired token has its own code: the client refreshes it.
    let mut n = 0;
    let message = eventually("the token to expire", || {
        n += 1;
        let client = clients.open(&format!("old {n}"), url, json!({"auth": {"token": fresh}}));
        async move {
            client
                .until("an answer", |received| {
                    let refused = received
                        .errors
                        .last()
                        .map(|(message, data)| Some((message.clone(), data.clone())));
                    refused.or((received.connects > 0).then_some(None))
                })
                .await
        }
    })
    .await;
    assert_eq!(code(&message.1), "token_expired", "{message:?}");
}

/// Rejoins whenever the client has connected, as an application would.
async fn rejoin(client: &Client, room: Uuid, connects: usize, seen: &mut Vec<i64>) {
    client
        .until("to be connected again", |received| {
            (received.connects >= connects).then_some(())
        })
        .await;
    loop {
        let after = seen.last().copied().unwrap_or(0);
        let joined = client.join(room, Some(after)).await;
        let messages = joined["messages"].as_array().expect("a list");
        let events = joined["events"].as_array().expect("a list");
        let mut missed: Vec<i64> = messages
            .iter()
            .chain(events.iter().map(|event| &event["data"]))
            .filter_map(|data| data["changeSeq"].as_i64())
            .filter(|seq| *seq > after)
            .collect();
        missed.sort_unstable();
        seen.extend(missed);
        if joined["hasMore"] == json!(false) {
            return;
        }
    }
}

async fn a_client_resumes_after_a_restart(kind: Kind) {
    let (chat, clients) = (Chat::start(kind).await, Clients::start());
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    // A fixed port, so that the clients reconnect by themselves.
    let port = free_port().to_string();
    let mut own = None;
    let mut chat = chat;
    match kind {
        Kind::Cluster => {
            let program = chat.program("own edge", &["edge", "--port", &port]);
            own = Some(program.start().await);
        }
        Kind::Standalone => {
            let data = chat.dir().join("data");
            let program = chat.program(
                "standalone",
                &[
                    "standalone",
                    "--port",
                    &port,
                    "--data",
                    &data.to_string_lossy(),
                ],
            );
            chat.edge_mut(0).kill9().await;
            *chat.edge_mut(0) = program.start().await;
        }
    }
    let url = format!("http://127.0.0.1:{port}");
    let mut listeners = Vec::new();
    for (name, transports) in [
        ("polling", POLLING),
        ("websocket", WEBSOCKET),
        ("upgraded", UPGRADED),
    ] {
        let client = clients.connect(name, &url, &ada, transports).await;
        let mut seen = Vec::new();
        rejoin(&client, room, 1, &mut seen).await;
        listeners.push((client, seen, 0));
    }
    let mut said = 0;
    for round in 0..3 {
        let talker = chat.connect(0, &ada).await;
        for _ in 0..20 {
            talker.say(room, &said.to_string(), "x").await;
            said += 1;
        }
        {
            let process = own.as_mut().unwrap_or_else(|| &mut chat.edges[0]);
            match round % 2 {
                0 => process.kill9().await,
                _ => {
                    process.sigterm();
                    assert_eq!(process.ended().await, Some(0));
                }
            }
        }
        // In a cluster, messages are sent over the other edge meanwhile.
        if kind == Kind::Cluster {
            for _ in 0..20 {
                talker.say(room, &said.to_string(), "x").await;
                said += 1;
            }
        }
        own.as_mut()
            .unwrap_or_else(|| &mut chat.edges[0])
            .restart()
            .await;
        for (client, seen, taken) in &mut listeners {
            // The events before the restart, then the missed ones.
            client
                .until("to be connected again", |received| {
                    (received.connects >= round + 2).then_some(())
                })
                .await;
            let live = client.received(|received| change_seqs(&received.events[*taken..]));
            seen.extend(live);
            rejoin(client, room, round + 2, seen).await;
            *taken = client.received(|received| received.events.len());
        }
    }
    let talker = chat.connect(0, &ada).await;
    talker.join(room, None).await.expect("joined");
    talker.say(room, "the last", "x").await;
    let head = talker
        .until("the last", |received| {
            received
                .events
                .iter()
                .find(|event| event.name == "newMessage")
                .map(|event| event.data())
        })
        .await;
    let head = head["seq"].as_i64().expect("a number");
    for (client, mut seen, taken) in listeners {
        client
            .until("the last", |received| {
                (change_seqs(&received.events).last() == Some(&head)).then_some(())
            })
            .await;
        seen.extend(client.received(|received| change_seqs(&received.events[taken..])));
        assert_eq!(seen, (1..=head).collect::<Vec<_>>(), "{}", client.name);
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

async fn a_graceful_shutdown_announces_a_reconnect_delay(kind: Kind) {
    let (mut chat, clients) = (Chat::start(kind).await, Clients::start());
    let ada = chat.register("ada").await;
    let url = chat.edge(0).url().to_owned();
    let polling = clients.connect("polling", &url, &ada, POLLING).await;
    let mut websocket = clients.connect("websocket", &url, &ada, WEBSOCKET).await;
    chat.edge(0).sigterm();
    let hint = websocket.event("restarting").await;
    assert!(hint["retryAfterMs"].is_u64(), "{hint}");
    // The client reconnects after these reasons, but not after a server disconnect.
    let closed = disconnected(&websocket, 0).await;
    assert_eq!(closed, ("transport close".to_owned(), Some(1012)));
    // A pending poll gets the same reason; a later one is refused.
    let (reason, _) = disconnected(&polling, 0).await;
    assert!(
        ["transport close", "transport error"].contains(&reason.as_str()),
        "{reason}"
    );
    assert_eq!(chat.edge_mut(0).ended().await, Some(0));
}

async fn closing_a_login_disconnects_its_clients(kind: Kind) {
    let (chat, clients) = (Chat::start(kind).await, Clients::start());
    let ada = chat.register("ada").await;
    let mut open = Vec::new();
    for (name, transports) in [("polling", POLLING), ("websocket", WEBSOCKET)] {
        open.push(
            clients
                .connect(name, chat.edge(1).url(), &ada, transports)
                .await,
        );
    }
    let logout = json!({"refreshToken": ada.refresh});
    let answer = chat.rest_as(0, &ada).post("/v1/auth/logout", logout).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    for mut client in open {
        assert_eq!(client.event("exception").await["code"], "unauthorized");
        assert_eq!(disconnected(&client, 0).await.0, "io server disconnect");
    }
}

async fn two_hundred_clients_receive_every_message(kind: Kind) {
    const CLIENTS: usize = 200;
    const MESSAGES: usize = 50;
    let (chat, clients) = (Chat::start(kind).await, Clients::start());
    let users: Vec<User> = futures_util::future::join_all((0..8).map(|i| {
        let chat = &chat;
        async move { chat.register(&format!("user{i}")).await }
    }))
    .await;
    let room = chat.room(&users[0], "public", &[]).await;
    // All memberships first, so that no `memberJoined` comes in between.
    for (i, user) in users.iter().enumerate() {
        let socket = chat.connect(i, user).await;
        socket.join(room, None).await.expect("it is public");
    }
    let everyone: Vec<Client> = (0..CLIENTS)
        .map(|i| {
            let transports = if i % 4 == 0 { POLLING } else { UPGRADED };
            let options =
                json!({"transports": transports, "auth": {"token": users[i % users.len()].access}});
            clients.open(&format!("client {i}"), chat.edge(i).url(), options)
        })
        .collect();
    for client in &everyone {
        client
            .until("to be greeted", |received| {
                (!received.events.is_empty()).then_some(())
            })
            .await;
        client.join(room, None).await;
    }
    let mut pending = Vec::new();
    for i in 0..MESSAGES {
        let client = &everyone[i * 7 % CLIENTS];
        let data =
            json!({"room": room, "body": i.to_string(), "clientMsgId": format!("message {i}")});
        pending.push((client, client.send("sendMessage", data)));
    }
    for (client, id) in pending {
        assert_eq!(client.ack(id).await["ok"], true);
    }
    let start = users.len() as i64;
    let expected: Vec<i64> = (start + 1..=start + MESSAGES as i64).collect();
    let mut order: Option<Vec<Value>> = None;
    for client in &everyone {
        client
            .until("every message", |received| {
                (received.events.len() > MESSAGES).then_some(())
            })
            .await;
        let messages = client.events("newMessage");
        let seqs: Vec<i64> = messages.iter().filter_map(|m| m["seq"].as_i64()).collect();
        assert_eq!(seqs, expected, "{}", client.name);
        assert_eq!(
            order.get_or_insert_with(|| messages.clone()),
            &messages,
            "{}",
            client.name
        );
    }
}

/// Sockets of clients that vanish are closed.
#[tokio::test]
async fn disconnected_clients_are_cleaned_up() {
    let (chat, clients) = (Chat::start(Kind::Standalone).await, Clients::start());
    let ada = chat.register("ada").await;
    for (name, transports) in [
        ("polling", POLLING),
        ("websocket", WEBSOCKET),
        ("upgraded", UPGRADED),
    ] {
        clients
            .connect(name, chat.edge(0).url(), &ada, transports)
            .await;
    }
    assert_eq!(open_sockets(&chat).await, 3);
    // Kill the client process without disconnecting.
    drop(clients);
    let started = std::time::Instant::now();
    eventually("the sockets to be gone", || async {
        (open_sockets(&chat).await == 0).then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(10));
}
