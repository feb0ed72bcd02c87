//! Rows of reactions, their summaries in messages, and what earlier versions stored.

use std::collections::{HashMap, HashSet};

use chat::{
    model::{text::emoji, *},
    store::*,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::fixture::*;

on_both! {
    users_of_a_reaction_are_read_in_order_and_in_part,
    a_user_gives_a_reaction_once_and_takes_it_back,
    the_facts_of_a_reaction_have_only_some_of_its_users,
    events_of_reactions_say_what_changed,
    missed_changes_of_a_message_are_read_once,
    lists_of_all_users_are_migrated,
    lists_of_all_users_that_were_written_later_are_counted,
}

/// Below every user of a reaction.
const FIRST: (Seq, UserId) = (0, Uuid::nil());

fn key(message: &Message, emoji: &str) -> ReactionKey {
    (message.id, emoji::key(emoji).into_owned())
}

fn given(message: &Message, emoji: &str, user: UserId, seq: Seq) -> GivenReaction {
    GivenReaction {
        key: key(message, emoji),
        user,
        seq,
    }
}

/// A message in a room of its own.
async fn said(store: &Fixture) -> Message {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    store.say(id, &ada, 1..=1).await.remove(0)
}

impl Fixture {
    async fn react(&self, message: &Message, changes: Changes) {
        let changes = Changes {
            updated_messages: vec![message.clone()],
            ..changes
        };
        self.commit([message.room], changes).await.unwrap();
    }

    async fn reactors_of(&self, message: &Message, emoji: &str) -> Vec<(Seq, UserId)> {
        let found = self.reads.reactors(message.id, emoji, FIRST, 100_000).await;
        let found = found.unwrap().into_iter();
        found
            .map(|reactor| (reactor.seq, reactor.user.id))
            .collect()
    }
}

async fn users_of_a_reaction_are_read_in_order_and_in_part(store: Fixture) {
    let message = said(&store).await;
    let bob = store.user("bob").await;
    let gone = new_id();
    // The repair of an earlier version's list may number a user as a later event is numbered.
    let (tie, last) = (Uuid::from_u128(1), Uuid::max());
    let reactions = [
        (9, bob.id),
        (4, gone),
        (6, message.sender.id),
        (9, tie),
        (9, last),
    ];
    let mut all: Vec<_> = reactions
        .iter()
        .map(|&(seq, user)| given(&message, "👍\u{FE0F}", user, seq))
        .collect();
    all.push(given(&message, "🎉", bob.id, 5));
    let changes = Changes {
        reactions: all,
        ..Changes::default()
    };
    store.react(&message, changes).await;

    let page = |after, limit| store.reads.reactors(message.id, "👍", after, limit);
    let found = page(FIRST, 9).await.unwrap();
    let users: Vec<(Seq, &str)> = found
        .iter()
        .map(|reactor| (reactor.seq, reactor.user.username.as_str()))
        .collect();
    assert_eq!(users, [(4, ""), (6, "ada"), (9, ""), (9, "bob"), (9, "")]);
    assert_eq!(found[3].user, bob);
    assert_eq!((found[2].user.id, found[4].user.id), (tie, last));
    assert_eq!(page(FIRST, 2).await.unwrap(), found[..2]);
    assert_eq!(page((4, gone), 2).await.unwrap(), found[1..3]);
    assert_eq!(page((9, tie), 2).await.unwrap(), found[3..]);
    assert_eq!(page((9, bob.id), 2).await.unwrap(), found[4..]);
    assert_eq!(page((9, last), 2).await.unwrap(), []);
    for (id, emoji) in [
        (new_id(), "👍"),
        (message.id, "👎"),
        (message.id, "👍\u{FE0F}"),
    ] {
        assert_eq!(store.reads.reactors(id, emoji, FIRST, 9).await.unwrap(), []);
    }

    let who = [
        (message.id, bob.id),
        (message.id, new_id()),
        (new_id(), bob.id),
    ];
    let mut reacted = store.reads.reacted(&who).await.unwrap();
    reacted.sort();
    let mine = |emoji: &str| (message.id, bob.id, emoji.to_owned());
    assert_eq!(reacted, [mine("🎉"), mine("👍")]);
    assert_eq!(store.reads.reacted(&[]).await.unwrap(), []);
}

async fn a_user_gives_a_reaction_once_and_takes_it_back(store: Fixture) {
    let message = said(&store).await;
    let (bob, eve) = (new_id(), new_id());
    let give = |user, seq| Changes {
        reactions: vec![given(&message, "👍", user, seq)],
        ..Changes::default()
    };
    store.react(&message, give(bob, 2)).await;
    store.react(&message, give(eve, 3)).await;
    store.react(&message, give(bob, 4)).await;
    assert_eq!(
        store.reactors_of(&message, "👍").await,
        [(3, eve), (4, bob)]
    );
    let remove = Changes {
        removed_reactions: vec![(key(&message, "👍"), eve), (key(&message, "👎"), bob)],
        ..Changes::default()
    };
    store.react(&message, remove).await;
    assert_eq!(store.reactors_of(&message, "👍").await, [(4, bob)]);
    let clear = Changes {
        cleared_reactions: vec![message.id],
        ..Changes::default()
    };
    store.react(&message, clear).await;
    assert_eq!(store.reactors_of(&message, "👍").await, []);

    // Reactions of a message that the batch does not change, and one that is given and removed.
    let other = Message {
        id: new_id(),
        ..message.clone()
    };
    let stray = Changes {
        reactions: vec![given(&other, "👍", bob, 9)],
        updated_messages: vec![message.clone()],
        ..Changes::default()
    };
    let both = Changes {
        removed_reactions: vec![(key(&message, "👍"), bob)],
        updated_messages: vec![message.clone()],
        ..give(bob, 9)
    };
    for changes in [stray, both] {
        assert!(store.commit([message.room], changes).await.is_err());
    }
}

async fn the_facts_of_a_reaction_have_only_some_of_its_users(store: Fixture) {
    let message = said(&store).await;
    let users: Vec<UserId> = (0..500).map(|_| new_id()).collect();
    let reactions = ["👍", "👎", "🎉"].iter().flat_map(|emoji| {
        let users = (2..).zip(&users);
        users.map(|(seq, user)| given(&message, emoji, *user, seq))
    });
    let changes = Changes {
        reactions: reactions.collect(),
        ..Changes::default()
    };
    store.react(&message, changes).await;

    let of = |users: &[UserId], removals| ReactionScope {
        users: users.iter().copied().collect(),
        removals,
    };
    let (stranger, none) = (new_id(), key(&message, "😀"));
    let scope = Scope {
        reactions: HashMap::from([
            (key(&message, "👍"), of(&[users[3], stranger], 0)),
            (key(&message, "👎"), of(&[users[499]], 7)),
            (key(&message, "🎉"), of(&[stranger], 1)),
            (none.clone(), of(&[users[0]], 1)),
        ]),
        ..scope([message.room])
    };
    let facts = store.facts(&scope).await;
    let reacted = HashSet::from([
        (key(&message, "👍"), users[3]),
        (key(&message, "👎"), users[499]),
    ]);
    assert_eq!(facts.reacted, reacted);
    assert_eq!(facts.reactors.len(), 3, "only of those that are removed");
    assert!(facts.reactors[&none].is_empty());
    for (emoji, least) in [("👎", 17), ("🎉", 11)] {
        let first = &facts.reactors[&key(&message, emoji)];
        assert!(first.len() >= least && first.len() <= 17, "{}", first.len());
        assert_eq!(first[..], users[..first.len()]);
    }
}

fn entry_of(message: &Message, seq: Seq, emoji: &str, user: UserId, on: bool) -> FeedEntry {
    FeedEntry {
        detail: Some(ReactionDetail {
            emoji: emoji::key(emoji).into_owned(),
            user,
            on,
        }),
        ..entry(
            message.room,
            seq,
            EventKind::ReactionUpdated,
            Some(message.id),
        )
    }
}

async fn events_of_reactions_say_what_changed(store: Fixture) {
    let mut message = said(&store).await;
    let (bob, eve) = (new_id(), new_id());
    message.change_seq = 5;
    message.reactions = vec![Reaction {
        emoji: "❤\u{FE0F}".to_owned(),
        count: 27_250,
        me: None,
        users: vec![bob, eve],
    }];
    let changes = Changes {
        heads: [(message.room, 5)].into(),
        entries: vec![
            entry_of(&message, 2, "❤", bob, true),
            entry_of(&message, 3, "👍", eve, true),
            entry_of(&message, 4, "👍", eve, false),
            // As an earlier version stored it.
            entry(
                message.room,
                5,
                EventKind::ReactionUpdated,
                Some(message.id),
            ),
        ],
        ..Changes::default()
    };
    store.react(&message, changes).await;

    let events = store.reads.events(message.room, 1, 5).await.unwrap();
    let event = |seq: Seq, emoji: &str, user: UserId, on: bool, count: u32, users: &[UserId]| {
        json!({
            "room": message.room, "id": message.id, "seq": 1, "changeSeq": seq, "emoji": emoji,
            "user": user, "on": on, "count": count, "users": users,
        })
    };
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    use EventKind::{MessageUpdated, ReactionUpdated};
    assert_eq!(
        kinds,
        [
            ReactionUpdated,
            ReactionUpdated,
            ReactionUpdated,
            MessageUpdated
        ]
    );
    let data = |i: usize| serde_json::from_str::<Value>(&events[i].data).unwrap();
    let heart = event(2, "❤\u{FE0F}", bob, true, 27_250, &[bob, eve]);
    assert_eq!(data(0), heart);
    assert_eq!(data(1), event(3, "👍", eve, true, 0, &[]));
    assert_eq!(data(2), event(4, "👍", eve, false, 0, &[]));
    assert_eq!(events[3].data, wire(&message));

    // After the message is deleted, nothing of its reactions is shown.
    message.deleted_at = Some(t0());
    message.reactions = Vec::new();
    store.react(&message, Changes::default()).await;
    for event in store.reads.events(message.room, 1, 5).await.unwrap() {
        assert_eq!(event.kind, MessageUpdated);
        let now = Message {
            change_seq: event.seq,
            ..message.clone()
        };
        assert_eq!(event.data, wire(&now));
    }
}

async fn missed_changes_of_a_message_are_read_once(store: Fixture) {
    let message = said(&store).await;
    let bob = new_id();
    let many = (2..=300).map(|seq| entry_of(&message, seq, "👍", bob, seq % 2 == 0));
    let mut entries: Vec<FeedEntry> = many.collect();
    entries.push(entry(message.room, 301, EventKind::MemberJoined, None));
    let lost = entry(message.room, 302, EventKind::MessageUpdated, Some(new_id()));
    entries.push(lost);
    let changes = Changes {
        heads: [(message.room, 302)].into(),
        entries,
        ..Changes::default()
    };
    store.react(&message, changes).await;
    let missed = store.reads.missed(message.room, 0, 302).await.unwrap();
    let seqs: Vec<Seq> = missed.iter().map(|missed| missed.seq).collect();
    assert_eq!(
        seqs,
        (1..=301).collect::<Vec<_>>(),
        "without one that has no content"
    );
    let mut shown = Vec::new();
    for Missed { seq, content } in missed {
        match content {
            MissedContent::Message(message) => shown.push((seq, message.id)),
            MissedContent::Repeated => {}
            MissedContent::Event(kind, data) => {
                assert_eq!(
                    (kind, data),
                    (EventKind::MemberJoined, "{\"n\":301}".to_owned())
                );
            }
        }
    }
    assert_eq!(shown, [(1, message.id), (300, message.id)]);
}

/// A reaction as an earlier version stored it, with every user.
fn listed(emoji: &str, users: &[UserId]) -> Value {
    json!({"emoji": emoji, "users": users})
}

impl Fixture {
    async fn write_reactions(&self, message: &Message, reactions: &[Value]) {
        let id = match self.raw {
            Raw::Postgres(_) => format!("'{}'", message.id),
            Raw::Sqlite(_) => format!("x'{}'", message.id.simple()),
        };
        let reactions = json!(reactions).to_string().replace('\'', "''");
        let sql = format!("UPDATE messages SET reactions = '{reactions}' WHERE id = {id}");
        self.raw.execute(sql).await;
    }

    async fn stored(&self, message: &Message) -> Vec<(String, u32, Vec<UserId>)> {
        let found = self.reads.message(message.room, message.id).await.unwrap();
        let reactions = found.unwrap().reactions.into_iter();
        reactions.map(|r| (r.emoji, r.count, r.users)).collect()
    }
}

async fn lists_of_all_users_are_migrated(store: Fixture) {
    let message = said(&store).await;
    let plain = store
        .say(message.room, &message.sender, 2..=2)
        .await
        .remove(0);
    let users: Vec<UserId> = (0..300).map(|_| new_id()).collect();
    let old = [
        listed("😀", &users[..1]),
        listed("❤", &users[..12]),
        listed("a sentence \u{FE0F}'", &users[7..8]),
        // Ten users are in both lists and are counted once.
        listed("❤\u{FE0F}", &users[2..300]),
    ];
    store.write_reactions(&message, &old).await;
    let (undo, migration) = match store.raw {
        Raw::Postgres(_) => (
            "DROP TABLE reactions; ALTER TABLE feed DROP COLUMN detail;",
            include_str!("../../../../migrations/postgres/0030_reactions.sql"),
        ),
        Raw::Sqlite(_) => (
            "DROP TABLE reactions; ALTER TABLE feed DROP COLUMN detail;",
            include_str!("../../../../migrations/sqlite/0030_reactions.sql"),
        ),
    };
    store.raw.execute(undo.to_owned()).await;
    store.raw.execute(migration.to_owned()).await;

    let expected = [
        ("😀".to_owned(), 1, users[..1].to_vec()),
        ("❤\u{FE0F}".to_owned(), 300, users[..10].to_vec()),
        ("a sentence '".to_owned(), 1, users[7..8].to_vec()),
    ];
    assert_eq!(store.stored(&message).await, expected);
    assert_eq!(store.stored(&plain).await, []);
    let hearts = store.reactors_of(&message, "❤").await;
    let order: Vec<UserId> = hearts.iter().map(|(_, user)| *user).collect();
    assert_eq!(order, users);
    assert!(hearts.iter().is_sorted_by(|a, b| a.0 < b.0));
    // The migrated lists are as the store writes them.
    let scope = Scope {
        messages: [message.id].into(),
        ..scope([message.room])
    };
    let facts = store.facts(&scope).await;
    assert_eq!(facts.messages[&message.id].reactions[1].count, 300);
}

async fn lists_of_all_users_that_were_written_later_are_counted(store: Fixture) {
    let message = said(&store).await;
    let users: Vec<UserId> = (0..40).map(|_| new_id()).collect();
    let thumbs = (2..).zip(&users[..30]);
    let changes = Changes {
        reactions: thumbs
            .map(|(seq, user)| given(&message, "👍", *user, seq))
            .collect(),
        ..Changes::default()
    };
    store.react(&message, changes).await;
    // A worker of an earlier version reads the first ten, adds one, and adds another reaction.
    let eleven = [&users[..10], &users[35..36]].concat();
    let old = [listed("👍", &eleven), listed("❤", &users[38..])];
    store.write_reactions(&message, &old).await;
    // Until the next change, the message shows the list as it is, but bounded.
    let shown = store.stored(&message).await;
    assert_eq!((shown[0].1, shown[0].2.len()), (11, 10));

    let scope = Scope {
        messages: [message.id].into(),
        ..scope([message.room])
    };
    let (facts, transaction) = store.writes.begin(&scope).await.unwrap();
    let found = &facts.messages[&message.id];
    let counts: Vec<(&str, u32)> = found
        .reactions
        .iter()
        .map(|r| (r.emoji.as_str(), r.count))
        .collect();
    assert_eq!(counts, [("👍", 31), ("❤\u{FE0F}", 2)]);
    assert_eq!(found.reactions[0].users, users[..10]);
    transaction.commit(Changes::default()).await.unwrap();
    let thumbs = store.reactors_of(&message, "👍").await;
    assert_eq!((thumbs.len(), thumbs[30].1), (31, users[35]));
    let seqs: HashSet<Seq> = thumbs.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs.len(), 31);
    let hearts = store.reactors_of(&message, "❤").await;
    assert_eq!(hearts.len(), 2);
    assert_eq!(store.stored(&message).await[0].1, 31);

    // A message of a room that is not locked stays as it is.
    let eve = store.user("eve").await;
    let room = store.public_room(&eve).await;
    let other = store.say(room, &eve, 1..=1).await.remove(0);
    store.write_reactions(&other, &old).await;
    let scope = Scope {
        messages: [message.id, other.id].into(),
        ..scope
    };
    let (facts, transaction) = store.writes.begin(&scope).await.unwrap();
    assert_eq!(facts.messages[&other.id].reactions[0].count, 11);
    transaction.commit(Changes::default()).await.unwrap();
    assert_eq!(store.reactors_of(&other, "👍").await, []);
}
