//! Accounts and logins.

use chat::{model::*, store::*};

use super::fixture::*;

on_both! {
    an_account_is_registered_once,
    a_name_belongs_to_one_account_in_any_case,
    of_two_registrations_of_a_name_one_succeeds,
    a_patch_leaves_changes_and_clears,
    users_are_found_by_id,
    a_login_is_opened_and_closed_once,
    a_token_is_rotated_and_its_predecessor_repeats_that,
    an_old_token_revokes_the_login,
    an_expired_login_is_refused,
    revoked_logins_are_found_among_others,
    a_user_sees_and_closes_only_their_own_logins,
    a_new_password_closes_all_other_logins_once,
    the_store_answers_a_ping,
}

async fn an_account_is_registered_once(store: Fixture) {
    let mut new = account("ada");
    new.account.email = Some("ada@example.org".to_owned());
    for _ in 0..2 {
        assert_eq!(store.writes.register(&new).await.unwrap(), Applied::Done);
    }
    let id = new.account.user.id;
    let found = store.reads.account(id).await.unwrap().unwrap();
    assert_eq!(found, new.account);
    let credentials = store.reads.credentials("ada").await.unwrap().unwrap();
    assert_eq!(credentials.account, new.account);
    assert_eq!(credentials.password_hash, new.password_hash);

    assert_eq!(store.reads.account(new_id()).await.unwrap(), None);
    assert!(store.reads.credentials("eve").await.unwrap().is_none());
}

async fn a_name_belongs_to_one_account_in_any_case(store: Fixture) {
    let first = store.user("Zoë").await;
    for name in ["Zoë", "zoë", "ZOË"] {
        let other = account(name);
        assert_eq!(
            store.writes.register(&other).await.unwrap(),
            Applied::NameTaken
        );
        let found = store.reads.credentials(name).await.unwrap().unwrap();
        assert_eq!(found.account.user, first);
        let absent = store.reads.account(other.account.user.id).await.unwrap();
        assert_eq!(absent, None);
    }
    // An id has one name, too.
    let mut renamed = account("someone else");
    renamed.account.user.id = first.id;
    assert_eq!(
        store.writes.register(&renamed).await.unwrap(),
        Applied::NameTaken
    );
}

async fn of_two_registrations_of_a_name_one_succeeds(store: Fixture) {
    let (a, b) = (account("ada"), account("Ada"));
    let (a, b) = tokio::join!(store.writes.register(&a), store.writes.register(&b));
    let mut applied = [a.unwrap(), b.unwrap()];
    applied.sort_by_key(|applied| *applied != Applied::Done);
    assert_eq!(applied, [Applied::Done, Applied::NameTaken]);
}

async fn a_patch_leaves_changes_and_clears(store: Fixture) {
    let user = store.user("ada").await;
    let text = |text: &str| Some(text.to_owned());
    let steps = [
        (
            AccountPatch {
                display_name: text("Ada L."),
                email: text("a@b.c"),
                phone: text("+1"),
            },
            ("Ada L.", text("a@b.c"), text("+1")),
        ),
        (
            AccountPatch::default(),
            ("Ada L.", text("a@b.c"), text("+1")),
        ),
        (
            AccountPatch {
                email: text(""),
                ..AccountPatch::default()
            },
            ("Ada L.", None, text("+1")),
        ),
        (
            AccountPatch {
                display_name: text(""),
                phone: text(""),
                ..AccountPatch::default()
            },
            ("ada", None, None),
        ),
    ];
    for (patch, (display_name, email, phone)) in steps {
        for _ in 0..2 {
            let applied = store.writes.update_account(user.id, &patch).await.unwrap();
            assert_eq!(applied, Applied::Done);
        }
        let account = store.reads.account(user.id).await.unwrap().unwrap();
        assert_eq!(account.user.display_name, display_name, "{patch:?}");
        assert_eq!((account.email, account.phone), (email, phone), "{patch:?}");
    }
    let patch = AccountPatch::default();
    let applied = store.writes.update_account(new_id(), &patch).await.unwrap();
    assert_eq!(applied, Applied::NoSuchUser);
}

