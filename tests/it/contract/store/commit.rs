//! The contract of a batch's transaction.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chat::{
    error::{Code, Result},
    model::*,
    store::*,
};
use tokio::time::timeout;

use super::fixture::*;

on_both! {
    a_dropped_transaction_changes_nothing,
    the_second_of_two_sees_what_the_first_committed,
    a_caller_may_be_cancelled_at_any_await,
    of_two_creations_of_a_room_one_is_to_be_retried,
    a_stored_id_or_number_fails_the_whole_commit,
    missing_rows_cannot_be_changed,
    a_room_must_be_locked_to_be_changed,
    nothing_may_be_changed_twice_in_one_batch,
    a_nul_in_a_text_is_refused,
    a_thousand_messages_in_one_batch,
    a_preview_has_what_new_messages_need,
    new_messages_are_appended_whole_or_not_at_all,
    an_empty_batch_succeeds,
}

async fn a_dropped_transaction_changes_nothing(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    for _ in 0..20 {
        let (facts, transaction) = store.writes.begin(&scope([id])).await.unwrap();
        assert_eq!(facts.rooms[&id].head, 0);
        drop(transaction);
    }
    store.say(id, &ada, 1..=1).await;
    assert_eq!(store.reads.heads(&[id]).await.unwrap(), [(id, 1)]);
}

async fn the_second_of_two_sees_what_the_first_committed(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let new = message(id, &ada, 1, "first");
    let (_, first) = store.writes.begin(&scope([id])).await.unwrap();

    let asked = Scope {
        messages: HashSet::from([new.id]),
        ..scope([id])
    };
    let writes = store.writes.clone();
    let mut second = tokio::spawn(async move { writes.begin(&asked).await });
    // The second cannot get the lock while the first has it.
    assert!(
        timeout(Duration::from_millis(100), &mut second)
            .await
            .is_err()
    );
    let changes = Changes {
        heads: [(id, 1)].into(),
        new_messages: vec![new.clone()],
        ..Changes::default()
    };
    first.commit(changes).await.unwrap();
    let (facts, second) = second.await.unwrap().unwrap();
    assert_eq!(facts.rooms[&id].head, 1);
    assert!(facts.messages.contains_key(&new.id));
    let changes = Changes {
        heads: [(id, 2)].into(),
        new_messages: vec![message(id, &ada, 2, "second")],
        ..Changes::default()
    };
    second.commit(changes).await.unwrap();
    assert_eq!(store.reads.events(id, 0, 9).await.unwrap().len(), 2);
}

async fn a_caller_may_be_cancelled_at_any_await(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    // More often than there are connections: each must be returned.
    for seq in 1..=6 {
        let (_, holder) = store.writes.begin(&scope([id])).await.unwrap();
        let asked = scope([id]);
        let waiting = store.writes.begin(&asked);
        assert!(timeout(Duration::from_millis(20), waiting).await.is_err());
        let changes = Changes {
            heads: [(id, seq)].into(),
            new_messages: vec![message(id, &ada, seq, "x")],
            ..Changes::default()
        };
        holder.commit(changes).await.unwrap();
    }
    assert_eq!(store.reads.events(id, 0, 9).await.unwrap().len(), 6);
}

async fn of_two_creations_of_a_room_one_is_to_be_retried(store: Fixture) {
    let ada = store.user("ada").await;
    let tea = room(RoomKind::Public, &ada);
    let run = async || -> Result<bool> {
        let (facts, transaction) = store.writes.begin(&scope([tea.id])).await?;
        if facts.rooms.contains_key(&tea.id) {
            return Ok(false);
        }
        let changes = Changes {
            rooms: vec![tea.clone()],
            ..Changes::default()
        };
        transaction.commit(changes).await.map(|()| true)
    };
    let mut created = 0;
    let (a, b, c) = tokio::join!(run(), run(), run());
    for result in [a, b, c] {
        match result {
            Ok(true) => created += 1,
            Ok(false) => {}
            Err(error) => {
                assert!(error.is_retryable(), "{}", error.chain());
                assert!(!run().await.unwrap());
            }
        }
    }
    assert_eq!(created, 1);
    assert_eq!(store.reads.room(tea.id).await.unwrap(), Some(tea));
}

