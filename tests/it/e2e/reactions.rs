//! Reactions: many users of one message, and one emoji in several spellings.

use std::{sync::Arc, time::Duration};

use chat::{
    model::{EventKind, MAX_REACTIONS, Reaction, RoomId, Timestamp, UserId, text::emoji},
    sqlite::Database,
    store::{self, Changes, FeedEntry, GivenReaction, ReactionDetail, Scope, Writes},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::people::{Pair, pair};
use crate::harness::{Chat, Kind, Socket, both_ways, deployment::uuid, engineio::Raw, eventually};

both_ways!(
    a_message_with_thousands_of_reactions_is_read_and_changed,
    a_room_of_messages_with_many_reactions_is_read_in_pages,
    many_reactions_during_an_absence_take_one_page,
    spellings_of_an_emoji_are_one_reaction,
);

/// How many users give each of fifty emojis: 27,250 reactions.
const USERS: usize = 545;

fn emojis() -> impl Iterator<Item = String> {
    let first = 0x1F400_u32;
    let all = (first..).take(MAX_REACTIONS).filter_map(char::from_u32);
    all.map(String::from)
}

/// Writes the reactions of [`USERS`] users to messages as a worker would, without publishing events.
async fn fill(chat: &Chat, room: RoomId, messages: &[Uuid]) -> Vec<UserId> {
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
    let users: Vec<UserId> = (0..USERS).map(|_| Uuid::new_v4()).collect();
    for &id in messages {
        let scope = Scope {
            rooms: [room].into(),
            messages: [id].into(),
            ..Scope::default()
        };
        let (facts, transaction) = writes.begin(&scope).await.expect("the room is locked");
        let mut message = facts.messages[&id].clone();
        let head = facts.rooms[&room].head;
        // The events of one emoji stand for those of all.
        let events = (head + 1..).zip(&users).map(|(seq, user)| FeedEntry {
            room,
            seq,
            kind: EventKind::ReactionUpdated,
            message: Some(id),
            data: None,
            detail: Some(ReactionDetail {
                emoji: emojis().last().expect("fifty"),
                user: *user,
                on: true,
            }),
            at: Timestamp::now(),
        });
        let mut changes = Changes {
            heads: [(room, head + USERS as i64)].into(),
            entries: events.collect(),
            ..Changes::default()
        };
        for emoji in emojis() {
            let key = (id, emoji::key(&emoji).into_owned());
            changes
                .reactions
                .extend((head + 1..).zip(&users).map(|(seq, user)| GivenReaction {
                    key: key.clone(),
                    user: *user,
                    seq,
                }));
            message.reactions.push(Reaction {
                emoji: emoji::qualified(&emoji).into_owned(),
                count: USERS as u32,
                me: None,
                users: users[..10].to_vec(),
            });
        }
        changes.updated_messages.push(message);
        transaction.commit(changes).await.expect("committed");
    }
    users
}

fn escaped(emoji: &str) -> String {
    emoji.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The reactions of the message in a list of messages.
fn reactions_of(messages: &Value, id: Uuid) -> Vec<Value> {
    let messages = messages.as_array().expect("a list");
    let message = messages.iter().find(|message| message["id"] == json!(id));
    let message = message.expect("the message is listed");
    message["reactions"].as_array().expect("a list").clone()
}

fn mine(reactions: &[Value]) -> Vec<&str> {
    let mine = reactions.iter().filter(|reaction| reaction["me"] == true);
    mine.map(|reaction| reaction["emoji"].as_str().expect("a text"))
        .collect()
}

/// The next reaction of this user. Those that were written to the store are delivered as well.
async fn event_by(socket: &mut Socket, user: Uuid) -> Value {
    loop {
        let event = socket.event("reactionUpdated").await;
        if event["user"] == json!(user) {
            return event;
        }
    }
}

async fn a_message_with_thousands_of_reactions_is_read_and_changed(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        bob,
        room,
        mut adas,
        mut bobs,
    } = pair(&chat).await;
    let id = adas.say(room, "one", "hello").await;
    bobs.event("newMessage").await;
    let users = fill(&chat, room, &[id]).await;
    let all: Vec<String> = emojis().collect();

    // Joined on both transports, after the cached events of the room are no longer whole.
    adas.call("editMessage", json!({"room": room, "id": id, "body": "hi"}))
        .await
        .expect("her own");
    bobs.event("messageUpdated").await;
    for socket in [&adas, &bobs] {
        let mut joined = socket.join(room, Some(0)).await.expect("a page");
        assert_eq!(joined["hasMore"], true, "more than 500 numbers");
        let seq = joined["seq"].as_i64();
        joined = socket.join(room, seq).await.expect("a page");
        assert_eq!(joined["hasMore"], false);
        let shown = reactions_of(&joined["messages"], id);
        assert_eq!(shown.len(), MAX_REACTIONS);
        for reaction in &shown {
            assert_eq!(
                (&reaction["count"], &reaction["me"]),
                (&json!(USERS), &json!(false))
            );
            assert_eq!(reaction["users"], json!(users[..10]));
        }
    }
    let mut io = Raw::connected(&chat, &bob).await;
    io.say(&format!("421[\"joinRoom\",{}]", json!({"room": room})))
        .await;
    let joined = io.until("431[").await;
    assert!(joined.starts_with("431[{\"ok\":true") && joined.len() < 100_000);

    // Bob reacts; all sockets get the change and nothing else.
    let data = json!({"room": room, "id": id, "emoji": all[7]});
    let changed = bobs.call("react", data.clone()).await.expect("a member");
    let shown = reactions_of(&json!([changed]), id);
    assert_eq!(mine(&shown), [all[7].as_str()]);
    assert_eq!(shown[7]["count"], USERS + 1);
    let event = event_by(&mut adas, bob.id).await;
    let expected = json!({
        "room": room, "id": id, "seq": event["seq"], "changeSeq": event["changeSeq"], "emoji": all[7],
        "user": bob.id, "on": true, "count": USERS + 1, "users": users[..10],
    });
    assert_eq!(event, expected);
    assert!(event.to_string().len() < 1000);
    io.until("42[\"reactionUpdated\"").await;

    // Each reader sees their own reactions, also in a cached page.
    for _ in 0..2 {
        for (i, (user, reacted)) in [(&ada, 0), (&bob, 1)].into_iter().enumerate() {
            let rest = chat.rest_as(i, user);
            let newest = rest
                .get(&format!("/v1/rooms/{room}/messages"))
                .await
                .ok(200);
            assert_eq!(mine(&reactions_of(&newest["items"], id)).len(), reacted);
            let path = format!("/v1/rooms/{room}/messages?after=0&limit=5");
            let page = rest.get(&path).await.ok(200);
            assert_eq!(mine(&reactions_of(&page["items"], id)).len(), reacted);
            let path = format!("/v1/rooms/{room}/messages/{id}");
            let one = json!([rest.get(&path).await.ok(200)]);
            assert_eq!(mine(&reactions_of(&one, id)).len(), reacted);
        }
        for (socket, reacted) in [(&adas, 0), (&bobs, 1)] {
            let joined = socket.join(room, None).await.expect("again");
            assert_eq!(mine(&reactions_of(&joined["messages"], id)).len(), reacted);
        }
    }

    // All users, in pages.
    let rest = chat.rest_as(1, &ada);
    let path = format!(
        "/v1/rooms/{room}/messages/{id}/reactions/{}",
        escaped(&all[7])
    );
    let (mut listed, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = rest.get(&format!("{path}?limit=200{after}")).await.ok(200);
        let items = page["items"].as_array().expect("a list");
        listed.extend(items.iter().map(|user| uuid(&user["id"])));
        pages += 1;
        if page["hasMore"] == false {
            assert_eq!(page["nextCursor"], Value::Null);
            assert_eq!(items.last().expect("bob")["username"], "bob");
            break;
        }
        let next = page["nextCursor"].as_str().expect("a cursor");
        after = format!("&cursor={next}");
    }
    assert_eq!((pages, listed.len()), (3, USERS + 1));
    assert_eq!((listed[..USERS].to_vec(), listed[USERS]), (users, bob.id));
    let none = rest.get(&format!("{path}x")).await.ok(200);
    assert_eq!(
        none,
        json!({"items": [], "nextCursor": null, "hasMore": false})
    );
    for bad in ["", "1", "x", "-1_", "1_x", &format!("-1_{}", bob.id)] {
        let page = rest.get(&format!("{path}?cursor={bad}")).await;
        page.problem(400, "malformed");
    }
    rest.get(&format!("{path}?limit=201"))
        .await
        .problem(422, "invalid");
    let stranger = chat.register("eve").await;
    let hers = chat.rest_as(0, &stranger);
    hers.get(&path).await.problem(403, "forbidden");

    // Taken back, and deleted.
    let off = json!({"room": room, "id": id, "emoji": all[7], "on": false});
    bobs.call("react", off).await.expect("his own");
    let event = event_by(&mut adas, bob.id).await;
    assert_eq!(
        (&event["on"], &event["count"]),
        (&json!(false), &json!(USERS))
    );
    let delete = json!({"room": room, "id": id});
    adas.call("deleteMessage", delete).await.expect("her own");
    let deleted = bobs.event("messageDeleted").await;
    assert_eq!(deleted["reactions"], json!([]));
    io.until("42[\"messageDeleted\"").await;
    assert_eq!(rest.get(&path).await.ok(200)["items"], json!([]));
    for socket in [&adas, &bobs] {
        socket.settle().await;
        assert_eq!(socket.received(|received| received.closed.clone()), None);
    }
}

/// Sixty messages of some 22 KB each are more than one answer may have.
async fn a_room_of_messages_with_many_reactions_is_read_in_pages(kind: Kind) {
    const MESSAGES: usize = 60;
    let chat = Chat::plan(kind)
        .set("edge.send_queue_bytes", 200_000)
        .set("edge.max_body_bytes", 8_000)
        .start()
        .await;
    let Pair {
        bob,
        room,
        adas,
        bobs,
        ..
    } = pair(&chat).await;
    let mut ids = Vec::new();
    for i in 0..MESSAGES {
        ids.push(adas.say(room, &i.to_string(), "hello").await);
    }
    let rest = chat.rest_as(0, &bob);
    super::people::room_reaches(&rest, room, MESSAGES as i64 + 2).await;
    adas.close().await;
    bobs.close().await;
    fill(&chat, room, &ids[MESSAGES - 10..]).await;
    for edge in 0..2 {
        let socket = chat.connect(edge, &bob).await;
        let joined = socket.join(room, None).await.expect("the newest");
        let newest = joined["messages"].as_array().expect("a list");
        assert!(!newest.is_empty() && joined.to_string().len() < 100_000);
        let (mut after, mut seen, mut pages) = (0, Vec::new(), 0);
        loop {
            let joined = socket.join(room, Some(after)).await.expect("a page");
            assert!(joined.to_string().len() < 100_000);
            let messages = joined["messages"].as_array().expect("a list");
            seen.extend(messages.iter().map(|message| uuid(&message["id"])));
            after = joined["seq"].as_i64().expect("a number");
            pages += 1;
            if joined["hasMore"] == false {
                break;
            }
        }
        assert!(pages > 3, "{pages}");
        assert_eq!(seen[..MESSAGES], ids);
        socket.settle().await;
        assert_eq!(socket.received(|received| received.closed.clone()), None);
    }
}

async fn many_reactions_during_an_absence_take_one_page(kind: Kind) {
    const EVENTS: usize = 300;
    let chat = Chat::plan(kind)
        .set("limits.messages_per_second", 100_000)
        .set("limits.burst", 100_000)
        .start()
        .await;
    let Pair {
        bob,
        room,
        adas,
        bobs,
        ..
    } = pair(&chat).await;
    let body = "x".repeat(7000);
    let id = adas.say(room, "one", &body).await;
    let joined = bobs.join(room, None).await.expect("a member");
    let away = joined["seq"].as_i64().expect("a number");
    bobs.close().await;

    let mut pending = Vec::new();
    for i in 0..EVENTS {
        let emoji = format!("r{}", i / 2 % 20);
        let data = json!({"room": room, "id": id, "emoji": emoji, "on": i % 2 == 0});
        pending.push(adas.send("react", data).await);
    }
    for ack in pending {
        ack.ack().await.expect("a member");
    }
    let bobs = chat.connect(1, &bob).await;
    let joined = bobs.join(room, Some(away)).await.expect("a page");
    assert_eq!(joined["hasMore"], false);
    assert_eq!(joined["seq"], away.max(3) + EVENTS as i64);
    assert_eq!(joined["messages"].as_array().expect("a list").len(), 1);
    assert_eq!((&joined["events"], joined.get("gaps")), (&json!([]), None));

    // The feed has each event, as a socket that stayed received it.
    let rest = chat.rest_as(1, &bob);
    let (mut after, mut events) = (3, Vec::new());
    loop {
        let path = format!("/v1/rooms/{room}/changes?after={after}&limit=200");
        let page = rest.get(&path).await.ok(200);
        events.extend(page["items"].as_array().expect("a list").clone());
        after = page["nextCursor"].as_i64().expect("a number");
        if page["hasMore"] == false {
            break;
        }
    }
    assert_eq!(events.len(), EVENTS);
    let live = eventually("all events live", || async {
        let live = adas.events("reactionUpdated");
        (live.len() == EVENTS).then_some(live)
    })
    .await;
    for (event, live) in events.iter().zip(&live) {
        assert_eq!(event["event"], "reactionUpdated");
        // The number of users is that of now: none.
        let mut live = live.clone();
        (live["count"], live["users"]) = (json!(0), json!([]));
        assert_eq!(event["data"], live);
    }
}

async fn spellings_of_an_emoji_are_one_reaction(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        bob,
        room,
        adas,
        bobs,
    } = pair(&chat).await;
    let id = adas.say(room, "one", "hello").await;
    let rest = chat.rest_as(1, &ada);
    let path = format!("/v1/rooms/{room}/messages/{id}");
    let react = |emoji: &str, on: bool| json!({"room": room, "id": id, "emoji": emoji, "on": on});
    for (one, other, shown) in [
        ("👍", "👍\u{FE0F}", "👍"),
        ("❤", "❤\u{FE0F}", "❤\u{FE0F}"),
        ("1\u{20E3}", "1\u{FE0F}\u{20E3}", "1\u{FE0F}\u{20E3}"),
    ] {
        let put = format!("{path}/reactions/{}", escaped(other));
        rest.put(&put, Value::Null).await.ok(200);
        let changed = bobs
            .call("react", react(one, true))
            .await
            .expect("a member");
        let both = json!([{"emoji": shown, "count": 2, "me": true, "users": [ada.id, bob.id]}]);
        assert_eq!(changed["reactions"], both);
        for spelling in [one, other] {
            let list = format!("{path}/reactions/{}", escaped(spelling));
            let users = rest.get(&list).await.ok(200);
            assert_eq!(users["items"].as_array().expect("a list").len(), 2);
        }
        // Once more, in the other spelling: nothing changes.
        bobs.call("react", react(other, true))
            .await
            .expect("a member");
        bobs.call("react", react(other, false))
            .await
            .expect("his own");
        let delete = format!("{path}/reactions/{}", escaped(one));
        let gone = rest.delete(&delete).await.ok(200);
        assert_eq!(gone["reactions"], json!([]));
    }
    for bad in [
        " ",
        "\u{200B}",
        "a sentence",
        "<img src=x onerror=alert(1)>",
        "👍👍👍👍",
    ] {
        let refused = adas.call("react", react(bad, true)).await.expect_err(bad);
        assert_eq!(refused.code, "invalid", "{bad:?}");
        let put = format!("{path}/reactions/{}", escaped(bad));
        rest.put(&put, Value::Null).await.problem(422, "invalid");
    }
}