async fn users_are_found_by_id(store: Fixture) {
    let (a, b) = (store.user("a").await, store.user("b").await);
    assert_eq!(store.reads.users(&[]).await.unwrap(), []);
    let mut found = store.reads.users(&[b.id, new_id(), a.id]).await.unwrap();
    found.sort_by_key(|user| user.id);
    assert_eq!(found, [a, b]);
}

/// A login of a new user with the token `t0`, which expires in an hour.
async fn login(store: &Fixture) -> Login {
    let login = Login {
        id: new_id(),
        user: store.user("ada").await.id,
        token_hash: b"t0".to_vec(),
        expires_at: at(Timestamp::now().millis() + 3_600_000),
        created_at: t0(),
        client: ClientInfo {
            user_agent: Some("curl/8".to_owned()),
            address: Some("192.0.2.7".to_owned()),
        },
    };
    assert_eq!(
        store.writes.open_login(&login, None).await.unwrap(),
        Applied::Done
    );
    login
}

async fn rotate(store: &Fixture, login: &Login, old: &str, new: &str, now: Timestamp) -> Applied {
    let rotation = Rotation {
        login: login.id,
        old_hash: old.into(),
        new_hash: new.into(),
        expires_at: at(login.expires_at.millis() + 1000),
        asked_at: now,
        applied_at: now,
    };
    store.writes.rotate_login(&rotation).await.unwrap()
}

async fn a_login_is_opened_and_closed_once(store: Fixture) {
    let login = login(&store).await;
    assert_eq!(
        store.writes.open_login(&login, None).await.unwrap(),
        Applied::Done
    );
    assert_eq!(
        store.reads.login(login.id).await.unwrap(),
        Some(login.clone())
    );

    for _ in 0..2 {
        assert_eq!(
            store
                .writes
                .close_login(login.user, login.id)
                .await
                .unwrap(),
            Applied::Done
        );
        assert_eq!(store.reads.login(login.id).await.unwrap(), None);
    }
    // Delivered again, the command that opened it does not open it again.
    assert_eq!(
        store.writes.open_login(&login, None).await.unwrap(),
        Applied::Done
    );
    assert_eq!(store.reads.login(login.id).await.unwrap(), None);
    assert_eq!(
        rotate(&store, &login, "t0", "t1", t0()).await,
        Applied::LoginRevoked
    );

    let unknown = new_id();
    assert_eq!(
        store.writes.close_login(login.user, unknown).await.unwrap(),
        Applied::LoginRefused
    );
    assert_eq!(store.reads.login(unknown).await.unwrap(), None);
    let stranger = Login {
        id: unknown,
        user: new_id(),
        ..login
    };
    assert_eq!(
        store.writes.open_login(&stranger, None).await.unwrap(),
        Applied::NoSuchUser
    );
    assert_eq!(
        rotate(&store, &stranger, "t0", "t1", t0()).await,
        Applied::LoginRefused
    );
}

async fn a_token_is_rotated_and_its_predecessor_repeats_that(store: Fixture) {
    let login = login(&store).await;
    let later = |seconds: i64| at(t0().millis() + seconds * 1000);
    // Without a time limit, until the new token is rotated.
    for now in [t0(), t0(), later(10), later(12), later(3000)] {
        assert_eq!(rotate(&store, &login, "t0", "t1", now).await, Applied::Done);
        let found = store.reads.login(login.id).await.unwrap().unwrap();
        assert_eq!(found.token_hash, b"t1");
        assert_eq!(found.expires_at.millis(), login.expires_at.millis() + 1000);
    }
    assert_eq!(
        rotate(&store, &login, "t1", "t2", later(3001)).await,
        Applied::Done
    );
    // A redelivery from before: refused, and the login stays.
    assert_eq!(
        rotate(&store, &login, "t0", "t1", t0()).await,
        Applied::LoginRefused
    );
    assert_eq!(
        rotate(&store, &login, "t1", "t2", later(3100)).await,
        Applied::Done
    );
    // A predecessor whose next token would be another one: refused, and the login stays.
    assert_eq!(
        rotate(&store, &login, "t1", "x", later(3100)).await,
        Applied::LoginRefused
    );
    assert_eq!(
        rotate(&store, &login, "t2", "t3", later(3200)).await,
        Applied::Done
    );
    let found = store.reads.login(login.id).await.unwrap().unwrap();
    assert_eq!(found.token_hash, b"t3");
}

