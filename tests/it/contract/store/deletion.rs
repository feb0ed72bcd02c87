//! Accounts that are deleted.

use std::{collections::HashMap, time::Duration};

use chat::{
    model::{
        address::Address,
        notify::{Cause, ChannelKind, Delivery, Preferences, Purpose, RoomMode},
        *,
    },
    store::{
        notify::{CodeAnswer, NewCode},
        *,
    },
};

use super::fixture::*;

on_both! {
    nothing_personal_is_left_of_an_erased_account,
    messages_and_events_lose_the_name,
    the_longest_member_is_the_successor,
    a_member_who_is_just_added_is_found,
    users_who_left_are_still_candidates,
}

async fn erase(store: &Fixture, user: &User) {
    let applied = store.writes.erase_account(user.id, t0()).await.unwrap();
    assert_eq!(applied, Applied::Done);
}

async fn nothing_personal_is_left_of_an_erased_account(store: Fixture) {
    let mut new = account("ada");
    new.account.email = Some("ada@example.org".to_owned());
    assert_eq!(store.writes.register(&new).await.unwrap(), Applied::Done);
    let ada = new.account.user.clone();
    let login = Login {
        id: new_id(),
        user: ada.id,
        token_hash: vec![1; 32],
        expires_at: at(4_000_000_000_000),
        created_at: t0(),
        client: ClientInfo::default(),
    };
    let opened = store.writes.open_login(&login, None).await.unwrap();
    assert_eq!(opened, Applied::Done);
    let code = NewCode {
        user: ada.id,
        address: Address::parse(ChannelKind::Email, "ada@example.org").unwrap(),
        hash: vec![2; 32],
        expires_at: at(4_000_000_000_000),
    };
    store.notify.put_code(&code).await.unwrap();
    let preferences = Preferences {
        sms: true,
        ..Preferences::default()
    };
    let rooms = [(new_id(), RoomMode::Mentions)];
    let notify = &store.notify;
    notify
        .put_notify_settings(ada.id, &preferences, &rooms)
        .await
        .unwrap();
    assert!(!notify.notify_settings(ada.id).await.unwrap().gone);

    let bob = store.user("bob").await;
    let tea = store.public_room(&ada).await;
    // A repeat changes nothing, and neither does a command from before that is delivered late.
    for _ in 0..2 {
        erase(&store, &ada).await;
        assert_eq!(store.reads.account(ada.id).await.unwrap(), None);
        let accounts = store.reads.accounts(&[ada.id, bob.id, ada.id]).await;
        let found: Vec<_> = accounts.unwrap().into_iter().collect();
        let found: Vec<_> = found
            .into_iter()
            .map(|one| one.map(|one| one.user))
            .collect();
        assert_eq!(
            found,
            [None, Some(bob.clone()), None],
            "one by one or many at once"
        );
        let users = store.reads.users(&[ada.id]).await.unwrap();
        assert!(users.iter().all(|user| user.username == DELETED_USERNAME));
        let named = Scope {
            users: [ada.id, bob.id].into(),
            members: [(tea, ada.id), (tea, bob.id)].into(),
            named: [(tea, "ada".to_owned())].into(),
            ..scope([tea])
        };
        let facts = store.facts(&named).await;
        assert_eq!(facts.users.keys().collect::<Vec<_>>(), [&bob.id]);
        assert!(facts.named.is_empty());
        let asked = Scope {
            named: named.named.clone(),
            ..Scope::default()
        };
        assert!(store.writes.preview(&asked).await.unwrap().named.is_empty());
        assert!(store.reads.credentials("ada").await.unwrap().is_none());
        assert_eq!(store.reads.login(login.id).await.unwrap(), None);
        assert_eq!(store.reads.revoked(&[login.id]).await.unwrap(), [login.id]);
        assert_eq!(store.writes.logins_of(ada.id).await.unwrap(), [login.id]);
        let late = Login {
            id: new_id(),
            ..login.clone()
        };
        let applied = store.writes.open_login(&late, None).await.unwrap();
        assert_eq!(applied, Applied::NoSuchUser);
        let patch = AccountPatch {
            email: Some("ada@example.org".to_owned()),
            ..AccountPatch::default()
        };
        let applied = store.writes.update_account(ada.id, &patch).await.unwrap();
        assert_eq!(applied, Applied::NoSuchUser);
        let applied = store.writes.register(&new).await.unwrap();
        assert_eq!(applied, Applied::NameTaken);
        notify.put_code(&code).await.unwrap();
        let answer = notify.try_code(ada.id, ChannelKind::Email, &code.hash, t0());
        assert_eq!(answer.await.unwrap(), CodeAnswer::NoneOpen);
        notify
            .put_notify_settings(ada.id, &preferences, &rooms)
            .await
            .unwrap();
        let settings = notify.notify_settings(ada.id).await.unwrap();
        assert!(settings.gone);
        assert_eq!(settings.preferences, Preferences::default());
        assert_eq!((settings.rooms.len(), settings.verified.len()), (0, 0));
    }
    // The name is free for another account.
    let other = store.user("ADA").await;
    assert_ne!(other.id, ada.id);
    let found = store.reads.credentials("ada").await.unwrap().unwrap();
    assert_eq!(found.account.user, other);

    let applied = store.writes.erase_account(new_id(), t0()).await.unwrap();
    assert_eq!(applied, Applied::NoSuchUser);
    assert!(notify.notify_settings(new_id()).await.unwrap().gone);
}

