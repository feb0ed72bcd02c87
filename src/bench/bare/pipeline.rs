//! The one-by-one pipeline: each message is published and confirmed on its own; a consumer takes what is there, stores it
//! with one UNNEST, and acknowledges. No sockets, no rights, no order, nobody is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::{
    bench::{
        client::failed,
        measure::{Meter, duration, process},
    },
    config::Config,
    error::Result,
};

#[derive(Debug, Clone, Args)]
pub struct Pipeline {
    /// Senders, each of which waits for its confirm before it sends again.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub senders: u32,
    /// Queues that they are spread over.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub queues: u32,
    /// Bytes of each message.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub body: u32,
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Processes on this machine whose CPU time is told, their children's included, as NAME=PID.
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = process)]
    pub pid: Vec<(String, u32)>,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub accepted: u64,
    pub accepted_per_s: f64,
    pub stored: u64,
    /// While they were being accepted: what steadily goes through.
    pub stored_per_s: f64,
    pub cpu_us_per_message: std::collections::BTreeMap<String, f64>,
}

/// Runs it with the settings' RabbitMQ and PostgreSQL; leaves nothing behind.
///
/// # Errors
/// Where one of them refuses.
pub async fn run(pipeline: &Pipeline, config: &Config) -> Result<Report> {
    let amqp = |e: lapin::Error| failed("RabbitMQ", e);
    let sql = |e: sqlx::Error| failed("PostgreSQL", e);
    let connect =
        || Connection::connect(config.queue.url.expose(), ConnectionProperties::default());
    let publishing = connect().await.map_err(amqp)?;
    let consuming = connect().await.map_err(amqp)?;
    let names: Vec<String> = (0..pipeline.queues)
        .map(|n| format!("{}.bare.{n}", config.queue.prefix))
        .collect();
    let channel = publishing.create_channel().await.map_err(amqp)?;
    for name in &names {
        declare(&channel, name).await.map_err(amqp)?;
    }
    let mut database = PgConnection::connect(config.database.url.expose())
        .await
        .map_err(sql)?;
    let schema = "CREATE TABLE bare (room uuid, seq bigint, id uuid UNIQUE, sender uuid, body text, at timestamptz, \
        PRIMARY KEY (room, seq))";
    sqlx::query(schema)
        .execute(&mut database)
        .await
        .map_err(sql)?;

    let (accepted, stored) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for name in names.clone() {
        let channel = consuming.create_channel().await.map_err(amqp)?;
        let database = PgConnection::connect(config.database.url.expose())
            .await
            .map_err(sql)?;
        let stored = stored.clone();
        tasks.spawn(async move { consume(channel, database, &name, &stored).await });
    }
    let meter = Meter::start(&pipeline.pid)?;
    let started = Instant::now();
    let until = started + pipeline.duration;
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..pipeline.senders as usize {
        // As many share a channel as share a queue: their confirms come in any order.
        let channel = publishing.create_channel().await.map_err(amqp)?;
        let (name, accepted) = (names[sender % names.len()].clone(), accepted.clone());
        let body = vec![b'x'; pipeline.body as usize];
        senders.spawn(async move { publish(channel, &name, body, until, &accepted).await });
    }
    while let Some(sender) = senders.join_next().await {
        sender.map_err(|e| failed("a sender", e))?.map_err(amqp)?;
    }
    let elapsed = started.elapsed().as_secs_f64();
    let (accepted, stored) = (
        accepted.load(Ordering::Relaxed),
        stored.load(Ordering::Relaxed),
    );
    let cpu = meter.per(accepted)?;

    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    for name in &names {
        let gone = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default());
        gone.await.map_err(amqp)?;
    }
    sqlx::query("DROP TABLE bare")
        .execute(&mut database)
        .await
        .map_err(sql)?;
    Ok(Report {
        accepted,
        accepted_per_s: (accepted as f64 / elapsed).round(),
        stored,
        stored_per_s: (stored as f64 / elapsed).round(),
        cpu_us_per_message: cpu,
    })
}

async fn declare(channel: &Channel, name: &str) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.into(), options, arguments)
        .await
        .map(drop)
}

async fn publish(
    channel: Channel,
    name: &str,
    body: Vec<u8>,
    until: Instant,
    accepted: &AtomicU64,
) -> lapin::Result<()> {
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let properties = BasicProperties::default().with_delivery_mode(2);
    while Instant::now() < until {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        channel
            .basic_publish("".into(), name.into(), options, &body, properties.clone())
            .await?
            .await?;
        accepted.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn consume(
    channel: Channel,
    mut database: PgConnection,
    name: &str,
    stored: &AtomicU64,
) -> Result<()> {
    const SQL: &str = "INSERT INTO bare SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], \
        $5::text[], $6::timestamptz[])";
    let amqp = |e: lapin::Error| failed("RabbitMQ", e);
    channel
        .basic_qos(1000, BasicQosOptions::default())
        .await
        .map_err(amqp)?;
    let consumer = channel.basic_consume(
        name.into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut deliveries = consumer.await.map_err(amqp)?.ready_chunks(500);
    let (room, sender) = (Uuid::new_v4(), Uuid::new_v4());
    let mut seq: i64 = 0;
    while let Some(batch) = deliveries.next().await {
        let batch = batch
            .into_iter()
            .collect::<lapin::Result<Vec<_>>>()
            .map_err(amqp)?;
        let count = batch.len();
        let seqs: Vec<i64> = (seq + 1..=seq + count as i64).collect();
        seq += count as i64;
        let bodies: Vec<&str> = batch
            .iter()
            .map(|d| std::str::from_utf8(&d.data).unwrap_or_default())
            .collect();
        let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
        let insert = sqlx::query(SQL)
            .bind(vec![room; count])
            .bind(seqs)
            .bind(ids)
            .bind(vec![sender; count])
            .bind(bodies)
            .bind(vec![chrono::Utc::now(); count]);
        insert
            .execute(&mut database)
            .await
            .map_err(|e| failed("PostgreSQL", e))?;
        stored.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(last) = batch.last() {
            let all = BasicAckOptions { multiple: true };
            last.ack(all).await.map_err(amqp)?;
        }
    }
    Ok(())
}