async fn a_stored_id_or_number_fails_the_whole_commit(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let said = store.say(id, &ada, 1..=2).await;
    let repeated_id = Message {
        seq: 4,
        ..said[0].clone()
    };
    let repeated_seq = Message {
        seq: 2,
        ..message(id, &ada, 4, "other")
    };
    for bad in [repeated_id, repeated_seq] {
        let changes = Changes {
            heads: [(id, 4)].into(),
            new_messages: vec![message(id, &ada, 3, "good"), bad],
            ..Changes::default()
        };
        let error = store.commit([id], changes).await.unwrap_err();
        assert_eq!(error.code, Code::Internal, "{}", error.chain());
    }
    let repeated = Changes {
        heads: [(id, 3)].into(),
        entries: vec![
            entry(id, 3, EventKind::MemberJoined, None),
            entry(id, 3, EventKind::MemberLeft, None),
        ],
        ..Changes::default()
    };
    assert_eq!(
        store.commit([id], repeated).await.unwrap_err().code,
        Code::Internal
    );
    assert_eq!(store.reads.heads(&[id]).await.unwrap(), [(id, 2)]);
    let found = store.reads.messages(id, Window::Latest, 9).await.unwrap();
    assert_eq!(wires(&found), wires(&said));
    store.say(id, &ada, 3..=3).await;
}

async fn missing_rows_cannot_be_changed(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let missing = new_id();
    let unknown_message = Changes {
        updated_messages: vec![message(id, &ada, 1, "never stored")],
        ..Changes::default()
    };
    let unknown_room = Changes {
        heads: [(missing, 1)].into(),
        ..Changes::default()
    };
    for changes in [unknown_message, unknown_room] {
        let error = store.commit([id, missing], changes).await.unwrap_err();
        assert_eq!(error.code, Code::Internal, "{}", error.chain());
    }
}

async fn a_room_must_be_locked_to_be_changed(store: Fixture) {
    let ada = store.user("ada").await;
    let (id, other) = (store.public_room(&ada).await, store.public_room(&ada).await);
    let pair = (other, ada.id);
    let nothing = Changes::default;
    let all = [
        Changes {
            rooms: vec![Room {
                id: other,
                ..room(RoomKind::Public, &ada)
            }],
            ..nothing()
        },
        Changes {
            heads: [(other, 1)].into(),
            ..nothing()
        },
        Changes {
            new_messages: vec![message(other, &ada, 1, "x")],
            ..nothing()
        },
        Changes {
            updated_messages: vec![message(other, &ada, 1, "x")],
            ..nothing()
        },
        Changes {
            entries: vec![entry(other, 1, EventKind::MemberLeft, None)],
            ..nothing()
        },
        Changes {
            members: vec![member(other, &ada, Role::Admin)],
            ..nothing()
        },
        Changes {
            removed_members: vec![pair],
            ..nothing()
        },
        Changes {
            bans: vec![(other, ada.id, None)],
            ..nothing()
        },
        Changes {
            lifted_bans: vec![pair],
            ..nothing()
        },
    ];
    for changes in all {
        let error = store.commit([id], changes.clone()).await.unwrap_err();
        assert_eq!(error.code, Code::Internal, "{changes:?}");
    }
}

async fn nothing_may_be_changed_twice_in_one_batch(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let said = store.say(id, &ada, 1..=1).await.remove(0);
    let owner = member(id, &ada, Role::Owner);
    let pair = (id, ada.id);
    let ban = (id, ada.id, None);
    let nothing = Changes::default;
    let all = [
        Changes {
            updated_messages: vec![said.clone(), said],
            ..nothing()
        },
        Changes {
            members: vec![owner.clone(), owner.clone()],
            ..nothing()
        },
        Changes {
            members: vec![owner],
            removed_members: vec![pair],
            ..nothing()
        },
        Changes {
            bans: vec![ban],
            lifted_bans: vec![pair],
            ..nothing()
        },
    ];
    for changes in all {
        let error = store.commit([id], changes.clone()).await.unwrap_err();
        assert_eq!(error.code, Code::Internal, "{changes:?}");
    }
}

async fn a_nul_in_a_text_is_refused(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let changes = Changes {
        heads: [(id, 2)].into(),
        new_messages: vec![message(id, &ada, 1, "good"), message(id, &ada, 2, "b\0ad")],
        ..Changes::default()
    };
    let error = store.commit([id], changes).await.unwrap_err();
    assert_eq!(error.code, Code::Internal, "{}", error.chain());
    assert_eq!(store.reads.heads(&[id]).await.unwrap(), [(id, 0)]);
    store.say(id, &ada, 1..=1).await;
}

async fn a_thousand_messages_in_one_batch(store: Fixture) {
    let ada = store.user("ada").await;
    let mut rooms = Vec::new();
    for _ in 0..10 {
        rooms.push(store.public_room(&ada).await);
    }
    let new: Vec<Message> = (0..1000)
        .map(|n| message(rooms[n as usize % 10], &ada, n / 10 + 1, &"ä".repeat(100)))
        .collect();
    let changes = Changes {
        heads: rooms.iter().map(|&room| (room, 100)).collect(),
        new_messages: new.clone(),
        ..Changes::default()
    };
    store.commit(rooms.clone(), changes).await.unwrap();
    for &room in &rooms {
        let found = store
            .reads
            .messages(room, Window::Latest, 200)
            .await
            .unwrap();
        let sent: Vec<Message> = new.iter().filter(|m| m.room == room).cloned().collect();
        assert_eq!(wires(&found), wires(&sent));
    }
    let asked = Scope {
        messages: new.iter().map(|m| m.id).collect(),
        ..scope(rooms)
    };
    assert_eq!(store.facts(&asked).await.messages.len(), 1000);
}

