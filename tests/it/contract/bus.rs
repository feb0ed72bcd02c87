//! The contract of the four ports of `chat::bus`, run on Redis and in memory; and failures that only Redis has.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chat::{
    bus::{
        Channel, Handles, Incoming, Publications, RecentEvents, RoomEvents, UserPresence,
        decode_events,
        memory::{self, MemoryBus},
        redis::{self, RedisBus},
    },
    error::Code,
    model::{Epoch, EventKind, FeedEvent, RoomId, Seq, Timestamp, new_id},
};
use futures_util::future;
use tokio::{sync::mpsc, time::Instant};

use crate::support::{PATIENCE, TcpProxy, redis_url, soon, unique, until};

/// The handles of two nodes to one bus; in memory both are the same.
struct Nodes {
    one: Handles,
    two: Handles,
}

const RECENT: usize = 5;

fn redis_bus(prefix: &str, url: String, recent_ttl: Duration) -> Handles {
    let settings = redis::RedisSettings {
        url,
        sentinel: None,
        prefix: prefix.to_owned(),
        recent_messages: RECENT,
        recent_ttl,
        pool: 4,
    };
    Handles::new(Arc::new(RedisBus::connect(settings).unwrap()))
}

fn redis_nodes(recent_ttl: Duration) -> Nodes {
    let prefix = unique("bus");
    Nodes {
        one: redis_bus(&prefix, redis_url(), recent_ttl),
        two: redis_bus(&prefix, redis_url(), recent_ttl),
    }
}

fn memory_nodes(recent_ttl: Duration) -> Nodes {
    let bus = Handles::new(Arc::new(MemoryBus::new(memory::MemoryBusSettings {
        recent_messages: RECENT,
        recent_ttl,
        recent_rooms: 100,
    })));
    Nodes {
        one: bus.clone(),
        two: bus,
    }
}

fn events(seqs: std::ops::RangeInclusive<Seq>) -> Vec<FeedEvent> {
    let event = |seq| FeedEvent {
        seq,
        kind: EventKind::NewMessage,
        data: format!("{{\"body\":\"line 1\\nline 2 of {seq}\"}}"),
    };
    seqs.map(event).collect()
}

fn room_events(room: RoomId, seqs: std::ops::RangeInclusive<Seq>) -> Publications {
    Publications {
        rooms: vec![RoomEvents {
            room,
            events: events(seqs),
        }],
        ..Publications::default()
    }
}

fn notice(channel: Channel, text: &str) -> Publications {
    Publications {
        notices: vec![(channel, Bytes::copy_from_slice(text.as_bytes()))],
        ..Publications::default()
    }
}

async fn message(incoming: &mut mpsc::Receiver<Incoming>) -> (Channel, Bytes) {
    match soon("a message", incoming.recv()).await {
        Some(Incoming::Message { channel, payload }) => (channel, payload),
        other => panic!("no message, but {other:?}"),
    }
}

async fn recent(recent: &dyn RecentEvents, room: RoomId) -> Vec<Seq> {
    let events = recent.get(Epoch::nil(), room).await.unwrap();
    for event in &events {
        assert!(event.data.ends_with(&format!("of {}\"}}", event.seq)));
        assert_eq!(event.kind, EventKind::NewMessage);
    }
    events.iter().map(|event| event.seq).collect()
}