async fn messages_and_events_lose_the_name(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let room = store.public_room(&ada).await;
    store.say(room, &bob, 1..=1).await;
    let event = |seq, kind, user: &User| {
        let who = serde_json::json!({"id": user.id, "username": user.username,
            "displayName": user.display_name});
        let data = match kind {
            EventKind::RoomUpdated => serde_json::json!({"n": seq, "member": {"user": who}}),
            _ => serde_json::json!({"n": seq, "user": who}),
        };
        FeedEntry {
            data: Some(data.to_string()),
            ..entry(room, seq, kind, None)
        }
    };
    let changes = Changes {
        heads: HashMap::from([(room, 5)]),
        entries: vec![
            event(2, EventKind::MemberJoined, &bob),
            event(3, EventKind::RoomUpdated, &bob),
            event(4, EventKind::MemberLeft, &bob),
            event(5, EventKind::MemberJoined, &ada),
        ],
        ..Changes::default()
    };
    store.commit([room], changes).await.unwrap();
    erase(&store, &bob).await;
    let changes = Changes {
        erased: vec![(room, bob.id)],
        ..Changes::default()
    };
    store.commit([room], changes).await.unwrap();

    let events = store.reads.events(room, 0, 5).await.unwrap();
    assert_eq!(events.len(), 5);
    for event in &events[..4] {
        let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        let who = [&data["sender"], &data["user"], &data["member"]["user"]];
        let who = who.into_iter().find(|who| who.is_object()).unwrap();
        assert_eq!(who["id"], bob.id.to_string(), "{data}");
        assert_eq!(who["username"], DELETED_USERNAME, "{data}");
        assert_eq!(who["displayName"], DELETED_DISPLAY_NAME, "{data}");
        assert!(event.seq == 1 || data["n"] == event.seq, "{data}");
    }
    assert!(events[4].data.contains("ada"), "{}", events[4].data);
}

async fn the_longest_member_is_the_successor(store: Fixture) {
    let ada = store.user("ada").await;
    let mut people = Vec::new();
    for name in ["gone", "old", "admin", "new"] {
        people.push(store.user(name).await);
    }
    let in_room = |room, role, who: usize, joined| Member {
        joined_at: at(joined),
        ..member(room, &people[who], role)
    };
    let successor = async |room, user: &User| {
        let scope = Scope {
            successors: [(room, user.id)].into(),
            ..scope([room])
        };
        let facts = store.facts(&scope).await;
        let successor = facts.successors.get(&room).copied();
        assert!(successor.is_none_or(|user| facts.members.contains_key(&(room, user))));
        successor
    };
    let room = store.public_room(&ada).await;
    assert_eq!(successor(room, &ada).await, None, "nobody else is there");
    let put = async |members| {
        let changes = Changes {
            members,
            ..Changes::default()
        };
        store.commit([room], changes).await.unwrap();
    };
    put(vec![in_room(room, Role::Admin, 0, 1)]).await;
    erase(&store, &people[0]).await;
    assert_eq!(
        successor(room, &ada).await,
        None,
        "who is gone inherits nothing"
    );
    put(vec![
        in_room(room, Role::Member, 3, 3),
        in_room(room, Role::Member, 1, 2),
    ])
    .await;
    assert_eq!(successor(room, &ada).await, Some(people[1].id));
    put(vec![in_room(room, Role::Admin, 2, 4)]).await;
    assert_eq!(successor(room, &ada).await, Some(people[2].id));
    // A plain member needs no successor, except in a direct room.
    assert_eq!(successor(room, &people[1]).await, None);
    assert_eq!(successor(room, &store.user("stranger").await).await, None);
    let direct = store
        .put_room(super::fixture::room(RoomKind::Direct, &ada), &ada)
        .await;
    let changes = Changes {
        members: vec![in_room(direct, Role::Member, 1, 1)],
        ..Changes::default()
    };
    store.commit([direct], changes).await.unwrap();
    assert_eq!(successor(direct, &people[1]).await, Some(ada.id));

    let mut rooms = vec![room, direct];
    rooms.sort();
    let of = async |user, after, limit| store.writes.member_of(user, after, limit).await.unwrap();
    assert_eq!(of(ada.id, None, 5).await, rooms);
    assert_eq!(of(ada.id, None, 1).await, rooms[..1]);
    assert_eq!(of(ada.id, Some(rooms[0]), 5).await, rooms[1..]);
    assert!(of(new_id(), None, 5).await.is_empty());
}

