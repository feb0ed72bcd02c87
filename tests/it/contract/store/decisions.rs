//! There is one decision for each message and user.

use std::collections::BTreeMap;

use chat::{
    model::{
        notify::{Cause, ChannelKind, DeliveryState},
        *,
    },
    store::notify::{Decision, NotifyVerdict},
};

use super::fixture::*;

on_both! {
    a_user_is_notified_of_a_message_once,
    a_mention_added_later_is_decided_on_again,
}

const EMAIL: NotifyVerdict = NotifyVerdict::Notify(ChannelKind::Email);
const SMS: NotifyVerdict = NotifyVerdict::Notify(ChannelKind::Sms);
const READ: NotifyVerdict = NotifyVerdict::Skip(DeliveryState::Cancelled, "read");

/// The decisions about one message.
struct Deciding {
    store: Fixture,
    room: RoomId,
    message: MessageId,
}

impl Deciding {
    async fn new(store: Fixture) -> (Deciding, User) {
        let ada = store.user("ada").await;
        let room = store.public_room(&ada).await;
        let message = new_id();
        let bob = store.user("bob").await;
        let deciding = Deciding {
            store,
            room,
            message,
        };
        (deciding, bob)
    }

    /// Decides, and returns how many deliveries that concerns.
    async fn decide(&self, user: &User, cause: Cause, verdicts: &[NotifyVerdict]) -> usize {
        let decisions = verdicts.iter().map(|verdict| Decision {
            message: self.message,
            room: self.room,
            seq: 1,
            user: user.id,
            cause,
            verdict: verdict.clone(),
        });
        let decisions: Vec<_> = decisions.collect();
        self.store.notify.decide(&decisions).await.unwrap().len()
    }

    /// The log of the message: the cause of each channel, "" for none.
    async fn log(&self) -> BTreeMap<String, Cause> {
        let log = self.store.notify.log_of_message(self.message).await;
        let rows = log.unwrap().into_iter().map(|entry| {
            let channel = entry.channel.map_or("", ChannelKind::as_str);
            (channel.to_owned(), entry.cause)
        });
        rows.collect()
    }
}

fn rows<const N: usize>(rows: [(&str, Cause); N]) -> BTreeMap<String, Cause> {
    rows.map(|(channel, cause)| (channel.to_owned(), cause))
        .into()
}

async fn a_user_is_notified_of_a_message_once(store: Fixture) {
    let (one, bob) = Deciding::new(store).await;
    // All channels of one decision are notified, and a repeat concerns the same deliveries.
    assert_eq!(one.decide(&bob, Cause::All, &[EMAIL, SMS]).await, 2);
    assert_eq!(one.decide(&bob, Cause::All, &[EMAIL, SMS]).await, 2);
    let told = rows([("email", Cause::All), ("sms", Cause::All)]);
    assert_eq!(one.log().await, told);
    // A mention that was added later, and a user who has read the message meanwhile.
    assert_eq!(one.decide(&bob, Cause::Mention, &[EMAIL]).await, 2);
    assert_eq!(one.decide(&bob, Cause::Mention, &[READ]).await, 2);
    assert_eq!(one.log().await, told);

    // A channel that was switched on later gets nothing.
    let two = Deciding {
        message: new_id(),
        store: one.store.clone(),
        room: one.room,
    };
    assert_eq!(two.decide(&bob, Cause::Mention, &[EMAIL]).await, 1);
    assert_eq!(two.decide(&bob, Cause::Mention, &[EMAIL, SMS]).await, 1);
    assert_eq!(two.log().await, rows([("email", Cause::Mention)]));
}

async fn a_mention_added_later_is_decided_on_again(store: Fixture) {
    let (one, bob) = Deciding::new(store).await;
    assert_eq!(one.decide(&bob, Cause::All, &[READ]).await, 0);
    // No second decision for the same cause.
    assert_eq!(one.decide(&bob, Cause::All, &[EMAIL]).await, 0);
    assert_eq!(one.log().await, rows([("", Cause::All)]));
    assert_eq!(one.decide(&bob, Cause::Mention, &[EMAIL]).await, 1);
    let told = rows([("", Cause::All), ("email", Cause::Mention)]);
    assert_eq!(one.log().await, told);

    // A decision about a mention is final.
    let two = Deciding {
        message: new_id(),
        store: one.store.clone(),
        room: one.room,
    };
    assert_eq!(two.decide(&bob, Cause::Mention, &[READ]).await, 0);
    assert_eq!(two.decide(&bob, Cause::Mention, &[EMAIL]).await, 0);
    assert_eq!(two.log().await, rows([("", Cause::Mention)]));
}
