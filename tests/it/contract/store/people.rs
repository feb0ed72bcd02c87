//! Rooms, members and bans.

use std::collections::HashSet;

use chat::{model::*, store::*};

use super::fixture::*;

on_both! {
    a_room_is_found_until_it_is_deleted,
    membership_has_room_and_member,
    a_batched_read_equals_single_reads,
    members_come_by_user_id_page_by_page,
    rooms_of_a_user_come_by_room_id_page_by_page,
    public_rooms_come_page_by_page,
    a_member_changes_and_goes,
    bans_are_put_changed_and_lifted,
    mutes_of_users_who_left_are_put_changed_and_lifted,
    members_are_distinguished_from_others,
    members_of_a_common_room_are_acquainted,
    members_are_found_by_name_where_they_are_members,
    facts_have_the_scope_and_no_more,
    heads_of_ten_thousand_rooms,
}

async fn a_room_is_found_until_it_is_deleted(store: Fixture) {
    let ada = store.user("ada").await;
    let mut tea = Room {
        head: 3,
        ..room(RoomKind::Private, &ada)
    };
    let id = store.put_room(tea.clone(), &ada).await;
    assert_eq!(store.reads.room(id).await.unwrap(), Some(tea.clone()));
    assert_eq!(store.reads.room(new_id()).await.unwrap(), None);

    tea.name = "Käse \u{1f9c0} 'quoted' \\ \"".to_owned();
    tea.head = 4;
    let change = |room: &Room| Changes {
        rooms: vec![room.clone()],
        heads: [(id, room.head)].into(),
        ..Changes::default()
    };
    store.commit([id], change(&tea)).await.unwrap();
    assert_eq!(store.reads.room(id).await.unwrap(), Some(tea.clone()));

    tea.deleted = true;
    tea.head = 5;
    store.commit([id], change(&tea)).await.unwrap();
    assert_eq!(store.reads.room(id).await.unwrap(), None);
    assert_eq!(store.reads.membership(id, ada.id).await.unwrap(), None);
    assert_eq!(store.reads.rooms_of(ada.id, None, 10).await.unwrap(), []);
    assert_eq!(store.reads.heads(&[id]).await.unwrap(), []);
    // A worker reads it, so that its id is never used again.
    assert_eq!(store.facts(&scope([id])).await.rooms[&id], tea);
}

async fn membership_has_room_and_member(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let tea = room(RoomKind::Public, &ada);
    let id = store.put_room(tea.clone(), &ada).await;
    let owner = member(id, &ada, Role::Owner);
    let membership = async |room, user| store.reads.membership(room, user).await.unwrap();
    assert_eq!(
        membership(id, ada.id).await,
        Some((tea.clone(), Some(owner)))
    );
    assert_eq!(membership(id, bob.id).await, Some((tea, None)));
    assert_eq!(membership(new_id(), ada.id).await, None);
}

async fn a_batched_read_equals_single_reads(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let tea = store.public_room(&ada).await;
    store.say(tea, &ada, 1..=3).await;
    let den = room(RoomKind::Private, &bob);
    let den = store.put_room(den, &bob).await;
    let nowhere = new_id();
    let who = [
        (den, ada.id),
        (tea, bob.id),
        (nowhere, ada.id),
        (tea, ada.id),
        (den, bob.id),
        (tea, ada.id),
    ];
    let entries = store.reads.entries(&who).await.unwrap();
    let mut unread = Vec::new();
    for ((room, user), entry) in who.iter().zip(entries) {
        unread.push(entry.as_ref().map(|entry| entry.unread));
        let together = entry.map(|entry| (entry.room, entry.member));
        let alone = store.reads.membership(*room, *user).await.unwrap();
        assert_eq!(together, alone);
    }
    let expected = [Some(0), Some(0), None, Some(3), Some(0), Some(3)];
    assert_eq!(unread, expected);
    assert!(store.reads.entries(&[]).await.unwrap().is_empty());

    let users = [bob.id, new_id(), ada.id, bob.id];
    let accounts = store.reads.accounts(&users).await.unwrap();
    assert_eq!(accounts.len(), users.len());
    for (user, account) in users.iter().zip(accounts) {
        assert_eq!(account, store.reads.account(*user).await.unwrap());
    }
}

async fn members_come_by_user_id_page_by_page(store: Fixture) {
    let ada = store.user("ada").await;
    let id = store.public_room(&ada).await;
    let mut everyone = vec![member(id, &ada, Role::Owner)];
    for n in 0..9 {
        let user = store.user(&format!("user{n}")).await;
        everyone.push(member(id, &user, Role::Member));
    }
    let changes = Changes {
        members: everyone[1..].to_vec(),
        ..Changes::default()
    };
    store.commit([id], changes).await.unwrap();
    everyone.sort_by_key(|member| member.user.id);

    let mut found = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let after = found.last().map(|member: &Member| member.user.id);
        let page = store.reads.members(id, after, 4).await.unwrap();
        sizes.push(page.len());
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, everyone);
    assert_eq!(sizes, [4, 4, 2, 0]);
    assert_eq!(store.reads.members(new_id(), None, 4).await.unwrap(), []);
}

