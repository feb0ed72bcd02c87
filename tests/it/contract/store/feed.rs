//! Reads of a room's messages and events.

use chat::{model::*, store::*};
use serde_json::Value;

use super::fixture::*;

on_both! {
    events_merge_both_tables_without_a_gap,
    an_event_shows_its_message_as_it_is_now,
    events_are_at_most_a_thousand,
    a_message_comes_back_as_it_was_sent,
    windows_choose_messages_and_limits_count_them,
    a_deleted_message_stays_in_its_place,
    unread_is_counted_up_to_a_thousand,
}

async fn events_merge_both_tables_without_a_gap(store: Fixture) {
    let ada = store.user("ada").await;
    let (id, other) = (store.public_room(&ada).await, store.public_room(&ada).await);
    store.say(other, &ada, 1..=9).await;
    // Every third number is not a message.
    let (entries, messages): (Vec<Seq>, Vec<Seq>) = (1..=30).partition(|seq| seq % 3 == 0);
    let changes = Changes {
        heads: [(id, 30)].into(),
        new_messages: messages
            .iter()
            .map(|&seq| message(id, &ada, seq, "x"))
            .collect(),
        entries: entries
            .iter()
            .map(|&seq| entry(id, seq, EventKind::MemberJoined, None))
            .collect(),
        ..Changes::default()
    };
    store.commit([id], changes).await.unwrap();

    for (after, upto, expected) in [(0, 30, 1..=30), (4, 10, 5..=10), (29, 99, 30..=30)] {
        let events = store.reads.events(id, after, upto).await.unwrap();
        let seqs: Vec<Seq> = events.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, expected.collect::<Vec<_>>());
        for event in events {
            let data: Value = serde_json::from_str(&event.data).unwrap();
            if event.seq % 3 == 0 {
                assert_eq!(event.kind, EventKind::MemberJoined);
                assert_eq!(event.data, format!("{{\"n\":{}}}", event.seq));
            } else {
                assert_eq!(event.kind, EventKind::NewMessage);
                assert_eq!(data["seq"], event.seq);
                assert_eq!(data["changeSeq"], event.seq);
                assert_eq!(data["sender"]["username"], "ada");
            }
        }
    }
    for (after, upto) in [(30, 30), (30, 40), (9, 3)] {
        assert!(
            store
                .reads
                .events(id, after, upto)
                .await
                .unwrap()
                .is_empty()
        );
    }
    assert!(store.reads.events(new_id(), 0, 9).await.unwrap().is_empty());
}

async fn an_event_shows_its_message_as_it_is_now(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let mut said = store.say(id, &ada, 1..=1).await.remove(0);
    said.body = "edited".to_owned();
    said.edited_at = Some(at(t0().millis() + 9));
    said.mentions = vec![ada.id, new_id()];
    said.change_seq = 3;
    said.reactions = vec![Reaction {
        emoji: "👍🏽".to_owned(),
        count: 1,
        me: None,
        users: vec![ada.id],
    }];
    let changes = Changes {
        heads: [(id, 3)].into(),
        updated_messages: vec![said.clone()],
        entries: vec![
            entry(id, 2, EventKind::MessageUpdated, Some(said.id)),
            entry(id, 3, EventKind::ReactionUpdated, Some(said.id)),
        ],
        ..Changes::default()
    };
    store.commit([id], changes).await.unwrap();

    let events = store.reads.events(id, 0, 3).await.unwrap();
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    use EventKind::{MessageUpdated, NewMessage};
    assert_eq!(
        kinds,
        [NewMessage, MessageUpdated, MessageUpdated],
        "a reaction whose change is not stored"
    );
    for event in events {
        let now = Message {
            change_seq: event.seq,
            ..said.clone()
        };
        assert_eq!(event.data, wire(&now));
    }
    let stored = store.reads.message(id, said.id).await.unwrap().unwrap();
    assert_eq!(wire(&stored), wire(&said));
}

async fn events_are_at_most_a_thousand(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    store.say(id, &ada, 1..=1100).await;
    let events = store.reads.events(id, 50, Seq::MAX).await.unwrap();
    let seqs: Vec<Seq> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (51..=1050).collect::<Vec<_>>());
}

