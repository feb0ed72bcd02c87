//! The unbatched pipeline: each message is published and confirmed on its own; a consumer takes what is ready, stores
//! it with one INSERT and acknowledges it. No sockets, no rights, no order, no publications.
//!
//! It creates queues and a table of its own, under names that no other run has, and removes them at the end, after an
//! error and after a signal.

use std::{
    collections::BTreeMap,
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
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    arguments::{duration, process},
    error::{Error, Result, failed},
    measure::note,
    process::Meter,
};

/// RabbitMQ deletes the queues of a run that was killed once they are unused for so long, in milliseconds.
const QUEUE_EXPIRES: i32 = 60_000;

#[derive(Clone, Args)]
pub struct Pipeline {
    /// RabbitMQ, in which queues are created and deleted.
    #[arg(long, value_name = "URL", requires = "database_url")]
    pub amqp_url: Option<String>,
    /// PostgreSQL, in which a table is created and dropped.
    #[arg(long, value_name = "URL", requires = "amqp_url")]
    pub database_url: Option<String>,
    /// Creates and deletes them in the servers of the settings [queue.url, database.url].
    #[arg(long, conflicts_with = "amqp_url")]
    pub create_in_configured_servers: bool,
    /// Senders; each waits for its confirm before it sends again.
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
    /// Processes on this machine whose CPU time is reported, including their children, as NAME=PID.
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = process)]
    pub pid: Vec<(String, u32)>,
}

/// Where a run creates its queues and its table. The URLs contain passwords.
#[derive(Clone)]
pub struct Servers {
    pub amqp_url: String,
    pub database_url: String,
    /// Queues are named `{queue_prefix}.baseline.…`.
    pub queue_prefix: String,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub accepted: u64,
    pub accepted_per_s: f64,
    pub stored: u64,
    /// Messages stored while the senders ran: the steady throughput.
    pub stored_per_s: f64,
    pub cpu_us_per_message: BTreeMap<String, f64>,
}

impl Pipeline {
    /// The servers that the arguments name, or `configured` where the arguments allow it.
    fn servers(&self, configured: Servers) -> Result<Servers> {
        match (&self.amqp_url, &self.database_url) {
            (Some(amqp_url), Some(database_url)) => Ok(Servers {
                amqp_url: amqp_url.clone(),
                database_url: database_url.clone(),
                ..configured
            }),
            _ if self.create_in_configured_servers => Ok(configured),
            _ => Err(Error::argument(
                "--amqp-url and --database-url",
                "name the servers in which queues and a table are created and deleted, or allow it in the \
                 configured servers with --create-in-configured-servers",
            )),
        }
    }
}

/// The names of what a run creates.
struct Names {
    queues: Vec<String>,
    table: String,
}

impl Names {
    fn new(prefix: &str, queues: u32) -> Names {
        let id = Uuid::new_v4().simple().to_string();
        let queues = (0..queues).map(|n| format!("{prefix}.baseline.{id}.{n}"));
        Names {
            queues: queues.collect(),
            table: format!("chat_bench_baseline_{id}"),
        }
    }
}

/// Runs the pipeline until `--duration` is over or `stop` is cancelled, and removes what it created.
///
/// # Errors
/// No server that may be used, or a request that RabbitMQ or PostgreSQL refuses.
pub async fn run(
    pipeline: &Pipeline,
    configured: Servers,
    stop: CancellationToken,
) -> Result<Report> {
    let servers = pipeline.servers(configured)?;
    let names = Names::new(&servers.queue_prefix, pipeline.queues);
    let measured = stop
        .run_until_cancelled(measure(pipeline, &servers, &names))
        .await
        .unwrap_or_else(|| Err(failed("the run", "stopped by a signal")));
    let removed = remove(&servers, &names).await;
    if let (Err(_), Err(error)) = (&measured, &removed) {
        let Names { queues, table } = &names;
        note(format_args!(
            "table {table} and queues {} to {} may be left: {}",
            queues.first().map_or("", String::as_str),
            queues.last().map_or("", String::as_str),
            error.chain()
        ));
    }
    let report = measured?;
    removed.map(|()| report)
}

fn amqp(error: lapin::Error) -> Error {
    failed("RabbitMQ", error)
}

fn sql(error: sqlx::Error) -> Error {
    failed("PostgreSQL", error)
}

