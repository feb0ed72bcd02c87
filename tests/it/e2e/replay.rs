//! Replays a real, busy channel: one connection for each nickname, every line in the file's order. Afterwards every
//! member must have received every line once and in order, and the history must be the same.
//!
//! `CHAT_REPLAY` names a folder of logs with lines `[HH:MM] <nick> text`; without it the test generates a conversation
//! of
//! the same shape. `CHAT_REPLAY_DAYS` is the number of files to replay, or `all`; 1 if unset.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use bench::judge::{ConnectionNo, Judge, SubscriptionNo};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use crate::harness::{Chat, Kind, Socket, User, both_ways, socket::Pending};

both_ways!(every_member_receives_a_replayed_channel_in_order);

/// Accounts registered, and rooms joined, concurrently.
const AT_ONCE: usize = 16;

/// One line of the log.
#[derive(Debug, PartialEq, Eq)]
pub struct LogLine {
    pub nick: String,
    pub text: String,
}

async fn every_member_receives_a_replayed_channel_in_order(kind: Kind) {
    for (day, lines) in days() {
        let started = Instant::now();
        let chat = Chat::plan(kind)
            .set("limits.messages_per_second", 1_000_000)
            .set("limits.burst", 1_000_000)
            .start()
            .await;
        let nicks = replay(&chat, &day, &lines, &Sending::InRuns).await.nicks;
        let (lines, took) = (lines.len(), started.elapsed());
        eprintln!("{day}: {lines} lines of {nicks} nicknames on {kind:?} took {took:.1?}");
    }
}

/// How the lines are sent. Either way the room's order is the file's order, with any number of edges and workers.
pub enum Sending {
    /// Consecutive lines of one nickname at once; the next nickname sends when all of them are accepted.
    InRuns,
    /// Each line when the line before is accepted, and again when it is `busy`. Publishes the number of accepted lines.
    OneByOne(watch::Sender<usize>),
}

/// The measurements of a replay.
pub struct Replayed {
    pub nicks: usize,
    /// `busy` answers.
    pub busy: usize,
    /// The longest time from the first attempt to send a line until it was accepted.
    pub slowest: Duration,
}

/// A member of the channel.
struct Member {
    user: User,
    socket: Socket,
    subscription: SubscriptionNo,
    connection: ConnectionNo,
}

/// The compared fields of an event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(default)]
    seq: i64,
    change_seq: i64,
    #[serde(default)]
    client_msg_id: String,
    #[serde(default)]
    body: String,
    sender: Option<Sender>,
}

#[derive(Deserialize)]
struct Sender {
    id: Uuid,
    #[serde(rename = "displayName")]
    display_name: String,
}

