//! What every bus promises (`chat::bus`), on Redis and in memory; and what only Redis can do to us.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chat::{
    bus::{
        Bus, Channel, Incoming, Presence, Publications, RoomEvents, decode_events,
        memory::{self, MemoryBus},
        redis::{self, RedisBus},
    },
    error::Code,
    model::{EventKind, FeedEvent, RoomId, Seq, Timestamp, new_id},
};
use futures_util::future;
use tokio::{sync::mpsc, time::Instant};

use crate::support::{Line, PATIENCE, redis_url, soon, unique, until};

/// Two nodes' view of one bus; in memory it is the same one twice.
struct Nodes {
    one: Arc<dyn Bus>,
    two: Arc<dyn Bus>,
}

const RECENT: usize = 5;

fn redis_bus(prefix: &str, url: String, recent_ttl: Duration) -> RedisBus {
    let settings = redis::Settings {
        url,
        prefix: prefix.to_owned(),
        recent_messages: RECENT,
        recent_ttl,
        pool: 4,
    };
    RedisBus::connect(settings).unwrap()
}

fn redis_nodes(recent_ttl: Duration) -> Nodes {
    let prefix = unique("bus");
    Nodes {
        one: Arc::new(redis_bus(&prefix, redis_url(), recent_ttl)),
        two: Arc::new(redis_bus(&prefix, redis_url(), recent_ttl)),
    }
}

fn memory_nodes(recent_ttl: Duration) -> Nodes {
    let bus = Arc::new(MemoryBus::new(memory::Settings {
        recent_messages: RECENT,
        recent_ttl,
        recent_rooms: 100,
    }));
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

async fn recent(bus: &dyn Bus, room: RoomId) -> Vec<Seq> {
    let events = bus.recent(room).await.unwrap();
    for event in &events {
        assert!(event.data.ends_with(&format!("of {}\"}}", event.seq)));
        assert_eq!(event.kind, EventKind::NewMessage);
    }
    events.iter().map(|event| event.seq).collect()
}

async fn what_is_published_arrives_in_order(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (room, other, edge) = (new_id(), new_id(), new_id());
    let (subscriptions, mut incoming) = two.listen().await.unwrap();
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
        one.publish(&publications).await.unwrap();
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
    one.publish(&Publications::default()).await.unwrap();
}

async fn unsubscribed_channels_are_silent(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (left, kept) = (Channel::Room(new_id()), Channel::Room(new_id()));
    let (subscriptions, mut incoming) = two.listen().await.unwrap();
    subscriptions.subscribe(&[left, kept, left]).await.unwrap();
    subscriptions.unsubscribe(&[left]).await.unwrap();
    one.publish(&notice(left, "no")).await.unwrap();
    one.publish(&notice(kept, "yes")).await.unwrap();
    assert_eq!(
        message(&mut incoming).await,
        (kept, Bytes::from_static(b"yes"))
    );
    subscriptions.subscribe(&[left]).await.unwrap();
    one.publish(&notice(left, "again")).await.unwrap();
    assert_eq!(
        message(&mut incoming).await,
        (left, Bytes::from_static(b"again"))
    );
}

async fn listeners_do_not_disturb_each_other(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let channel = Channel::Room(new_id());
    let (first, mut first_incoming) = one.listen().await.unwrap();
    let (second, mut second_incoming) = two.listen().await.unwrap();
    let (third, third_incoming) = two.listen().await.unwrap();
    for subscriptions in [&first, &second, &third] {
        subscriptions.subscribe(&[channel]).await.unwrap();
    }
    drop(third_incoming);
    first.unsubscribe(&[channel]).await.unwrap();
    one.publish(&notice(channel, "for the second"))
        .await
        .unwrap();
    message(&mut second_incoming).await;
    assert!(first_incoming.try_recv().is_err());
}

async fn recent_events_are_the_contiguous_tail(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let room = new_id();
    assert_eq!(recent(&*two, room).await, [0; 0]);
    one.publish(&room_events(room, 1..=3)).await.unwrap();
    assert_eq!(recent(&*two, room).await, [1, 2, 3]);
    one.publish(&room_events(room, 4..=7)).await.unwrap();
    assert_eq!(recent(&*two, room).await, [3, 4, 5, 6, 7]);
    one.publish(&room_events(room, 8..=20)).await.unwrap();
    assert_eq!(recent(&*two, room).await, [16, 17, 18, 19, 20]);
    // 21 never came.
    one.publish(&room_events(room, 22..=23)).await.unwrap();
    assert_eq!(recent(&*two, room).await, [22, 23]);
    one.publish(&room_events(room, 24..=25)).await.unwrap();
    assert_eq!(recent(&*two, room).await, [22, 23, 24, 25]);
    // Stale rooms are forgotten first, then added to.
    let mut publications = room_events(room, 26..=26);
    publications.stale = vec![room, new_id()];
    one.publish(&publications).await.unwrap();
    assert_eq!(recent(&*two, room).await, [26]);
    let stale = Publications {
        stale: vec![room],
        ..Publications::default()
    };
    one.publish(&stale).await.unwrap();
    assert_eq!(recent(&*two, room).await, [0; 0]);
}

async fn recent_events_expire(nodes: Nodes) {
    let room = new_id();
    nodes.one.publish(&room_events(room, 1..=2)).await.unwrap();
    assert_eq!(recent(&*nodes.two, room).await, [1, 2]);
    until(
        "they expire",
        async || recent(&*nodes.two, room).await,
        Vec::is_empty,
    )
    .await;
}

async fn a_value_is_taken_once(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let key = unique("ticket");
    assert_eq!(one.take(&key).await.unwrap(), None);
    one.put(&key, "first", PATIENCE).await.unwrap();
    one.put(&key, "it's ü", PATIENCE).await.unwrap();
    let takers = (0..50).map(|n| {
        if n % 2 == 0 {
            one.take(&key)
        } else {
            two.take(&key)
        }
    });
    let taken: Vec<String> = future::join_all(takers)
        .await
        .into_iter()
        .filter_map(Result::unwrap)
        .collect();
    assert_eq!(taken, ["it's ü"]);
    one.put(&key, "short", Duration::from_millis(60))
        .await
        .unwrap();
    let started = Instant::now();
    until(
        "its time is over",
        async || started.elapsed(),
        |elapsed| *elapsed > Duration::from_millis(80),
    )
    .await;
    assert_eq!(two.take(&key).await.unwrap(), None);
}

async fn hits_are_counted_within_their_window(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (key, window) = (unique("limit"), Duration::from_millis(400));
    let started = Instant::now();
    let hits = (0..40).map(|n| {
        if n % 2 == 0 {
            one.hit(&key, window)
        } else {
            two.hit(&key, window)
        }
    });
    let mut counts: Vec<u64> = future::join_all(hits)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=40).collect::<Vec<_>>());
    assert_eq!(one.hit(&unique("limit"), window).await.unwrap(), 1);
    // Hits do not prolong the window.
    until(
        "a new window",
        async || one.hit(&key, window).await.unwrap(),
        |count| *count == 1,
    )
    .await;
    assert!(started.elapsed() >= window - Duration::from_millis(5));
}

