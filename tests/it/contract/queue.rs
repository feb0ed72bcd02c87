//! The contract of `chat::queue`, run on RabbitMQ and on SQLite.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use chat::{
    error::Code,
    model::{Timestamp, new_id},
    queue::{
        Consumer, DeadLetter, DeadLetters, Load, NewTask, Partition, Publisher, Queue, QueueState,
        Selection, TaskQueue, Tasks,
        rabbit::{self, RabbitDeadLetters, RabbitPublisher, RabbitQueue, RabbitTasks},
        sqlite::{self, SqliteQueue},
    },
    sqlite::Database,
};
use futures_util::future;

use crate::support::{PATIENCE, amqp_url, soon, unique, until};

pub const PARTITIONS: Partition = 3;
const PREFETCH: u16 = 100;

/// Where a queue's content is stored, so that it can be reopened.
enum QueueFixture {
    Rabbit { prefix: String },
    Sqlite { directory: PathBuf },
}

struct Opened {
    publisher: Arc<dyn Publisher>,
    queue: Arc<dyn Queue>,
    dead: Arc<dyn DeadLetters>,
    tasks: Arc<dyn Tasks>,
}

pub fn rabbit_settings(prefix: &str, url: String) -> rabbit::RabbitSettings {
    rabbit::RabbitSettings {
        urls: vec![url],
        prefix: prefix.to_owned(),
        partitions: PARTITIONS,
        max_backlog: 1_000_000,
        confirm_timeout: Duration::from_secs(20),
        prefetch: PREFETCH,
        declare: true,
        node: prefix.to_owned(),
    }
}

/// Deletes a test's queues in the broker, except those of delays: deleting one while it starts ends RabbitMQ 3.10's
/// dead-lettering for good (its supervisor gives up). scripts/test deletes them.
pub async fn delete_queues(prefix: &str) {
    let properties = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(&amqp_url(), properties)
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let partitions = (0..PARTITIONS).map(|p| format!("{prefix}.p.{p}"));
    let tasks = TaskQueue::ALL.map(|queue| format!("{prefix}.job.{}", queue.as_str()));
    for queue in partitions.chain([format!("{prefix}.dead")]).chain(tasks) {
        channel
            .queue_delete(queue.into(), Default::default())
            .await
            .unwrap();
    }
}

impl QueueFixture {
    fn rabbit() -> QueueFixture {
        QueueFixture::Rabbit {
            prefix: unique("queue"),
        }
    }

    fn sqlite() -> QueueFixture {
        let directory = std::env::temp_dir().join(unique("queue"));
        std::fs::create_dir(&directory).unwrap();
        QueueFixture::Sqlite { directory }
    }

    async fn open(&self) -> Opened {
        match self {
            QueueFixture::Rabbit { prefix } => {
                let settings = rabbit_settings(prefix, amqp_url());
                let publisher = Arc::new(RabbitPublisher::connect(settings.clone()).unwrap());
                let queue = RabbitQueue::connect(settings).unwrap();
                let queue = Arc::new(queue.with_delays());
                publisher.ready(PATIENCE).await.unwrap();
                queue.ready(PATIENCE).await.unwrap();
                let dead = Arc::new(RabbitDeadLetters::new(publisher.clone(), queue.clone()));
                let tasks = Arc::new(RabbitTasks::new(publisher.clone(), queue.clone()));
                Opened {
                    publisher,
                    queue,
                    dead,
                    tasks,
                }
            }
            QueueFixture::Sqlite { directory } => {
                let database = Database::open(&directory.join("chat.db")).await.unwrap();
                let settings = sqlite::SqliteQueueSettings {
                    partitions: PARTITIONS,
                    confirm_timeout: Duration::from_secs(20),
                    prefetch: PREFETCH,
                };
                let queue = Arc::new(SqliteQueue::open(database, settings).await.unwrap());
                Opened {
                    publisher: queue.clone(),
                    queue: queue.clone(),
                    dead: queue.clone(),
                    tasks: queue,
                }
            }
        }
    }

    async fn remove(self) {
        match self {
            QueueFixture::Rabbit { prefix } => delete_queues(&prefix).await,
            QueueFixture::Sqlite { directory } => std::fs::remove_dir_all(directory).unwrap(),
        }
    }
}

fn payload(partition: Partition, number: usize) -> Bytes {
    Bytes::from(format!("{{\"partition\":{partition},\"number\":{number}}}"))
}

async fn publish(publisher: &dyn Publisher, partition: Partition, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let publish = publisher.publish(partition, super::batch(&payload(partition, number), 1));
        publish.await.unwrap();
    }
}

