//! Rows that expired are deleted, and no others.

use std::time::Duration;

use chat::{
    model::{
        address::Address,
        notify::{Cause, ChannelKind, DeliveryState},
        *,
    },
    store::{
        notify::{Decision, NewCode, NotifyVerdict},
        *,
    },
};

use super::fixture::*;

on_both! {
    expired_rows_are_deleted_and_the_rest_stays,
    more_rows_than_the_bound_take_several_calls,
}

const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);

fn ago(time: Duration) -> Timestamp {
    let millis = i64::try_from(time.as_millis()).unwrap();
    Timestamp::from_millis(Timestamp::now().millis() - millis)
}

fn login(user: UserId, expires_at: Timestamp) -> Login {
    Login {
        id: new_id(),
        user,
        token_hash: vec![1; 32],
        expires_at,
        created_at: t0(),
        client: ClientInfo::default(),
    }
}

async fn expired_rows_are_deleted_and_the_rest_stays(store: Fixture) {
    let ada = store.user("ada").await;
    let ben = store.user("ben").await;
    let room = store.public_room(&ada).await;
    let in_an_hour = Timestamp::from_millis(Timestamp::now().millis() + 3_600_000);
    for expires_at in [ago(DAY * 9), ago(MINUTE), in_an_hour] {
        let opened = store
            .writes
            .open_login(&login(ada.id, expires_at), None)
            .await;
        assert_eq!(opened.unwrap(), Applied::Done);
    }
    let good = login(ada.id, in_an_hour);
    store.writes.open_login(&good, None).await.unwrap();
    let codes = [(ada.id, ago(DAY * 9)), (ben.id, in_an_hour)];
    for (user, expires_at) in codes {
        let code = NewCode {
            user,
            address: Address::parse(ChannelKind::Email, "a@example.org").unwrap(),
            hash: vec![1; 32],
            expires_at,
        };
        store.notify.put_code(&code).await.unwrap();
    }
    let cleo = store.user("cleo").await;
    let bans = vec![
        (room, ada.id, Some(ago(DAY * 9))),
        (room, ben.id, Some(in_an_hour)),
        // For ever.
        (room, cleo.id, None),
    ];
    let mutes = vec![
        (room, ada.id, ago(DAY * 9)),
        (room, ben.id, in_an_hour),
        (room, cleo.id, ago(DAY * 3)),
    ];
    let changes = Changes {
        bans,
        mutes,
        ..Changes::default()
    };
    store.commit([room], changes).await.unwrap();
    let message = new_id();
    let decision = |user, verdict| Decision {
        message,
        room,
        seq: 1,
        user,
        cause: Cause::Mention,
        verdict,
    };
    let decisions = [
        decision(
            ben.id,
            NotifyVerdict::Skip(DeliveryState::Cancelled, "read"),
        ),
        decision(cleo.id, NotifyVerdict::Notify(ChannelKind::Email)),
    ];
    store.notify.decide(&decisions).await.unwrap();

    // The delivery log is too young to expire.
    let expired = store.writes.expire(DAY * 7, DAY).await.unwrap();
    let wanted = Expired {
        logins: 1,
        codes: 1,
        bans: 1,
        mutes: 1,
        ..Expired::default()
    };
    assert_eq!(expired, wanted);
    let again = store.writes.expire(DAY * 7, DAY).await.unwrap();
    assert_eq!(again, Expired::default(), "nothing is left to do");
    assert!(store.reads.login(good.id).await.unwrap().is_some());
    assert_eq!(store.notify.log_of_message(message).await.unwrap().len(), 2);

    // Kept for no time, the whole log expires but the digest that is still open.
    let past = async || {
        let expired = store.writes.expire(DAY * 7, Duration::ZERO).await.unwrap();
        (expired.notifications, expired.deliveries)
    };
    let (mut notifications, mut deliveries) = (0, 0);
    while notifications < 2 {
        let (some, of) = past().await;
        (notifications, deliveries) = (notifications + some, deliveries + of);
    }
    assert_eq!((notifications, deliveries), (2, 0));
    assert!(
        store
            .notify
            .log_of_message(message)
            .await
            .unwrap()
            .is_empty()
    );
}

async fn more_rows_than_the_bound_take_several_calls(store: Fixture) {
    let ada = store.user("ada").await;
    let many = EXPIRE_AT_ONCE + 3;
    for _ in 0..many {
        let old = login(ada.id, ago(DAY * 9));
        store.writes.open_login(&old, None).await.unwrap();
    }
    let first = store.writes.expire(DAY, DAY).await.unwrap();
    assert_eq!((first.logins, first.more), (EXPIRE_AT_ONCE.into(), true));
    let second = store.writes.expire(DAY, DAY).await.unwrap();
    assert_eq!((second.logins, second.more), (3, false));
}