async fn an_old_token_revokes_the_login(store: Fixture) {
    let login = login(&store).await;
    assert_eq!(
        rotate(&store, &login, "t0", "t1", t0()).await,
        Applied::Done
    );
    let late = at(t0().millis() + 1000);
    assert_eq!(
        rotate(&store, &login, "t1", "t2", t0()).await,
        Applied::Done
    );
    assert_eq!(
        rotate(&store, &login, "t0", "t1", late).await,
        Applied::LoginRevoked
    );
    assert_eq!(store.reads.login(login.id).await.unwrap(), None);
    // Also for the next worker, where the first one died before it closed the sockets.
    assert_eq!(
        rotate(&store, &login, "t0", "t1", late).await,
        Applied::LoginRevoked
    );
    assert_eq!(
        rotate(&store, &login, "t2", "t3", late).await,
        Applied::LoginRevoked
    );
}

async fn an_expired_login_is_refused(store: Fixture) {
    let now = Timestamp::now();
    let login = Login {
        expires_at: at(now.millis() - 1),
        ..login(&store).await
    };
    let login = Login {
        id: new_id(),
        ..login
    };
    assert_eq!(
        store.writes.open_login(&login, None).await.unwrap(),
        Applied::Done
    );
    assert_eq!(store.reads.login(login.id).await.unwrap(), None);
    assert_eq!(
        rotate(&store, &login, "t0", "t1", now).await,
        Applied::LoginRefused
    );
}

async fn the_store_answers_a_ping(store: Fixture) {
    store.reads.ping().await.unwrap();
}

async fn revoked_logins_are_found_among_others(store: Fixture) {
    let user = store.user("bob").await.id;
    let mut logins = Vec::new();
    for i in 0..5 {
        let login = Login {
            id: new_id(),
            user,
            token_hash: vec![i],
            expires_at: at(Timestamp::now().millis() + 3_600_000),
            created_at: t0(),
            client: ClientInfo::default(),
        };
        let opened = store.writes.open_login(&login, None).await.unwrap();
        assert_eq!(opened, Applied::Done);
        logins.push(login.id);
    }
    for id in &logins[1..3] {
        store.writes.close_login(user, *id).await.unwrap();
    }
    let asked = [logins[0], logins[1], new_id(), logins[4]];
    assert_eq!(store.reads.revoked(&asked).await.unwrap(), [logins[1]]);
    assert!(store.reads.revoked(&[]).await.unwrap().is_empty());
}

/// Logins of a user, opened one second after the other from [`t0`] on.
async fn logins(store: &Fixture, user: UserId, count: i64) -> Vec<Login> {
    let mut logins = Vec::new();
    for second in 0..count {
        let login = Login {
            id: new_id(),
            user,
            token_hash: b"t0".to_vec(),
            expires_at: at(Timestamp::now().millis() + 3_600_000),
            created_at: at(t0().millis() + 1000 * second),
            client: ClientInfo::default(),
        };
        let opened = store.writes.open_login(&login, None).await.unwrap();
        assert_eq!(opened, Applied::Done);
        logins.push(login);
    }
    logins
}

/// The ids of the open logins of a user, read in pages of two.
async fn open_ids(store: &Fixture, user: UserId) -> Vec<LoginId> {
    let mut ids: Vec<LoginId> = Vec::new();
    loop {
        let page = store.reads.sessions(user, ids.last().copied(), 2).await;
        let page = page.unwrap();
        if page.is_empty() {
            return ids;
        }
        assert!(page.len() <= 2);
        ids.extend(page.iter().map(|session| session.id));
    }
}

