//! People talk: sending, changing, reacting, reading.

use serde_json::{Value, json};
use uuid::Uuid;

use super::people::{Pair, pair, seqs};
use crate::harness::{Chat, Kind, both_ways, deployment::uuid};

both_ways!(
    two_people_talk,
    messages_change,
    reading_is_remembered,
    a_repeated_send_is_one_message,
    a_message_over_rest,
    a_refused_send_reaches_its_sender,
);

<<<<<<< HEAD
/// Ada and Bob in a public room of Ada's, she on the first edge and he on the second, both live.
struct Pair {
    ada: User,
    bob: User,
    room: Uuid,
    adas: Socket,
    bobs: Socket,
}

async fn pair(chat: &Chat) -> Pair {
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "public", &[]).await;
    let (adas, bobs) = (chat.connect(0, &ada).await, chat.connect(1, &bob).await);
    adas.join(room, None).await.expect("the owner joins");
    bobs.join(room, None).await.expect("anyone joins");
    Pair {
        ada,
        bob,
        room,
        adas,
        bobs,
    }
}

/// Waits until the room is at `seq` for its readers over REST.
async fn room_reaches(rest: &Rest, room: Uuid, seq: i64) {
    eventually("the room's head", || async {
        let room = rest.get(&format!("/v1/rooms/{room}")).await.ok(200);
        (room["seq"].as_i64() >= Some(seq)).then_some(())
    })
    .await;
}

fn seqs(items: &Value) -> Vec<i64> {
    let items = items.as_array().expect("a list");
    items
        .iter()
        .map(|item| item["seq"].as_i64().expect("a seq"))
        .collect()
}

=======
>>>>>>> e2e
async fn two_people_talk(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;

    // Ada was 1 and Bob 2: she hears that he came.
    assert_eq!(adas.event("memberJoined").await["user"]["username"], "bob");

    let data = json!({
        "room": room, "body": "hello, Bob ✓", "clientMsgId": "first", "metadata": {"mood": [1, 2.50]},
    });
    let ack = adas
        .call("sendMessage", data.clone())
        .await
        .expect("it is accepted");
    assert_eq!(ack["status"], "accepted");
    assert_eq!(ack["clientMsgId"], "first");
    let id = uuid(&ack["id"]);
    assert_eq!(
        id.get_version_num(),
        8,
        "derived from room, sender and clientMsgId"
    );

    for socket in [&mut adas, &mut bobs] {
        let message = socket.event("newMessage").await;
        assert_eq!(message["id"], json!(id));
        assert_eq!(message["room"], json!(room));
        assert_eq!(message["seq"], 3);
        assert_eq!(message["changeSeq"], 3);
        assert_eq!(message["clientMsgId"], "first");
        assert_eq!(message["body"], "hello, Bob ✓");
        assert_eq!(
            message["sender"],
            json!({"id": ada.id, "username": "ada", "displayName": "Ada"})
        );
        assert_eq!(message["metadata"], json!({"mood": [1, 2.50]}));
        assert_eq!(message["reactions"], json!([]));
        let created = message["createdAt"].as_str().expect("a time");
        assert!(created.len() == 24 && created.ends_with('Z'), "{created}");
        assert!(message.get("editedAt").is_none() && message.get("deletedAt").is_none());
    }

    // Bob answers, on his own edge.
    let data = json!({"room": room, "body": "hello, Ada", "clientMsgId": "first", "replyTo": id});
    let ack = bobs
        .call("sendMessage", data)
        .await
        .expect("it is accepted");
    assert_ne!(
        ack["id"],
        json!(id),
        "another sender's `first` is another message"
    );
    for socket in [&mut adas, &mut bobs] {
        let message = socket.event("newMessage").await;
        assert_eq!(
            (&message["seq"], &message["replyTo"]),
            (&json!(4), &json!(id))
        );
    }

    // One connection's messages keep their order, however fast they come.
    let mut pending = Vec::new();
    for i in 0..100 {
        let data =
            json!({"room": room, "body": i.to_string(), "clientMsgId": format!("burst {i}")});
        pending.push(adas.send("sendMessage", data).await);
    }
    for pending in pending {
        pending.ack().await.expect("each is accepted");
    }
    for i in 0..100 {
        let message = bobs.event("newMessage").await;
        assert_eq!(
            (&message["body"], &message["seq"]),
            (&json!(i.to_string()), &json!(5 + i))
        );
    }
}

