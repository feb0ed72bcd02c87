//! The limit of concurrent requests to a provider, shared by all workers.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::{is, row, say, start, verify};
use crate::harness::{
    Kind,
    provider::{Does, Provider},
};

const AT_ONCE: usize = 3;
const TAKES: Duration = Duration::from_millis(300);
const READERS: usize = 6;
const EACH: usize = 3;

#[tokio::test]
async fn workers_share_the_limit_of_concurrent_provider_requests() {
    let mail = Provider::start().await;
    let change = [
        ("notify.concurrency", "3"),
        ("notify.digest_window", "0s"),
        ("notify.delay", "100ms"),
    ];
    let mut chat = start(Kind::Cluster, &mail, &change).await;
    chat.add_worker().await;
    let ada = chat.register("ada").await;
    let mut rooms = Vec::new();
    for i in 0..READERS {
        let reader = chat.register(&format!("reader{i}")).await;
        let address = format!("reader{i}@example.com");
        verify(&chat, &reader, &mail, "email", &address).await;
        rooms.push(chat.room(&ada, "direct", &[&reader]).await);
    }
    let began: Arc<Mutex<Vec<Instant>>> = Arc::default();
    mail.does({
        let began = began.clone();
        move |_, _| {
            began.lock().expect("no panic").push(Instant::now());
            Does::TakeLate(TAKES)
        }
    });
    for turn in 0..EACH {
        let said = rooms.iter().map(|room| say(&chat, &ada, *room, "hello"));
        let said = join_all(said).await;
        if turn + 1 == EACH {
            for message in &said {
                row(&chat, &ada, message, is("sent")).await;
            }
        }
    }
    let began = began.lock().expect("no panic").clone();
    assert!(began.len() > 2 * AT_ONCE, "{}", began.len());
    // A request starts only after one of the requests before it has ended.
    for (first, next) in began.iter().zip(&began[AT_ONCE..]) {
        let between = *next - *first;
        assert!(between >= TAKES, "{AT_ONCE} more after {between:?}");
    }
    // The limit is used in full: the first requests run concurrently.
    assert!(began[AT_ONCE - 1] - began[0] < TAKES * 2, "{began:?}");
}