async fn published_messages_arrive_in_order(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (room, other, edge) = (new_id(), new_id(), new_id());
    let (subscriptions, mut incoming) = two.pubsub.listen().await.unwrap();
    let channels = [Channel::Room(room), Channel::Edge(edge), Channel::Everyone];
    assert!(subscriptions.subscribe(&channels).await.unwrap());
    assert!(subscriptions.subscribe(&[]).await.unwrap());
    for seq in 1..=50 {
        let mut publications = room_events(room, seq * 2 - 1..=seq * 2);
        publications.rooms.push(RoomEvents {
            room: other,
            events: events(seq..=seq),
        });
        publications.notices = vec![
            (Channel::Edge(new_id()), Bytes::from_static(b"for another")),
            (Channel::Edge(edge), Bytes::from(format!("answer {seq}"))),
            (Channel::Everyone, Bytes::from(vec![0, 255, 10, b'x'])),
        ];
        one.pubsub.publish(&publications).await.unwrap();
    }
    let mut seqs = Vec::new();
    for seq in 1..=50 {
        let (channel, payload) = message(&mut incoming).await;
        assert_eq!(channel, Channel::Room(room));
        seqs.extend(
            decode_events(&payload)
                .unwrap()
                .iter()
                .map(|event| event.seq),
        );
        let expected = Bytes::from(format!("answer {seq}"));
        assert_eq!(
            message(&mut incoming).await,
            (Channel::Edge(edge), expected)
        );
        let expected = Bytes::from(vec![0, 255, 10, b'x']);
        assert_eq!(message(&mut incoming).await, (Channel::Everyone, expected));
    }
    assert_eq!(seqs, (1..=100).collect::<Vec<_>>());
    one.pubsub.publish(&Publications::default()).await.unwrap();
}

async fn unsubscribed_channels_are_silent(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (left, kept) = (Channel::Room(new_id()), Channel::Room(new_id()));
    let (subscriptions, mut incoming) = two.pubsub.listen().await.unwrap();
    subscriptions.subscribe(&[left, kept, left]).await.unwrap();
    subscriptions.unsubscribe(&[left]).await.unwrap();
    one.pubsub.publish(&notice(left, "no")).await.unwrap();
    one.pubsub.publish(&notice(kept, "yes")).await.unwrap();
    assert_eq!(
        message(&mut incoming).await,
        (kept, Bytes::from_static(b"yes"))
    );
    subscriptions.subscribe(&[left]).await.unwrap();
    one.pubsub.publish(&notice(left, "again")).await.unwrap();
    assert_eq!(
        message(&mut incoming).await,
        (left, Bytes::from_static(b"again"))
    );
}

async fn listeners_are_independent(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let channel = Channel::Room(new_id());
    let (first, mut first_incoming) = one.pubsub.listen().await.unwrap();
    let (second, mut second_incoming) = two.pubsub.listen().await.unwrap();
    let (third, third_incoming) = two.pubsub.listen().await.unwrap();
    for subscriptions in [&first, &second, &third] {
        subscriptions.subscribe(&[channel]).await.unwrap();
    }
    drop(third_incoming);
    first.unsubscribe(&[channel]).await.unwrap();
    one.pubsub
        .publish(&notice(channel, "for the second"))
        .await
        .unwrap();
    message(&mut second_incoming).await;
    assert!(first_incoming.try_recv().is_err());
}

async fn recent_events_are_the_contiguous_tail(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let room = new_id();
    assert_eq!(recent(&*two.recent, room).await, [0; 0]);
    one.pubsub.publish(&room_events(room, 1..=3)).await.unwrap();
    assert_eq!(recent(&*two.recent, room).await, [1, 2, 3]);
    one.pubsub.publish(&room_events(room, 4..=7)).await.unwrap();
    assert_eq!(recent(&*two.recent, room).await, [3, 4, 5, 6, 7]);
    one.pubsub
        .publish(&room_events(room, 8..=20))
        .await
        .unwrap();
    assert_eq!(recent(&*two.recent, room).await, [16, 17, 18, 19, 20]);
    // 21 is missing.
    one.pubsub
        .publish(&room_events(room, 22..=23))
        .await
        .unwrap();
    assert_eq!(recent(&*two.recent, room).await, [22, 23]);
    one.pubsub
        .publish(&room_events(room, 24..=25))
        .await
        .unwrap();
    assert_eq!(recent(&*two.recent, room).await, [22, 23, 24, 25]);
    // Stale rooms are deleted first, then appended to.
    let mut publications = room_events(room, 26..=26);
    publications.stale = vec![room, new_id()];
    one.pubsub.publish(&publications).await.unwrap();
    assert_eq!(recent(&*two.recent, room).await, [26]);
    let stale = Publications {
        stale: vec![room],
        ..Publications::default()
    };
    one.pubsub.publish(&stale).await.unwrap();
    assert_eq!(recent(&*two.recent, room).await, [0; 0]);
}

