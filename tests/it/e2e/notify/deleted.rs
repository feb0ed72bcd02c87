//! Account deletion while notifications are pending, and what remains of a deleted account.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{is, row, say, start, verify};
use crate::harness::{Chat, Kind, User, both_ways, eventually, provider::Provider};

both_ways!(
    a_deleted_account_gets_no_notifications_and_the_log_states_why,
    an_interrupted_account_deletion_is_finished,
);

async fn delete(chat: &Chat, user: &User) {
    let answer = chat.rest_as(0, user).delete("/v1/me").await;
    assert!([202, 204].contains(&answer.status), "{answer:?}");
}

async fn members(chat: &Chat, as_: &User, room: Uuid) -> Vec<(String, String)> {
    let path = format!("/v1/rooms/{room}/members");
    let page = chat.rest_as(0, as_).get(&path).await.ok(200);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let items = page["items"].as_array().expect("a list").iter();
    let items = items.map(|item| (text(&item["user"]["username"]), text(&item["role"])));
    items.collect()
}

async fn a_deleted_account_gets_no_notifications_and_the_log_states_why(kind: Kind) {
    let mail = Provider::start().await;
    let change = [("notify.delay", "3s"), ("notify.away_after", "1s")];
    let chat = start(kind, &mail, &change).await;
    let (ada, eve) = (chat.register("ada").await, chat.register("eve").await);
    let bob = chat.register("bob").await;
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    let direct = chat.room(&ada, "direct", &[&bob]).await;
    let public = chat.room(&ada, "public", &[&bob]).await;
    let owned = chat.room(&bob, "private", &[&ada, &eve]).await;
    let alone = chat.room(&bob, "public", &[]).await;
    let said = say(&chat, &bob, public, "I was here").await;

    let socket = chat.connect(0, &bob).await;
    socket.join(public, None).await.expect("a member");
    let mut reader = chat.connect(1, &ada).await;
    reader.join(public, None).await.expect("a member");

    // Both notifications wait for `notify.delay` when Bob deletes his account.
    let in_direct = say(&chat, &ada, direct, "are you there?").await;
    let named = say(&chat, &ada, public, "@bob?").await;
    delete(&chat, &bob).await;
    let closed = tokio::time::timeout(Duration::from_secs(5), socket.closed()).await;
    assert_eq!(closed.expect("it closes").code, 4001);
    let left = reader.event("memberLeft").await;
    assert_eq!(left["reason"], "deleted", "{left}");
    assert_eq!(left["user"]["id"], bob.id.to_string());
    assert_eq!(left["user"]["username"], "deleted user");

    for message in [&in_direct, &named] {
        let told = row(&chat, &ada, message, is("cancelled")).await;
        assert_eq!(told["reason"], "the account was deleted");
        assert_eq!(told["user"], bob.id.to_string());
    }
    assert!(mail.asked().is_empty(), "{:?}", mail.asked());

    // Neither Bob's credentials nor his tokens are valid any more.
    let rest = chat.rest(0);
    let login = json!({"username": "bob", "password": bob.password});
    rest.post("/v1/auth/login", login.clone())
        .await
        .problem(401, "unauthorized");
    rest.post("/v1/auth/refresh", json!({"refreshToken": bob.refresh}))
        .await
        .problem(401, "unauthorized");
    let as_bob = chat.rest_as(0, &bob);
    as_bob.get("/v1/me").await.problem(401, "unauthorized");
    let late = chat.dial(0).bearer(&bob.access).connect().await;
    let late = late.expect("the token is well signed");
    assert_eq!(late.closed().await.code, 4001);
    as_bob
        .post(&format!("/v1/rooms/{public}/join"), json!({}))
        .await
        .problem(401, "unauthorized");
    let room = json!({"kind": "public", "name": "back"});
    assert!(as_bob.post("/v1/rooms", room).await.status >= 400);
    let add = format!("/v1/rooms/{public}/members/{}", bob.id);
    chat.rest_as(0, &ada)
        .put(&add, json!({"role": "member"}))
        .await
        .problem(404, "not_found");

    // Bob is no member of any room.
    let who = |name: &str, role: &str| (name.to_owned(), role.to_owned());
    assert_eq!(members(&chat, &ada, public).await, [who("ada", "owner")]);
    assert_eq!(members(&chat, &ada, direct).await.len(), 1);
    let mut successors = members(&chat, &ada, owned).await;
    successors.sort();
    // Both members joined with the room's creation; one of them is the owner now.
    let owners = successors
        .iter()
        .filter(|(_, role)| role == "owner")
        .count();
    assert_eq!((successors.len(), owners), (2, 1), "{successors:?}");
    let path = format!("/v1/rooms/{alone}");
    chat.rest_as(0, &ada)
        .get(&path)
        .await
        .problem(404, "not_found");
    let path = format!("/v1/rooms/{public}/messages");
    let page = chat.rest_as(0, &ada).get(&path).await.ok(200);
    let mut items = page["items"].as_array().expect("a list").iter();
    let kept = items.find(|item| item["id"] == said.as_str()).expect("his");
    assert_eq!(kept["body"], "I was here");
    assert_eq!(kept["sender"]["id"], bob.id.to_string());
    assert_eq!(kept["sender"]["displayName"], "Deleted user");
    let path = format!("/v1/rooms/{public}/changes?after=0");
    let changes = chat.rest_as(0, &ada).get(&path).await.ok(200);
    assert!(!changes.to_string().contains("\"bob\""), "{changes}");

    // The deletion cannot be repeated with the ended login, and the user name is available again.
    as_bob.delete("/v1/me").await.problem(401, "unauthorized");
    let again = chat.register("bob").await;
    assert_ne!(again.id, bob.id);
    let path = format!("/v1/rooms/{direct}/messages");
    chat.rest_as(0, &again)
        .get(&path)
        .await
        .problem(404, "not_found");
}