async fn rooms_of_a_user_come_by_room_id_page_by_page(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let mut mine = Vec::new();
    for _ in 0..5 {
        mine.push(store.public_room(&ada).await);
        store.public_room(&bob).await;
    }
    mine.sort();
    let first = store.reads.rooms_of(ada.id, None, 3).await.unwrap();
    let rest = store
        .reads
        .rooms_of(ada.id, Some(first[2].0.id), 3)
        .await
        .unwrap();
    let found: Vec<RoomId> = first.iter().chain(&rest).map(|(room, _)| room.id).collect();
    assert_eq!(found, mine);
    for (room, member) in first {
        assert_eq!(
            (member.room, member.user, member.role),
            (room.id, ada.clone(), Role::Owner)
        );
    }
}

async fn public_rooms_come_page_by_page(store: Fixture) {
    let ada = store.user("ada").await;
    let mut public = Vec::new();
    for _ in 0..3 {
        public.push(store.public_room(&ada).await);
        store.put_room(room(RoomKind::Private, &ada), &ada).await;
        store.put_room(room(RoomKind::Direct, &ada), &ada).await;
        let gone = Room {
            deleted: true,
            ..room(RoomKind::Public, &ada)
        };
        store.put_room(gone, &ada).await;
    }
    public.sort();
    let first = store.reads.public_rooms(None, 2).await.unwrap();
    let rest = store
        .reads
        .public_rooms(Some(first[1].id), 2)
        .await
        .unwrap();
    let found: Vec<RoomId> = first.iter().chain(&rest).map(|room| room.id).collect();
    assert_eq!(found, public);
}

async fn a_member_changes_and_goes(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let id = store.public_room(&ada).await;
    let mut bob = member(id, &bob, Role::Member);
    let put = |member: &Member| Changes {
        members: vec![member.clone()],
        ..Changes::default()
    };
    store.commit([id], put(&bob)).await.unwrap();
    bob.role = Role::Admin;
    bob.read_seq = 7;
    bob.muted_until = Some(at(t0().millis() + 1));
    store.commit([id], put(&bob)).await.unwrap();
    let (_, found) = store
        .reads
        .membership(id, bob.user.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found, Some(bob.clone()));

    let gone = Changes {
        removed_members: vec![(id, bob.user.id)],
        ..Changes::default()
    };
    for _ in 0..2 {
        store.commit([id], gone.clone()).await.unwrap();
        let (_, found) = store
            .reads
            .membership(id, bob.user.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found, None);
    }
    assert_eq!(store.reads.members(id, None, 9).await.unwrap().len(), 1);
}

async fn bans_are_put_changed_and_lifted(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let id = store.public_room(&ada).await;
    let pair = (id, bob.id);
    let asked = Scope {
        members: HashSet::from([pair, (id, ada.id)]),
        ..scope([id])
    };
    for until in [None, Some(at(t0().millis() + 5)), None] {
        let ban = Changes {
            bans: vec![(id, bob.id, until)],
            ..Changes::default()
        };
        store.commit([id], ban).await.unwrap();
        let facts = store.facts(&asked).await;
        assert_eq!(facts.bans, [(pair, until)].into());
        assert!(!facts.members.contains_key(&pair));
    }
    let lift = Changes {
        lifted_bans: vec![pair],
        ..Changes::default()
    };
    store.commit([id], lift).await.unwrap();
    assert!(store.facts(&asked).await.bans.is_empty());
}

async fn mutes_of_users_who_left_are_put_changed_and_lifted(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let id = store.public_room(&ada).await;
    let other = store.public_room(&ada).await;
    let pair = (id, bob.id);
    let asked = Scope {
        members: HashSet::from([pair, (other, bob.id), (id, ada.id)]),
        ..scope([id, other])
    };
    for until in [at(t0().millis() + 5), at(t0().millis() + 9)] {
        let mute = Changes {
            mutes: vec![(id, bob.id, until)],
            ..Changes::default()
        };
        store.commit([id], mute).await.unwrap();
        let facts = store.facts(&asked).await;
        assert_eq!(facts.mutes, [(pair, until)].into());
        assert!(!facts.members.contains_key(&pair) && facts.bans.is_empty());
    }
    let lift = Changes {
        lifted_mutes: vec![pair],
        ..Changes::default()
    };
    store.commit([id], lift.clone()).await.unwrap();
    assert!(store.facts(&asked).await.mutes.is_empty());
    store.commit([id], lift).await.unwrap();
    // They end with the account.
    let mute = Changes {
        mutes: vec![(id, bob.id, t0()), (id, ada.id, t0())],
        ..Changes::default()
    };
    store.commit([id], mute).await.unwrap();
    store.writes.erase_account(bob.id, t0()).await.unwrap();
    let facts = store.facts(&asked).await;
    assert_eq!(facts.mutes, [((id, ada.id), t0())].into());
}