async fn recent_events_of_another_epoch_are_not_returned(nodes: Nodes) {
    let (one, two, room) = (nodes.one, nodes.two, new_id());
    let (before, after) = (Epoch::new_v4(), Epoch::new_v4());
    let publish = async |epoch, seqs| {
        let publications = Publications {
            epoch,
            ..room_events(room, seqs)
        };
        one.pubsub.publish(&publications).await.unwrap();
    };
    let cached = async |epoch| -> Vec<Seq> {
        let events = two.recent.get(epoch, room).await.unwrap();
        events.iter().map(|event| event.seq).collect()
    };
    publish(before, 1..=5).await;
    assert_eq!(cached(before).await, [1, 2, 3, 4, 5]);
    assert_eq!(cached(after).await, [0; 0]);
    // The number follows the last one of the other epoch.
    publish(after, 6..=6).await;
    assert_eq!(cached(after).await, [6]);
    publish(after, 7..=7).await;
    assert_eq!(cached(after).await, [6, 7]);
    let stale = Publications {
        epoch: after,
        stale: vec![room],
        ..Publications::default()
    };
    one.pubsub.publish(&stale).await.unwrap();
    assert_eq!(cached(after).await, [0; 0]);
}

async fn recent_events_expire(nodes: Nodes) {
    let room = new_id();
    nodes
        .one
        .pubsub
        .publish(&room_events(room, 1..=2))
        .await
        .unwrap();
    assert_eq!(recent(&*nodes.two.recent, room).await, [1, 2]);
    until(
        "they expire",
        async || recent(&*nodes.two.recent, room).await,
        Vec::is_empty,
    )
    .await;
}

async fn a_value_is_taken_once(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let key = unique("ticket");
    assert_eq!(one.coordination.take(&key).await.unwrap(), None);
    one.coordination.put(&key, "first", PATIENCE).await.unwrap();
    one.coordination
        .put(&key, "it's ü", PATIENCE)
        .await
        .unwrap();
    let takers = (0..50).map(|n| {
        if n % 2 == 0 {
            one.coordination.take(&key)
        } else {
            two.coordination.take(&key)
        }
    });
    let taken: Vec<String> = future::join_all(takers)
        .await
        .into_iter()
        .filter_map(Result::unwrap)
        .collect();
    assert_eq!(taken, ["it's ü"]);
    one.coordination
        .put(&key, "short", Duration::from_millis(60))
        .await
        .unwrap();
    let started = Instant::now();
    until(
        "its time is over",
        async || started.elapsed(),
        |elapsed| *elapsed > Duration::from_millis(80),
    )
    .await;
    assert_eq!(two.coordination.take(&key).await.unwrap(), None);
}

async fn increments_count_within_their_window(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (key, window) = (unique("limit"), Duration::from_millis(400));
    let started = Instant::now();
    let hits = (0..40).map(|n| {
        if n % 2 == 0 {
            one.coordination.increment(&key, window)
        } else {
            two.coordination.increment(&key, window)
        }
    });
    let mut counts: Vec<u64> = future::join_all(hits)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=40).collect::<Vec<_>>());
    assert_eq!(
        one.coordination
            .increment(&unique("limit"), window)
            .await
            .unwrap(),
        1
    );
    // Increments do not extend the window.
    until(
        "a new window",
        async || one.coordination.increment(&key, window).await.unwrap(),
        |count| *count == 1,
    )
    .await;
    assert!(started.elapsed() >= window - Duration::from_millis(5));
}