/// Enough rooms for several transactions; the workers are killed in between.
async fn an_interrupted_account_deletion_is_finished(kind: Kind) {
    const ROOMS: usize = 130;
    let mail = Provider::start().await;
    let mut chat = start(kind, &mail, &[("notify.digest_window", "60s")]).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        rooms.push(chat.room(&ada, "private", &[&bob]).await);
    }
    let waiting = say(&chat, &ada, rooms[0], "@bob!").await;
    row(&chat, &ada, &waiting, is("queued")).await;

    let heads = async |chat: &Chat| {
        let mut left = 0;
        for room in &rooms {
            left += usize::from(members(chat, &ada, *room).await.len() == 1);
        }
        left
    };
    let (http, url) = (chat.http.clone(), format!("{}/v1/me", chat.edge(0).url()));
    let token = bob.access.clone();
    // In standalone mode the edge is killed with the worker, and the request gets no response.
    let deleting = tokio::spawn(async move { http.delete(url).bearer_auth(token).send().await });
    let first = chat.rest_as(1, &ada);
    let rooms_path = format!("/v1/rooms/{}/members", rooms.iter().min().expect("rooms"));
    eventually("the first room is left", async || {
        let page = first.get(&rooms_path).await.ok(200);
        (page["items"].as_array()?.len() == 1).then_some(())
    })
    .await;
    for i in 0..2 {
        chat.worker_mut(i).kill9().await;
        chat.worker_mut(i).restart().await;
    }
    deleting.abort();
    let chat = &chat;
    eventually("every room is left", async || {
        (heads(chat).await == ROOMS).then_some(())
    })
    .await;
    let told = row(chat, &ada, &waiting, is("cancelled")).await;
    assert_eq!(told["reason"], "the account was deleted");
    assert!(mail.asked().is_empty(), "{:?}", mail.asked());
    let login = json!({"username": "bob", "password": bob.password});
    chat.rest(0)
        .post("/v1/auth/login", login)
        .await
        .problem(401, "unauthorized");
}