<<<<<<< HEAD
async fn every_way_to_authenticate_a_socket(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;

    let mut bearer = chat
        .dial(0)
        .bearer(&ada.access)
        .connect()
        .await
        .expect("accepted");
    let connected = bearer.event("connected").await;
    assert_eq!(connected["user"]["id"], json!(ada.id));
    assert_eq!(connected["user"]["displayName"], "Ada");
    assert_eq!(connected["limits"]["maxBodyBytes"], 8000);
    assert!(!connected["session"].as_str().unwrap_or_default().is_empty());

    let mut first_frame = chat
        .dial(1)
        .first_frame(&ada.access)
        .connect()
        .await
        .expect("accepted");
    assert_eq!(
        first_frame.event("connected").await["user"]["id"],
        json!(ada.id)
    );

    // A ticket is good on any edge, once.
    let ticket = chat
        .rest_as(0, &ada)
        .post("/v1/auth/ticket", json!({}))
        .await
        .ok(201);
    let ticket = ticket["ticket"].as_str().expect("a ticket");
    let mut ticketed = chat
        .dial(1)
        .ticket(ticket)
        .connect()
        .await
        .expect("accepted");
    assert_eq!(
        ticketed.event("connected").await["user"]["id"],
        json!(ada.id)
    );
    let again = chat
        .dial(0)
        .ticket(ticket)
        .connect()
        .await
        .expect("told by the close code");
    assert_eq!(again.closed().await.code, 4001);

    // Goodbye is answered.
    bearer
        .call("disconnect", json!({}))
        .await
        .expect("an answer");
    assert_eq!(bearer.closed().await.code, 1001);
}