/// Consumes exactly these payloads, in this order; returns the last tag.
async fn expect(
    consumer: &mut dyn Consumer,
    partition: Partition,
    numbers: std::ops::Range<usize>,
) -> u64 {
    let mut tag = 0;
    for number in numbers {
        let delivery = soon("the next payload", consumer.next())
            .await
            .expect("the consumer is lost");
        assert_eq!(
            super::first_of(&delivery.payload),
            payload(partition, number)
        );
        assert!(delivery.tag > tag, "tags ascend");
        tag = delivery.tag;
    }
    tag
}

async fn order_and_acknowledgement(fixture: QueueFixture) {
    let Opened {
        publisher, queue, ..
    } = fixture.open().await;
    assert_eq!(publisher.state(), QueueState::Up);
    queue.ping().await.unwrap();
    publish(&*publisher, 1, 0..250).await;
    let mut consumer = queue.consume(1).await.unwrap();
    let mut read = 0;
    // A consumer may hold fewer unacknowledged payloads than there are.
    for end in [60, 130, 200, 250] {
        let tag = expect(&mut *consumer, 1, read..end).await;
        consumer.ack_through(tag).await.unwrap();
        read = end;
    }
    consumer.close().await;
    publish(&*publisher, 1, 250..253).await;
    let mut consumer = queue.consume(1).await.unwrap();
    expect(&mut *consumer, 1, 250..253).await;
    fixture.remove().await;
}

async fn unacknowledged_payloads_are_requeued_in_front(fixture: QueueFixture) {
    let Opened {
        publisher, queue, ..
    } = fixture.open().await;
    publish(&*publisher, 0, 0..90).await;
    let mut consumer = queue.consume(0).await.unwrap();
    let first = consumer.next().await.unwrap();
    assert!(!first.redelivered);
    let tag = expect(&mut *consumer, 0, 1..10).await;
    consumer.ack_through(tag).await.unwrap();
    expect(&mut *consumer, 0, 10..70).await;
    publish(&*publisher, 0, 90..120).await;
    drop(consumer);
    publish(&*publisher, 0, 120..150).await;
    let mut consumer = queue.consume(0).await.unwrap();
    let again = soon("the first one again", consumer.next()).await.unwrap();
    assert_eq!(super::first_of(&again.payload), payload(0, 10));
    assert!(again.redelivered);
    consumer.close().await;
    let mut consumer = queue.consume(0).await.unwrap();
    let tag = expect(&mut *consumer, 0, 10..110).await;
    consumer.ack_through(tag).await.unwrap();
    expect(&mut *consumer, 0, 110..150).await;
    fixture.remove().await;
}

async fn one_consumer_at_a_time(fixture: QueueFixture) {
    let Opened {
        publisher, queue, ..
    } = fixture.open().await;
    let mut first = queue.consume(2).await.unwrap();
    publish(&*publisher, 2, 0..1).await;
    expect(&mut *first, 2, 0..1).await;
    let mut second = queue.consume(2).await.unwrap();
    publish(&*publisher, 2, 1..5).await;
    expect(&mut *first, 2, 1..5).await;
    assert!(
        second.try_next().is_none(),
        "the first one has the partition"
    );
    first.close().await;
    let tag = expect(&mut *second, 2, 0..5).await;
    second.ack_through(tag).await.unwrap();
    publish(&*publisher, 2, 5..6).await;
    expect(&mut *second, 2, 5..6).await;
    fixture.remove().await;
}

async fn payloads_that_have_arrived_are_taken_without_waiting(fixture: QueueFixture) {
    let Opened {
        publisher, queue, ..
    } = fixture.open().await;
    let mut consumer = queue.consume(0).await.unwrap();
    assert!(consumer.try_next().is_none());
    publish(&*publisher, 0, 0..20).await;
    expect(&mut *consumer, 0, 0..1).await;
    for number in 1..20 {
        let delivery = until("the rest", async || consumer.try_next(), Option::is_some).await;
        assert_eq!(
            super::first_of(&delivery.unwrap().payload),
            payload(0, number)
        );
    }
    assert!(consumer.try_next().is_none());
    // Dropping the future must not drop a payload.
    for _ in 0..100 {
        let next = consumer.next();
        let _ = tokio::time::timeout(Duration::ZERO, next).await;
    }
    let next = async { expect(&mut *consumer, 0, 20..21).await };
    future::join(next, publish(&*publisher, 0, 20..21)).await;
    fixture.remove().await;
}

