//! RabbitMQ: each node of `queue.url`, its version, and the queues.

use futures_util::future::join_all;
use lapin::{
    Connection, ConnectionProperties,
    uri::{AMQPScheme, AMQPUri},
};

use super::{
    amqp,
    finding::{Finding, in_time, is_at_least},
};
use crate::{
    app,
    config::{Config, SecretUrl},
    queue::{Queue, rabbit::RabbitQueue},
};

const CHECK: &str = "RabbitMQ";
const QUEUES: &str = "queues";
pub const LEAST_VERSION: (u32, u32) = (3, 10);

pub async fn check(config: &Config) -> Vec<Finding> {
    let urls = config.queue.url.expose();
    let nodes = join_all(urls.into_iter().map(SecretUrl::new).map(node)).await;
    let one_answers = nodes.iter().any(|node| node.advice.is_none());
    let mut findings = nodes;
    if one_answers {
        findings.push(queues(config).await);
    }
    findings
}

/// Logs in to one node.
async fn node(url: SecretUrl) -> Finding {
    let checked = in_time(async {
        let uri: AMQPUri = url.expose().parse()?;
        let version = match uri.scheme {
            AMQPScheme::AMQP => {
                let version = amqp::version(&uri.authority.host, uri.authority.port);
                version.await.map_err(|error| error.to_string())?
            }
            // Its first frame is encrypted.
            AMQPScheme::AMQPS => None,
        };
        let properties = ConnectionProperties::default().with_connection_name("chat doctor".into());
        let connection = Connection::connect_uri(uri, properties).await;
        let connection = connection.map_err(|error| error.to_string())?;
        let _ = connection.close(200, "done".into()).await;
        Ok::<_, String>(version)
    });
    match checked.await {
        Ok(Some(version)) if is_at_least(&version, LEAST_VERSION) => {
            Finding::ok(CHECK, format!("{url}: version {version}"))
        }
        Ok(Some(version)) => {
            let advice = "use version 3.10 or newer";
            Finding::problem(CHECK, format!("{url}: version {version}"), advice)
        }
        Ok(None) => Finding::ok(CHECK, format!("{url}: answers, its version is not known")),
        Err(error) => Finding::problem(
            CHECK,
            format!("{url}: {error}"),
            "check that it runs, and user, password and virtual host in queue.url",
        ),
    }
}

/// Reads the queues, and creates none.
async fn queues(config: &Config) -> Finding {
    let read = in_time(async {
        let mut settings = app::rabbit(config);
        settings.declare = false;
        let text = |error: crate::error::Error| error.reason();
        let queue = RabbitQueue::connect(settings).map_err(text)?;
        let depths = async {
            queue.tried(std::time::Duration::MAX).await?;
            queue.depths().await
        };
        let depths = depths.await;
        queue.close().await;
        depths.map_err(text)
    });
    match read.await {
        Ok(depths) => {
            let waiting: u64 = depths.iter().map(|depth| depth.ready).sum();
            let dead = depths.iter().find(|depth| depth.queue.ends_with(".dead"));
            match dead.map_or(0, |dead| dead.ready) {
                0 => Finding::ok(QUEUES, format!("{waiting} batches and tasks wait")),
                dead => Finding::warning(
                    QUEUES,
                    format!(
                        "{} batches and tasks wait; {dead} dead letters",
                        waiting - dead
                    ),
                    "`chat queue dead list` shows why; replay or purge them",
                ),
            }
        }
        Err(error) if error.contains("NOT_FOUND") => Finding::ok(
            QUEUES,
            format!(
                "there are none of queue.prefix {} yet; the first edge or worker creates them",
                config.queue.prefix
            ),
        ),
        Err(error) => Finding::problem(QUEUES, error, "see RabbitMQ's own log"),
    }
}