async fn a_login_goes_on_and_ends(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;

    let login = json!({"username": "ada", "password": ada.password});
    let session = eventually("the login", || async {
        let answer = chat.rest(1).post("/v1/auth/login", login.clone()).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    let refresh = json!({"refreshToken": session["refreshToken"]});
    let tokens = eventually("the refresh", || async {
        let answer = chat.rest(0).post("/v1/auth/refresh", refresh.clone()).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_ne!(
        tokens["refreshToken"], session["refreshToken"],
        "it rotates"
    );
    let access = tokens["accessToken"].as_str().expect("a token");
    let me = chat.rest(1).with_token(access).get("/v1/me").await.ok(200);
    assert_eq!(me["username"], "ada");

    // Logging out ends the login's sockets, and no other login's.
    let ended = chat
        .dial(1)
        .bearer(access)
        .connect()
        .await
        .expect("accepted");
    let other = chat.connect(1, &ada).await;
    chat.rest(0)
        .post(
            "/v1/auth/logout",
            json!({"refreshToken": tokens["refreshToken"]}),
        )
        .await
        .ok(204);
    assert_eq!(ended.closed().await.code, 4001);
    other.settle().await;
    chat.rest(0)
        .post(
            "/v1/auth/refresh",
            json!({"refreshToken": tokens["refreshToken"]}),
        )
        .await
        .problem(401, "unauthorized");
}

=======
>>>>>>> e2e
async fn messages_change(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        bob,
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    let id = adas.say(room, "one", "helo").await;

    // Over the socket: the answer is the message as it is then.
    let edit = json!({"room": room, "id": id, "body": "hello"});
    let edited = adas
        .call("editMessage", edit.clone())
        .await
        .expect("her own");
    assert_eq!(
        (&edited["body"], &edited["seq"], &edited["changeSeq"]),
        (&json!("hello"), &json!(3), &json!(4))
    );
    assert!(edited["editedAt"].is_string());
    for socket in [&mut adas, &mut bobs] {
        let updated = socket.event("messageUpdated").await;
        assert_eq!(
            (&updated["id"], &updated["body"], &updated["changeSeq"]),
            (&json!(id), &json!("hello"), &json!(4))
        );
    }
    let refused = bobs.call("editMessage", edit).await.expect_err("not his");
    assert_eq!(refused.code, "forbidden");

    let react = |on: bool| json!({"room": room, "id": id, "emoji": "👍", "on": on});
    bobs.call("react", react(true))
        .await
        .expect("anyone reacts");
    let updated = adas.event("reactionUpdated").await;
    assert_eq!(
        updated["reactions"],
        json!([{"emoji": "👍", "users": [bob.id]}])
    );
    assert_eq!(updated["changeSeq"], 5);
    bobs.call("react", react(false))
        .await
        .expect("and takes it back");
    assert_eq!(adas.event("reactionUpdated").await["reactions"], json!([]));

    // Over REST.
    let rest = chat.rest_as(1, &bob);
    let path = format!("/v1/rooms/{room}/messages/{id}");
    rest.put(&format!("{path}/reactions/%F0%9F%8E%89"), Value::Null)
        .await
        .ok(200);
    assert_eq!(
        adas.event("reactionUpdated").await["reactions"][0]["emoji"],
        "🎉"
    );
    rest.patch(&path, json!({"body": "mine now"}))
        .await
        .problem(403, "forbidden");
    rest.delete(&path).await.problem(403, "forbidden");

    let deleted = adas
        .call("deleteMessage", json!({"room": room, "id": id}))
        .await
        .expect("her own");
    assert_eq!(deleted["body"], "");
    let seen = bobs.event("messageDeleted").await;
    assert_eq!(
        (&seen["id"], &seen["body"], &seen["reactions"]),
        (&json!(id), &json!(""), &json!([]))
    );
    assert!(seen["deletedAt"].is_string());
    let refused = adas
        .call(
            "editMessage",
            json!({"room": room, "id": id, "body": "back"}),
        )
        .await
        .expect_err("deleted");
    assert_eq!(refused.code, "conflict");
    let found = rest.get(&path).await.ok(200);
    assert_eq!((&found["body"], &found["seq"]), (&json!(""), &json!(3)));

    // Every number of the room is one event, and this is what a socket would have seen.
    let changes = rest
        .get(&format!("/v1/rooms/{room}/changes?after=0"))
        .await
        .ok(200);
    let told: Vec<(i64, &str)> = changes["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| {
            (
                item["data"]["changeSeq"].as_i64().expect("a number"),
                item["event"].as_str().expect("a name"),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (1, "memberJoined"),
            (2, "memberJoined"),
            (3, "newMessage"),
            (4, "messageUpdated"),
            (5, "reactionUpdated"),
            (6, "reactionUpdated"),
            (7, "reactionUpdated"),
            (8, "messageDeleted"),
        ]
    );
}

async fn reading_is_remembered(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        bob,
        room,
        adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    for i in 0..3 {
        adas.say(room, &format!("{i}"), "x").await;
    }
    for _ in 0..3 {
        bobs.event("newMessage").await;
    }
    let joined = bobs.join(room, None).await.expect("again");
    assert_eq!((&joined["unread"], &joined["seq"]), (&json!(3), &json!(5)));
    bobs.call("markRead", json!({"room": room, "seq": 4}))
        .await
        .expect("a number he has seen");
    assert_eq!(bobs.join(room, None).await.expect("again")["unread"], 1);
    // It never goes back.
    bobs.call("markRead", json!({"room": room, "seq": 3}))
        .await
        .expect("no harm");
    let rest = chat.rest_as(0, &bob);
    let path = format!("/v1/rooms/{room}");
    assert_eq!(rest.get(&path).await.ok(200)["unread"], 1);
    let member = rest
        .put(&format!("{path}/read"), json!({"seq": 5}))
<<<<<<< HEAD
        .await
        .ok(200);
    assert_eq!(member["readSeq"], 5);
    assert_eq!(rest.get(&path).await.ok(200)["unread"], 0);
    let refused = bobs
        .call("markRead", json!({"room": room, "seq": 6}))
        .await
        .expect_err("the future");
    assert_eq!(refused.code, "invalid");
}

async fn history_is_paged_by_seq(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        bob, room, adas, ..
    } = pair(&chat).await;
    // 1 and 2 are the two members, the messages 3 to 12.
    let mut pending = Vec::new();
    for i in 3..=12 {
        let data = json!({"room": room, "body": format!("m{i}"), "clientMsgId": i.to_string()});
        pending.push(adas.send("sendMessage", data).await);
    }
    for pending in pending {
        pending.ack().await.expect("accepted");
    }
    let rest = chat.rest_as(1, &bob);
    room_reaches(&rest, room, 12).await;
    let page = |query: &str| {
        let (rest, path) = (rest.clone(), format!("/v1/rooms/{room}/messages?{query}"));
        async move { rest.get(&path).await.ok(200) }
    };

    let latest = page("limit=3").await;
    assert_eq!(seqs(&latest["items"]), [10, 11, 12]);
    assert_eq!(latest["items"][2]["body"], "m12");

    let before = page("before=6&limit=2").await;
    assert_eq!(seqs(&before["items"]), [4, 5]);
    assert_eq!(before["hasMore"], true);
    let first = page("before=5&limit=2").await;
    assert_eq!(
        (seqs(&first["items"]), &first["hasMore"]),
        (vec![3, 4], &json!(false))
    );

    // Forward, page by page, to the end.
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let next = page(&format!("after={after}&limit=4")).await;
        seen.extend(seqs(&next["items"]));
        if next["hasMore"] == json!(false) {
            break;
        }
        after = next["nextCursor"]
            .as_i64()
            .expect("a cursor where there is more");
    }
    assert_eq!(seen, (3..=12).collect::<Vec<i64>>());

    assert_eq!(seqs(&page("around=7&limit=4").await["items"]), [5, 6, 7, 8]);
    assert_eq!(seqs(&page("after=12").await["items"]), Vec::<i64>::new());
    assert_eq!(seqs(&page("before=3").await["items"]), Vec::<i64>::new());
}

async fn a_socket_resumes_where_it_was(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        bob,
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    let first = adas.say(room, "1", "one").await;
    let seen = bobs.event("newMessage").await["changeSeq"]
        .as_i64()
        .expect("a number");
    bobs.close().await;

    // While Bob is away: two messages, a change of the one he knows, someone new.
    adas.say(room, "2", "two").await;
    let edit = json!({"room": room, "id": first, "body": "one, edited"});
    adas.call("editMessage", edit).await.expect("her own");
    adas.say(room, "3", "three").await;
    let cleo = chat.register("cleo").await;
    let cleos = chat.connect(0, &cleo).await;
    cleos.join(room, None).await.expect("anyone joins");
    while adas.event("memberJoined").await["user"]["username"] != "cleo" {}

    // On the other edge.
    let mut bobs = chat.connect(0, &bob).await;
    let joined = bobs.join(room, Some(seen)).await.expect("he is a member");
    assert_eq!(
        (&joined["seq"], &joined["hasMore"]),
        (&json!(7), &json!(false))
    );
    let mut bodies: Vec<_> = joined["messages"].as_array().expect("a list").clone();
    bodies.sort_by_key(|message| message["seq"].as_i64());
    let bodies: Vec<&Value> = bodies.iter().map(|message| &message["body"]).collect();
    assert_eq!(bodies, ["one, edited", "two", "three"]);
    let events = joined["events"].as_array().expect("a list");
    assert_eq!(events.len(), 1);
    assert_eq!(
        (&events[0]["event"], &events[0]["data"]["user"]["username"]),
        (&json!("memberJoined"), &json!("cleo"))
    );

    // And live again, with nothing of it twice.
    adas.say(room, "4", "four").await;
    let next = bobs.event("newMessage").await;
    assert_eq!((&next["body"], &next["seq"]), (&json!("four"), &json!(8)));
    assert_eq!(bobs.events("newMessage").len(), 1);
    assert!(bobs.events("memberJoined").is_empty());

    // Up to date already: nothing to tell.
    let joined = bobs.join(room, Some(8)).await.expect("again");
    assert_eq!(
        (&joined["seq"], &joined["messages"]),
        (&json!(8), &json!([]))
    );
}

async fn a_long_absence_is_resumed_in_pages(kind: Kind) {
    let chat = Chat::plan(kind).set("limits.burst", 100_000).start().await;
    let Pair {
        ada,
        bob,
        room,
        adas,
        ..
    } = pair(&chat).await;
    const MISSED: i64 = 1300;
    let mut pending = Vec::new();
    for i in 0..MISSED {
        let data = json!({"room": room, "body": format!("m{i}"), "clientMsgId": i.to_string()});
        pending.push(adas.send("sendMessage", data).await);
    }
    for pending in pending {
        pending.ack().await.expect("accepted");
    }
    room_reaches(&chat.rest_as(1, &ada), room, MISSED + 2).await;

    let bobs = chat.connect(1, &bob).await;
    let (mut after, mut got, mut pages) = (2, Vec::new(), 0);
    loop {
        let joined = bobs.join(room, Some(after)).await.expect("a page");
        got.extend(seqs(&joined["messages"]));
        after = joined["seq"].as_i64().expect("a number");
        pages += 1;
        if joined["hasMore"] == json!(false) {
            break;
        }
        assert!(pages < MISSED, "it gets on");
    }
    assert!(pages > 1, "one answer does not hold {MISSED} messages");
    assert_eq!(got, (3..MISSED + 3).collect::<Vec<i64>>());
    assert!(
        bobs.events("newMessage").is_empty(),
        "nothing before the last page"
    );
}

async fn who_leaves_a_room_hears_no_more_of_it(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    adas.say(room, "1", "one").await;
    bobs.event("newMessage").await;
    let left = bobs
        .call("leaveRoom", json!({"room": room}))
        .await
        .expect("leaving is easy");
    assert_eq!(left["room"], json!(room));
    adas.say(room, "2", "two").await;
    adas.event("newMessage").await;
    adas.event("newMessage").await;
    // He is a member still: what he missed is there when he comes back, and nothing came before.
    let joined = bobs.join(room, Some(3)).await.expect("back");
    assert_eq!(seqs(&joined["messages"]), [4]);
    assert_eq!(bobs.events("newMessage").len(), 1);
}

async fn members_come_and_go(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        bob,
        room,
        mut adas,
        ..
    } = pair(&chat).await;
    let bobs = chat.rest_as(1, &bob);
    let path = format!("/v1/rooms/{room}");
    assert_eq!(
        adas.event("memberJoined").await["user"]["id"],
        json!(bob.id)
    );

    bobs.post(&format!("{path}/leave"), json!({})).await.ok(204);
    let left = adas.event("memberLeft").await;
    assert_eq!(
        (
            &left["user"]["id"],
            &left["reason"],
            &left["by"],
            &left["changeSeq"]
        ),
        (&json!(bob.id), &json!("left"), &json!(bob.id), &json!(3))
    );
    bobs.get(&format!("{path}/messages"))
        .await
        .problem(403, "forbidden");

    let member = bobs.post(&format!("{path}/join"), json!({})).await.ok(200);
    assert_eq!(member["role"], "member");
    assert_eq!(adas.event("memberJoined").await["changeSeq"], 4);

    // Roles, and the room itself.
    let owner = chat.rest_as(0, &ada);
    let admin = owner
        .put(
            &format!("{path}/members/{}", bob.id),
            json!({"role": "admin"}),
        )
        .await
        .ok(200);
    assert_eq!(admin["role"], "admin");
    let updated = adas.event("roomUpdated").await;
    assert_eq!(
        (&updated["member"]["user"]["id"], &updated["member"]["role"]),
        (&json!(bob.id), &json!("admin"))
    );
    bobs.patch(&path, json!({"name": "renamed"})).await.ok(200);
    assert_eq!(adas.event("roomUpdated").await["name"], "renamed");
    bobs.delete(&path).await.problem(403, "forbidden");

    let members = owner.get(&format!("{path}/members")).await.ok(200);
    let mut names: Vec<&str> = members["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|member| member["user"]["username"].as_str().expect("a name"))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["ada", "bob"]);

    owner.delete(&path).await.ok(204);
    assert_eq!(adas.event("roomUpdated").await["deleted"], true);
    bobs.get(&path).await.problem(404, "not_found");
}

async fn a_private_room_is_nobody_elses(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, bob, eve) = tokio::join!(
        chat.register("ada"),
        chat.register("bob"),
        chat.register("eve")
    );
    let room = chat.room(&ada, "private", &[&bob]).await;
    let bobs = chat.connect(1, &bob).await;
    bobs.join(room, None).await.expect("he was made a member");
    let id = bobs.say(room, "1", "between us").await;

    // A stranger learns not even that it exists, by any way in.
    let rest = chat.rest_as(0, &eve);
    let path = format!("/v1/rooms/{room}");
    for at in [
        "",
        "/members",
        "/messages",
        "/changes",
        &format!("/messages/{id}"),
    ] {
        rest.get(&format!("{path}{at}"))
            .await
            .problem(404, "not_found");
    }
    rest.post(&format!("{path}/join"), json!({}))
        .await
        .problem(404, "not_found");
    rest.post(&format!("{path}/messages"), json!({"body": "let me in"}))
        .await
        .problem(404, "not_found");
    rest.put(
        &format!("{path}/members/{}", eve.id),
        json!({"role": "admin"}),
    )
    .await
    .problem(404, "not_found");
    rest.patch(&format!("{path}/messages/{id}"), json!({"body": "x"}))
        .await
        .problem(404, "not_found");
    rest.put(&format!("{path}/messages/{id}/reactions/x"), Value::Null)
        .await
        .problem(404, "not_found");
    rest.put(&format!("{path}/read"), json!({"seq": 1}))
        .await
        .problem(404, "not_found");
    rest.delete(&path).await.problem(404, "not_found");

    let eves = chat.connect(0, &eve).await;
    for (event, data) in [
        ("joinRoom", json!({"room": room})),
        (
            "sendMessage",
            json!({"room": room, "body": "x", "clientMsgId": "1"}),
        ),
        ("editMessage", json!({"room": room, "id": id, "body": "x"})),
        ("deleteMessage", json!({"room": room, "id": id})),
        ("react", json!({"room": room, "id": id, "emoji": "x"})),
        ("markRead", json!({"room": room, "seq": 1})),
    ] {
        let refused = eves.call(event, data).await.expect_err(event);
        assert_eq!(refused.code, "not_found", "{event}");
    }
    let mine = rest.get("/v1/rooms").await.ok(200);
    assert_eq!(mine["items"], json!([]));
    let public = rest.get("/v1/rooms?public=true").await.ok(200);
    assert_eq!(public["items"], json!([]));
}

async fn a_removed_member_hears_nothing_within_a_second(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        bob,
        room,
        mut adas,
        mut bobs,
    } = pair(&chat).await;
    // Bob has a socket on each edge.
    let mut other = chat.connect(0, &bob).await;
    other.join(room, None).await.expect("a member");

    let path = format!("/v1/rooms/{room}/members/{}", bob.id);
    let removed = tokio::time::Instant::now();
    chat.rest_as(0, &ada).delete(&path).await.ok(204);
    for socket in [&mut bobs, &mut other] {
        let left = socket.event("memberLeft").await;
        assert_eq!(
            (&left["user"]["id"], &left["reason"]),
            (&json!(bob.id), &json!("removed"))
        );
    }
    // The deadline counts the request as well, so that a slow machine has it harder, not easier.
    assert!(
        removed.elapsed() < Duration::from_secs(1),
        "it took {:?}",
        removed.elapsed()
    );

    adas.say(room, "1", "without Bob").await;
    adas.event("newMessage").await;
    for socket in [&bobs, &other] {
        let data = json!({"room": room, "body": "still here?", "clientMsgId": "1"});
        assert_eq!(
            socket
                .call("sendMessage", data)
                .await
                .expect_err("removed")
                .code,
            "forbidden"
        );
        assert!(socket.events("newMessage").is_empty());
    }
    // Banned, he cannot come back; nor does a public room say why he should.
    let ban = format!("/v1/rooms/{room}/bans/{}", bob.id);
    chat.rest_as(1, &ada).put(&ban, json!({})).await.ok(204);
    assert_eq!(
        bobs.join(room, None).await.expect_err("banned").code,
        "forbidden"
    );
    chat.rest_as(1, &ada).delete(&ban).await.ok(204);
    bobs.join(room, None).await.expect("the ban is lifted");
}

