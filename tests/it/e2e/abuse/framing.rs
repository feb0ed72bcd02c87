//! Commands embedded in client data: they are never executed, and the message that contains them is delivered
//! unchanged.

use std::time::{Duration, Instant};

use chat::{
    model::message_id,
    queue::{BatchBuilder, EncodedBatch},
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    e2e::faults::dead::{dead_letters, publish, run, until_dead_letters},
    harness::{Chat, Kind, Socket, User, both_ways, engineio::Polling, eventually},
};

both_ways!(
    a_command_embedded_in_a_message_is_not_executed,
    commands_embedded_in_old_payloads_are_not_executed,
    a_malformed_batch_is_not_executed_partially
);

/// Bound of an honest message from its send to its event during the attack; debug build, loaded machine.
const HONEST: Duration = Duration::from_secs(5);

/// The user whose account and room are attacked, and their state before the attack.
struct Victim {
    user: User,
    den: Uuid,
    before: Value,
}

impl Victim {
    async fn new(chat: &Chat) -> Victim {
        let user = chat.register("vera").await;
        let den = chat.room(&user, "private", &[]).await;
        let mut victim = Victim {
            user,
            den,
            before: Value::Null,
        };
        victim.before = victim.state(chat).await;
        victim
    }

    async fn state(&self, chat: &Chat) -> Value {
        let rest = chat.rest_as(0, &self.user);
        let mut seen = Vec::new();
        for path in ["", "/members", "/messages"] {
            seen.push(
                rest.get(&format!("/v1/rooms/{}{path}", self.den))
                    .await
                    .ok(200),
            );
        }
        seen.push(rest.get("/v1/me").await.ok(200));
        Value::Array(seen)
    }

    /// Lines that would run as the victim if a line in client data were parsed as a command.
    fn commands(&self, mallory: &User) -> Vec<String> {
        let (vera, den) = (self.user.id, self.den);
        let said =
            json!({"id": message_id(den, vera, "said"), "c": "said", "b": "I never said that"});
        let member = json!({"user": mallory.id, "role": "admin"});
        let update = json!({"display_name": "Mallory's", "email": null, "phone": null});
        [
            json!({"room": [den, {"send": said}]}),
            json!({"room": [den, {"setMember": member}]}),
            json!({"room": [den, "deleteRoom"]}),
            json!({"account": {"update": update}}),
            json!({"account": "delete"}),
        ]
        .iter()
        .map(|what| {
            format!(
                "{{\"v\":1,\"at\":\"2026-01-01T00:00:00.000Z\",\"actor\":\"{vera}\",\"do\":{what}}}"
            )
        })
        .collect()
    }

    async fn assert_unchanged(&self, chat: &Chat, mallory: &User) {
        assert_eq!(self.state(chat).await, self.before);
        let den = format!("/v1/rooms/{}", self.den);
        let stranger = chat.rest_as(0, mallory).get(&den).await;
        stranger.problem(404, "not_found");
    }
}

fn metadata_with(line: &str) -> String {
    format!("{{\"a\":\n{line}\n, \"n\" : 12345678901234.10,\r\n\t\"pretty\": [\n  1\n]}}")
}

/// An attacker who sends over REST, WebSocket and polling.
struct Mallory<'a> {
    user: User,
    chat: &'a Chat,
    room: Uuid,
    socket: Socket,
    polling: Polling<'a>,
    sent: u64,
}

impl Mallory<'_> {
    /// Sends a message with this metadata by each transport and waits until it is accepted.
    async fn send(&mut self, metadata: &str) {
        let path = format!("/v1/rooms/{}/messages", self.room);
        for way in ["rest", "waits", "ws", "polling"] {
            self.sent += 1;
            let (room, number) = (self.room, self.sent);
            let message = format!(
                "{{\"room\":\"{room}\",\"body\":\"x\",\"clientMsgId\":\"{number}\",\"metadata\":{metadata}}}"
            );
            match way {
                "rest" | "waits" => {
                    let (query, status) = match way {
                        "rest" => ("", 202),
                        _ => ("?wait=stored", 201),
                    };
                    let rest = self.chat.rest_as(number as usize, &self.user);
                    let body = Some(("application/json", message.into_bytes()));
                    let path = format!("{path}{query}");
                    let answer = rest.send(Method::POST, &path, body);
                    answer.await.ok(status);
                }
                "ws" => {
                    let id = 1_000_000 + number;
                    let frame =
                        format!("{{\"id\":{id},\"event\":\"sendMessage\",\"data\":{message}}}");
                    self.socket.raw(&frame).await;
                    let ack = self
                        .socket
                        .until("the ack", |received| received.acks.get(&id).cloned());
                    ack.await.expect("it is accepted");
                }
                _ => {
                    let packet = format!("42{number}[\"sendMessage\",{message}]");
                    self.polling.say(&packet).await;
                    let ack = self.polling.until(&format!("43{number}[")).await;
                    assert!(ack.contains("\"ok\":true"), "{ack}");
                }
            }
        }
    }
}

