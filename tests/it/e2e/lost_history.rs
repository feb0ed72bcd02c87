//! A database that has lost its newest rows, as after the promotion of a standby that was behind or the restore of a
//! backup: sockets and clients that resume start anew, and no event is skipped silently.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    e2e::{
        people::{Pair, pair, room_reaches, write_rows},
        socketio::WEBSOCKET,
    },
    harness::{Chat, Kind, Socket, both_ways, eventually, node::Clients},
};

both_ways!(
    live_sockets_and_resumes_are_reset,
    positions_above_the_head_are_reset,
);

/// Deletes everything above `head` from the room, while the programs run.
async fn lose(chat: &Chat, room: Uuid, head: i64) {
    let hex = room.simple();
    let id = match chat.kind {
        Kind::Cluster => format!("'{room}'"),
        Kind::Standalone => format!("x'{hex}'"),
    };
    let statements = [
        format!("DELETE FROM messages WHERE room = {id} AND seq > {head}"),
        format!("DELETE FROM feed WHERE room = {id} AND seq > {head}"),
        format!("UPDATE rooms SET head = {head} WHERE id = {id}"),
    ];
    write_rows(chat, &statements).await;
}

/// A cluster with one worker whose metrics can be read, or one process. Returns the URL of the metrics.
async fn start(kind: Kind) -> (Chat, String) {
    // Nothing may depend on the interval of the comparisons.
    let plan = Chat::plan(kind).set("edge.reconcile_interval", "60s");
    if kind == Kind::Standalone {
        let chat = plan.start().await;
        let url = chat.edge(0).url().to_owned();
        return (chat, url);
    }
    let mut chat = plan.workers(0).start().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let mut worker = chat.program("worker 0", &["worker"]);
    worker
        .env
        .push(("CHAT__METRICS__PORT".to_owned(), port.to_string()));
    chat.workers.push(worker.start().await);
    (chat, format!("http://127.0.0.1:{port}"))
}

async fn resets(chat: &Chat, url: &str) -> u64 {
    let answer = chat.http.get(format!("{url}/metrics")).send().await;
    let text = answer.expect("an answer").text().await.expect("a text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("chat_history_resets_total "))
        .expect("the metric is there");
    line.parse().expect("a number")
}

fn names(joined: &Value) -> Vec<&str> {
    let messages = joined["messages"].as_array().expect("a list");
    messages
        .iter()
        .map(|message| message["clientMsgId"].as_str().expect("a name"))
        .collect()
}

async fn say_all(socket: &Socket, room: Uuid, names: &[String]) {
    for name in names {
        socket.say(room, name, "hello").await;
    }
}

fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{name} {i}")).collect()
}