async fn a_direct_room_is_one_room(kind: Kind) {
    let chat = Chat::start(kind).await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let (with_bob, with_ada) = ([&bob], [&ada]);
    let (hers, his) = tokio::join!(
        chat.room(&ada, "direct", &with_bob),
        chat.room(&bob, "direct", &with_ada)
    );
    assert_eq!(hers, his);
    let again = chat.room(&bob, "direct", &[&ada]).await;
    assert_eq!(hers, again);
    let members = chat
        .rest_as(1, &bob)
        .get(&format!("/v1/rooms/{his}/members"))
        .await
        .ok(200);
    assert_eq!(members["items"].as_array().map(Vec::len), Some(2));

    let (adas, mut bobs) = (chat.connect(0, &ada).await, chat.connect(1, &bob).await);
    adas.join(hers, None).await.expect("hers");
    bobs.join(his, None).await.expect("his");
    adas.say(hers, "1", "psst").await;
    assert_eq!(bobs.event("newMessage").await["seq"], 3);
    chat.rest_as(0, &ada)
        .post(&format!("/v1/rooms/{hers}/leave"), json!({}))
=======
        .await
        .ok(200);
    assert_eq!(member["readSeq"], 5);
    assert_eq!(rest.get(&path).await.ok(200)["unread"], 0);
    let refused = bobs
        .call("markRead", json!({"room": room, "seq": 6}))
>>>>>>> e2e
        .await
        .expect_err("the future");
    assert_eq!(refused.code, "invalid");
}