async fn who_is_here_is_known_for_a_while_and_when_they_were_active_for_long(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (ada, bob, eve) = (new_id(), new_id(), new_id());
    let at = |ago: i64| Timestamp::from_millis(Timestamp::now().millis() - ago);
    let (early, late) = (at(5000), at(1000));
    one.here(&[(ada, late), (bob, early)], PATIENCE)
        .await
        .unwrap();
    // Another node's older and shorter word takes nothing back.
    let short = Duration::from_millis(200);
    two.here(&[(ada, early), (eve, late)], short).await.unwrap();
    let ask = async || two.presence(&[eve, ada, bob, new_id()]).await.unwrap();
    let presence = until("one is gone", ask, |all| !all[0].connected).await;
    let known = |connected, active| Presence { connected, active };
    assert_eq!(presence[0].active, Some(late));
    assert_eq!(
        presence[1..3],
        [known(true, Some(late)), known(true, Some(early))]
    );
    assert_eq!(presence[3], known(false, None));
    assert_eq!(one.presence(&[]).await.unwrap(), []);
}

async fn counters_add_up(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (a, b) = (unique("count"), unique("count"));
    let ttl = Duration::from_millis(500);
    assert_eq!(one.count(&[(&a, 0), (&b, 0)], ttl).await.unwrap(), [0, 0]);
    assert_eq!(one.count(&[(&a, 2), (&b, 5)], ttl).await.unwrap(), [2, 5]);
    assert_eq!(two.count(&[(&b, 1), (&a, 0)], ttl).await.unwrap(), [6, 2]);
    assert!(one.count(&[], ttl).await.unwrap().is_empty());
    // Asking does not keep them.
    let ask = async || two.count(&[(&a, 0), (&b, 0)], PATIENCE).await.unwrap();
    until("they are forgotten", ask, |totals| *totals == [0, 0]).await;
}