async fn a_message_comes_back_as_it_was_sent(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let metadata = [
        r#"{"b": 1.10, "a":[1e300, 1152921504606846976], "c":null, "\u0000":"\ud83d\ude00"}"#,
        "\"text\"",
        "null",
        "[ ]",
    ];
    let bodies = [
        "plain",
        "",
        "emoji 👩‍👩‍👧‍👦, combining e\u{301}, right-to-left \u{202e}, max \u{10ffff}",
        "control \u{1}\u{7f}\t\r\n, quotes ' \" \\ $1 ?1 {} NULL",
        &"long ".repeat(4000),
    ];
    let mut sent = Vec::new();
    for (seq, body) in (1..).zip(bodies) {
        let metadata = metadata.get(seq as usize - 1);
        sent.push(Message {
            client_msg_id: format!("ключ '{seq}'"),
            reply_to: (seq > 1).then(new_id),
            mentions: (1..seq).map(|_| new_id()).collect(),
            metadata: metadata.map(|&json| Metadata::stored(json.to_owned())),
            ..message(id, &ada, seq, body)
        });
    }
    let changes = Changes {
        heads: [(id, 5)].into(),
        new_messages: sent.clone(),
        ..Changes::default()
    };
    store.commit([id], changes).await.unwrap();
    let found = store.reads.messages(id, Window::Latest, 9).await.unwrap();
    assert_eq!(wires(&found), wires(&sent));
    for message in &sent {
        let found = store.reads.message(id, message.id).await.unwrap().unwrap();
        assert_eq!(wire(&found), wire(message));
        // In another room there is no such message.
        assert!(
            store
                .reads
                .message(new_id(), message.id)
                .await
                .unwrap()
                .is_none()
        );
    }
}

async fn windows_choose_messages_and_limits_count_them(store: Fixture) {
    let ada = store.user("ada").await;
    let (id, other) = (store.public_room(&ada).await, store.public_room(&ada).await);
    store.say(other, &ada, 1..=20).await;
    store.say(id, &ada, 1..=9).await;
    store
        .commit(
            [id],
            Changes {
                heads: [(id, 10)].into(),
                entries: vec![entry(id, 10, EventKind::MemberLeft, None)],
                ..Changes::default()
            },
        )
        .await
        .unwrap();
    store.say(id, &ada, 11..=20).await;

    use Window::{After, Around, Before, Latest};
    let cases: [(Window, u32, &[Seq]); 14] = [
        (Latest, 3, &[18, 19, 20]),
        (Latest, 0, &[]),
        (Before(12), 3, &[8, 9, 11]),
        (Before(1), 3, &[]),
        (Before(Seq::MAX), 1, &[20]),
        (After(8), 3, &[9, 11, 12]),
        (After(0), 2, &[1, 2]),
        (After(20), 3, &[]),
        (After(Seq::MAX), 3, &[]),
        (Around(10), 4, &[8, 9, 11, 12]),
        (Around(11), 5, &[8, 9, 11, 12, 13][..]),
        (Around(1), 4, &[1, 2]),
        (Around(99), 4, &[19, 20]),
        (Around(5), 1, &[5]),
    ];
    for (window, limit, expected) in cases {
        let found = store.reads.messages(id, window, limit).await.unwrap();
        let seqs: Vec<Seq> = found.iter().map(|message| message.seq).collect();
        assert_eq!(seqs, expected, "{window:?}, limit {limit}");
    }
}

async fn a_deleted_message_stays_in_its_place(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let mut said = store.say(id, &ada, 1..=3).await;
    said[1] = Message {
        body: String::new(),
        change_seq: 4,
        deleted_at: Some(at(t0().millis() + 50)),
        ..said[1].clone()
    };
    let changes = Changes {
        heads: [(id, 4)].into(),
        updated_messages: vec![said[1].clone()],
        entries: vec![entry(id, 4, EventKind::MessageDeleted, Some(said[1].id))],
        ..Changes::default()
    };
    store.commit([id], changes).await.unwrap();
    let found = store.reads.messages(id, Window::Latest, 9).await.unwrap();
    assert_eq!(wires(&found), wires(&said));
}

async fn unread_is_counted_up_to_a_thousand(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    assert_eq!(store.reads.unread(id, 0).await.unwrap(), 0);
    store.say(id, &ada, 1..=1001).await;
    for (read_seq, expected) in [
        (0, 1000),
        (1, 1000),
        (2, 999),
        (1000, 1),
        (1001, 0),
        (2000, 0),
    ] {
        assert_eq!(store.reads.unread(id, read_seq).await.unwrap(), expected);
    }
}
