//! History: paged over REST, and recovered by a socket that was disconnected.

use serde_json::{Value, json};

use super::people::{Pair, pair, room_reaches, seqs};
use crate::harness::{Chat, Kind, both_ways};

both_ways!(
    history_is_paged_by_seq,
    a_socket_resumes_after_its_last_seq,
    a_long_absence_is_recovered_in_pages,
);

async fn history_is_paged_by_seq(kind: Kind) {
    let chat = Chat::start(kind).await;
    let Pair {
        bob, room, adas, ..
    } = pair(&chat).await;
    // Numbers 1 and 2 are the joins, 3 to 12 the messages.
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

async fn a_socket_resumes_after_its_last_seq(kind: Kind) {
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

    // While Bob is disconnected: two messages, an edit of one that he has, and a new member.
    adas.say(room, "2", "two").await;
    let edit = json!({"room": room, "id": first, "body": "one, edited"});
    adas.call("editMessage", edit)
        .await
        .expect("the author's own message");
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

    // Live again, without duplicates.
    adas.say(room, "4", "four").await;
    let next = bobs.event("newMessage").await;
    assert_eq!((&next["body"], &next["seq"]), (&json!("four"), &json!(8)));
    assert_eq!(bobs.events("newMessage").len(), 1);
    assert!(bobs.events("memberJoined").is_empty());

    // Up to date: nothing to recover.
    let joined = bobs.join(room, Some(8)).await.expect("again");
    assert_eq!(
        (&joined["seq"], &joined["messages"]),
        (&json!(8), &json!([]))
    );
}

async fn a_long_absence_is_recovered_in_pages(kind: Kind) {
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