async fn presence_ends_with_its_ttl_and_activity_is_kept(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (ada, bob, eve) = (new_id(), new_id(), new_id());
    let at = |ago: i64| Timestamp::from_millis(Timestamp::now().millis() - ago);
    let (early, late) = (at(5000), at(1000));
    one.presence
        .mark_connected(&[(ada, late), (bob, early)], PATIENCE)
        .await
        .unwrap();
    // Another node's older activity and shorter end change nothing.
    let short = Duration::from_millis(200);
    two.presence
        .mark_connected(&[(ada, early), (eve, late)], short)
        .await
        .unwrap();
    let ask = async || two.presence.get(&[eve, ada, bob, new_id()]).await.unwrap();
    let presence = until("one is gone", ask, |all| !all[0].connected).await;
    let known = |connected, last_active| UserPresence {
        connected,
        last_active,
    };
    assert_eq!(presence[0].last_active, Some(late));
    assert_eq!(
        presence[1..3],
        [known(true, Some(late)), known(true, Some(early))]
    );
    assert_eq!(presence[3], known(false, None));
    assert_eq!(one.presence.get(&[]).await.unwrap(), []);
}

async fn counters_add_up(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (a, b) = (unique("count"), unique("count"));
    let ttl = Duration::from_millis(500);
    assert_eq!(
        one.coordination
            .add(&[(&a, 0), (&b, 0)], ttl)
            .await
            .unwrap(),
        [0, 0]
    );
    assert_eq!(
        one.coordination
            .add(&[(&a, 2), (&b, 5)], ttl)
            .await
            .unwrap(),
        [2, 5]
    );
    assert_eq!(
        two.coordination
            .add(&[(&b, 1), (&a, 0)], ttl)
            .await
            .unwrap(),
        [6, 2]
    );
    assert!(one.coordination.add(&[], ttl).await.unwrap().is_empty());
    // Reading does not extend them.
    let ask = async || {
        two.coordination
            .add(&[(&a, 0), (&b, 0)], PATIENCE)
            .await
            .unwrap()
    };
    until("they expire", ask, |totals| *totals == [0, 0]).await;
}

async fn a_lease_has_one_holder_at_a_time(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (key, long) = (unique("lease"), PATIENCE);
    let (first, second) = (new_id(), new_id());
    assert!(
        one.coordination
            .acquire_lease(&key, first, long)
            .await
            .unwrap()
    );
    assert!(
        !two.coordination
            .acquire_lease(&key, second, long)
            .await
            .unwrap()
    );
    assert!(
        one.coordination
            .acquire_lease(&key, first, long)
            .await
            .unwrap(),
        "renewed"
    );
    two.coordination.release_lease(&key, second).await.unwrap();
    assert!(
        !two.coordination
            .acquire_lease(&key, second, long)
            .await
            .unwrap()
    );
    one.coordination.release_lease(&key, first).await.unwrap();
    assert!(
        two.coordination
            .acquire_lease(&key, second, long)
            .await
            .unwrap()
    );
    // A lease that is not renewed.
    assert!(
        two.coordination
            .acquire_lease(&key, second, Duration::from_millis(200))
            .await
            .unwrap()
    );
    assert!(
        !one.coordination
            .acquire_lease(&key, first, long)
            .await
            .unwrap()
    );
    let ask = async || {
        one.coordination
            .acquire_lease(&key, first, long)
            .await
            .unwrap()
    };
    until("the first one acquires it", ask, |leads| *leads).await;
}