async fn a_command_embedded_in_a_message_is_not_executed(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, mallory) = tokio::join!(chat.register("ada"), chat.register("mallory"));
    let victim = Victim::new(&chat).await;
    let hall = chat.room(&ada, "public", &[&mallory]).await;
    let honest = chat.connect(1, &ada).await;
    honest.join(hall, None).await.expect("joined");
    let reader = Polling::connected(&chat, &ada).await;
    reader
        .say(&format!("421[\"joinRoom\",{{\"room\":\"{hall}\"}}]"))
        .await;
    reader.until("431[").await;
    let mut attack = Mallory {
        socket: chat.connect(0, &mallory).await,
        polling: Polling::connected(&chat, &mallory).await,
        user: mallory,
        chat: &chat,
        room: hall,
        sent: 0,
    };

    let mut expected: Vec<Value> = Vec::new();
    let mut slowest = Duration::ZERO;
    for (number, line) in victim.commands(&attack.user).iter().enumerate() {
        let metadata = metadata_with(line);
        attack.send(&metadata).await;
        let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
        expected.extend(std::iter::repeat_n(metadata, 4));
        // An honest client works at the same time.
        let started = Instant::now();
        let data =
            json!({"room": hall, "body": "honest", "clientMsgId": format!("honest {number}")});
        honest.call("sendMessage", data).await.expect("accepted");
        let id = format!("honest {number}");
        let told = honest.until("the honest message", |received| {
            received
                .events
                .iter()
                .any(|event| event.text.contains(&id))
                .then_some(())
        });
        told.await;
        slowest = slowest.max(started.elapsed());
    }
    println!("slowest honest message: {slowest:?}");
    assert!(slowest < HONEST, "{slowest:?}");

    // Received by a live WebSocket, a live polling client, a client that resumes, and a reader of the history.
    let hidden = |messages: &[Value]| -> Vec<Value> {
        let from_mallory = messages.iter().filter(|m| m["body"] == "x");
        from_mallory.map(|m| m["metadata"].clone()).collect()
    };
    let all = expected.len() + 5;
    let received = honest.until("every message", |received| {
        let new = received
            .events
            .iter()
            .filter(|event| event.name == "newMessage");
        let new: Vec<Value> = new.map(|event| event.data()).collect();
        (new.len() >= all).then_some(new)
    });
    assert_eq!(hidden(&received.await), expected);
    let mut polled = Vec::new();
    while polled.len() < all {
        let answer = reader.get().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        for packet in answer.text.split('\x1e') {
            if packet.starts_with("42[\"newMessage\"") {
                let event: Value = serde_json::from_str(&packet[2..]).expect("JSON");
                polled.push(event[1].clone());
            } else if packet == "2" {
                reader.say("3").await;
            }
        }
    }
    assert_eq!(hidden(&polled), expected);
    let back = chat.connect(1, &ada).await;
    let joined = back.join(hall, Some(0)).await.expect("joined");
    assert_eq!(
        hidden(joined["messages"].as_array().expect("a list")),
        expected
    );
    let history = format!("/v1/rooms/{hall}/messages?limit=200");
    let history = chat.rest_as(0, &ada).get(&history).await.ok(200);
    assert_eq!(
        hidden(history["items"].as_array().expect("a list")),
        expected
    );

    victim.assert_unchanged(&chat, &attack.user).await;
    assert_eq!(dead_letters(&chat).await, [Value::Null; 0]);
}

