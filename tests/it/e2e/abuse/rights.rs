//! Rights revoked during concurrent operations, and state that must survive leaving and joining.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::{
        Chat, Kind, Rest, Socket, User, both_ways, deployment::authority, eventually, server,
        socket::Event,
    },
    support::TcpProxy,
};

both_ways!(
    a_join_concurrent_with_a_removal_leaves_no_subscription,
    a_mute_survives_leaving_and_rejoining,
    an_ended_login_has_no_sockets,
    a_deleted_account_cannot_open_a_socket,
    a_repeated_create_returns_no_room_to_a_banned_user,
    responses_do_not_reveal_private_messages,
    users_without_a_shared_room_cannot_be_added,
    members_cannot_be_added_directly,
);

/// Members whose sockets join while they are removed.
const CROWD: usize = 24;
const ROUNDS: usize = 4;
/// Bound of an honest client's request, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(5);

const KINDS: &[&str] = &["public", "private", "direct"];

fn member(room: Uuid, user: &User) -> String {
    format!("/v1/rooms/{room}/members/{}", user.id)
}

async fn crowd(chat: &Chat) -> (Vec<User>, Vec<Socket>) {
    let names: Vec<String> = (0..CROWD).map(|i| format!("member{i}")).collect();
    let users = join_all(names.iter().map(|name| chat.register(name))).await;
    let sockets = users.iter().enumerate();
    let sockets = join_all(sockets.map(|(i, user)| chat.connect(i % chat.edges.len(), user))).await;
    (users, sockets)
}

/// All members join and are removed concurrently. After the response to the last removal, only the owner may receive
/// messages, whichever operation came first.
async fn a_join_concurrent_with_a_removal_leaves_no_subscription(kind: Kind) {
    // Only the join itself may detect the removal, not the periodic check.
    let plan = Chat::plan(kind)
        .set("edge.rights_interval", "1h")
        .set("limits.messages_per_second", 10_000)
        .set("limits.burst", 10_000);
    let chat = plan.start().await;
    let ada = chat.register("ada").await;
    let (users, sockets) = crowd(&chat).await;
    let room = chat.room(&ada, "private", &[]).await;
    // One socket on each edge, to know when the edge has delivered a message.
    let mut hers = Vec::new();
    for edge in 0..chat.edges.len() {
        let socket = chat.connect(edge, &ada).await;
        socket.join(room, None).await.expect("the owner joins");
        hers.push(socket);
    }
    let adas = &hers[0];
    let owner = |i: usize| chat.rest_as(i % chat.edges.len(), &ada);

    let mut slowest = Duration::ZERO;
    let (mut answered, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let add = |user| {
            let path = member(room, user);
            async move { owner(0).put(&path, json!({"role": "member"})).await.ok(200) }
        };
        join_all(users.iter().map(add)).await;
        let joins = sockets.iter().enumerate().map(|(i, socket)| async move {
            // Staggered, to cover different interleavings.
            tokio::time::sleep(Duration::from_millis(2 * i as u64)).await;
            // With and without recovery: the two code paths of a join.
            socket.join(room, (i % 2 == 0).then_some(0)).await.is_ok()
        });
        let removals = users.iter().enumerate().map(|(i, user)| {
            let path = member(room, user);
            async move { owner(i).delete(&path).await.ok(204) }
        });
        let honest = async {
            let asked = Instant::now();
            adas.say(room, &format!("during {round}"), "during").await;
            asked.elapsed()
        };
        let (joined, _, took) = tokio::join!(join_all(joins), join_all(removals), honest);
        slowest = slowest.max(took);
        let ok = joined.iter().filter(|ok| **ok).count();
        (answered, refused) = (answered + ok, refused + joined.len() - ok);

        let body = format!("for nobody else {round}");
        adas.say(room, &format!("after {round}"), &body).await;
        let said = |event: &Event| event.data()["body"] == json!(body);
        for socket in &hers {
            socket
                .until("the owner's own message", |received| {
                    received.events.iter().any(said).then_some(())
                })
                .await;
        }
        for (socket, user) in sockets.iter().zip(&users) {
            socket.settle().await;
            let leaked = socket.events("newMessage").iter().any(|message| {
                let body = message["body"].as_str().unwrap_or_default();
                body.starts_with("for nobody else")
            });
            assert!(
                !leaked,
                "{} received a message after the removal",
                user.username
            );
        }
    }
    println!(
        "{answered} joins were answered, {refused} refused; the owner waited {slowest:?} at most"
    );
    assert!(slowest < PATIENCE, "an honest client waited {slowest:?}");
    assert!(answered > 0, "no join succeeded before its removal");
}