async fn a_semaphore_has_as_many_holders_as_permits(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (key, long) = (unique("semaphore"), PATIENCE);
    let (a, b, c) = (new_id(), new_id(), new_id());
    assert!(
        one.coordination
            .acquire_permit(&key, a, 2, long)
            .await
            .unwrap()
    );
    assert!(
        two.coordination
            .acquire_permit(&key, b, 2, long)
            .await
            .unwrap()
    );
    assert!(
        !one.coordination
            .acquire_permit(&key, c, 2, long)
            .await
            .unwrap()
    );
    assert!(
        two.coordination
            .acquire_permit(&key, a, 2, long)
            .await
            .unwrap(),
        "it has one"
    );
    assert!(
        two.coordination
            .acquire_permit(&unique("semaphore"), c, 1, long)
            .await
            .unwrap()
    );
    // Only a holder releases a permit, and only once.
    two.coordination.release_permit(&key, c).await.unwrap();
    assert!(
        !one.coordination
            .acquire_permit(&key, c, 2, long)
            .await
            .unwrap()
    );
    for _ in 0..2 {
        two.coordination.release_permit(&key, a).await.unwrap();
    }
    assert!(
        one.coordination
            .acquire_permit(&key, c, 2, long)
            .await
            .unwrap()
    );
    assert!(
        !one.coordination
            .acquire_permit(&key, a, 2, long)
            .await
            .unwrap()
    );
    // A permit whose holder died expires; the other one stays.
    let short = Duration::from_millis(200);
    assert!(
        one.coordination
            .acquire_permit(&key, c, 2, short)
            .await
            .unwrap()
    );
    let ask = async || {
        two.coordination
            .acquire_permit(&key, a, 2, long)
            .await
            .unwrap()
    };
    until("the permit is free again", ask, |has| *has).await;
    assert!(
        !one.coordination
            .acquire_permit(&key, c, 2, long)
            .await
            .unwrap()
    );
    assert!(
        one.coordination
            .acquire_permit(&key, b, 2, long)
            .await
            .unwrap()
    );
    // Concurrent acquisition.
    let key = unique("semaphore");
    let all = (0..50).map(|_| one.coordination.acquire_permit(&key, new_id(), 7, long));
    let got = future::join_all(all).await;
    let got = got.into_iter().filter(|has| *has.as_ref().unwrap());
    assert_eq!(got.count(), 7);
}

async fn a_report_lasts_until_it_expires_or_is_replaced(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (long, short) = (new_id(), new_id());
    let read = async |key: &str| {
        let mut reports = two.coordination.reports(key).await.unwrap();
        reports.sort_unstable();
        reports
    };
    assert!(read("held").await.is_empty());
    let report = async |reporter, value: &str, ttl| {
        let reported = one.coordination.report("held", reporter, value, ttl).await;
        reported.unwrap();
    };
    report(long, "first", PATIENCE).await;
    report(long, "{\"a b\": 1}\n2", PATIENCE).await;
    report(short, "", Duration::from_millis(300)).await;
    one.coordination
        .report("other", long, "x", PATIENCE)
        .await
        .unwrap();
    assert_eq!(read("held").await, ["", "{\"a b\": 1}\n2"]);
    assert_eq!(read("other").await, ["x"]);
    let gone = async || read("held").await;
    let left = until("the short report expires", gone, |left| left.len() == 1).await;
    assert_eq!(left, ["{\"a b\": 1}\n2"]);
    // A short report does not end a long one; a renewed one lasts on.
    let ttl = Duration::from_millis(500);
    let started = Instant::now();
    let renew = async || {
        report(short, "again", ttl).await;
        started.elapsed()
    };
    until("more than two lifetimes have passed", renew, |elapsed| {
        *elapsed > 2 * ttl
    })
    .await;
    assert_eq!(read("held").await.len(), 2);
}

