//! Failures that only a broker has: connection loss, silence, blocking, a lost queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chat::{
    error::Code,
    queue::{
        Publisher, Queue, QueueState,
        rabbit::{RabbitPublisher, RabbitQueue, RabbitSettings},
    },
};
use tokio::time::Instant;

use super::queue::{PARTITIONS, delete_queues, rabbit_settings};
use crate::{
    harness::provider::{Does, Provider},
    support::{OwnBroker, PATIENCE, TcpProxy, amqp_url, soon, unique, until},
};

/// A TCP proxy to the broker, and settings that connect through it.
async fn settings_through_a_proxy(prefix: &str) -> (TcpProxy, RabbitSettings) {
    let url = amqp_url();
    let (scheme, rest) = url.split_once("://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, "%2f"));
    let (user, server) = authority
        .split_once('@')
        .unwrap_or(("guest:guest", authority));
    let proxy = TcpProxy::to(server).await;
    let url = format!("{scheme}://{user}@{}/{path}", proxy.address);
    (proxy, rabbit_settings(prefix, url))
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmed_payloads_survive_lost_connections_in_order() {
    let prefix = unique("cut");
    let (proxy, settings) = settings_through_a_proxy(&prefix).await;
    let publisher = Arc::new(RabbitPublisher::connect(settings).unwrap());
    publisher.ready(PATIENCE).await.unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU32::new(0));
    let publishing: Vec<_> = (0..PARTITIONS)
        .map(|partition| {
            let (publisher, enough, count) = (publisher.clone(), enough.clone(), count.clone());
            tokio::spawn(async move {
                let mut confirmed = Vec::new();
                for number in 0_u32.. {
                    if enough.load(Ordering::Relaxed) {
                        break;
                    }
                    let payload = Bytes::from(number.to_string());
                    let started = Instant::now();
                    match publisher
                        .publish(partition, super::batch(&payload, 1))
                        .await
                    {
                        Ok(()) => {
                            confirmed.push(number);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            // The publish started while the connection was down.
                            assert_eq!(error.code, Code::Busy);
                            assert!(started.elapsed() < Duration::from_secs(1));
                            tokio::task::yield_now().await;
                        }
                    }
                }
                confirmed
            })
        })
        .collect();
    for _ in 0..5 {
        let before = count.load(Ordering::Relaxed);
        let more = async || count.load(Ordering::Relaxed) - before;
        until("publishes are confirmed", more, |more| *more > 100).await;
        proxy.cut();
        until(
            "the lost connection is noticed",
            async || publisher.state(),
            |s| *s == QueueState::Down,
        )
        .await;
        until(
            "the connection is up again",
            async || publisher.state(),
            |s| *s == QueueState::Up,
        )
        .await;
    }
    enough.store(true, Ordering::Relaxed);
    let queue = RabbitQueue::connect(rabbit_settings(&prefix, amqp_url())).unwrap();
    for (partition, publishing) in (0..).zip(publishing) {
        let confirmed = soon("the last publish", publishing).await.unwrap();
        assert!(confirmed.len() > 100, "only {}", confirmed.len());
        let mut consumer = queue.consume(partition).await.unwrap();
        let mut found = Vec::new();
        while found.last() < confirmed.last() {
            let delivery = soon("the rest", consumer.next()).await.unwrap();
            let number: u32 = std::str::from_utf8(&super::first_of(&delivery.payload))
                .unwrap()
                .parse()
                .unwrap();
            consumer.ack_through(delivery.tag).await.unwrap();
            // A payload may arrive twice: it was repeated because its confirm was lost.
            assert!(
                found.last().is_none_or(|last| *last <= number),
                "{number} after {:?}",
                found.last()
            );
            found.push(number);
        }
        for number in confirmed {
            assert!(
                found.binary_search(&number).is_ok(),
                "{number} was confirmed and is lost"
            );
        }
    }
    delete_queues(&prefix).await;
}

/// Three addresses of one broker, of which one refuses connections. The one in use fails and stays away.
#[tokio::test(flavor = "multi_thread")]
async fn another_address_takes_over_within_two_seconds() {
    let prefix = unique("nodes");
    let (first, mut settings) = settings_through_a_proxy(&prefix).await;
    let (second, other) = settings_through_a_proxy(&prefix).await;
    let (gone, refusing) = settings_through_a_proxy(&prefix).await;
    drop(gone);
    settings.urls.extend(refusing.urls);
    settings.urls.extend(other.urls);
    let publisher = RabbitPublisher::connect(settings).unwrap();
    publisher.ready(PATIENCE).await.unwrap();
    let mut proxies = vec![first, second];
    let used = proxies.iter().position(TcpProxy::is_used).unwrap();
    drop(proxies.remove(used));
    let lost = Instant::now();
    until(
        "the connection is lost",
        async || publisher.state(),
        |state| *state == QueueState::Down,
    )
    .await;
    until(
        "the other address is used",
        async || publisher.state(),
        |state| *state == QueueState::Up,
    )
    .await;
    assert!(
        lost.elapsed() < Duration::from_secs(2),
        "{:?}",
        lost.elapsed()
    );
    assert!(proxies[0].is_used());
    let payload = Bytes::from_static(b"{}");
    publisher
        .publish(0, super::batch(&payload, 1))
        .await
        .unwrap();
    delete_queues(&prefix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_under_way_waits_for_the_connection_up_to_its_deadline() {
    let prefix = unique("freeze");
    let (proxy, mut settings) = settings_through_a_proxy(&prefix).await;
    settings.confirm_timeout = Duration::from_secs(3);
    let publisher = RabbitPublisher::connect(settings).unwrap();
    publisher.ready(PATIENCE).await.unwrap();
    let payload = Bytes::from_static(b"x");
    publisher
        .publish(0, super::batch(&payload, 1))
        .await
        .unwrap();

    // The first attempt is never confirmed; it is sent again after the connection is lost.
    proxy.freeze();
    let broken = async {
        until(
            "the publish is in flight",
            async || proxy.withheld(),
            |bytes| *bytes > 0,
        )
        .await;
        proxy.cut();
        proxy.thaw();
    };
    let (sent, ()) = tokio::join!(publisher.publish(0, super::batch(&payload, 1)), broken);
    sent.unwrap();

    proxy.freeze();
    let started = Instant::now();
    let error = publisher
        .publish(0, super::batch(&payload, 1))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Busy);
    let took = started.elapsed();
    assert!(
        took > Duration::from_secs(2) && took < Duration::from_secs(4),
        "{took:?}"
    );
    proxy.thaw();
    until(
        "the publisher is up again",
        async || {
            publisher
                .publish(0, super::batch(&payload, 1))
                .await
                .is_ok()
        },
        |ok| *ok,
    )
    .await;
    delete_queues(&prefix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_end_with_the_connection_and_can_be_reopened() {
    let prefix = unique("consumer");
    let (proxy, settings) = settings_through_a_proxy(&prefix).await;
    let publisher = RabbitPublisher::connect(rabbit_settings(&prefix, amqp_url())).unwrap();
    publisher.ready(PATIENCE).await.unwrap();
    let queue = RabbitQueue::connect(settings).unwrap();
    let mut consumer = queue.consume(0).await.unwrap();
    publisher.publish(0, super::batch(b"1", 1)).await.unwrap();
    let first = soon("the first", consumer.next()).await.unwrap();
    proxy.cut();
    assert!(soon("the end", consumer.next()).await.is_none());
    assert!(consumer.next().await.is_none());
    assert!(consumer.try_next().is_none());
    assert!(consumer.ack_through(first.tag).await.is_err());
    // Waits for the connection, and restores prefetch and topology.
    let mut consumer = queue.consume(0).await.unwrap();
    let again = soon("the first again", consumer.next()).await.unwrap();
    assert!(again.redelivered);
    consumer.ack_through(again.tag).await.unwrap();
    queue.ping().await.unwrap();
    delete_queues(&prefix).await;
    assert!(
        soon("the end of a deleted queue", consumer.next())
            .await
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_queue_is_redeclared() {
    let prefix = unique("missing");
    let publisher = RabbitPublisher::connect(rabbit_settings(&prefix, amqp_url())).unwrap();
    publisher.ready(PATIENCE).await.unwrap();
    delete_queues(&prefix).await;
    publisher
        .publish(1, super::batch(b"kept", 1))
        .await
        .unwrap();
    let queue = RabbitQueue::connect(rabbit_settings(&prefix, amqp_url())).unwrap();
    let mut consumer = queue.consume(1).await.unwrap();
    let kept = soon("it", consumer.next()).await.unwrap();
    assert_eq!(super::first_of(&kept.payload), "kept");
    delete_queues(&prefix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_hangs_without_a_broker() {
    // Port 9 ("discard") is closed.
    let settings = rabbit_settings("absent", "amqp://user:secret@127.0.0.1:9/%2f".to_owned());
    assert!(!format!("{settings:?}").contains("secret"));
    let publisher = RabbitPublisher::connect(settings.clone()).unwrap();
    let started = Instant::now();
    assert_eq!(publisher.state(), QueueState::Down);
    let error = publisher
        .publish(0, super::batch(b"", 1))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Busy);
    assert!(error.retry_after.is_some());
    let error = publisher
        .ready(Duration::from_millis(500))
        .await
        .unwrap_err();
    assert!(error.chain().contains("refused"), "{}", error.chain());
    let queue = RabbitQueue::connect(settings).unwrap();
    assert!(queue.ping().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(RabbitQueue::connect(rabbit_settings("p", "http://x".to_owned())).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_to_a_blocked_connection_fail_with_busy_at_once() {
    let broker = OwnBroker::start("alarm").await;
    let url = broker.url();
    let publisher = RabbitPublisher::connect(rabbit_settings("blocked", url.clone())).unwrap();
    publisher.ready(PATIENCE).await.unwrap();
    let publish = async || {
        let started = Instant::now();
        let result = publisher.publish(0, super::batch(b"x", 1)).await;
        (result.map_err(|error| error.code), started.elapsed())
    };
    assert!(publish().await.0.is_ok());
    broker.alarm(true).await;
    let refused = async || {
        let (result, took) = publish().await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        result == Err(Code::Busy)
    };
    until("it is blocked", refused, |refused| *refused).await;
    assert_eq!(publisher.state(), QueueState::Blocked);
    let (result, took) = publish().await;
    assert!(
        result == Err(Code::Busy) && took < Duration::from_millis(50),
        "{took:?}"
    );
    // Consuming continues.
    let queue = RabbitQueue::connect(rabbit_settings("blocked", url)).unwrap();
    let mut consumer = queue.consume(0).await.unwrap();
    let delivery = soon("what was published before", consumer.next())
        .await
        .unwrap();
    consumer.ack_through(delivery.tag).await.unwrap();
    queue.ping().await.unwrap();
    broker.alarm(false).await;
    until(
        "it is unblocked",
        async || publish().await.0.is_ok(),
        |ok| *ok,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_api_reports_unacknowledged_payloads() {
    let Ok(api) = std::env::var("RABBITMQ_API_URL") else {
        eprintln!("skipped: RABBITMQ_API_URL is not set");
        return;
    };
    // reqwest needs one even for plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let prefix = unique("api");
    let settings = rabbit_settings(&prefix, amqp_url());
    let publisher = RabbitPublisher::connect(settings.clone()).unwrap();
    let queue = RabbitQueue::connect(settings).unwrap();
    let queue = queue.with_api(std::slice::from_ref(&api)).unwrap();
    publisher.ready(PATIENCE).await.unwrap();
    for number in 0..3_u32 {
        let payload = Bytes::from(number.to_string());
        publisher
            .publish(1, super::batch(&payload, 1))
            .await
            .unwrap();
    }
    let mut consumer = queue.consume(1).await.unwrap();
    soon("a payload", consumer.next()).await.unwrap();
    // Always unknown or correct: none of these is ready, and none is missing.
    let load = until(
        "the API has the figure",
        async || queue.load().await.unwrap().partitions[1],
        |partition| partition.unacked == Some(3),
    )
    .await;
    assert_eq!((load.ready, load.consumers), (0, 1));
    consumer.close().await;
    delete_queues(&prefix).await;
}

/// After a restart the API has no figures for a while, and a proxy in front may answer anything. Ready payloads are
/// known all the same, and unacknowledged ones are unknown: never an old figure, never zero.
#[tokio::test(flavor = "multi_thread")]
async fn a_management_api_without_figures_or_with_invalid_answers() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let prefix = unique("nonsense");
    let settings = rabbit_settings(&prefix, amqp_url());
    let publisher = RabbitPublisher::connect(settings.clone()).unwrap();
    publisher.ready(PATIENCE).await.unwrap();
    let payload = Bytes::from_static(b"waits");
    publisher
        .publish(1, super::batch(&payload, 1))
        .await
        .unwrap();
    let api = Provider::start().await;
    let queue = RabbitQueue::connect(settings).unwrap();
    // The first node is away.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = format!("http://{}/api", free.local_addr().unwrap());
    drop(free);
    let queue = queue.with_api(&[away, api.url.clone()]).unwrap();
    let named: &str = format!(r#"[{{"name":"{prefix}.p.1"}}]"#).leak();
    let held: &str = format!(r#"[{{"name":"{prefix}.p.1","messages_unacknowledged":7}}]"#).leak();
    let look = async || {
        let load = queue.load().await.unwrap().partitions[1];
        assert_eq!(load.ready, 1);
        load.unacked
    };
    let nonsense = [
        (404, r#"{"error":"Object Not Found"}"#),
        (200, "<html>Please log in</html>"),
        (200, named),
    ];
    for (status, body) in nonsense {
        api.does(move |_, _| Does::Answer(status, "", body));
        let asked = api.count();
        // Requests are sequential: once the second request arrives, the first response has been processed.
        let ask = async || (look().await, api.count());
        let (known, _) = until(body, ask, |(_, count)| *count >= asked + 2).await;
        assert_eq!(known, None, "{status} {body}");
    }
    api.does(move |_, _| Does::Answer(200, "", held));
    until("the API has the figure", look, |known| *known == Some(7)).await;
    api.does(|_, _| Does::Reset);
    until("a stale figure becomes unknown", look, Option::is_none).await;
    delete_queues(&prefix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_hides_the_others_only_for_a_moment() {
    let prefix = unique("deleted");
    let queue = RabbitQueue::connect(rabbit_settings(&prefix, amqp_url())).unwrap();
    queue.ready(PATIENCE).await.unwrap();
    assert_eq!(
        queue.load().await.unwrap().partitions.len(),
        usize::from(PARTITIONS)
    );
    delete_queues(&prefix).await;
    let error = queue.load().await.unwrap_err();
    assert_eq!(error.code, Code::Busy, "{error:?}");
    let ask = async || queue.load().await.is_ok();
    until("the queues are back", ask, |known| *known).await;
    delete_queues(&prefix).await;
}