async fn a_repeated_send_is_one_message(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    // On both edges at once, and over REST.
    let other = chat.connect(1, &ada).await;
    let rest = chat.rest_as(1, &ada);
    let body = json!({"body": "once", "clientMsgId": "same"});
    let path = format!("/v1/rooms/{room}/messages");
    let (first, second, third) = tokio::join!(
        adas.say(room, "same", "once"),
        other.say(room, "same", "once"),
        rest.post(&path, body.clone()),
    );
    let third = third.ok(202);
    assert_eq!(first, second);
    assert_eq!(json!(first), third["id"]);
    // Much later, with another body even: it is the first one's message.
    let stored = rest
        .post(
            &format!("{path}?wait=stored"),
            json!({"body": "twice", "clientMsgId": "same"}),
        )
        .await
        .ok(201);
    assert_eq!(
        (&stored["id"], &stored["seq"], &stored["body"]),
        (&json!(first), &json!(3), &json!("once"))
    );

    adas.say(room, "next", "the next one").await;
    for socket in [&mut adas, &mut bobs] {
        assert_eq!(socket.event("newMessage").await["seq"], 3);
        let next = socket.event("newMessage").await;
        assert_eq!(
            (&next["body"], &next["seq"]),
            (&json!("the next one"), &json!(4))
        );
        assert_eq!(socket.events("newMessage").len(), 2);
    }
    let history = rest.get(&path).await.ok(200);
    assert_eq!(seqs(&history["items"]), [3, 4]);
}