async fn the_backlog_is_counted(fixture: QueueFixture) {
    let Opened {
        publisher, queue, ..
    } = fixture.open().await;
    assert_eq!(publisher.backlog(), 0);
    for number in 0..10 {
        let partition = (number % 2) as Partition;
        publisher
            .publish(partition, super::batch(&payload(partition, number), 7))
            .await
            .unwrap();
    }
    until(
        "70 commands wait",
        async || publisher.backlog(),
        |n| *n == 70,
    )
    .await;
    let depths = until(
        "depths",
        async || queue.depths().await.unwrap(),
        |depths| depths[0].ready == 5,
    )
    .await;
    let there = ["p.0", "p.2", "dead", "job.notify", "job.sms"];
    for part in there {
        let found = depths.iter().find(|depth| depth.queue.ends_with(part));
        assert!(found.is_some(), "{part} in {depths:?}");
    }
    assert_eq!(
        (depths[1].ready, depths[2].ready, depths[0].consumers),
        (5, 0, 0)
    );
    for partition in 0..2 {
        let mut consumer = queue.consume(partition).await.unwrap();
        for _ in 0..5 {
            let delivery = soon("a payload", consumer.next()).await.unwrap();
            consumer.ack_through(delivery.tag).await.unwrap();
        }
        consumer.close().await;
    }
    until("nothing waits", async || publisher.backlog(), |n| *n == 0).await;
    fixture.remove().await;
}

async fn the_load_is_known(fixture: QueueFixture) {
    let Opened {
        publisher, queue, ..
    } = fixture.open().await;
    for number in 0..3 {
        publisher
            .publish(0, super::batch(&payload(0, number), 5))
            .await
            .unwrap();
    }
    publish(&*publisher, 2, 0..1).await;
    let ready = |load: &Load| -> Vec<u64> { load.partitions.iter().map(|p| p.ready).collect() };
    let look = async || queue.load().await.unwrap();
    let load = until("all of it waits", look, |load| ready(load) == [3, 0, 1]).await;
    // Unknown or correct.
    assert!(load.partitions.iter().all(|p| p.consumers == 0));
    assert!([None, Some(15)].contains(&load.partitions[0].messages));
    assert!([None, Some(0)].contains(&load.partitions[0].unacked));

    // A delivered payload is not ready, and counts as unacknowledged where that is known.
    let mut consumer = queue.consume(0).await.unwrap();
    expect(&mut *consumer, 0, 0..3).await;
    let held = |load: &Load| load.partitions[0].ready == 0 && load.partitions[0].consumers == 1;
    let load = until("a consumer holds it", look, held).await;
    assert!([None, Some(3)].contains(&load.partitions[0].unacked));
    assert!([None, Some(15)].contains(&load.partitions[0].messages));

    // The consumer ends, and all payloads are requeued.
    drop(consumer);
    let waits = |load: &Load| {
        let partition = load.partitions[0];
        partition.ready + partition.unacked.unwrap_or_default() == 3 && partition.consumers == 0
    };
    until("nothing was lost", look, waits).await;
    fixture.remove().await;
}

async fn the_load_of_tasks_is_known(fixture: QueueFixture) {
    let Opened { queue, tasks, .. } = fixture.open().await;
    let task = |queue, delay| NewTask {
        queue,
        payload: Bytes::from_static(b"{}"),
        delay: Duration::from_secs(delay),
    };
    let new = vec![
        task(TaskQueue::Notify, 0),
        task(TaskQueue::Notify, 0),
        task(TaskQueue::Notify, 4),
        task(TaskQueue::Email, 3600),
    ];
    tasks.push(new).await.unwrap();
    let look = async || queue.load().await.unwrap();
    let of = |load: &Load, queue| {
        *load
            .tasks
            .iter()
            .find(|tasks| tasks.queue == queue)
            .unwrap()
    };
    let delayed = |load: &Load, queue, within| -> Option<u64> {
        let within = Duration::from_secs(within);
        let all = load.delayed.as_ref()?.iter();
        let soon = all.filter(|tasks| tasks.queue == queue && tasks.within <= within);
        Some(soon.map(|tasks| tasks.tasks).sum())
    };
    let both = |load: &Load| of(load, TaskQueue::Notify).ready == 2;
    let load = until("two are due", look, both).await;
    assert_eq!(of(&load, TaskQueue::Sms).ready, 0);
    let later = |load: &Load| delayed(load, TaskQueue::Email, 5000) == Some(1);
    let load = until("one waits an hour", look, later).await;
    assert_eq!(delayed(&load, TaskQueue::Email, 60), Some(0), "not soon");
    // The third one becomes due without a consumer.
    let all = |load: &Load| of(load, TaskQueue::Notify).ready == 3;
    let load = until("the third one is due", look, all).await;
    assert_eq!(of(&load, TaskQueue::Email).ready, 0);
    let gone = |load: &Load| delayed(load, TaskQueue::Notify, 5000) == Some(0);
    until("nothing of it is delayed any more", look, gone).await;

    let depths = queue.depths().await.unwrap();
    let shown = |part: &str| -> u64 {
        let named = depths.iter().filter(|depth| depth.queue.contains(part));
        named.map(|depth| depth.ready).sum()
    };
    assert_eq!((shown("job.notify"), shown("delay.email")), (3, 1));

    // Delivered tasks count as unacknowledged where that is known.
    let mut hand = tasks.take(TaskQueue::Notify, 10).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(soon("a task", hand.next()).await.unwrap());
    }
    let none = |load: &Load| of(load, TaskQueue::Notify).ready == 0;
    let load = until("none is ready", look, none).await;
    assert!([None, Some(3)].contains(&of(&load, TaskQueue::Notify).unacked));
    for task in held {
        task.ack.ack().await.unwrap();
    }
    drop(hand);
    fixture.remove().await;
}