async fn live_sockets_and_resumes_are_reset(kind: Kind) {
    let ((mut chat, metrics), clients) = (start(kind).await, Clients::start());
    let Pair {
        ada,
        bob,
        room,
        mut adas,
        mut bobs,
    } = pair(&chat).await;
    let mut stock = clients
        .connect("bob", chat.edge(0).url(), &bob, WEBSOCKET)
        .await;
    stock.join(room, None).await;
    // A room that loses nothing.
    let quiet = chat.room(&ada, "public", &[]).await;
    let first = adas.join(quiet, None).await.expect("joined")["epoch"].clone();
    assert_eq!(adas.join(room, None).await.expect("joined")["epoch"], first);
    let kept = numbered("kept", 5);
    say_all(&adas, room, &kept).await;
    room_reaches(&chat.rest_as(0, &ada), room, 7).await;
    say_all(&adas, room, &numbered("lost", 5)).await;
    for socket in [&mut adas, &mut bobs] {
        while socket.event("newMessage").await["clientMsgId"] != "lost 4" {}
    }
    while stock.event("newMessage").await["clientMsgId"] != "lost 4" {}
    assert_eq!(resets(&chat, &metrics).await, 0);

    // The next five messages get the numbers of the lost ones.
    lose(&chat, room, 7).await;
    let new = numbered("new", 5);
    say_all(&bobs, room, &new).await;
    let reset = adas.event("reset").await;
    let epoch = reset["epoch"].clone();
    assert_eq!(reset["room"], json!(room));
    assert_ne!(epoch, first);
    assert_eq!(bobs.event("reset").await, reset);
    assert_eq!(stock.event("reset").await, reset);
    let rest = chat.rest_as(0, &ada);
    room_reaches(&rest, room, 12).await;

    // They join anew, see what the store has, and are live.
    let expected: Vec<&str> = kept.iter().chain(&new).map(String::as_str).collect();
    for joined in [
        adas.join(room, None).await.expect("joined"),
        bobs.join(room, None).await.expect("joined"),
        stock.join(room, None).await,
    ] {
        assert_eq!(names(&joined), expected);
        assert_eq!((&joined["epoch"], &joined["seq"]), (&epoch, &json!(12)));
    }
    adas.say(room, "after", "hello").await;
    for message in [
        bobs.until("the last", |received| last(received, "after"))
            .await,
        adas.until("the last", |received| last(received, "after"))
            .await,
    ] {
        assert_eq!(message["seq"], 13);
    }
    while stock.event("newMessage").await["clientMsgId"] != "after" {}
    // Once, and not in the other room.
    for events in [
        adas.events("reset"),
        bobs.events("reset"),
        stock.events("reset"),
    ] {
        assert_eq!(events, std::slice::from_ref(&reset));
    }

    // A client that was away resumes with its old epoch: it gets `reset` in every room, also in one that lost nothing.
    let mut away = chat.connect(1, &bob).await;
    let resume = |room: Uuid, after: i64, epoch: &Value| json!({"room": room, "afterSeq": after, "epoch": epoch});
    let joined = away.call("joinRoom", resume(room, 12, &first)).await;
    // The event precedes the answer.
    assert_eq!(away.events("reset"), std::slice::from_ref(&reset));
    let joined = joined.expect("joined");
    assert_eq!(joined["messages"].as_array().map(Vec::len), Some(11));
    assert_eq!((&joined["epoch"], &joined["seq"]), (&epoch, &json!(13)));
    away.call("joinRoom", resume(quiet, 1, &first))
        .await
        .expect("joined");
    assert_eq!(away.event("reset").await["room"], json!(room));
    assert_eq!(away.event("reset").await["room"], json!(quiet));
    // With the present epoch it only gets the missed messages.
    let joined = away.call("joinRoom", resume(room, 11, &epoch)).await;
    assert_eq!(names(&joined.expect("joined")), ["new 4", "after"]);
    assert_eq!(away.events("reset").len(), 2);
    let answer = stock.call("joinRoom", resume(room, 12, &first)).await;
    assert_eq!(answer["seq"], 13);
    assert_eq!(stock.events("reset").len(), 2);

    assert_eq!(resets(&chat, &metrics).await, 1);
    let log = chat.worker_mut(0).log();
    let lines = log.lines().filter(|line| line.contains("has lost history"));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&room.to_string()), "{}", lines[0]);
    assert!(lines[0].contains("ERROR") || lines[0].contains("error"));
}

fn last(received: &crate::harness::socket::Received, name: &str) -> Option<Value> {
    let mut messages = received.events.iter().rev();
    let newest = messages.find(|event| event.name == "newMessage")?.data();
    (newest["clientMsgId"] == name).then_some(newest)
}