async fn a_user_sees_and_closes_only_their_own_logins(store: Fixture) {
    let (ada, eve) = (store.user("ada").await.id, store.user("eve").await.id);
    let own = logins(&store, ada, 5).await;
    let foreign = logins(&store, eve, 1).await;
    let ids: Vec<LoginId> = own.iter().map(|login| login.id).collect();
    assert_eq!(open_ids(&store, ada).await, ids);

    let refused = store.writes.close_login(eve, ids[0]).await.unwrap();
    assert_eq!(refused, Applied::LoginRefused);
    assert_eq!(open_ids(&store, ada).await, ids);

    store.writes.close_login(ada, ids[0]).await.unwrap();
    assert_eq!(store.reads.revoked(&ids).await.unwrap(), [ids[0]]);
    let session = &store.reads.sessions(ada, None, 1).await.unwrap()[0];
    assert_eq!((session.id, session.refreshed_at), (ids[1], None));
    assert_eq!(session.created_at, Some(own[1].created_at));

    let close = |except, at| store.writes.close_logins(ada, except, at);
    assert_eq!(close(Some(ids[2]), t0()).await.unwrap(), Applied::Done);
    assert_eq!(open_ids(&store, ada).await, [ids[2]]);
    // Only what it has closed itself is announced, and a repeat announces the same.
    let late = logins(&store, ada, 1).await[0].id;
    for _ in 0..2 {
        let mut closed = store.writes.revoked_by(ada, t0()).await.unwrap();
        closed.sort_unstable();
        assert_eq!(closed, [ids[1], ids[3], ids[4]]);
        close(Some(ids[2]), t0()).await.unwrap();
        assert_eq!(open_ids(&store, ada).await, [ids[2], late]);
    }
    close(None, at(t0().millis() + 1)).await.unwrap();
    assert!(open_ids(&store, ada).await.is_empty());
    assert_eq!(open_ids(&store, eve).await, [foreign[0].id]);
}

async fn a_new_password_closes_all_other_logins_once(store: Fixture) {
    let change = |replaces: &str, password_hash: &str| NewPassword {
        password_hash: password_hash.to_owned(),
        replaces: replaces.to_owned(),
    };
    let mut account = account("ada");
    account.password_hash = "old".to_owned();
    let ada = account.account.user.id;
    store.writes.register(&account).await.unwrap();
    // The clock of the edge that opened the last one is ahead.
    let own = logins(&store, ada, 4).await;
    let set = |new: NewPassword| {
        let (writes, except) = (store.writes.clone(), Some(own[0].id));
        async move { writes.set_password(ada, &new, except, t0()).await.unwrap() }
    };
    assert_eq!(set(change("old", "new")).await, Applied::Done);
    assert_eq!(open_ids(&store, ada).await, [own[0].id]);
    assert_eq!(store.writes.revoked_by(ada, t0()).await.unwrap().len(), 3);
    let credentials = store.reads.credentials("ada").await.unwrap().unwrap();
    assert_eq!(credentials.password_hash, "new");

    // The old password was checked before the change, and its login arrives after it.
    let late = Login {
        id: new_id(),
        ..own[0].clone()
    };
    let refused = store.writes.open_login(&late, Some("old")).await.unwrap();
    assert_eq!(refused, Applied::NoSuchUser);
    assert_eq!(store.reads.login(late.id).await.unwrap(), None);
    let opened = store.writes.open_login(&late, Some("new")).await.unwrap();
    assert_eq!(opened, Applied::Done);
    // Delivered again after the next change: it was opened.
    let again = store.writes.open_login(&late, Some("older")).await.unwrap();
    assert_eq!(again, Applied::Done);

    // A repeat changes nothing; another change of the old password is refused.
    let open = open_ids(&store, ada).await;
    assert_eq!(set(change("old", "new")).await, Applied::Done);
    assert_eq!(set(change("old", "other")).await, Applied::NoSuchUser);
    assert_eq!(open_ids(&store, ada).await, open);
    assert!(open.contains(&late.id));
    let credentials = store.reads.credentials("ada").await.unwrap().unwrap();
    assert_eq!(credentials.password_hash, "new");
    let change = change("old", "new");
    let stranger = store.writes.set_password(new_id(), &change, None, t0());
    assert_eq!(stranger.await.unwrap(), Applied::NoSuchUser);
}