async fn a_message_over_rest(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        ada,
        room,
        mut bobs,
        ..
    } = pair(&chat).await;
    let rest = chat.rest_as(0, &ada);
    let path = format!("/v1/rooms/{room}/messages");

    let accepted = rest.post(&path, json!({"body": "accepted"})).await.ok(202);
    assert_eq!(accepted["status"], "accepted");
    assert!(
        !accepted["clientMsgId"]
            .as_str()
            .expect("one is made up")
            .is_empty()
    );
    let told = bobs.event("newMessage").await;
    assert_eq!(
        (&told["id"], &told["clientMsgId"]),
        (&accepted["id"], &accepted["clientMsgId"])
    );

    let stored = rest
        .post(&format!("{path}?wait=stored"), json!({"body": "stored"}))
        .await
        .ok(201);
    assert_eq!(
        (&stored["seq"], &stored["body"]),
        (&json!(4), &json!("stored"))
    );
    assert_eq!(stored["sender"]["username"], "ada");
    assert_eq!(bobs.event("newMessage").await["id"], stored["id"]);
}

async fn a_refused_send_reaches_its_sender(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        room,
        mut adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    // Only the worker can know that nobody wrote what this one answers.
    let data =
        json!({"room": room, "body": "what?", "clientMsgId": "answer", "replyTo": Uuid::nil()});
    adas.call("sendMessage", data)
        .await
        .expect("the queue holds it");
    let failed = adas.event("sendFailed").await;
    assert_eq!(
        (&failed["clientMsgId"], &failed["code"], &failed["room"]),
        (&json!("answer"), &json!("invalid"), &json!(room))
    );
    assert!(!failed["message"].as_str().unwrap_or_default().is_empty());
    adas.say(room, "next", "next").await;
    assert_eq!(
        bobs.event("newMessage").await["seq"],
        3,
        "a refused send takes no number"
    );
}
