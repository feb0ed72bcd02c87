//! Addresses that notifications go to: verified, and suppressed.

use chat::model::{address::Address, notify::ChannelKind};

use super::fixture::*;

on_both! {
    a_suppressed_address_is_found_however_it_is_written,
    an_address_is_verified_for_its_own_channel_only,
}

async fn a_suppressed_address_is_found_however_it_is_written(store: Fixture) {
    let email = |text: &str| Address::parse(ChannelKind::Email, text).unwrap();
    let phone = Address::parse(ChannelKind::Sms, "+4915112345678").unwrap();
    let store = store.notify;
    store
        .suppress(&email("Gone@Bücher.example"), "one")
        .await
        .unwrap();
    store
        .suppress(&email("gone@bücher.EXAMPLE"), "two")
        .await
        .unwrap();
    store.suppress(&phone, "stop").await.unwrap();
    for text in ["gone@bücher.example", "GONE@xn--bcher-kva.example"] {
        let reason = store.suppressed(&email(text)).await.unwrap();
        assert_eq!(reason.as_deref(), Some("one"), "{text}");
    }
    let other = store.suppressed(&email("gone@example.com")).await.unwrap();
    assert_eq!(other, None);
    store.unsuppress(&phone, "another reason").await.unwrap();
    assert!(store.suppressed(&phone).await.unwrap().is_some());
    store.unsuppress(&phone, "stop").await.unwrap();
    assert_eq!(store.suppressed(&phone).await.unwrap(), None);
}

/// `push` stands for a channel of a later version: its address is not compared with the phone number.
async fn an_address_is_verified_for_its_own_channel_only(store: Fixture) {
    let mut new = account("ada");
    new.account.email = Some("ada@example.org".to_owned());
    new.account.phone = Some("+4915112345678".to_owned());
    store.writes.register(&new).await.unwrap();
    for (channel, column) in [
        ("email", "email"),
        ("sms", "phone"),
        ("push", "phone"),
        ("post", "email"),
    ] {
        let verified = format!(
            "INSERT INTO verified_addresses (user_id, channel, address, at) \
             SELECT id, '{channel}', {column}, 0 FROM users"
        );
        store.raw.execute(verified).await;
    }
    let settings = store.notify.notify_settings(new.account.user.id).await;
    let verified: Vec<ChannelKind> = settings
        .unwrap()
        .verified
        .iter()
        .map(Address::channel)
        .collect();
    assert_eq!(verified, [ChannelKind::Email, ChannelKind::Sms]);
}
