//! How fast a store takes messages. Not a test: run it on purpose, in release, with
//! `cargo test --release --test it rate -- --ignored --nocapture --test-threads=1`.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chat::{model::*, store::*};

use super::fixture::*;

#[tokio::test]
#[ignore = "a measurement"]
async fn rate_on_postgres() {
    on_postgres(measure::<1000>).await;
    on_postgres(measure::<20>).await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn rate_on_sqlite() {
    on_sqlite(measure::<1000>).await;
    on_sqlite(measure::<20>).await;
}

/// Batches as a worker makes them: 200-byte bodies, one sender, each message in the next of the rooms.
async fn measure<const ROOMS: usize>(store: Fixture) {
    println!("{ROOMS} rooms");
    let ada = store.user("ada").await;
    let rooms: Vec<Room> = (0..ROOMS).map(|_| room(RoomKind::Public, &ada)).collect();
    let ids: Vec<RoomId> = rooms.iter().map(|room| room.id).collect();
    let members = ids
        .iter()
        .map(|&id| member(id, &ada, Role::Owner))
        .collect();
    let changes = Changes {
        rooms,
        members,
        ..Changes::default()
    };
    store.commit(ids.clone(), changes).await.unwrap();

    let mut next: HashMap<RoomId, Seq> = HashMap::new();
    let mut turn = 0;
    for size in [1, 50, 500, 1000] {
        let (mut begin_time, mut commit_time) = (Duration::ZERO, Duration::ZERO);
        let batches = 20_000 / (size + 50);
        let mut slowest = Duration::ZERO;
        for _ in 0..batches {
            let mut new = Vec::with_capacity(size);
            for _ in 0..size {
                let id = ids[turn % ROOMS];
                turn += 7;
                let seq = next.entry(id).or_default();
                *seq += 1;
                new.push(message(id, &ada, *seq, &"x".repeat(200)));
            }
            let asked = Scope {
                rooms: new.iter().map(|m| m.room).collect(),
                messages: new.iter().map(|m| m.id).collect(),
                members: new.iter().map(|m| (m.room, ada.id)).collect(),
                ..Scope::default()
            };
            let begun = Instant::now();
            let (_, transaction) = store.writes.begin(&asked).await.unwrap();
            let opened = Instant::now();
            let changes = Changes {
                heads: new.iter().map(|m| (m.room, next[&m.room])).collect(),
                new_messages: new,
                ..Changes::default()
            };
            transaction.commit(changes).await.unwrap();
            begin_time += opened - begun;
            commit_time += opened.elapsed();
            slowest = slowest.max(begun.elapsed());
        }
        let total = begin_time + commit_time;
        println!(
            "batches of {size:>4}: {:>7.0} messages/s; begin {:?}, commit {:?}, slowest {slowest:?}",
            (size * batches) as f64 / total.as_secs_f64(),
            begin_time / batches as u32,
            commit_time / batches as u32,
        );
    }
    let begun = Instant::now();
    let mut pages = 0;
    for id in ids.iter().cycle().take(200) {
        pages += store
            .reads
            .messages(*id, Window::Latest, 50)
            .await
            .unwrap()
            .len();
    }
    println!("latest 50: {:?} each ({pages} rows)", begun.elapsed() / 200);
    let begun = Instant::now();
    for id in ids.iter().cycle().take(200) {
        store.reads.membership(*id, ada.id).await.unwrap();
    }
    println!("membership: {:?} each", begun.elapsed() / 200);
    let begun = Instant::now();
    store.reads.heads(&ids).await.unwrap();
    println!("{ROOMS} heads: {:?}", begun.elapsed());
}