async fn heartbeats_return_the_live_workers(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (long, short, retired) = (new_id(), new_id(), new_id());
    assert_eq!(
        one.coordination.heartbeat(long, PATIENCE).await.unwrap(),
        [long]
    );
    two.coordination
        .heartbeat(short, Duration::from_millis(300))
        .await
        .unwrap();
    let mut lives = two.coordination.heartbeat(retired, PATIENCE).await.unwrap();
    lives.sort_unstable();
    let mut expected = [long, short, retired];
    expected.sort_unstable();
    assert_eq!(lives, expected);
    two.coordination.deregister(retired).await.unwrap();
    let beat = async || one.coordination.heartbeat(long, PATIENCE).await.unwrap();
    let lives = until("the short heartbeat expires", beat, |lives| {
        !lives.contains(&short)
    })
    .await;
    assert_eq!(lives, [long]);
    // A heartbeat extends the liveness.
    let ttl = Duration::from_millis(500);
    let started = Instant::now();
    let beat = async || {
        one.coordination.heartbeat(short, ttl).await.unwrap();
        started.elapsed()
    };
    until("more than two lifetimes have passed", beat, |elapsed| {
        *elapsed > 2 * ttl
    })
    .await;
    assert!(
        two.coordination
            .heartbeat(long, PATIENCE)
            .await
            .unwrap()
            .contains(&short)
    );
    one.pubsub.ping().await.unwrap();
}

async fn a_listener_that_falls_behind_is_lost_and_restored(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let channel = Channel::Room(new_id());
    let (subscriptions, mut incoming) = two.pubsub.listen().await.unwrap();
    subscriptions.subscribe(&[channel]).await.unwrap();
    let many = Publications {
        notices: vec![(channel, Bytes::from_static(b"x")); 20_000],
        ..Publications::default()
    };
    one.pubsub.publish(&many).await.unwrap();
    // Reads nothing until the queue is full.
    until(
        "the queue is full",
        async || incoming.len(),
        |len| *len >= 16 * 1024,
    )
    .await;
    let mut received = 0;
    loop {
        match soon("lost", incoming.recv()).await.unwrap() {
            Incoming::Message { .. } => received += 1,
            Incoming::Lost => break,
            Incoming::Restored => panic!("restored before it was lost"),
        }
    }
    assert!((16 * 1024..20_000).contains(&received), "{received}");
    assert!(matches!(
        soon("restored", incoming.recv()).await,
        Some(Incoming::Restored)
    ));
    one.pubsub.publish(&notice(channel, "after")).await.unwrap();
    assert_eq!(
        message(&mut incoming).await,
        (channel, Bytes::from_static(b"after"))
    );
}

macro_rules! suite {
    ($($test:ident($ttl:expr)),+ $(,)?) => {
        mod redis_bus {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::redis_nodes($ttl)).await;
            })+
        }

        mod memory_bus {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::memory_nodes($ttl)).await;
            })+
        }
    };
}

suite!(
    published_messages_arrive_in_order(super::PATIENCE),
    unsubscribed_channels_are_silent(super::PATIENCE),
    listeners_are_independent(super::PATIENCE),
    recent_events_are_the_contiguous_tail(super::PATIENCE),
    recent_events_of_another_epoch_are_not_returned(super::PATIENCE),
    recent_events_expire(std::time::Duration::from_millis(300)),
    a_value_is_taken_once(super::PATIENCE),
    increments_count_within_their_window(super::PATIENCE),
    counters_add_up(super::PATIENCE),
    a_lease_has_one_holder_at_a_time(super::PATIENCE),
    a_semaphore_has_as_many_holders_as_permits(super::PATIENCE),
    a_report_lasts_until_it_expires_or_is_replaced(super::PATIENCE),
    heartbeats_return_the_live_workers(super::PATIENCE),
    presence_ends_with_its_ttl_and_activity_is_kept(super::PATIENCE),
    a_listener_that_falls_behind_is_lost_and_restored(super::PATIENCE),
);