async fn a_preview_has_what_new_messages_need(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let said = store.say(id, &ada, 1..=1).await.remove(0);
    let reply = Message {
        reply_to: Some(said.id),
        ..message(id, &ada, 2, "to @ada")
    };
    let asked = Scope {
        members: HashSet::from([(id, ada.id), (new_id(), ada.id)]),
        messages: HashSet::from([said.id]),
        named: HashSet::from([(id, "ada".to_owned())]),
        ..Scope::default()
    };
    let facts = store.writes.preview(&asked).await.unwrap();
    assert_eq!(facts.rooms.len(), 1);
    assert_eq!(facts.rooms[&id].head, 1);
    assert_eq!(facts.members[&(id, ada.id)].role, Role::Owner);
    assert!(facts.messages.contains_key(&said.id));
    assert_eq!(facts.named["ada"], ada.id);
    let changes = Changes {
        heads: [(id, 2)].into(),
        new_messages: vec![reply.clone()],
        ..Changes::default()
    };
    let before = HashMap::from([(id, 1)]);
    store.writes.append(&before, &changes).await.unwrap();
    let found = store.reads.messages(id, Window::Latest, 9).await.unwrap();
    assert_eq!(wires(&found), wires(&[said, reply]));
}

async fn new_messages_are_appended_whole_or_not_at_all(store: Fixture) {
    let ada = store.user("ada").await;
    let (one, other) = (store.public_room(&ada).await, store.public_room(&ada).await);
    let bodies = async |room| -> Vec<String> {
        let found = store.reads.messages(room, Window::Latest, 9).await.unwrap();
        found.into_iter().map(|message| message.body).collect()
    };
    let refused = |result: Result<()>| assert_eq!(result.unwrap_err().code, Code::Conflict);
    let both = |first: Message, second: Message| Changes {
        heads: [(one, first.seq), (other, second.seq)].into(),
        new_messages: vec![first, second],
        ..Changes::default()
    };
    let heads = |first, second| HashMap::from([(one, first), (other, second)]);

    let first = message(one, &ada, 1, "first");
    let changes = both(first.clone(), message(other, &ada, 1, "beside it"));
    store.writes.append(&heads(0, 0), &changes).await.unwrap();
    // A second append from the same heads conflicts.
    let late = both(
        message(one, &ada, 1, "late"),
        message(other, &ada, 1, "late"),
    );
    refused(store.writes.append(&heads(0, 0), &late).await);
    assert_eq!(bodies(one).await, ["first"]);

    // The head of one of two rooms was moved by an event that is no message.
    let entry = FeedEntry {
        room: other,
        seq: 2,
        kind: EventKind::RoomUpdated,
        message: None,
        data: Some("{}".to_owned()),
        detail: None,
        at: Timestamp::now(),
    };
    let moved = Changes {
        heads: [(other, 2)].into(),
        entries: vec![entry],
        ..Changes::default()
    };
    store.commit([other], moved).await.unwrap();
    let changes = both(
        message(one, &ada, 2, "lost"),
        message(other, &ada, 2, "lost"),
    );
    refused(store.writes.append(&heads(1, 1), &changes).await);
    assert_eq!(bodies(one).await, ["first"]);
    assert_eq!(store.reads.heads(&[one]).await.unwrap(), [(one, 1)]);

    // A message that is already stored.
    let again = Message {
        seq: 2,
        change_seq: 2,
        ..first
    };
    let changes = both(again, message(other, &ada, 3, "lost"));
    refused(store.writes.append(&heads(1, 2), &changes).await);
    assert_eq!(bodies(other).await, ["beside it"]);

    // A room without a previewed head, and a change that is no new message.
    let unseen = store.writes.append(&HashMap::new(), &changes).await;
    assert_eq!(unseen.unwrap_err().code, Code::Internal);
    let renamed = Changes {
        rooms: vec![room(RoomKind::Public, &ada)],
        ..Changes::default()
    };
    let other_change = store.writes.append(&heads(1, 2), &renamed).await;
    assert_eq!(other_change.unwrap_err().code, Code::Internal);
}

async fn an_empty_batch_succeeds(store: Fixture) {
    let changes = Changes::default();
    assert!(changes.is_empty());
    store.commit([new_id()], changes).await.unwrap();
}
