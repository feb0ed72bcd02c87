//! A reader resumes on another edge after missing a hundred thousand messages, while the room is busy.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chat::{
    model::*,
    sqlite::Database,
    store::{self, Changes, Scope, Writes},
};
use uuid::Uuid;

use crate::{
    e2e::people::seqs,
    harness::{Chat, Kind, both_ways},
};

both_ways!(a_reader_catches_up_on_a_hundred_thousand_messages);

const MISSED: usize = 100_000;
/// Messages per transaction: few enough to stay below the database's timeouts on a busy machine.
const AT_ONCE: usize = 1000;

/// Writes [`MISSED`] messages of `user` to the room as a worker would, without publishing events.
async fn fill(chat: &Chat, user: UserId, room: RoomId) {
    let writes: Arc<dyn Writes> = match chat.kind {
        Kind::Cluster => {
            let url = chat.database_url();
            let store = store::postgres::Store::connect(&[url], 1, Duration::from_secs(20));
            Arc::new(store.expect("an address"))
        }
        Kind::Standalone => {
            let file = chat.dir().join("data/chat.db");
            let database = Database::open(&file).await.expect("the database");
            Arc::new(store::sqlite::Store::new(database))
        }
    };
    for part in 0..MISSED / AT_ONCE {
        let scope = Scope {
            rooms: [room].into(),
            members: [(room, user)].into(),
            ..Scope::default()
        };
        let (facts, transaction) = writes.begin(&scope).await.expect("the room is locked");
        let sender = facts.members[&(room, user)].user.clone();
        let mut head = facts.rooms[&room].head;
        let message = |number: usize| {
            head += 1;
            let client_msg_id = format!("bulk {part} {number}");
            Message {
                id: message_id(room, user, &client_msg_id),
                room,
                seq: head,
                change_seq: head,
                sender: sender.clone(),
                body: "while you were away".to_owned(),
                client_msg_id,
                reply_to: None,
                mentions: Vec::new(),
                reactions: Vec::new(),
                metadata: None,
                created_at: Timestamp::now(),
                edited_at: None,
                deleted_at: None,
            }
        };
        let new_messages = (0..AT_ONCE).map(message).collect();
        let heads = [(room, head)].into();
        let changes = Changes {
            heads,
            new_messages,
            ..Changes::default()
        };
        transaction.commit(changes).await.expect("committed");
    }
}

async fn a_reader_catches_up_on_a_hundred_thousand_messages(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("limits.messages_per_second", 1_000_000)
        .set("limits.burst", 1_000_000)
        .start()
        .await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room: Uuid = chat.room(&ada, "public", &[&bob]).await;
    let away = chat.connect(0, &ada).await;
    let joined = away.join(room, None).await.expect("joined");
    let mut position = joined["seq"].as_i64().expect("a number");
    away.close().await;
    fill(&chat, bob.id, room).await;

    // Bob sends messages all the time.
    let quiet = Arc::new(AtomicBool::new(false));
    let busy = {
        let (quiet, socket) = (quiet.clone(), chat.connect(0, &bob).await);
        tokio::spawn(async move {
            let mut said = 0;
            while !quiet.load(Ordering::Relaxed) {
                socket.say(room, &format!("live {said}"), "hello").await;
                said += 1;
            }
            said
        })
    };
    let back = chat.connect(1, &ada).await;
    let (started, mut pages) = (Instant::now(), 0);
    let mut got = Vec::new();
    loop {
        let joined = back.join(room, Some(position)).await.expect("a page");
        got.extend(seqs(&joined["messages"]));
        position = joined["seq"].as_i64().expect("a number");
        pages += 1;
        if joined["hasMore"] == serde_json::json!(false) {
            break;
        }
    }
    eprintln!(
        "{} events in {pages} pages took {:.1?}",
        got.len(),
        started.elapsed()
    );
    // From here on events are live: receive some of them, then the last.
    let seen = back.events("newMessage").len();
    back.until("live events", |received| {
        let live = received.events.iter().filter(|e| e.name == "newMessage");
        (live.count() > seen + 20).then_some(())
    })
    .await;
    quiet.store(true, Ordering::Relaxed);
    let said = busy.await.expect("every send was accepted");
    let last = format!("\"clientMsgId\":\"live {}\"", said - 1);
    back.until("the last one", |received| {
        received
            .events
            .iter()
            .any(|e| e.text.contains(&last))
            .then_some(())
    })
    .await;
    let live = back.events("newMessage");
    got.extend(live.iter().filter_map(|m| m["seq"].as_i64()));
    let first = joined["seq"].as_i64().expect("a number") + 1;
    let wrong = got.iter().zip(first..).position(|(got, seq)| *got != seq);
    assert_eq!(wrong, None, "each number once, in order");
    assert_eq!(got.len(), MISSED + said);
    // The history ends with the same number.
    let head = *got.last().expect("something");
    let path = format!("/v1/rooms/{room}/messages?limit=1");
    let newest = chat.rest_as(0, &ada).get(&path).await.ok(200);
    assert_eq!(seqs(&newest["items"]), [head]);
}
