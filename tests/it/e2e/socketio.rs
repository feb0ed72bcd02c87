//! The stock Socket.IO client, unchanged, against real processes.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use uuid::Uuid;

use super::replay;
use crate::harness::{
    Chat, Kind, Socket, User, both_ways,
    node::{Client, Clients},
};

const POLLING: &[&str] = &["polling"];
const WEBSOCKET: &[&str] = &["websocket"];
/// What the client does by default: polling first, then the upgrade.
const UPGRADED: &[&str] = &["polling", "websocket"];

both_ways!(
    every_transport_works,
    an_upgrade_loses_nothing,
    who_may_connect,
    a_client_resumes_after_a_restart,
    a_polite_end_says_when_to_come_back,
    a_login_that_ends_takes_its_clients_with_it,
    two_hundred_in_a_room,
    mixed_rooms_agree,
    a_busy_channel_is_replayed_to_both_transports,
);

async fn every_transport_works(kind: Kind) {
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
            .until("the last transport", |heard| {
                (heard.transport == last).then_some(())
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

        // What is refused is answered, or told where nobody asked for an answer.
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
        .until("a disconnect", |heard| heard.disconnects.get(nth).cloned())
        .await
}

async fn an_upgrade_loses_nothing(kind: Kind) {
    const MESSAGES: usize = 150;
    let (chat, clients) = (Chat::start(kind).await, Clients::start());
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "public", &[]).await;
    let talker = chat.connect(1, &ada).await;
    talker.join(room, None).await.expect("her own");
    // Five clients come while someone talks: each starts with polling and moves over in the middle of it.
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
        .until("the last message", |heard| {
            let last = heard
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
        let seqs = |client: &Client| client.heard(|heard| change_seqs(&heard.events));
        client
            .until("everything", |heard| {
                (change_seqs(&heard.events).last() == Some(&head) || seq == head).then_some(())
            })
            .await;
        assert_eq!(seqs(&client), expected, "{}", client.name);
        client
            .until("the upgrade", |heard| {
                (heard.transport == "websocket").then_some(())
            })
            .await;
        assert!(client.heard(|heard| heard.disconnects.is_empty()));
    }
}

/// The numbers of the durable events, in order of arrival.
fn change_seqs(events: &[(String, Value)]) -> Vec<i64> {
    events
        .iter()
        .filter_map(|(_, data)| data["changeSeq"].as_i64())
        .collect()
}

async fn who_may_connect(kind: Kind) {
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

    // A fresh token does, in the handshake's header as well, and with its scheme in front.
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

    // Yesterday's token is told apart from a wrong one: the client refreshes it.
    let mut n = 0;
    let message = crate::harness::eventually("the token to expire", || {
        n += 1;
        let client = clients.open(&format!("old {n}"), url, json!({"auth": {"token": fresh}}));
        async move {
            client
                .until("an answer", |heard| {
                    let refused = heard
                        .errors
                        .last()
                        .map(|(message, data)| Some((message.clone(), data.clone())));
                    refused.or((heard.connects > 0).then_some(None))
                })
                .await
        }
    })
    .await;
    assert_eq!(code(&message.1), "token_expired", "{message:?}");
}

/// Joins again whenever the client has connected, as an application would.
async fn rejoin(client: &Client, room: Uuid, connects: usize, seen: &mut Vec<i64>) {
    client
        .until("to be connected again", |heard| {
            (heard.connects >= connects).then_some(())
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
    // An address of its own, which it keeps: the clients come back by themselves.
    let port = free_port().to_string();
    let mut own = None;
    let mut chat = chat;
    match kind {
        Kind::Cluster => {
            let recipe = chat.recipe("own edge", &["edge", "--port", &port]);
            own = Some(recipe.start().await);
        }
        Kind::Standalone => {
            let data = chat.dir().join("data");
            let recipe = chat.recipe(
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
            *chat.edge_mut(0) = recipe.start().await;
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
        // Someone goes on talking meanwhile, where there is another edge.
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
            // What came before the end, then what was missed.
            client
                .until("to be connected again", |heard| {
                    (heard.connects >= round + 2).then_some(())
                })
                .await;
            let live = client.heard(|heard| change_seqs(&heard.events[*taken..]));
            seen.extend(live);
            rejoin(client, room, round + 2, seen).await;
            *taken = client.heard(|heard| heard.events.len());
        }
    }
    let talker = chat.connect(0, &ada).await;
    talker.join(room, None).await.expect("her own");
    talker.say(room, "the last", "x").await;
    let head = talker
        .until("the last", |heard| {
            heard
                .events
                .iter()
                .find(|event| event.name == "newMessage")
                .map(|event| event.data())
        })
        .await;
    let head = head["seq"].as_i64().expect("a number");
    for (client, mut seen, taken) in listeners {
        client
            .until("the last", |heard| {
                (change_seqs(&heard.events).last() == Some(&head)).then_some(())
            })
            .await;
        seen.extend(client.heard(|heard| change_seqs(&heard.events[taken..])));
        assert_eq!(seen, (1..=head).collect::<Vec<_>>(), "{}", client.name);
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

async fn a_polite_end_says_when_to_come_back(kind: Kind) {
    let (mut chat, clients) = (Chat::start(kind).await, Clients::start());
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let url = chat.edge(0).url().to_owned();
    let polling = clients.connect("polling", &url, &ada, POLLING).await;
    let websocket = clients.connect("websocket", &url, &ada, WEBSOCKET).await;
    let data = json!({"room": room, "body": "x", "clientMsgId": "last"});
    let last = websocket.send("sendMessage", data);
    chat.edge(0).sigterm();
    for mut client in [polling, websocket] {
        let hint = client.event("restarting").await;
        assert!(hint["retryAfterMs"].is_u64(), "{hint}");
        let (reason, code) = disconnected(&client, 0).await;
        // The client comes back by itself after these, and stays away after a disconnect of the server's.
        match client.name.as_str() {
            "websocket" => {
                assert_eq!(reason, "transport close");
                assert_eq!(code, Some(1012));
                // What was on its way was answered, one way or the other, before the goodbye.
                client
                    .until("the ack", |heard| heard.acks.get(&last).cloned())
                    .await;
            }
            _ => assert!(
                ["transport close", "transport error"].contains(&reason.as_str()),
                "{reason}"
            ),
        }
    }
    assert_eq!(chat.edge_mut(0).ended().await, Some(0));
}

async fn a_login_that_ends_takes_its_clients_with_it(kind: Kind) {
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

async fn two_hundred_in_a_room(kind: Kind) {
    const CLIENTS: usize = 200;
    const MESSAGES: usize = 50;
    let (chat, clients) = (Chat::start(kind).await, Clients::start());
    let users: Vec<User> = futures_util::future::join_all((0..8).map(|i| {
        let chat = &chat;
        async move { chat.register(&format!("user{i}")).await }
    }))
    .await;
    let room = chat.room(&users[0], "public", &[]).await;
    // Memberships first: then no memberJoined comes in between.
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
            .until("to be greeted", |heard| {
                (!heard.events.is_empty()).then_some(())
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
            .until("every message", |heard| {
                (heard.events.len() > MESSAGES).then_some(())
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

async fn mixed_rooms_agree(kind: Kind) {
    let (chat, clients) = (Chat::start(kind).await, Clients::start());
    let (ada, bob, eve) = tokio::join!(
        chat.register("ada"),
        chat.register("bob"),
        chat.register("eve")
    );
    let room = chat.room(&ada, "public", &[&bob]).await;
    let mut plain = Vec::new();
    let mut stock = Vec::new();
    for edge in 0..2 {
        for user in [&ada, &bob] {
            let socket = chat.connect(edge, user).await;
            socket.join(room, None).await.expect("a member");
            plain.push(socket);
            for (name, transports) in [("polling", POLLING), ("websocket", WEBSOCKET)] {
                let name = format!("{} on {edge} by {name}", user.username);
                let client = clients
                    .connect(&name, chat.edge(edge).url(), user, transports)
                    .await;
                client.join(room, None).await;
                stock.push(client);
            }
        }
    }
    // Both kinds talk, change and react at once; someone comes and goes.
    let id = |ack: &Value| ack["id"].clone();
    let by_stock = async {
        for i in 0..30 {
            let client = &stock[i % stock.len()];
            let data = json!({"room": room, "body": format!("stock {i}"), "clientMsgId": format!("stock {i}")});
            let message = id(&client.call("sendMessage", data).await);
            if i % 5 == 0 {
                let data = json!({"room": room, "id": message, "emoji": "👍"});
                client.ack(client.send("react", data)).await;
            }
        }
    };
    let by_plain = async {
        for i in 0..30 {
            let socket = &plain[i % plain.len()];
            let message = socket.say(room, &format!("plain {i}"), "x").await;
            if i % 7 == 0 {
                let data = json!({"room": room, "id": message, "body": "edited"});
                socket.call("editMessage", data).await.expect("one's own");
            }
        }
    };
    let comes_and_goes = async {
        let client = clients
            .connect("eve", chat.edge(1).url(), &eve, UPGRADED)
            .await;
        client.join(room, None).await;
        chat.rest_as(0, &eve)
            .post(&format!("/v1/rooms/{room}/leave"), json!({}))
            .await;
    };
    tokio::join!(by_stock, by_plain, comes_and_goes);
    plain[0].say(room, "the end", "x").await;

    let ended = |name: &str, data: &Value| name == "newMessage" && data["clientMsgId"] == "the end";
    let durable = |events: Vec<(String, Value)>| -> Vec<(String, Value)> {
        events
            .into_iter()
            .filter(|(_, data)| data["changeSeq"].is_i64())
            .collect()
    };
    let mut seen: Vec<(String, Vec<(String, Value)>)> = Vec::new();
    for socket in &plain {
        let events = everything(socket, &ended).await;
        seen.push(("plain".to_owned(), durable(events)));
    }
    for client in &stock {
        client
            .until("the end", |heard| {
                heard
                    .events
                    .iter()
                    .any(|(name, data)| ended(name, data))
                    .then_some(())
            })
            .await;
        seen.push((
            client.name.clone(),
            durable(client.heard(|heard| heard.events.clone())),
        ));
    }
    // They joined one after the other, but nothing happened before the last of them was in.
    let (_, first) = &seen[0];
    assert!(first.len() > 60, "{}", first.len());
    for (name, events) in &seen {
        assert_eq!(events, first, "{name}");
    }
    let numbers = change_seqs(first);
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{numbers:?}"
    );
}

async fn everything(
    socket: &Socket,
    ended: &impl Fn(&str, &Value) -> bool,
) -> Vec<(String, Value)> {
    socket
        .until("the end", |heard| {
            let last = heard
                .events
                .iter()
                .any(|event| ended(&event.name, &event.data()));
            last.then_some(())
        })
        .await;
    socket.heard(|heard| {
        heard
            .events
            .iter()
            .map(|event| (event.name.clone(), event.data()))
            .collect()
    })
}

/// As `replay`, with every other nickname on the stock client.
async fn a_busy_channel_is_replayed_to_both_transports(kind: Kind) {
    for (day, lines) in replay::days() {
        let started = std::time::Instant::now();
        let chat = Chat::plan(kind)
            .set("limits.messages_per_second", 1_000_000)
            .set("limits.burst", 1_000_000)
            .start()
            .await;
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        for line in &lines {
            let next = numbers.len();
            numbers.entry(&line.nick).or_insert(next);
        }
        let nicks = numbers.len();
        let took = {
            play(&chat, &lines, &numbers).await;
            started.elapsed()
        };
        eprintln!(
            "{day}: {} lines of {nicks} nicknames on {kind:?} took {took:.1?}",
            lines.len()
        );
    }
}

/// Someone in the channel, on either transport.
enum Member {
    Plain(Socket),
    Stock(Client),
}

async fn play(chat: &Chat, lines: &[replay::Line], numbers: &HashMap<&str, usize>) {
    let clients = Clients::start();
    let mut nicks: Vec<&str> = numbers.keys().copied().collect();
    nicks.sort_unstable_by_key(|nick| numbers[nick]);
    let users: Vec<User> = stream::iter(nicks.iter().enumerate())
        .map(|(i, nick)| async move {
            let password = format!("the password of u{i}");
            let body =
                json!({"username": format!("u{i}"), "password": password, "displayName": nick});
            User::read(
                &password,
                chat.rest(i).post("/v1/auth/register", body).await,
            )
        })
        .buffered(16)
        .collect()
        .await;
    let room = chat.room(&users[0], "public", &[]).await;
    let mut members = Vec::new();
    for (i, user) in users.iter().enumerate() {
        members.push(match i % 2 {
            0 => {
                let transports = [WEBSOCKET, POLLING, UPGRADED][i / 2 % 3];
                let options = json!({"transports": transports, "auth": {"token": user.access}});
                let client = clients.open_brief(&user.username, chat.edge(i / 2).url(), options);
                client.join(room, None).await;
                Member::Stock(client)
            }
            _ => {
                let socket = chat.connect(i / 2, user).await;
                socket.join(room, None).await.expect("it is public");
                Member::Plain(socket)
            }
        });
    }
    // What one says in a row goes out at once; the next one speaks when all of it is accepted.
    let mut said = 0;
    for run in lines.chunk_by(|a, b| a.nick == b.nick) {
        let data = |n: usize, text: &str| json!({"room": room, "body": text, "clientMsgId": format!("line {n}")});
        match &members[numbers[run[0].nick.as_str()]] {
            Member::Plain(socket) => {
                let mut pending = Vec::new();
                for (n, line) in (said..).zip(run) {
                    pending.push(socket.send("sendMessage", data(n, &line.text)).await);
                }
                for pending in pending {
                    pending
                        .ack()
                        .await
                        .unwrap_or_else(|error| panic!("{run:?}: {error:?}"));
                }
            }
            Member::Stock(client) => {
                let pending: Vec<u64> = (said..)
                    .zip(run)
                    .map(|(n, line)| client.send("sendMessage", data(n, &line.text)))
                    .collect();
                for id in pending {
                    let answer = client.ack(id).await;
                    assert_eq!(answer["ok"], true, "{run:?}: {answer}");
                }
            }
        }
        said += run.len();
    }
    // Everyone has heard every line once, in the file's order, with the room's own numbers.
    for member in &members {
        let (name, messages) = match member {
            Member::Plain(socket) => {
                let count = |heard: &crate::harness::socket::Heard| {
                    heard
                        .events
                        .iter()
                        .filter(|event| event.name == "newMessage")
                        .count()
                };
                socket
                    .until("every line", |heard| {
                        (count(heard) >= lines.len()).then_some(())
                    })
                    .await;
                ("a plain member", socket.events("newMessage"))
            }
            Member::Stock(client) => {
                let count = |events: &[(String, Value)]| {
                    events
                        .iter()
                        .filter(|(name, _)| name == "newMessage")
                        .count()
                };
                client
                    .until("every line", |heard| {
                        (count(&heard.events) >= lines.len()).then_some(())
                    })
                    .await;
                (client.name.as_str(), client.events("newMessage"))
            }
        };
        assert_eq!(messages.len(), lines.len(), "{name}");
        let mut before = 0;
        for (line, message) in lines.iter().zip(messages) {
            let heard = (
                message["sender"]["displayName"].as_str(),
                message["body"].as_str(),
            );
            assert_eq!(
                heard,
                (Some(line.nick.as_str()), Some(line.text.as_str())),
                "{name}"
            );
            let seq = message["seq"].as_i64().expect("a number");
            assert!(
                seq > before && message["changeSeq"] == seq,
                "{name}: {message}"
            );
            before = seq;
        }
    }
}

/// A page that holds on to its socket is not held on to by the server.
#[tokio::test]
async fn clients_that_leave_are_forgotten() {
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
    // The process with all of them ends without a word.
    drop(clients);
    let started = std::time::Instant::now();
    crate::harness::eventually("the sockets to be gone", || async {
        (open_sockets(&chat).await == 0).then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// As the metrics have it.
pub(super) async fn open_sockets(chat: &Chat) -> u64 {
    let metrics = chat.rest(0).get("/metrics").await.text;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("chat_sockets_open{transport=\"socketio\"} "));
    line.and_then(|number| number.parse().ok())
        .expect("the metric is there")
}