/// The deletion of an account waits for a transaction that adds it to a room, so that it sees all of its rooms.
async fn a_member_who_is_just_added_is_found(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let room = store.public_room(&ada).await;
    let adding = Scope {
        users: [bob.id].into(),
        ..scope([room])
    };
    let (facts, transaction) = store.writes.begin(&adding).await.unwrap();
    assert!(facts.users.contains_key(&bob.id));
    let mut erasing = tokio::spawn({
        let (store, bob) = (store.clone(), bob.clone());
        async move { erase(&store, &bob).await }
    });
    let early = tokio::time::timeout(Duration::from_millis(200), &mut erasing).await;
    assert!(early.is_err(), "it does not wait");
    let changes = Changes {
        members: vec![member(room, &bob, Role::Member)],
        ..Changes::default()
    };
    transaction.commit(changes).await.unwrap();
    erasing.await.unwrap();
    let rooms = store.writes.member_of(bob.id, None, 5).await.unwrap();
    assert_eq!(rooms, [room]);
    // From now on it cannot be added.
    assert!(!store.facts(&adding).await.users.contains_key(&bob.id));
}

async fn users_who_left_are_still_candidates(store: Fixture) {
    let (ada, zoe) = (store.user("ada").await, store.user("zoe").await);
    let (bob, eve) = (store.user("bob").await, store.user("eve").await);
    let direct = store.put_room(room(RoomKind::Direct, &ada), &ada).await;
    let public = store.public_room(&ada).await;
    let sent = store.say(direct, &ada, 1..=1).await;
    let named = Message {
        mentions: vec![bob.id, eve.id],
        ..message(public, &ada, 1, "@bob @eve")
    };
    let all = [(public, RoomMode::All)];
    let preferences = Preferences::default();
    for user in [&bob, &zoe] {
        let put = store
            .notify
            .put_notify_settings(user.id, &preferences, &all);
        put.await.unwrap();
    }
    let left = |user: &User| {
        let data =
            serde_json::json!({"user": {"id": user.id, "username": "x", "displayName": "x"}});
        Some(data.to_string())
    };
    let changes = Changes {
        heads: HashMap::from([(direct, 2), (public, 2)]),
        new_messages: vec![named.clone()],
        entries: vec![
            FeedEntry {
                data: left(&bob),
                ..entry(direct, 2, EventKind::MemberLeft, None)
            },
            FeedEntry {
                data: left(&zoe),
                ..entry(public, 2, EventKind::MemberLeft, None)
            },
        ],
        members: vec![member(public, &eve, Role::Member)],
        ..Changes::default()
    };
    store.commit([direct, public], changes).await.unwrap();
    for user in [&bob, &zoe] {
        erase(&store, user).await;
    }
    let messages = [sent[0].id, named.id];
    let mut found: Vec<_> = store
        .notify
        .candidates(&messages)
        .await
        .unwrap()
        .into_iter()
        .map(|c| (c.room, c.user, c.cause, c.read, c.gone))
        .collect();
    let mut expected = vec![
        (direct, bob.id, Cause::Direct, None, true),
        (public, bob.id, Cause::Mention, None, true),
        (public, eve.id, Cause::Mention, Some(false), false),
        (public, zoe.id, Cause::All, None, true),
    ];
    found.sort_by_key(|(room, user, ..)| (*room, *user));
    expected.sort_by_key(|(room, user, ..)| (*room, *user));
    assert_eq!(found, expected);

    // In the end the room preference expires as well.
    let keep = Duration::from_secs(1_000_000_000);
    store.writes.expire(Duration::ZERO, keep).await.unwrap();
    let found = store.notify.candidates(&[named.id]).await.unwrap();
    assert!(found.iter().all(|candidate| candidate.user != zoe.id));

    let delivery = Delivery::new(new_id(), bob.id, ChannelKind::Email, Purpose::Messages);
    store.notify.put_delivery(&delivery).await.unwrap();
    let of = async |user, after| store.notify.deliveries_to(user, after, 5).await.unwrap();
    assert_eq!(of(bob.id, None).await, std::slice::from_ref(&delivery));
    assert_eq!(of(bob.id, Some(delivery.id)).await, []);
    assert_eq!(of(eve.id, None).await, []);
}