pub async fn replay(chat: &Chat, day: &str, lines: &[LogLine], sending: &Sending) -> Replayed {
    let mut judge = Judge::new();
    let channel = judge.room(day);
    let mut nicks: Vec<&str> = Vec::new();
    let mut number: HashMap<&str, usize> = HashMap::new();
    for line in lines {
        number.entry(&line.nick).or_insert_with(|| {
            nicks.push(&line.nick);
            nicks.len() - 1
        });
    }

    // Every nickname gets an account: `u<number>`, with the nickname as its display name.
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
        .buffered(AT_ONCE)
        .collect()
        .await;
    let room = chat.room(&users[0], "public", &[]).await;
    let sockets: Vec<(Socket, i64)> = stream::iter(users.iter().enumerate())
        .map(|(i, user)| async move {
            let socket = chat.connect(i, user).await;
            let joined = socket
                .join(room, None)
                .await
                .expect("the channel is public");
            (socket, joined["seq"].as_i64().expect("a number"))
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let members: Vec<Member> = users
        .into_iter()
        .zip(sockets)
        .map(|(user, (socket, base))| Member {
            subscription: judge.subscribe(
                channel,
                format!("{} ({})", user.username, nicks[number_of(&user)]),
                base,
            ),
            connection: judge.connection(),
            user,
            socket,
        })
        .collect();

    let runs: Vec<&[LogLine]> = match sending {
        Sending::InRuns => lines.chunk_by(|a, b| a.nick == b.nick).collect(),
        Sending::OneByOne(_) => lines.chunks(1).collect(),
    };
    let (mut accepted, mut busy, mut slowest) = (0, 0, Duration::ZERO);
    for run in runs {
        let member = &members[number[run[0].nick.as_str()]];
        let mut pending = Vec::with_capacity(run.len());
        let begun = Instant::now();
        for (line, i) in run.iter().zip(accepted..) {
            judge.sent(member.connection, channel, member.user.id, &name_of(i));
            pending.push(member.say(room, line, i).await);
        }
        for ((line, i), pending) in run.iter().zip(accepted..).zip(pending) {
            let mut answer = pending.ack().await;
            while let (Sending::OneByOne(_), Err(error)) = (sending, &answer)
                && error.code == "busy"
            {
                busy += 1;
                tokio::time::sleep(Duration::from_millis(error.retry_after_ms.unwrap_or(100)))
                    .await;
                judge.sent(member.connection, channel, member.user.id, &name_of(i));
                answer = member.say(room, line, i).await.ack().await;
            }
            answer.unwrap_or_else(|error| panic!("{line:?}: {error:?}"));
            judge.accepted(judge.key(channel, member.user.id, &name_of(i)));
        }
        accepted += run.len();
        slowest = slowest.max(begun.elapsed());
        if let Sending::OneByOne(progress) = sending {
            progress.send_replace(accepted);
        }
    }

    // Every member has received every line once and in order.
    for member in &members {
        let (mut looked_at, mut messages) = (0, 0);
        member
            .socket
            .until("every line", |received| {
                let news = received.events[looked_at..].iter();
                messages += news.filter(|event| event.name == "newMessage").count();
                looked_at = received.events.len();
                (messages >= lines.len()).then_some(())
            })
            .await;
    }
    for member in &members {
        let events = member.socket.received(|received| received.events.clone());
        let mut expected = lines.iter();
        for event in events {
            match event.name.as_str() {
                "connected" => continue,
                "newMessage" => {}
                "memberJoined" => {
                    judge.event(member.subscription, event.read::<Shown>().change_seq);
                    continue;
                }
                other => panic!("{} received {other}: {}", member.user.username, event.text),
            }
            let message: Shown = event.read();
            let sender = message.sender.as_ref().expect("a message has a sender");
            let key = judge.key(channel, sender.id, &message.client_msg_id);
            judge.delivered(member.subscription, message.seq, message.change_seq, key);
            let line = expected.next();
            assert!(
                line.is_some_and(
                    |line| line.text == message.body && line.nick == sender.display_name
                ),
                "{} received {} where the file has {line:?}",
                member.user.username,
                event.text
            );
        }
    }
    let verdict = judge.verdict();
    assert!(
        verdict.is_clean() && verdict.gaps == 0,
        "{}",
        verdict.explain()
    );
    assert_eq!(verdict.accepted, lines.len() as u64);
    assert_eq!(verdict.delivered, verdict.expected, "{}", verdict.explain());

    // The history is the same on each edge.
    for edge in 0..chat.edges.len() {
        let rest = chat.rest_as(edge, &members[edge % members.len()].user);
        let (mut after, mut expected) = (0, lines.iter().enumerate());
        loop {
            let page = rest
                .get(&format!(
                    "/v1/rooms/{room}/messages?after={after}&limit=200"
                ))
                .await
                .ok(200);
            for item in page["items"].as_array().expect("a list") {
                let (i, line) = expected.next().expect("the history has no other messages");
                assert_eq!(item["body"], line.text.as_str(), "line {i}");
                assert_eq!(
                    item["sender"]["displayName"],
                    line.nick.as_str(),
                    "line {i}"
                );
                assert_eq!(item["clientMsgId"], format!("line {i}"));
                let seq = item["seq"].as_i64().expect("a number");
                assert!(seq > after, "line {i} has the number {seq}");
                after = seq;
            }
            if page["hasMore"] == json!(false) {
                break;
            }
        }
        assert_eq!(expected.next(), None, "the history ends too early");
    }
    Replayed {
        nicks: members.len(),
        busy,
        slowest,
    }
}

impl Member {
    /// Sends line `i`.
    async fn say(&self, room: Uuid, line: &LogLine, i: usize) -> Pending {
        let data = json!({"room": room, "body": line.text, "clientMsgId": name_of(i)});
        self.socket.send("sendMessage", data).await
    }
}

/// The `clientMsgId` of a line.
fn name_of(line: usize) -> String {
    format!("line {line}")
}

/// `u7` is number 7.
fn number_of(user: &User) -> usize {
    user.username[1..].parse().expect("this test named them")
}

// ---- sources of lines

pub fn days() -> Vec<(String, Vec<LogLine>)> {
    let Some(folder) = std::env::var_os("CHAT_REPLAY") else {
        return vec![("a made-up day".to_owned(), generate_conversation(1))];
    };
    let mut logs: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("CHAT_REPLAY={}: {error}", Path::new(&folder).display()))
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    assert!(
        !logs.is_empty(),
        "no *.log in CHAT_REPLAY={}",
        Path::new(&folder).display()
    );
    match std::env::var("CHAT_REPLAY_DAYS").as_deref() {
        Ok("all") => {}
        Ok(days) => logs.truncate(days.parse().expect("CHAT_REPLAY_DAYS is `all` or a number")),
        Err(_) => logs.truncate(1),
    }
    logs.iter()
        .map(|log| {
            let lines = parse(&std::fs::read(log).expect("the log can be read"));
            assert!(!lines.is_empty(), "no messages in {}", log.display());
            (
                log.file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                lines,
            )
        })
        .collect()
}

/// Keeps messages of at least one byte and skips notices.
fn parse(log: &[u8]) -> Vec<LogLine> {
    String::from_utf8_lossy(log)
        .split('\n')
        .filter_map(|line| {
            let line = line.strip_suffix('\r').unwrap_or(line);
            let (time, said) = line.strip_prefix('[')?.split_once("] <")?;
            let (nick, text) = said.split_once("> ")?;
            let is_time = time.len() == 5 && time.chars().all(|c| c.is_ascii_digit() || c == ':');
            (is_time && !nick.is_empty() && !text.is_empty()).then(|| LogLine {
                nick: nick.to_owned(),
                text: text.replace('\0', "\u{fffd}"),
            })
        })
        .collect()
}

/// A conversation with the shape of a real one: few users send most messages, in bursts, with mentions, URLs, several
/// scripts and repetitions. Equal seeds give equal conversations.
fn generate_conversation(seed: u64) -> Vec<LogLine> {
    const LINES: usize = 800;
    const WORDS: &[&str] = &[
        "sudo",
        "apt-get",
        "install",
        "it",
        "does",
        "not",
        "work",
        "why",
        "thanks",
        "lol",
        "ok",
        "yes",
        "no",
        "try",
        "again",
        "the",
        "kernel",
        "sound",
        "card",
        "¿por",
        "qué",
        "はい",
        "нет",
        "größer",
        "😀",
        "👩‍👩‍👧",
        "e\u{301}",
        "\"quoted\"",
        "\\o/",
        "<b>",
        "&amp;",
        "%s",
        "\t",
        "'; DROP TABLE",
        "/etc/X11/xorg.conf",
        "http://example.org/?a=1&b=2#c",
        "https://例え.jp/✓",
        "\u{200b}",
        "\u{7f}",
    ];
    const ODD: &[&str] = &[
        "[away]", "^_^", "|", "`", "{}", "-", "\\", "é", "", "", "", "",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    // Xorshift64 (Marsaglia 2003): only determinism matters here.
    let mut below = move |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % limit as u64) as usize
    };
    let nicks: Vec<String> = (0..70)
        .map(|i| format!("nick{i}{}", ODD[i % ODD.len()]))
        .collect();
    let mut lines: Vec<LogLine> = Vec::with_capacity(LINES);
    while lines.len() < LINES {
        // The product of two random numbers favours low ones.
        let who = below(nicks.len()) * below(nicks.len()) / nicks.len();
        let burst = if below(20) == 0 {
            10 + below(20)
        } else {
            1 + below(3)
        };
        for _ in 0..burst {
            let length = if below(50) == 0 { 300 } else { 1 + below(15) };
            let mut text: Vec<&str> = (0..length).map(|_| WORDS[below(WORDS.len())]).collect();
            let addressed = format!("{}:", nicks[below(nicks.len())]);
            match below(10) {
                0..4 => text.insert(0, &addressed),
                4 => text = vec!["lol"],
                _ => {}
            }
            lines.push(LogLine {
                nick: nicks[who].clone(),
                text: text.join(" "),
            });
        }
    }
    lines
}

#[test]
fn chat_logs_are_parsed() {
    let log = b"[04:59] <ra> ok, so try\r\n=== robertj  has joined #ubuntu\n[05:00] <a|b> <b> says: > \xff\n\
        [05:01] <quiet> \n[05:01]  * waves\n[05:02] (x/#y) z\n[05:03] <last> line";
    let line = |nick: &str, text: &str| LogLine {
        nick: nick.to_owned(),
        text: text.to_owned(),
    };
    assert_eq!(
        parse(log),
        [
            line("ra", "ok, so try"),
            line("a|b", "<b> says: > \u{fffd}"),
            line("last", "line")
        ]
    );
}

#[test]
fn generated_conversations_are_deterministic() {
    let lines = generate_conversation(1);
    assert_eq!(lines, generate_conversation(1));
    assert_ne!(lines, generate_conversation(2));
    assert!(lines.len() >= 800);
    assert!(
        lines
            .iter()
            .all(|line| (1..=8000).contains(&line.text.len()))
    );
}