async fn measure(pipeline: &Pipeline, servers: &Servers, names: &Names) -> Result<Report> {
    let connect = || Connection::connect(&servers.amqp_url, ConnectionProperties::default());
    let publishing = connect().await.map_err(amqp)?;
    let consuming = connect().await.map_err(amqp)?;
    let channel = publishing.create_channel().await.map_err(amqp)?;
    for queue in &names.queues {
        declare(&channel, queue).await.map_err(amqp)?;
    }
    let mut database = PgConnection::connect(&servers.database_url)
        .await
        .map_err(sql)?;
    let schema = format!(
        "CREATE TABLE {} (room uuid, seq bigint, id uuid UNIQUE, sender uuid, body text, at timestamptz, \
         PRIMARY KEY (room, seq))",
        names.table
    );
    sqlx::query(AssertSqlSafe(schema))
        .execute(&mut database)
        .await
        .map_err(sql)?;

    let (accepted, stored) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut consumers = JoinSet::new();
    for queue in names.queues.clone() {
        let channel = consuming.create_channel().await.map_err(amqp)?;
        let database = PgConnection::connect(&servers.database_url)
            .await
            .map_err(sql)?;
        let (table, stored) = (names.table.clone(), stored.clone());
        consumers.spawn(async move { consume(channel, database, &queue, &table, &stored).await });
    }
    let meter = Meter::start(&pipeline.pid)?;
    let started = Instant::now();
    let until = started + pipeline.duration;
    let mut senders = JoinSet::new();
    for sender in 0..pipeline.senders as usize {
        // A channel for each sender: confirms of one channel arrive in any order.
        let channel = publishing.create_channel().await.map_err(amqp)?;
        let queue = names.queues[sender % names.queues.len()].clone();
        let accepted = accepted.clone();
        let body = vec![b'x'; pipeline.body as usize];
        senders.spawn(async move { publish(channel, &queue, body, until, &accepted).await });
    }
    while let Some(sender) = senders.join_next().await {
        sender.map_err(|e| failed("a sender", e))?.map_err(amqp)?;
    }
    let elapsed = started.elapsed().as_secs_f64();
    let (accepted, stored) = (
        accepted.load(Ordering::Relaxed),
        stored.load(Ordering::Relaxed),
    );
    let cpu_us_per_message = meter.per(accepted)?;
    // A consumer ends only where it fails.
    if let Some(consumer) = consumers.try_join_next() {
        consumer.map_err(|e| failed("a consumer", e))??;
        return Err(failed("a consumer", "RabbitMQ cancelled it"));
    }
    consumers.shutdown().await;
    Ok(Report {
        accepted,
        accepted_per_s: (accepted as f64 / elapsed).round(),
        stored,
        stored_per_s: (stored as f64 / elapsed).round(),
        cpu_us_per_message,
    })
}

/// Deletes the queues and the table, those that exist, over connections of its own.
async fn remove(servers: &Servers, names: &Names) -> Result<()> {
    let queues = async {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&servers.amqp_url, properties).await?;
        let channel = connection.create_channel().await?;
        for queue in &names.queues {
            channel
                .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
                .await?;
        }
        connection.close(200, "".into()).await
    };
    let table = async {
        let mut database = PgConnection::connect(&servers.database_url).await?;
        let drop = format!("DROP TABLE IF EXISTS {}", names.table);
        sqlx::query(AssertSqlSafe(drop))
            .execute(&mut database)
            .await?;
        database.close().await
    };
    let (queues, table) = tokio::join!(queues, table);
    queues.map_err(amqp)?;
    table.map_err(sql)
}

async fn declare(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    let kind = AMQPValue::LongString("quorum".into());
    arguments.insert("x-queue-type".into(), kind);
    arguments.insert("x-expires".into(), AMQPValue::LongInt(QUEUE_EXPIRES));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), options, arguments)
        .await
        .map(drop)
}

async fn publish(
    channel: Channel,
    queue: &str,
    body: Vec<u8>,
    until: Instant,
    accepted: &AtomicU64,
) -> lapin::Result<()> {
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    // 2: persistent.
    let properties = BasicProperties::default().with_delivery_mode(2);
    while Instant::now() < until {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        channel
            .basic_publish("".into(), queue.into(), options, &body, properties.clone())
            .await?
            .await?;
        accepted.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn consume(
    channel: Channel,
    mut database: PgConnection,
    queue: &str,
    table: &str,
    stored: &AtomicU64,
) -> Result<()> {
    let insert = format!(
        "INSERT INTO {table} SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], $5::text[], \
         $6::timestamptz[])"
    );
    channel
        .basic_qos(1000, BasicQosOptions::default())
        .await
        .map_err(amqp)?;
    let consumer = channel.basic_consume(
        queue.into(),
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
        let insert = sqlx::query(AssertSqlSafe(insert.as_str()))
            .bind(vec![room; count])
            .bind(seqs)
            .bind(ids)
            .bind(vec![sender; count])
            .bind(bodies)
            .bind(vec![chrono::Utc::now(); count]);
        insert.execute(&mut database).await.map_err(sql)?;
        stored.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(last) = batch.last() {
            let all = BasicAckOptions { multiple: true };
            last.ack(all).await.map_err(amqp)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        pipeline: Pipeline,
    }

    fn servers(arguments: &[&str]) -> Result<Servers> {
        let configured = Servers {
            amqp_url: "amqp://configured".to_owned(),
            database_url: "postgres://configured".to_owned(),
            queue_prefix: "chat".to_owned(),
        };
        let arguments = ["pipeline"].iter().chain(arguments);
        Alone::parse_from(arguments).pipeline.servers(configured)
    }

    #[test]
    fn configured_servers_are_used_only_where_that_is_allowed() {
        let refused = servers(&[]).err().expect("an error").to_string();
        assert!(
            refused.contains("--create-in-configured-servers"),
            "{refused}"
        );
        let allowed = servers(&["--create-in-configured-servers"]).expect("the configured");
        assert_eq!(allowed.amqp_url, "amqp://configured");
        let named = ["--amqp-url", "amqp://a", "--database-url", "postgres://b"];
        let named = servers(&named).expect("those of the arguments");
        assert_eq!(named.amqp_url, "amqp://a");
        assert_eq!(named.database_url, "postgres://b");
        let one = ["pipeline", "--amqp-url", "amqp://a"];
        assert!(Alone::try_parse_from(one).is_err());
    }

    #[test]
    fn each_run_has_names_of_its_own() {
        let (one, other) = (Names::new("chat", 2), Names::new("chat", 2));
        assert_eq!(one.queues.len(), 2);
        assert!(one.queues[0].starts_with("chat.baseline."));
        assert_ne!(one.table, other.table);
        assert_ne!(one.queues[0], other.queues[0]);
    }
}
