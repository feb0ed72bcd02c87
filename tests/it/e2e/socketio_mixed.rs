//! Rooms with members on both transports: all receive the same events in the same order.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::{
    replay,
    socketio::{POLLING, UPGRADED, WEBSOCKET, change_seqs},
};
use crate::harness::{
    Chat, Kind, Socket, User, both_ways,
    node::{Client, Clients},
};

both_ways!(
    both_transports_deliver_the_same_events_in_order,
    a_replayed_channel_reaches_both_transports_in_order
);

async fn both_transports_deliver_the_same_events_in_order(kind: Kind) {
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
    // Both kinds send, edit and react concurrently; a member joins and leaves.
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
        let events = events_until_end(socket, &ended).await;
        seen.push(("plain".to_owned(), durable(events)));
    }
    for client in &stock {
        client
            .until("the end", |received| {
                received
                    .events
                    .iter()
                    .any(|(name, data)| ended(name, data))
                    .then_some(())
            })
            .await;
        seen.push((
            client.name.clone(),
            durable(client.received(|received| received.events.clone())),
        ));
    }
    // They joined one after the other, but no message was sent before the last of them had joined.
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

async fn events_until_end(
    socket: &Socket,
    ended: &impl Fn(&str, &Value) -> bool,
) -> Vec<(String, Value)> {
    socket
        .until("the end", |received| {
            let last = received
                .events
                .iter()
                .any(|event| ended(&event.name, &event.data()));
            last.then_some(())
        })
        .await;
    socket.received(|received| {
        received
            .events
            .iter()
            .map(|event| (event.name.clone(), event.data()))
            .collect()
    })
}

/// As `replay`, with every other nickname on the stock client.
async fn a_replayed_channel_reaches_both_transports_in_order(kind: Kind) {
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

/// A member of the channel, on either transport.
enum Member {
    Plain(Socket),
    Stock(Client),
}

async fn play(chat: &Chat, lines: &[replay::LogLine], numbers: &HashMap<&str, usize>) {
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
    // Consecutive lines of one nickname are sent at once; the next nickname sends when all of them are accepted.
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
    // Every member has received every line once, in the file's order, with the room's own numbers.
    for member in &members {
        let (name, messages) = match member {
            Member::Plain(socket) => {
                let count = |received: &crate::harness::socket::Received| {
                    received
                        .events
                        .iter()
                        .filter(|event| event.name == "newMessage")
                        .count()
                };
                socket
                    .until("every line", |received| {
                        (count(received) >= lines.len()).then_some(())
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
                    .until("every line", |received| {
                        (count(&received.events) >= lines.len()).then_some(())
                    })
                    .await;
                (client.name.as_str(), client.events("newMessage"))
            }
        };
        assert_eq!(messages.len(), lines.len(), "{name}");
        let mut before = 0;
        for (line, message) in lines.iter().zip(messages) {
            let received = (
                message["sender"]["displayName"].as_str(),
                message["body"].as_str(),
            );
            assert_eq!(
                received,
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