async fn one_leads_at_a_time(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (key, long) = (unique("lead"), PATIENCE);
    let (first, second) = (new_id(), new_id());
    assert!(one.lead(&key, first, long).await.unwrap());
    assert!(!two.lead(&key, second, long).await.unwrap());
    assert!(one.lead(&key, first, long).await.unwrap(), "renewed");
    two.resign(&key, second).await.unwrap();
    assert!(!two.lead(&key, second, long).await.unwrap());
    one.resign(&key, first).await.unwrap();
    assert!(two.lead(&key, second, long).await.unwrap());
    // A leader that is not heard of any more.
    assert!(
        two.lead(&key, second, Duration::from_millis(200))
            .await
            .unwrap()
    );
    assert!(!one.lead(&key, first, long).await.unwrap());
    let ask = async || one.lead(&key, first, long).await.unwrap();
    until("the first one leads again", ask, |leads| *leads).await;
}

async fn places_are_as_many_as_there_are(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (key, long) = (unique("places"), PATIENCE);
    let (a, b, c) = (new_id(), new_id(), new_id());
    assert!(one.occupy(&key, a, 2, long).await.unwrap());
    assert!(two.occupy(&key, b, 2, long).await.unwrap());
    assert!(!one.occupy(&key, c, 2, long).await.unwrap());
    assert!(two.occupy(&key, a, 2, long).await.unwrap(), "it has one");
    assert!(two.occupy(&unique("places"), c, 1, long).await.unwrap());
    // Given back once, by whoever had it.
    two.vacate(&key, c).await.unwrap();
    assert!(!one.occupy(&key, c, 2, long).await.unwrap());
    for _ in 0..2 {
        two.vacate(&key, a).await.unwrap();
    }
    assert!(one.occupy(&key, c, 2, long).await.unwrap());
    assert!(!one.occupy(&key, a, 2, long).await.unwrap());
    // One whose holder died; the other's stays.
    let short = Duration::from_millis(200);
    assert!(one.occupy(&key, c, 2, short).await.unwrap());
    let ask = async || two.occupy(&key, a, 2, long).await.unwrap();
    until("the place is free again", ask, |has| *has).await;
    assert!(!one.occupy(&key, c, 2, long).await.unwrap());
    assert!(one.occupy(&key, b, 2, long).await.unwrap());
    // Many at once.
    let key = unique("places");
    let all = (0..50).map(|_| one.occupy(&key, new_id(), 7, long));
    let got = future::join_all(all).await;
    let got = got.into_iter().filter(|has| *has.as_ref().unwrap());
    assert_eq!(got.count(), 7);
}

async fn beats_say_who_lives(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let (long, short, retired) = (new_id(), new_id(), new_id());
    assert_eq!(one.beat(long, PATIENCE).await.unwrap(), [long]);
    two.beat(short, Duration::from_millis(300)).await.unwrap();
    let mut lives = two.beat(retired, PATIENCE).await.unwrap();
    lives.sort_unstable();
    let mut expected = [long, short, retired];
    expected.sort_unstable();
    assert_eq!(lives, expected);
    two.retire(retired).await.unwrap();
    let beat = async || one.beat(long, PATIENCE).await.unwrap();
    let lives = until("the short life ends", beat, |lives| !lives.contains(&short)).await;
    assert_eq!(lives, [long]);
    // A beat prolongs.
    let ttl = Duration::from_millis(500);
    let started = Instant::now();
    let beat = async || {
        one.beat(short, ttl).await.unwrap();
        started.elapsed()
    };
    until("more than one life has passed", beat, |elapsed| {
        *elapsed > 2 * ttl
    })
    .await;
    assert!(two.beat(long, PATIENCE).await.unwrap().contains(&short));
    one.ping().await.unwrap();
}

