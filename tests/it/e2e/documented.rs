//! The rules of docs/clients.md about history, replies, direct rooms and names.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Chat, Kind, Rest, both_ways, deployment::uuid, eventually};

both_ways!(history_replies_direct_rooms_and_names_are_as_documented);

async fn say(rest: &Rest, room: Uuid, body: Value) -> Value {
    let path = format!("/v1/rooms/{room}/messages?wait=stored");
    rest.post(&path, body).await.ok(201)
}

async fn history_replies_direct_rooms_and_names_are_as_documented(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    let (by_ada, by_bob) = (chat.rest_as(0, &ada), chat.rest_as(0, &bob));

    // Removed, and added again: nothing is missing.
    let room = chat.room(&ada, "private", &[&bob]).await;
    let member = format!("/v1/rooms/{room}/members/{}", bob.id);
    by_ada.delete(&member).await.ok(204);
    say(&by_ada, room, json!({"body": "bob is away"})).await;
    by_ada.put(&member, json!({"role": "member"})).await.ok(200);
    let path = format!("/v1/rooms/{room}/changes?limit=200");
    let changes = by_bob.get(&path).await.ok(200);
    let items = changes["items"].as_array().expect("items");
    let numbers = items
        .iter()
        .map(|item| item["data"]["changeSeq"].as_i64().expect("a number"));
    let expected: Vec<i64> = (1..=numbers.len() as i64).collect();
    assert_eq!(numbers.collect::<Vec<_>>(), expected);
    assert!(changes.to_string().contains("bob is away"), "{changes}");

    // Replies to a message that is deleted, later and already.
    let root = say(&by_ada, room, json!({"body": "root"})).await;
    let reply = json!({"body": "early", "replyTo": root["id"]});
    let early = say(&by_bob, room, reply).await;
    let deleted = format!("/v1/rooms/{room}/messages/{}", uuid(&root["id"]));
    by_ada.delete(&deleted).await.ok(200);
    let reply = json!({"body": "late", "replyTo": root["id"]});
    let late = say(&by_bob, room, reply).await;
    for reply in [&early, &late] {
        let path = format!("/v1/rooms/{room}/messages/{}", uuid(&reply["id"]));
        assert_eq!(by_ada.get(&path).await.ok(200)["replyTo"], root["id"]);
    }
    let shown = by_bob.get(&deleted).await.ok(200);
    assert_eq!(shown["body"], "");
    assert!(shown["deletedAt"].is_string(), "{shown}");

    // Two rooms of one name.
    let named = json!({"kind": "public", "name": "lobby"});
    let one = by_ada.post("/v1/rooms", named.clone()).await.ok(201);
    let two = by_bob.post("/v1/rooms", named).await.ok(201);
    assert_ne!(one["id"], two["id"]);

    // A direct room whose other account is deleted.
    let direct = chat.room(&ada, "direct", &[&bob]).await;
    say(&by_bob, direct, json!({"body": "goodbye"})).await;
    let gone = by_bob.delete("/v1/me").await;
    assert!([202, 204].contains(&gone.status), "{gone:?}");
    let members = format!("/v1/rooms/{direct}/members");
    eventually("bob has left", async || {
        let page = by_ada.get(&members).await.ok(200);
        (page["items"].as_array()?.len() == 1).then_some(())
    })
    .await;
    say(&by_ada, direct, json!({"body": "are you there?"})).await;
    let page = by_ada.get(&format!("/v1/rooms/{direct}/messages")).await;
    let page = page.ok(200);
    let said = |number: usize| page["items"][number]["body"].as_str();
    assert_eq!(
        [said(0), said(1)],
        [Some("goodbye"), Some("are you there?")]
    );
    assert_eq!(page["items"][0]["sender"]["displayName"], "Deleted user");
    // Opening it again returns it; with the user who now has the name, another room is created.
    let open = |other: Uuid| json!({"kind": "direct", "members": [other]});
    let again = by_ada.post("/v1/rooms", open(bob.id)).await.json();
    assert_eq!(uuid(&again["id"]), direct);
    let other = chat.register("bob").await;
    let new = by_ada.post("/v1/rooms", open(other.id)).await.json();
    assert_ne!(uuid(&new["id"]), direct);
    // None can be created with a deleted account.
    let eve = chat.register("eve").await;
    let refused = chat.rest_as(0, &eve).post("/v1/rooms", open(bob.id)).await;
    assert!([404, 422].contains(&refused.status), "{refused:?}");
    let leave = format!("/v1/rooms/{direct}/leave");
    let left = by_ada.post(&leave, json!({})).await;
    assert!(left.status < 300, "{left:?}");
}