async fn members_are_distinguished_from_others(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let tea = store.public_room(&ada).await;
    let den = room(RoomKind::Private, &bob);
    let den = store.put_room(den, &bob).await;
    let gone = Room {
        deleted: true,
        ..room(RoomKind::Public, &ada)
    };
    let gone = store.put_room(gone, &ada).await;
    let asked = [
        (tea, ada.id),
        (den, ada.id),
        (gone, ada.id),
        (den, bob.id),
        (tea, bob.id),
        (new_id(), ada.id),
        (tea, new_id()),
    ];
    let mut found = store.reads.are_members(&asked).await.unwrap();
    found.sort_unstable();
    let mut expected = vec![(tea, ada.id), (den, bob.id)];
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(store.reads.are_members(&[]).await.unwrap(), []);
    let many: Vec<_> = (0..5000).map(|_| (new_id(), ada.id)).collect();
    let many = [&many[..], &asked[..1]].concat();
    let found = store.reads.are_members(&many).await.unwrap();
    assert_eq!(found, [(tea, ada.id)]);
}

async fn members_of_a_common_room_are_acquainted(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let (eve, tom) = (store.user("eve").await, store.user("tom").await);
    let tea = store.public_room(&ada).await;
    let gone = Room {
        deleted: true,
        ..room(RoomKind::Private, &ada)
    };
    let gone = store.put_room(gone, &ada).await;
    for (id, user) in [(tea, &bob), (gone, &eve)] {
        let changes = Changes {
            members: vec![member(id, user, Role::Member)],
            ..Changes::default()
        };
        store.commit([id], changes).await.unwrap();
    }
    let asked = Scope {
        acquaintances: HashSet::from([
            (ada.id, bob.id),
            (bob.id, ada.id),
            // Their room was deleted.
            (ada.id, eve.id),
            (ada.id, tom.id),
            (bob.id, eve.id),
            (ada.id, new_id()),
        ]),
        ..scope([new_id()])
    };
    let facts = store.facts(&asked).await;
    let expected = HashSet::from([(ada.id, bob.id), (bob.id, ada.id)]);
    assert_eq!(facts.acquaintances, expected);
}

async fn members_are_found_by_name_where_they_are_members(store: Fixture) {
    let (ada, bob) = (store.user("Ada").await, store.user("bob").await);
    let (id, other) = (store.public_room(&ada).await, store.public_room(&bob).await);
    let key = |user: &User| user.username.to_lowercase();
    let facts = store
        .facts(&Scope {
            named: HashSet::from([
                (id, key(&ada)),
                (id, key(&bob)),
                (other, key(&bob)),
                (other, "nobody".to_owned()),
            ]),
            ..scope([id, other])
        })
        .await;
    let named = [(key(&ada), ada.id), (key(&bob), bob.id)];
    assert_eq!(facts.named, named.into());
    let mut members: Vec<_> = facts.members.keys().copied().collect();
    members.sort_unstable();
    let mut right = vec![(id, ada.id), (other, bob.id)];
    right.sort_unstable();
    assert_eq!(members, right);
}

async fn facts_have_the_scope_and_no_more(store: Fixture) {
    let (ada, bob) = (store.user("ada").await, store.user("bob").await);
    let eve = store.user("eve").await;
    let tea = room(RoomKind::Public, &ada);
    let id = store.put_room(tea.clone(), &ada).await;
    let said = store.say(id, &ada, 1..=2).await;
    let nothing = store.facts(&Scope::default()).await;
    assert!(nothing.rooms.is_empty() && nothing.messages.is_empty());
    assert!(nothing.members.is_empty() && nothing.users.is_empty());

    let (missing, stranger) = (new_id(), new_id());
    let facts = store
        .facts(&Scope {
            messages: HashSet::from([said[0].id, new_id()]),
            members: HashSet::from([
                (id, ada.id),
                (id, bob.id),
                (id, stranger),
                (missing, ada.id),
            ]),
            users: HashSet::from([eve.id, stranger]),
            ..scope([id, missing])
        })
        .await;
    assert_eq!(facts.rooms, [(id, Room { head: 2, ..tea })].into());
    assert_eq!(facts.messages.len(), 1);
    assert_eq!(wire(&facts.messages[&said[0].id]), wire(&said[0]));
    assert_eq!(
        facts.members,
        [((id, ada.id), member(id, &ada, Role::Owner))].into()
    );
    assert_eq!(
        facts.users,
        [ada, bob, eve].map(|user| (user.id, user)).into()
    );
    assert!(facts.bans.is_empty());
}

async fn heads_of_ten_thousand_rooms(store: Fixture) {
    let ada = store.user("ada").await;
    let rooms: Vec<Room> = (0..10_000)
        .map(|head| Room {
            head,
            ..room(RoomKind::Public, &ada)
        })
        .collect();
    let mut expected: Vec<(RoomId, Seq)> = rooms.iter().map(|r| (r.id, r.head)).collect();
    let ids: Vec<RoomId> = rooms.iter().map(|room| room.id).collect();
    let changes = Changes {
        rooms,
        ..Changes::default()
    };
    store.commit(ids.clone(), changes).await.unwrap();

    let asked: Vec<RoomId> = ids.iter().copied().chain([new_id()]).collect();
    let mut found = store.reads.heads(&asked).await.unwrap();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(store.reads.heads(&[]).await.unwrap(), []);
}