async fn a_mute_survives_leaving_and_rejoining(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let eve = chat.register("eve").await;
    let room = chat.room(&ada, "public", &[&bob]).await;
    let (owner, his) = (chat.rest_as(0, &ada), chat.rest_as(1, &bob));
    let path = format!("/v1/rooms/{room}");
    let mute = |user: &User| format!("{path}/mutes/{}", user.id);
    let send = |rest: Rest| {
        let path = format!("{path}/messages?wait=stored");
        async move { rest.post(&path, json!({"body": "x"})).await }
    };
    let muted = owner.put(&mute(&bob), json!({})).await.ok(200);
    assert!(muted["mutedUntil"].is_string());
    send(his.clone()).await.problem(403, "forbidden");
    // After leaving over REST, a removal by the owner and a lifted ban, the member is still muted.
    let back = async || {
        let member = his.post(&format!("{path}/join"), json!({})).await.ok(200);
        assert_eq!(member["mutedUntil"], muted["mutedUntil"], "{member}");
        send(his.clone()).await.problem(403, "forbidden");
    };
    his.post(&format!("{path}/leave"), json!({})).await.ok(204);
    back().await;
    owner.delete(&member(room, &bob)).await.ok(204);
    back().await;
    let ban = format!("{path}/bans/{}", bob.id);
    owner.put(&ban, json!({})).await.ok(204);
    owner.delete(&ban).await.ok(204);
    back().await;
    // Rejoins over a socket.
    his.post(&format!("{path}/leave"), json!({})).await.ok(204);
    let mut bobs = chat.connect(1, &bob).await;
    bobs.join(room, None).await.expect("anyone joins");
    let data = json!({"room": room, "body": "x", "clientMsgId": "1"});
    bobs.call("sendMessage", data).await.expect("accepted");
    assert_eq!(bobs.event("sendFailed").await["code"], "forbidden");
    // A mute of a user who was never a member applies when they join; a mute can be lifted while the user is absent.
    owner.put(&mute(&eve), json!({})).await.ok(204);
    chat.rest_as(1, &eve)
        .post(&format!("{path}/join"), json!({}))
        .await
        .ok(200);
    send(chat.rest_as(1, &eve)).await.problem(403, "forbidden");
    his.post(&format!("{path}/leave"), json!({})).await.ok(204);
    owner.delete(&mute(&bob)).await.ok(204);
    let member = his.post(&format!("{path}/join"), json!({})).await.ok(200);
    assert_eq!(member["mutedUntil"], Value::Null);
    send(his.clone()).await.ok(201);
    let nobody = format!("{path}/mutes/{}", Uuid::new_v4());
    owner
        .put(&nobody, json!({}))
        .await
        .problem(404, "not_found");
}