async fn many_partitions_at_once(fixture: QueueFixture) {
    let Opened {
        publisher, queue, ..
    } = fixture.open().await;
    let all = (0..PARTITIONS).map(|partition| publish(&*publisher, partition, 0..80));
    future::join_all(all).await;
    for partition in 0..PARTITIONS {
        let mut consumer = queue.consume(partition).await.unwrap();
        expect(&mut *consumer, partition, 0..80).await;
    }
    let error = publisher
        .publish(PARTITIONS, super::batch(&payload(0, 0), 1))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    assert!(queue.consume(PARTITIONS).await.is_err());
    fixture.remove().await;
}

async fn a_reopened_queue_has_its_payloads(fixture: QueueFixture) {
    let Opened {
        publisher,
        queue,
        dead,
        ..
    } = fixture.open().await;
    publish(&*publisher, 1, 0..50).await;
    let mut consumer = queue.consume(1).await.unwrap();
    expect(&mut *consumer, 1, 0..40).await;
    drop((publisher, queue, dead, consumer));
    let Opened {
        publisher, queue, ..
    } = fixture.open().await;
    // Only SQLite knows the number of commands: RabbitMQ counts payloads.
    until("50 wait", async || publisher.backlog(), |n| *n == 50).await;
    publish(&*publisher, 1, 50..60).await;
    let mut consumer = queue.consume(1).await.unwrap();
    let first = soon("the first one again", consumer.next()).await.unwrap();
    assert_eq!(super::first_of(&first.payload), payload(1, 0));
    assert!(first.redelivered);
    let tag = expect(&mut *consumer, 1, 1..60).await;
    consumer.ack_through(tag).await.unwrap();
    consumer.close().await;
    until("nothing waits", async || publisher.backlog(), |n| *n == 0).await;
    fixture.remove().await;
}

async fn dead_letters(fixture: QueueFixture) {
    let Opened {
        publisher,
        queue,
        dead,
        ..
    } = fixture.open().await;
    assert!(dead.list(10).await.unwrap().is_empty());
    let originals: Vec<Bytes> = (0..40)
        .map(|number| match number {
            // Not UTF-8.
            3 => Bytes::from_static(b"\xff\xfe{\x00"),
            _ => payload(1, number),
        })
        .collect();
    let letters: Vec<DeadLetter> = originals
        .iter()
        .enumerate()
        .map(|(number, original)| DeadLetter {
            id: new_id(),
            at: Timestamp::from_millis(1_700_000_000_123 + number as i64),
            reason: format!("reason {number}: it's “so”"),
            partition: 1,
            payload: String::from_utf8_lossy(original).into_owned(),
        })
        .collect();
    for (letter, original) in letters.iter().zip(&originals) {
        dead.put(letter, original.clone()).await.unwrap();
    }
    // Listing changes nothing.
    assert_eq!(dead.list(1000).await.unwrap(), letters);
    assert_eq!(dead.list(2).await.unwrap(), letters[..2]);
    assert_eq!(dead.list(1000).await.unwrap(), letters);

    let one = |number: usize| Selection::One(letters[number].id);
    let mut consumer = queue.consume(1).await.unwrap();
    assert_eq!(dead.replay(one(3)).await.unwrap(), 1);
    assert_eq!(dead.replay(one(3)).await.unwrap(), 0);
    let replayed = soon("the replayed one", consumer.next()).await.unwrap();
    assert_eq!(super::first_of(&replayed.payload), originals[3]);
    assert_eq!(dead.purge(one(0)).await.unwrap(), 1);
    let left = [&letters[1..3], &letters[4..]].concat();
    assert_eq!(dead.list(1000).await.unwrap(), left);

    assert_eq!(
        dead.replay(Selection::All).await.unwrap(),
        left.len() as u64
    );
    expect(&mut *consumer, 1, 1..3).await;
    expect(&mut *consumer, 1, 4..40).await;
    assert!(dead.list(1000).await.unwrap().is_empty());

    for (letter, original) in letters.iter().zip(&originals).take(5) {
        dead.put(letter, original.clone()).await.unwrap();
    }
    assert_eq!(dead.purge(Selection::All).await.unwrap(), 5);
    assert!(dead.list(1000).await.unwrap().is_empty());
    drop(publisher);
    fixture.remove().await;
}

