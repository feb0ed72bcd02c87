//! Thousands of notifications to a provider that fails 30 % of the requests, while every process is killed in turn:
//! each notification is delivered once, or the delivery log says what became of it.
//!
//! 300 of them by default. The documented guarantee, with 10,000:
//! `CHAT_TEST_NOTIFICATIONS=10000 scripts/test --test it e2e::notify::load -- --nocapture`

mod judge;
mod sending;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::Value;

use self::{
    judge::{Row, Rows, judge},
    sending::{Sending, until_or_stuck},
};
use super::{prove, start};
use crate::harness::{
    Chat, DEADLINE, Kind, User, both_ways,
    provider::{Asked, Does, Provider},
};

both_ways!(every_notification_is_delivered_once_or_accounted_for);

/// Concurrent senders.
const SENDERS: usize = 8;
/// Processes killed while messages are sent, and again while their notifications are sent.
const KILLS: usize = 4;
/// Attempts before a dead letter: few enough that some notifications are dead-lettered.
const ATTEMPTS: usize = 4;

fn count() -> usize {
    let count = std::env::var("CHAT_TEST_NOTIFICATIONS");
    count.ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

/// Of 100 requests 30 fail, in every way a provider can; in the last five of those cases it accepted the mail.
fn failing_behaviour(before: usize, _: &Asked) -> Does {
    match (before * 37 + 11) % 100 {
        0..=8 => Does::fail(),
        9..=13 => Does::Answer(429, "", "{}"),
        14..=17 => Does::Answer(429, "Retry-After: 1\r\n", "{}"),
        18..=24 => Does::Reset,
        25..=28 => Does::TakeAndReset,
        29 => Does::TakeLate(Duration::from_secs(10)),
        _ => Does::take(),
    }
}

async fn every_notification_is_delivered_once_or_accounted_for(kind: Kind) {
    let count = count();
    let mail = Arc::new(Provider::start().await);
    let attempts = ATTEMPTS.to_string();
    let settings = [
        // No digests: as many deliveries as possible.
        ("notify.digest_window", "0s"),
        ("notify.max_attempts", attempts.as_str()),
        ("notify.delay", "100ms"),
        ("notify.concurrency", "16"),
        // On a busy machine the test outlasts the default lifetime of a token.
        ("auth.access_ttl", "1d"),
    ];
    let mut chat = start(kind, &mail, &settings).await;
    let ada = chat.register("ada").await;
    let began = Instant::now();
    let readers = readers(&chat, &mail, (count / 20).clamp(4, 200)).await;
    let rooms = join_all(readers.iter().map(|reader| {
        let (chat, ada) = (&chat, &ada);
        async move { chat.room(ada, "direct", &[reader]).await }
    }))
    .await;
    mail.clear();
    mail.does(failing_behaviour);
    let ready = began.elapsed();

    let began = Instant::now();
    let sending = Sending::start(&chat, &ada, rooms, count);
    let mut kills = 0;
    // Kills while requests were sent to the provider, before or after the last message was sent.
    let mut notified = 0;
    for kill in 1..=KILLS {
        let goal = count * kill / (KILLS + 1);
        until_or_stuck(|| sending.accepted() >= goal, || sending.accepted()).await;
        notified += usize::from(mail.count() > 0);
        sending.kill(&mut chat, kills).await;
        kills += 1;
    }
    let messages = sending.finished().await;
    let sent = began.elapsed();
    for _ in 0..KILLS {
        // Pending deliveries are merged into digests, so the number of requests is not known in advance.
        let goal = mail.count() + count / 40;
        if !more_requests(&chat, &readers, &mail, goal, count).await {
            break;
        }
        sending.kill(&mut chat, kills).await;
        notified += 1;
        kills += 1;
    }
    assert!(
        notified > 0,
        "nothing was killed while notifications were sent"
    );
    let rows = settled(&chat, &readers, count, &mail).await;
    let took = began.elapsed();
    let asked = mail.asked();
    let figures = judge(&messages, &rows, &asked);
    eprintln!(
        "{kind:?}: {count} notifications in {} deliveries, {} requests; {} dead, {} taken twice and said so; \
         {kills} kills; ready after {ready:?}, sent after {sent:?}, all told after {took:?}",
        figures.deliveries,
        asked.len(),
        figures.dead,
        figures.twice
    );

    // Dead notifications are in the dead letters, once each, and can be replayed.
    let letters = dead_letters(&chat, &["list", "--limit", "100000"]).await;
    let letters = letters.as_array().expect("a list");
    // A worker that is killed after dead-lettering and before updating the delivery log dead-letters again, with the
    // same id.
    let ids: HashSet<_> = letters.iter().map(|letter| letter["id"].as_str()).collect();
    assert_eq!(ids.len(), figures.dead);
    mail.does(|_, _| Does::take());
    replay_dead_letters(&chat).await;
    let rows = until_all_rows(&chat, &readers, count, &mail, |row| row.state == "sent").await;
    let asked = mail.asked();
    judge(&messages, &rows, &asked);
}

async fn readers(chat: &Chat, mail: &Provider, count: usize) -> Vec<User> {
    let mut readers = Vec::new();
    for i in 0..count {
        readers.push(chat.register(&format!("reader{i}")).await);
    }
    // A few at a time: the provider runs in this process as well.
    for some in readers.chunks(16) {
        join_all(some.iter().map(|reader| {
            let address = format!("{}@example.com", reader.username);
            async move { prove(chat, reader, mail, "email", &address).await }
        }))
        .await;
        mail.clear();
    }
    readers
}

/// Waits until `goal` requests came; `false` if every notification is final before that.
async fn more_requests(
    chat: &Chat,
    readers: &[User],
    mail: &Provider,
    goal: usize,
    count: usize,
) -> bool {
    let mut poll = tokio::time::interval(Duration::from_millis(10));
    let (mut last, mut since) = (mail.count(), Instant::now());
    loop {
        poll.tick().await;
        let now = mail.count();
        if now >= goal {
            return true;
        }
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > Duration::from_secs(1) {
            if all_final(&delivery_log(chat, readers).await, count) {
                return false;
            }
            assert!(
                since.elapsed() < DEADLINE,
                "no further request after {last}"
            );
        }
    }
}

/// The notification history of every reader.
async fn delivery_log(chat: &Chat, readers: &[User]) -> Rows {
    let mut rows = Rows::new();
    for (i, reader) in readers.iter().enumerate() {
        let rest = chat.rest_as(i, reader);
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/me/notifications/history?limit=200{cursor}");
            let page = rest.get(&path).await.ok(200);
            for row in page["items"].as_array().expect("rows") {
                let message = row["message"].as_str().expect("an id").to_owned();
                let before = rows.insert(message, Row::read(row));
                assert!(
                    before.is_none(),
                    "two rows for one message and one reader: {row}"
                );
            }
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
    rows
}

fn all_final(rows: &Rows, count: usize) -> bool {
    rows.len() == count && rows.values().all(Row::is_final)
}

async fn settled(chat: &Chat, readers: &[User], count: usize, mail: &Provider) -> Rows {
    until_all_rows(chat, readers, count, mail, Row::is_final).await
}

/// The delivery log, once `right` accepts all rows. Fails when nothing has changed for [`DEADLINE`].
async fn until_all_rows(
    chat: &Chat,
    readers: &[User],
    count: usize,
    mail: &Provider,
    right: impl Fn(&Row) -> bool,
) -> Rows {
    let mut poll = tokio::time::interval(Duration::from_millis(300));
    let (mut last, mut since) = ((0, 0), Instant::now());
    loop {
        poll.tick().await;
        let rows = delivery_log(chat, readers).await;
        let ready = rows.values().filter(|row| right(row)).count();
        if ready == count {
            assert_eq!(rows.len(), count, "more rows than messages");
            return rows;
        }
        let now = (ready, mail.count());
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let stuck = since.elapsed() > DEADLINE;
        let first = rows.iter().find(|(_, row)| !right(row));
        assert!(
            !stuck,
            "{ready} of {count} are final, {} have a row, no progress: {:?}",
            rows.len(),
            first.map(|(id, row)| (id, &row.state, &row.reason, &row.attempts))
        );
    }
}

fn dead_args<'a>(chat: &Chat, data: &'a str, what: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["queue", "--json", "dead"];
    args.extend(what);
    if chat.kind == Kind::Standalone {
        args.extend(["--data", data]);
    }
    args
}

async fn dead_letters(chat: &Chat, what: &[&str]) -> Value {
    let data = chat.dir().join("data").to_string_lossy().into_owned();
    let ended = chat
        .program("dead", &dead_args(chat, &data, what))
        .run()
        .await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap_or_default()
}

async fn replay_dead_letters(chat: &Chat) {
    dead_letters(chat, &["replay", "--all"]).await;
}