/// When a login ends, its sockets are closed and its access token opens no new ones, however it ended.
async fn an_ended_login_has_no_sockets(kind: Kind) {
    let plan = Chat::plan(kind).set("edge.rights_interval", "1h");
    let chat = plan.start().await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let refresh = |token: String| {
        let rest = chat.rest(0);
        async move {
            rest.post("/v1/auth/refresh", json!({"refreshToken": token}))
                .await
        }
    };
    // Reuse of a rotated refresh token means that it was stolen: the login is closed.
    let adas = chat.connect(1, &ada).await;
    let next = refresh(ada.refresh.clone()).await.ok(200);
    refresh(next["refreshToken"].as_str().expect("a token").to_owned())
        .await
        .ok(200);
    let asked = Instant::now();
    refresh(ada.refresh.clone())
        .await
        .problem(401, "unauthorized");
    assert_eq!(adas.closed().await.code, 4001);
    println!("closed {:?} after the token was replayed", asked.elapsed());
    assert!(asked.elapsed() < PATIENCE);

    let bobs = chat.connect(1, &bob).await;
    let logout = json!({"refreshToken": bob.refresh});
    chat.rest(0).post("/v1/auth/logout", logout).await.ok(204);
    assert_eq!(bobs.closed().await.code, 4001);
    for user in [&ada, &bob] {
        for edge in 0..chat.edges.len() {
            assert_eq!(
                refusal_code(&chat, edge, user).await,
                4001,
                "{}",
                user.username
            );
        }
    }
}

/// The close code of a socket opened with this user's access token.
async fn refusal_code(chat: &Chat, edge: usize, user: &User) -> u16 {
    let dial = chat.dial(edge).bearer(&user.access);
    let socket = dial
        .connect()
        .await
        .expect("the refusal is in the close code");
    socket.closed().await.code
}

async fn a_deleted_account_cannot_open_a_socket(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let adas = chat.connect(0, &ada).await;
    let delete = chat.rest_as(0, &ada);
    let body = json!({"password": ada.password}).to_string().into_bytes();
    let body = Some(("application/json", body));
    let answer = delete.send(Method::DELETE, "/v1/me", body).await;
    assert!(matches!(answer.status, 204 | 202), "{answer:?}");
    assert_eq!(adas.closed().await.code, 4001);
    for edge in 0..chat.edges.len() {
        assert_eq!(refusal_code(&chat, edge, &ada).await, 4001);
        let me = chat.rest_as(edge, &ada).get("/v1/me").await;
        assert!(me.status == 401 || me.status == 404, "{me:?}");
    }
}

async fn a_repeated_create_returns_no_room_to_a_banned_user(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let create = |kind: &'static str| {
        let url = format!("{}/v1/rooms", chat.edge(0).url());
        let body = json!({"kind": kind, "name": "before", "members": [bob.id]});
        let request = chat
            .http
            .post(url)
            .bearer_auth(&ada.access)
            .header("Idempotency-Key", format!("the-{kind}-one"))
            .header("Content-Type", "application/json")
            .body(body.to_string());
        async move {
            let answer = request.send().await.expect("an answer");
            let status = answer.status().as_u16();
            let text = answer.text().await.expect("a body");
            (status, text)
        }
    };
    let id = |text: &str| {
        let room: Value = serde_json::from_str(text).expect("JSON");
        crate::harness::deployment::uuid(&room["id"])
    };
    let (status, text) = create("private").await;
    assert_eq!(status, 201, "{text}");
    let room = id(&text);
    assert_eq!(create("private").await.0, 201, "a repeat finds it");
    // The room passes to Bob, who bans Ada and changes its name.
    let (hers, his) = (chat.rest_as(0, &ada), chat.rest_as(1, &bob));
    hers.put(&member(room, &bob), json!({"role": "owner"}))
        .await
        .ok(200);
    let ban = format!("/v1/rooms/{room}/bans/{}", ada.id);
    his.put(&ban, json!({})).await.ok(204);
    let name = json!({"name": "a secret"});
    his.patch(&format!("/v1/rooms/{room}"), name).await.ok(200);
    let (status, text) = create("private").await;
    assert_eq!(status, 409, "{text}");
    assert!(!text.contains("secret"), "{text}");

    // The same for the other operations that answer a repetition with a resource.
    let room = chat.room(&ada, "private", &[&bob]).await;
    let send = |rest: Rest| async move {
        let path = format!("/v1/rooms/{room}/messages?wait=stored");
        let body = json!({"body": "mine", "clientMsgId": "1"});
        rest.post(&path, body).await
    };
    let message = send(his.clone()).await.ok(201);
    let edit = format!(
        "/v1/rooms/{room}/messages/{}",
        message["id"].as_str().expect("an id")
    );
    hers.delete(&member(room, &bob)).await.ok(204);
    send(his.clone()).await.problem(404, "not_found");
    let body = json!({"body": "mine"});
    his.patch(&edit, body).await.problem(404, "not_found");
    his.delete(&edit).await.problem(404, "not_found");
    let reaction = format!("{edit}/reactions/%F0%9F%91%8D");
    his.delete(&reaction).await.problem(404, "not_found");
    his.put(&format!("/v1/rooms/{room}/read"), json!({"seq": 1}))
        .await
        .problem(404, "not_found");
    his.put(&member(room, &ada), json!({"role": "owner"}))
        .await
        .problem(404, "not_found");
}