async fn tasks_are_delivered_when_due_until_acknowledged(fixture: QueueFixture) {
    let Opened { tasks, .. } = fixture.open().await;
    let task = |queue, name: &'static str, millis| NewTask {
        queue,
        payload: Bytes::from_static(name.as_bytes()),
        delay: Duration::from_millis(millis),
    };
    let pushed = tokio::time::Instant::now();
    tasks
        .push(vec![
            task(TaskQueue::Email, "later", 1300),
            task(TaskQueue::Email, "now", 0),
            task(TaskQueue::Sms, "another queue", 0),
        ])
        .await
        .unwrap();
    let mut consumer = tasks.take(TaskQueue::Email, 2).await.unwrap();
    let now = soon("the task that is due", consumer.next()).await.unwrap();
    assert_eq!(now.payload, "now");
    let later = soon("the delayed task", consumer.next()).await.unwrap();
    assert_eq!(later.payload, "later");
    assert!(pushed.elapsed() >= Duration::from_millis(1300));
    later.ack.ack().await.unwrap();
    // Delivered and never acknowledged: it is redelivered.
    drop((now, consumer));
    let mut consumer = tasks.take(TaskQueue::Email, 2).await.unwrap();
    let now = soon("the task again", consumer.next()).await.unwrap();
    assert_eq!(now.payload, "now");
    now.ack.ack().await.unwrap();
    drop((consumer, tasks));
    fixture.remove().await;
}

async fn all_tasks_arrive_and_a_consumer_holds_at_most_its_limit(fixture: QueueFixture) {
    let Opened { tasks, .. } = fixture.open().await;
    let task = |number: usize| NewTask {
        queue: TaskQueue::Notify,
        payload: Bytes::from(number.to_string()),
        delay: Duration::from_millis(if number.is_multiple_of(3) { 250 } else { 0 }),
    };
    tasks.push((0..100).map(task).collect()).await.unwrap();
    let mut consumer = tasks.take(TaskQueue::Notify, 2).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let mut held = Vec::new();
    while seen.len() < 100 {
        let task = soon("the next task", consumer.next()).await.unwrap();
        seen.insert(String::from_utf8(task.payload.to_vec()).unwrap());
        held.push(task);
        if held.len() == 2 {
            let more = tokio::time::timeout(Duration::from_millis(1), consumer.next()).await;
            assert!(more.is_err(), "a third one in hand");
            for task in held.drain(..) {
                task.ack.ack().await.unwrap();
            }
        }
    }
    drop((held, consumer, tasks));
    fixture.remove().await;
}

macro_rules! suite {
    ($($test:ident),+ $(,)?) => {
        mod rabbit_queue {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::QueueFixture::rabbit()).await;
            })+
        }

        mod sqlite_queue {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::QueueFixture::sqlite()).await;
            })+
        }
    };
}

suite!(
    order_and_acknowledgement,
    unacknowledged_payloads_are_requeued_in_front,
    one_consumer_at_a_time,
    payloads_that_have_arrived_are_taken_without_waiting,
    the_backlog_is_counted,
    the_load_is_known,
    many_partitions_at_once,
    the_load_of_tasks_is_known,
    a_reopened_queue_has_its_payloads,
    dead_letters,
    tasks_are_delivered_when_due_until_acknowledged,
    all_tasks_arrive_and_a_consumer_holds_at_most_its_limit,
);