/// A position above the head or an unknown epoch resets only that client; the store's epoch stays.
async fn positions_above_the_head_are_reset(kind: Kind) {
    let (chat, metrics) = start(kind).await;
    let Pair {
        ada,
        room,
        adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    adas.say(room, "one", "hello").await;
    assert_eq!(bobs.event("newMessage").await["seq"], 3);
    let epoch = bobs.join(room, None).await.expect("joined")["epoch"].clone();
    for data in [
        json!({"room": room, "afterSeq": 1_000_000}),
        json!({"room": room, "afterSeq": 4, "epoch": epoch}),
        json!({"room": room, "afterSeq": 1, "epoch": Uuid::new_v4()}),
        json!({"room": room, "epoch": Uuid::new_v4()}),
    ] {
        let joined = bobs.call("joinRoom", data.clone()).await.expect("joined");
        assert_eq!(names(&joined), ["one"], "{data}");
        assert_eq!((&joined["seq"], &joined["epoch"]), (&json!(3), &epoch));
        let reset = bobs.event("reset").await;
        assert_eq!(reset, json!({"room": room, "epoch": epoch}));
    }
    bobs.join(room, Some(3)).await.expect("the head itself");
    let data = json!({"room": room, "afterSeq": 3, "epoch": epoch});
    bobs.call("joinRoom", data).await.expect("joined");
    adas.say(room, "two", "hello").await;
    assert_eq!(bobs.event("newMessage").await["seq"], 4);
    assert_eq!(bobs.events("reset").len(), 4);
    assert!(adas.events("reset").is_empty());
    let refused = bobs.call("joinRoom", json!({"room": room, "epoch": "latest"}));
    assert_eq!(refused.await.expect_err("no UUID").field(), "epoch");

    let rest = chat.rest_as(0, &ada);
    let changes = format!("/v1/rooms/{room}/changes");
    rest.get(&format!("{changes}?after=5"))
        .await
        .problem(409, "conflict");
    rest.get(&format!("{changes}?after=4")).await.ok(200);
    assert_eq!(resets(&chat, &metrics).await, 0);
}

/// All workers are down while the database loses history, and one transaction then leads past the old position.
#[tokio::test]
async fn a_backlog_that_leads_past_the_position_is_noticed() {
    let (mut chat, metrics) = start(Kind::Cluster).await;
    let Pair {
        ada,
        room,
        adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    let kept = numbered("kept", 3);
    say_all(&adas, room, &kept).await;
    say_all(&adas, room, &numbered("lost", 3)).await;
    while bobs.event("newMessage").await["seq"] != 8 {}
    // It acknowledges the batches that it stored: none is delivered again.
    chat.workers[0].sigterm();
    chat.workers[0].ended().await;
    lose(&chat, room, 5).await;
    let new = numbered("new", 10);
    say_all(&adas, room, &new).await;
    chat.workers[0].restart().await;
    bobs.event("reset").await;
    room_reaches(&chat.rest_as(0, &ada), room, 15).await;
    let joined = bobs.join(room, None).await.expect("joined");
    let expected: Vec<&str> = kept.iter().chain(&new).map(String::as_str).collect();
    assert_eq!(names(&joined), expected);
    eventually("the metric", || async {
        (resets(&chat, &metrics).await == 1).then_some(())
    })
    .await;
}

/// Nothing happens in the room after the loss: the comparison of heads finds it.
#[tokio::test]
async fn a_loss_in_a_quiet_room_is_noticed() {
    let mut chat = Chat::plan(Kind::Cluster)
        .set("edge.reconcile_interval", "200ms")
        .start()
        .await;
    let Pair {
        room,
        adas,
        mut bobs,
        ..
    } = pair(&chat).await;
    say_all(&adas, room, &numbered("message", 4)).await;
    while bobs.event("newMessage").await["seq"] != 6 {}
    lose(&chat, room, 4).await;
    let reset = bobs.event("reset").await;
    let joined = bobs.join(room, None).await.expect("joined");
    assert_eq!(names(&joined), ["message 0", "message 1"]);
    assert_eq!(joined["epoch"], reset["epoch"]);
    let logs = [chat.worker_mut(0).log(), chat.worker_mut(1).log()].concat();
    assert!(logs.contains("has lost history"));
}

/// The process is stopped and starts with an older copy of its file: it has no trace of the loss, but its clients have
/// higher numbers.
#[tokio::test]
async fn clients_of_a_restored_backup_are_reset() {
    let mut chat = Chat::start(Kind::Standalone).await;
    let Pair {
        bob,
        room,
        adas,
        bobs,
        ..
    } = pair(&chat).await;
    adas.say(room, "kept", "hello").await;
    room_reaches(&chat.rest_as(0, &bob), room, 3).await;
    chat.edges[0].sigterm();
    chat.edges[0].ended().await;
    let (data, backup) = (chat.dir().join("data"), chat.dir().join("backup"));
    copy(&data, &backup);
    chat.edges[0].restart().await;
    drop((adas, bobs));
    let mut bobs = chat.connect(0, &bob).await;
    let before = bobs.join(room, None).await.expect("joined")["epoch"].clone();
    say_all(&bobs, room, &numbered("lost", 3)).await;
    while bobs.event("newMessage").await["seq"] != 6 {}
    chat.edges[0].sigterm();
    chat.edges[0].ended().await;
    std::fs::remove_dir_all(&data).expect("removed");
    copy(&backup, &data);
    chat.edges[0].restart().await;
    let mut bobs = chat.connect(0, &bob).await;
    let resume = json!({"room": room, "afterSeq": 6, "epoch": before});
    let joined = bobs.call("joinRoom", resume).await.expect("joined");
    assert_eq!(bobs.event("reset").await["room"], json!(room));
    assert_eq!(names(&joined), ["kept"]);
    bobs.say(room, "new", "hello").await;
    assert_eq!(bobs.event("newMessage").await["seq"], 4);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}