/// To a stranger, hidden and nonexistent resources get identical responses, except for the request id.
async fn responses_do_not_reveal_private_messages(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, eve) = tokio::join!(chat.register("ada"), chat.register("eve"));
    let room = chat.room(&ada, "private", &[]).await;
    let public = chat.room(&ada, "public", &[]).await;
    let own = chat.room(&eve, "private", &[]).await;
    let say = async |room: Uuid| {
        let path = format!("/v1/rooms/{room}/messages?wait=stored");
        let said = chat
            .rest_as(0, &ada)
            .post(&path, json!({"body": "x"}))
            .await;
        crate::harness::deployment::uuid(&said.ok(201)["id"])
    };
    let (private, open) = (say(room).await, say(public).await);
    let (no_room, no_message) = (Uuid::new_v4(), Uuid::new_v4());
    let eves = chat.rest_as(1, &eve);
    let ask = async |method: Method, path: String, body: Option<Value>| {
        let body = body.map(|body| ("application/json", body.to_string().into_bytes()));
        let answer = eves.send(method, &path, body).await;
        let mut problem = answer.json();
        problem["requestId"].take();
        problem["instance"].take();
        (answer.status, problem.to_string())
    };
    // Each is requested for an existing resource, then for a nonexistent one.
    type Path<'a> = &'a dyn Fn(Uuid, Uuid) -> String;
    let at_message: Path = &|room, message| format!("/v1/rooms/{room}/messages/{message}");
    let paths: [(Method, Path, Option<Value>); 17] = [
        (Method::GET, &|room, _| format!("/v1/rooms/{room}"), None),
        (
            Method::PATCH,
            &|room, _| format!("/v1/rooms/{room}"),
            Some(json!({"name": "x"})),
        ),
        (Method::DELETE, &|room, _| format!("/v1/rooms/{room}"), None),
        (
            Method::POST,
            &|room, _| format!("/v1/rooms/{room}/join"),
            None,
        ),
        (
            Method::POST,
            &|room, _| format!("/v1/rooms/{room}/leave"),
            None,
        ),
        (
            Method::GET,
            &|room, _| format!("/v1/rooms/{room}/members"),
            None,
        ),
        (
            Method::PUT,
            &|room, _| format!("/v1/rooms/{room}/members/{}", ada.id),
            Some(json!({"role": "member"})),
        ),
        (
            Method::PUT,
            &|room, _| format!("/v1/rooms/{room}/bans/{}", ada.id),
            Some(json!({})),
        ),
        (
            Method::PUT,
            &|room, _| format!("/v1/rooms/{room}/mutes/{}", ada.id),
            Some(json!({})),
        ),
        (
            Method::GET,
            &|room, _| format!("/v1/rooms/{room}/messages"),
            None,
        ),
        (
            Method::POST,
            &|room, _| format!("/v1/rooms/{room}/messages"),
            Some(json!({"body": "x"})),
        ),
        (
            Method::GET,
            &|room, _| format!("/v1/rooms/{room}/changes"),
            None,
        ),
        (
            Method::PUT,
            &|room, _| format!("/v1/rooms/{room}/read"),
            Some(json!({"seq": 1})),
        ),
        (Method::GET, at_message, None),
        (Method::PATCH, at_message, Some(json!({"body": "x"}))),
        (Method::DELETE, at_message, None),
        (
            Method::PUT,
            &|room, message| format!("/v1/rooms/{room}/messages/{message}/reactions/a"),
            None,
        ),
    ];
    for (method, path, body) in paths {
        let there = ask(method.clone(), path(room, private), body.clone()).await;
        let nowhere = ask(method.clone(), path(no_room, no_message), body).await;
        assert_eq!(there, nowhere, "{method} {}", path(room, private));
        assert_eq!(there.0, 404);
    }
    // A message of another room, in the caller's own room.
    for message in [private, open] {
        let path = |message| format!("/v1/rooms/{own}/messages/{message}");
        let there = ask(Method::GET, path(message), None).await;
        assert_eq!(there, ask(Method::GET, path(no_message), None).await);
        let reply = |to: Uuid| {
            let body = json!({"body": "x", "replyTo": to});
            ask(
                Method::POST,
                format!("/v1/rooms/{own}/messages"),
                Some(body),
            )
        };
        assert_eq!(reply(message).await, reply(no_message).await);
        let path = |message| format!("/v1/messages/{message}/notifications");
        let there = ask(Method::GET, path(message), None).await;
        assert_eq!(there, ask(Method::GET, path(no_message), None).await);
        assert_eq!(there.0, 404);
    }
    // The same over a socket.
    let eves = chat.connect(1, &eve).await;
    let events = [
        ("joinRoom", json!({})),
        ("sendMessage", json!({"body": "x", "clientMsgId": "1"})),
        ("editMessage", json!({"id": private, "body": "x"})),
        ("deleteMessage", json!({"id": private})),
        ("react", json!({"id": private, "emoji": "a", "on": true})),
        ("markRead", json!({"seq": 1})),
    ];
    for (event, data) in events {
        let answer = async |room: Uuid| {
            let mut data = data.clone();
            data["room"] = json!(room);
            let error = eves.call(event, data).await.expect_err("a stranger");
            (error.code, error.message)
        };
        assert_eq!(answer(room).await, answer(no_room).await, "{event}");
    }
}