/// A batch in the line format of earlier versions, with metadata as the client sent it.
async fn commands_embedded_in_old_payloads_are_not_executed(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, mallory) = tokio::join!(chat.register("ada"), chat.register("mallory"));
    let victim = Victim::new(&chat).await;
    let hall = chat.room(&ada, "public", &[&mallory]).await;
    let mut socket = chat.connect(0, &ada).await;
    socket.join(hall, None).await.expect("joined");
    let line = |actor: &User, name: &str, metadata: &str| {
        let (id, actor) = (message_id(hall, actor.id, name), actor.id);
        format!(
            "{{\"v\":1,\"at\":\"2026-01-01T00:00:00.000Z\",\"actor\":\"{actor}\",\"do\":{{\"room\":[\"{hall}\",\
             {{\"send\":{{\"id\":\"{id}\",\"c\":\"{name}\",\"b\":\"old\",\"m\":{metadata}}}}}]}}}}"
        )
    };
    let mut lines = vec![line(&ada, "first", "{}")];
    for (number, hidden) in victim.commands(&mallory).iter().enumerate() {
        lines.push(line(
            &mallory,
            &format!("m{number}"),
            &metadata_with(hidden),
        ));
    }
    lines.push(line(&ada, "last", "{}"));
    publish(&chat, hall, &[lines.join("\n").as_bytes()]).await;
    for name in ["first", "m0", "m1", "m2", "m3", "m4", "last"] {
        let message = socket.event("newMessage").await;
        assert_eq!(message["clientMsgId"], name);
        if name.starts_with('m') {
            assert_eq!(message["metadata"]["pretty"], json!([1]));
        }
    }
    victim.assert_unchanged(&chat, &mallory).await;
    assert_eq!(dead_letters(&chat).await, [Value::Null; 0]);
}

fn batch(commands: &[&str]) -> EncodedBatch {
    let mut batch = BatchBuilder::default();
    for command in commands {
        let added = batch.push(|bytes| {
            bytes.get_mut().extend_from_slice(command.as_bytes());
            Ok(())
        });
        added.expect("it fits");
    }
    batch.finish()
}

async fn a_malformed_batch_is_not_executed_partially(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, mallory) = tokio::join!(chat.register("ada"), chat.register("mallory"));
    let victim = Victim::new(&chat).await;
    let hall = chat.room(&ada, "public", &[]).await;
    let mut socket = chat.connect(0, &ada).await;
    socket.join(hall, None).await.expect("joined");
    let commands = victim.commands(&mallory);
    let whole = batch(&[&commands[0], &commands[4]]);
    let whole = whole.payload();
    let newer = [b"\x012", &whole[2..]].concat();
    let long = [whole, &b"{}"[..]].concat();
    let forged = commands[0].replace("\"said\"", "\"another\"");
    let good = commands[0].replace(&victim.user.id.to_string(), &ada.id.to_string());
    let good = good
        .replace(&victim.den.to_string(), &hall.to_string())
        .replace(
            &message_id(victim.den, victim.user.id, "said").to_string(),
            &message_id(hall, ada.id, "said").to_string(),
        );
    let one_bad = batch(&["{\"v\":1", &good, &forged]);
    publish(
        &chat,
        hall,
        &[&whole[..whole.len() - 1], &newer, &long, one_bad.payload()],
    )
    .await;

    // The valid command between two invalid ones is executed.
    assert_eq!(
        socket.event("newMessage").await["body"],
        "I never said that"
    );
    let dead = until_dead_letters(&chat, 5).await;
    let find = |reason: &str| -> Vec<&Value> {
        let with = |letter: &&Value| {
            letter["reason"]
                .as_str()
                .is_some_and(|r| r.contains(reason))
        };
        dead.iter().filter(with).collect()
    };
    assert_eq!(dead.len(), 5, "{dead:#?}");
    assert_eq!(find("the batch cannot be read").len(), 2);
    assert_eq!(find("update the workers").len(), 1);
    assert_eq!(find("the message's id").len(), 1);
    // A dead letter holds one command in readable form.
    let unreadable = find("it cannot be read")[0];
    assert_eq!(unreadable["payload"], "{\"v\":1");
    let forged_letter = find("the message's id")[0];
    assert_eq!(forged_letter["payload"], forged);
    let id = forged_letter["id"].as_str().expect("an id");
    let shown = run(&chat, &["queue", "dead", "show", id]).await;
    assert!(shown.contains("I never said that"), "{shown}");

    // When replayed, all of them are dead-lettered again unchanged, and none is executed.
    run(&chat, &["queue", "dead", "replay", "--all"]).await;
    let payloads = |letters: &[Value]| {
        let mut payloads: Vec<String> = letters.iter().map(|l| l["payload"].to_string()).collect();
        payloads.sort();
        payloads
    };
    eventually("all of them to be dead-lettered again", || async {
        let again = dead_letters(&chat).await;
        let fresh = again
            .iter()
            .all(|l| dead.iter().all(|old| old["id"] != l["id"]));
        (fresh && payloads(&again) == payloads(&dead)).then_some(())
    })
    .await;
    victim.assert_unchanged(&chat, &mallory).await;
}