async fn a_reader_that_falls_behind_is_told(nodes: Nodes) {
    let Nodes { one, two } = nodes;
    let channel = Channel::Room(new_id());
    let (subscriptions, mut incoming) = two.listen().await.unwrap();
    subscriptions.subscribe(&[channel]).await.unwrap();
    let many = Publications {
        notices: vec![(channel, Bytes::from_static(b"x")); 20_000],
        ..Publications::default()
    };
    one.publish(&many).await.unwrap();
    // Read nothing until it cannot have been missed.
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
    one.publish(&notice(channel, "after")).await.unwrap();
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
    what_is_published_arrives_in_order(super::PATIENCE),
    unsubscribed_channels_are_silent(super::PATIENCE),
    listeners_do_not_disturb_each_other(super::PATIENCE),
    recent_events_are_the_contiguous_tail(super::PATIENCE),
    recent_events_expire(std::time::Duration::from_millis(300)),
    a_value_is_taken_once(super::PATIENCE),
    hits_are_counted_within_their_window(super::PATIENCE),
    counters_add_up(super::PATIENCE),
    one_leads_at_a_time(super::PATIENCE),
    places_are_as_many_as_there_are(super::PATIENCE),
    beats_say_who_lives(super::PATIENCE),
    who_is_here_is_known_for_a_while_and_when_they_were_active_for_long(super::PATIENCE),
    a_reader_that_falls_behind_is_told(super::PATIENCE),
);

async fn redis_through_a_line() -> (Line, RedisBus, RedisBus) {
    let url = redis_url();
    let (scheme, rest) = url.split_once("://").unwrap();
    let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server);
    let credentials = &rest[..rest.len() - server.len()];
    let server = server.split('/').next().unwrap();
    let line = Line::to(server).await;
    let through = format!("{scheme}://{credentials}{}", line.address);
    let prefix = unique("bus");
    let direct = redis_bus(&prefix, url.clone(), PATIENCE);
    let bus = redis_bus(&prefix, through, PATIENCE);
    (line, direct, bus)
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
async fn subscriptions_are_made_again_on_a_new_connection() {
    let (line, direct, bus) = redis_through_a_line().await;
    let (subscriptions, mut incoming) = bus.listen().await.unwrap();
    // As many as an edge may have.
    let rooms: Vec<Channel> = (0..45_000).map(|_| Channel::Room(new_id())).collect();
    let (before, left) = rooms.split_at(44_000);
    assert!(subscriptions.subscribe(&rooms).await.unwrap());
    subscriptions.unsubscribe(left).await.unwrap();
    for _ in 0..3 {
        line.cut();
        lost(&mut incoming).await;
        restored(&mut incoming).await;
        for channel in [left[0], before[0], before[before.len() - 1]] {
            direct.publish(&notice(channel, "hello")).await.unwrap();
        }
        assert_eq!(message(&mut incoming).await.0, before[0]);
        assert_eq!(message(&mut incoming).await.0, before[before.len() - 1]);
    }
    assert!(subscriptions.subscribe(&[left[0]]).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_noticed_and_costs_a_second() {
    let (line, direct, bus) = redis_through_a_line().await;
    let (subscriptions, mut incoming) = bus.listen().await.unwrap();
    let (early, late) = (Channel::Room(new_id()), Channel::Room(new_id()));
    assert!(subscriptions.subscribe(&[early]).await.unwrap());
    bus.ping().await.unwrap();
    line.freeze();
    let started = Instant::now();
    let error = bus.put("key", "value", PATIENCE).await.unwrap_err();
    assert_eq!(error.code, Code::Busy);
    assert!(bus.publish(&room_events(new_id(), 1..=2)).await.is_err());
    assert!(started.elapsed() < Duration::from_secs(4));
    lost(&mut incoming).await;
    assert!(started.elapsed() < Duration::from_secs(8));
    // At once, and still there when it is back.
    let started = Instant::now();
    assert!(!subscriptions.subscribe(&[late]).await.unwrap());
    assert!(started.elapsed() < Duration::from_millis(100));
    line.thaw();
    restored(&mut incoming).await;
    for channel in [early, late] {
        direct.publish(&notice(channel, "hello")).await.unwrap();
        assert_eq!(message(&mut incoming).await.0, channel);
    }
    until(
        "commands work again",
        async || bus.ping().await.is_ok(),
        |ok| *ok,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_server_is_no_reason_not_to_listen() {
    let bus = redis_bus("absent", "redis://:secret@127.0.0.1:9".to_owned(), PATIENCE);
    let (subscriptions, mut incoming) = bus.listen().await.unwrap();
    assert!(!subscriptions.subscribe(&[Channel::Everyone]).await.unwrap());
    lost(&mut incoming).await;
    let error = bus.recent(new_id()).await.unwrap_err();
    assert_eq!(error.code, Code::Busy);
    assert!(!error.chain().contains("secret"));
}