async fn users_without_a_shared_room_cannot_be_added(kind: Kind) {
    let plan = Chat::plan(kind).set("rooms.add_members", "shared_rooms");
    let chat = plan.start().await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let hers = chat.rest_as(0, &ada);
    let room = chat.room(&ada, "private", &[]).await;
    cannot_be_added(&hers, room, &bob, KINDS).await;
    // Both joined one public room themselves.
    let lobby = chat.room(&ada, "public", &[]).await;
    let his = chat.rest_as(1, &bob);
    his.post(&format!("/v1/rooms/{lobby}/join"), json!({}))
        .await
        .ok(200);
    let direct = chat.room(&ada, "direct", &[&bob]).await;
    let role = json!({"role": "member"});
    hers.put(&member(room, &bob), role.clone()).await.ok(200);
    // After leaving, he cannot be added to any room, including those he was a member of.
    for room in [lobby, direct, room] {
        his.post(&format!("/v1/rooms/{room}/leave"), json!({}))
            .await
            .ok(204);
    }
    // The direct room is tested below.
    cannot_be_added(&hers, room, &bob, &KINDS[..2]).await;
    assert_eq!(
        chat.room(&ada, "direct", &[&bob]).await,
        direct,
        "hers still"
    );
    his.get(&format!("/v1/rooms/{direct}"))
        .await
        .problem(404, "not_found");
    // He can rejoin himself.
    assert_eq!(chat.room(&bob, "direct", &[&ada]).await, direct);
    his.get(&format!("/v1/rooms/{direct}")).await.ok(200);
}