async fn redis_through_a_proxy() -> (TcpProxy, Handles, Handles) {
    let url = redis_url();
    let (scheme, rest) = url.split_once("://").unwrap();
    let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server);
    let credentials = &rest[..rest.len() - server.len()];
    let server = server.split('/').next().unwrap();
    let proxy = TcpProxy::to(server).await;
    let through = format!("{scheme}://{credentials}{}", proxy.address);
    let prefix = unique("bus");
    let direct = redis_bus(&prefix, url.clone(), PATIENCE);
    let bus = redis_bus(&prefix, through, PATIENCE);
    (proxy, direct, bus)
}

async fn lost(incoming: &mut mpsc::Receiver<Incoming>) {
    assert!(matches!(
        soon("lost", incoming.recv()).await,
        Some(Incoming::Lost)
    ));
}

async fn restored(incoming: &mut mpsc::Receiver<Incoming>) {
    assert!(matches!(
        soon("restored", incoming.recv()).await,
        Some(Incoming::Restored)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_restored_on_a_new_connection() {
    let (proxy, direct, bus) = redis_through_a_proxy().await;
    let (subscriptions, mut incoming) = bus.pubsub.listen().await.unwrap();
    // As many channels as an edge can have.
    let rooms: Vec<Channel> = (0..45_000).map(|_| Channel::Room(new_id())).collect();
    let (before, left) = rooms.split_at(44_000);
    assert!(subscriptions.subscribe(&rooms).await.unwrap());
    subscriptions.unsubscribe(left).await.unwrap();
    for _ in 0..3 {
        proxy.cut();
        lost(&mut incoming).await;
        restored(&mut incoming).await;
        for channel in [left[0], before[0], before[before.len() - 1]] {
            direct
                .pubsub
                .publish(&notice(channel, "hello"))
                .await
                .unwrap();
        }
        assert_eq!(message(&mut incoming).await.0, before[0]);
        assert_eq!(message(&mut incoming).await.0, before[before.len() - 1]);
    }
    assert!(subscriptions.subscribe(&[left[0]]).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_detected_within_its_deadlines() {
    let (proxy, direct, bus) = redis_through_a_proxy().await;
    let (subscriptions, mut incoming) = bus.pubsub.listen().await.unwrap();
    let (early, late) = (Channel::Room(new_id()), Channel::Room(new_id()));
    assert!(subscriptions.subscribe(&[early]).await.unwrap());
    bus.pubsub.ping().await.unwrap();
    proxy.freeze();
    let started = Instant::now();
    let error = bus
        .coordination
        .put("key", "value", PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Busy);
    assert!(
        bus.pubsub
            .publish(&room_events(new_id(), 1..=2))
            .await
            .is_err()
    );
    assert!(started.elapsed() < Duration::from_secs(4));
    lost(&mut incoming).await;
    assert!(started.elapsed() < Duration::from_secs(8));
    // Returns at once, and the channel is subscribed when the server is back.
    let started = Instant::now();
    assert!(!subscriptions.subscribe(&[late]).await.unwrap());
    assert!(started.elapsed() < Duration::from_millis(100));
    proxy.thaw();
    restored(&mut incoming).await;
    for channel in [early, late] {
        direct
            .pubsub
            .publish(&notice(channel, "hello"))
            .await
            .unwrap();
        assert_eq!(message(&mut incoming).await.0, channel);
    }
    until(
        "commands work again",
        async || bus.pubsub.ping().await.is_ok(),
        |ok| *ok,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listening_works_while_the_server_is_absent() {
    let bus = redis_bus("absent", "redis://:secret@127.0.0.1:9".to_owned(), PATIENCE);
    let (subscriptions, mut incoming) = bus.pubsub.listen().await.unwrap();
    assert!(!subscriptions.subscribe(&[Channel::Everyone]).await.unwrap());
    lost(&mut incoming).await;
    let error = bus.recent.get(Epoch::nil(), new_id()).await.unwrap_err();
    assert_eq!(error.code, Code::Busy);
    assert!(!error.chain().contains("secret"));
}