async fn members_cannot_be_added_directly(kind: Kind) {
    let plan = Chat::plan(kind).set("rooms.add_members", "invitation");
    let chat = plan.start().await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let (hers, his) = (chat.rest_as(0, &ada), chat.rest_as(1, &bob));
    let room = chat.room(&ada, "private", &[]).await;
    let lobby = chat.room(&ada, "public", &[]).await;
    his.post(&format!("/v1/rooms/{lobby}/join"), json!({}))
        .await
        .ok(200);
    cannot_be_added(&hers, room, &bob, KINDS).await;
    // A member who joined without an invitation can be given a role.
    let admin = json!({"role": "admin"});
    hers.put(&member(lobby, &bob), admin).await.ok(200);
}

/// `user` can be added neither to `room` nor to new rooms of these kinds, and none of the new rooms is created.
async fn cannot_be_added(hers: &Rest, room: Uuid, user: &User, kinds: &[&str]) {
    let before = hers.get("/v1/rooms?limit=200").await.ok(200);
    let role = json!({"role": "member"});
    hers.put(&member(room, user), role)
        .await
        .problem(403, "forbidden");
    for kind in kinds {
        let mut body = json!({"kind": kind, "members": [user.id]});
        if *kind != "direct" {
            body["name"] = "trap".into();
        }
        hers.post("/v1/rooms", body).await.problem(403, "forbidden");
    }
    let after = eventually("the rooms", || async {
        Some(hers.get("/v1/rooms?limit=200").await.ok(200))
    })
    .await;
    assert_eq!(
        before["items"].as_array().map(Vec::len),
        after["items"].as_array().map(Vec::len)
    );
}

/// Without the bus, revoked rights are found by reading the store.
#[tokio::test]
async fn rights_are_revoked_without_redis() {
    let proxy = TcpProxy::to(&authority(&server("REDIS_URL"))).await;
    let plan = Chat::plan(Kind::Cluster)
        .via("REDIS_URL", proxy.address)
        .set("edge.wait", "200ms")
        .set("edge.rights_interval", "1h");
    let chat = plan.start().await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let eve = chat.register("eve").await;
    let room = chat.room(&ada, "private", &[&bob]).await;
    let (bobs, eves) = (chat.connect(1, &bob).await, chat.connect(1, &eve).await);
    bobs.join(room, None).await.expect("he was made a member");
    let adas = chat.connect(1, &ada).await;
    adas.join(room, None).await.expect("hers");
    proxy.freeze();
    proxy.cut();
    let edge = chat.rest(1);
    eventually("the edge misses its bus", || async {
        let metrics = edge.get("/metrics").await.text;
        metrics
            .lines()
            .any(|line| line == "chat_bus_state 0")
            .then_some(())
    })
    .await;

    let hers = chat.rest_as(0, &ada);
    let removed = hers.delete(&member(room, &bob)).await;
    assert!([202, 204].contains(&removed.status), "{removed:?}");
    let logout = json!({"refreshToken": eve.refresh});
    let ended = chat.rest(0).post("/v1/auth/logout", logout).await;
    assert!([202, 204].contains(&ended.status), "{ended:?}");
    let path = format!("/v1/rooms/{room}/members");
    eventually("the removal is stored", || async {
        let members = hers.get(&path).await.ok(200);
        (members["items"].as_array().map(Vec::len) == Some(1)).then_some(())
    })
    .await;
    let since = Instant::now();
    let path = format!("/v1/rooms/{room}/messages");
    let secret = json!({"body": "for nobody else"});
    hers.post(&path, secret).await.ok(202);
    bobs.until("memberLeft", |received| {
        received
            .events
            .iter()
            .any(|event| event.name == "memberLeft")
            .then_some(())
    })
    .await;
    let left = since.elapsed();
    assert_eq!(eves.closed().await.code, 4001);
    let closed = since.elapsed();
    println!(
        "without Redis: unsubscribed after {left:?}, the login's socket closed after {closed:?}"
    );
    assert!(left < PATIENCE && closed < PATIENCE);
    // Sent on the same edge, which delivers to all sockets of the room at once.
    adas.until("the owner's own message", |received| {
        received
            .events
            .iter()
            .any(|event| event.name == "newMessage")
            .then_some(())
    })
    .await;
    bobs.settle().await;
    assert!(bobs.events("newMessage").is_empty());
}
