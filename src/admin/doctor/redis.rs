//! Redis: its version, and settings that end connections or refuse writes.

use std::collections::HashMap;

use deadpool_redis::redis::{self, Client, aio::MultiplexedConnection};
use futures_util::future::join_all;

use super::finding::{Finding, in_time, is_at_least};
use crate::{
    app,
    bus::redis::{SentinelSettings, ask_sentinels},
    config::Config,
    error::Result,
};

const CHECK: &str = "Redis";
const MEMORY: &str = "Redis memory";
/// The limit of a subscriber's output that Redis has by default, in bytes.
const DEFAULT_OUTPUT: u64 = 32 << 20;

pub async fn check(config: &Config) -> Vec<Finding> {
    if !config.redis.sentinels.is_empty() {
        return sentinels(config).await;
    }
    let url = &config.redis.url;
    let answer = in_time(async {
        let client = Client::open(url.expose())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
        Ok::<_, redis::RedisError>((info, settings(&mut connection).await))
    });
    let (info, settings) = match answer.await {
        Ok(found) => found,
        Err(error) => {
            let advice = "check that it runs, and redis.url";
            return vec![Finding::problem(CHECK, format!("{url}: {error}"), advice)];
        }
    };
    let version = field(&info, "redis_version").unwrap_or("unknown");
    let text = format!("{url}: version {version}");
    let mut findings = vec![if !is_at_least(version, (7, 0)) {
        Finding::problem(CHECK, text, "use version 7 or newer")
    } else if field(&info, "role") == Some("slave") {
        let advice = "name the primary in redis.url";
        Finding::problem(
            CHECK,
            format!("{text}, a replica: accepts no writes"),
            advice,
        )
    } else {
        Finding::ok(CHECK, text)
    }];
    match settings {
        Some(settings) => findings.extend(judge(&settings)),
        None => findings.push(Finding::ok(
            MEMORY,
            "its settings are not known: CONFIG GET is not permitted",
        )),
    }
    findings
}

async fn ping(config: &Config) -> Result<()> {
    app::redis(config)?.pubsub.ping().await
}

/// Each Sentinel, and the master that they name.
async fn sentinels(config: &Config) -> Vec<Finding> {
    let redis = &config.redis;
    let master = in_time(async { ping(config).await.map_err(|error| error.reason()) });
    let asked = join_all(redis.sentinels.iter().map(async |sentinel| {
        let asked = app::sentinels(config).map(|all| SentinelSettings {
            addresses: vec![sentinel.expose().to_owned()],
            ..all
        });
        let answer = in_time(async {
            match &asked {
                Some(one) => {
                    let asked = ask_sentinels(redis.url.expose(), one).await;
                    asked.map_err(|error| error.reason())
                }
                None => Ok(()),
            }
        });
        (sentinel, answer.await)
    }));
    let (master, asked) = tokio::join!(master, asked);
    let name = &redis.master;
    let mut findings = vec![match master {
        Ok(()) => Finding::ok(CHECK, format!("the master {name:?} answers")),
        Err(error) => Finding::problem(
            CHECK,
            format!("no master {name:?}: {error}"),
            "check redis.master, redis.sentinels, and the password in redis.url",
        ),
    }];
    findings.extend(asked.into_iter().map(|(sentinel, answer)| {
        let check = "Redis Sentinel";
        match answer {
            Ok(()) => Finding::ok(check, format!("{sentinel} answers")),
            Err(error) => {
                let advice = "start it again: a failover needs a majority of the Sentinels";
                Finding::warning(check, format!("{sentinel}: {error}"), advice)
            }
        }
    }));
    findings
}

/// `None` if the user may not read them, as with most managed services.
async fn settings(connection: &mut MultiplexedConnection) -> Option<HashMap<String, String>> {
    let mut get = redis::cmd("CONFIG");
    get.arg("GET")
        .arg("maxmemory")
        .arg("maxmemory-policy")
        .arg("client-output-buffer-limit")
        .arg("appendonly")
        .arg("save");
    get.query_async(connection).await.ok()
}

fn judge(settings: &HashMap<String, String>) -> Vec<Finding> {
    let get = |name: &str| settings.get(name).map(String::as_str).unwrap_or_default();
    let (max, policy) = (get("maxmemory"), get("maxmemory-policy"));
    let memory = if max == "0" {
        Finding::ok(MEMORY, "maxmemory is 0: limited only by the machine")
    } else {
        let text = format!("maxmemory is {max} bytes with the policy {policy}");
        match policy {
            "noeviction" => Finding::warning(
                MEMORY,
                text,
                "when it is full every write fails: set maxmemory-policy to volatile-lru",
            ),
            policy if policy.starts_with("allkeys") => Finding::warning(
                MEMORY,
                text,
                "it may evict leases and heartbeats: set maxmemory-policy to volatile-lru",
            ),
            _ => Finding::ok(MEMORY, text),
        }
    };
    let mut findings = vec![memory];
    if let Some(limit) = subscriber_limit(get("client-output-buffer-limit")) {
        let check = "Redis subscribers";
        let text = format!("an edge may be {limit} bytes behind before Redis disconnects it");
        findings.push(if limit != 0 && limit < DEFAULT_OUTPUT {
            let advice = "set client-output-buffer-limit to \"pubsub 32mb 8mb 60\" or more";
            Finding::warning(check, text, advice)
        } else {
            Finding::ok(check, text)
        });
    }
    let persists = get("appendonly") == "yes" || !get("save").is_empty();
    findings.push(Finding::ok(
        "Redis persistence",
        if persists {
            "is on, which chat does not need: nothing in Redis has to outlive it"
        } else {
            "is off; nothing in Redis has to outlive it"
        },
    ));
    findings
}

/// The hard limit of subscribers in `normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`.
fn subscriber_limit(limits: &str) -> Option<u64> {
    let mut words = limits.split(' ').skip_while(|word| *word != "pubsub");
    words.nth(1)?.parse().ok()
}

/// A field of `INFO`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn settings_that_lose_writes_or_subscribers_are_warned_of() {
        let judged = |policy: &str, pubsub: &str| {
            let settings = [
                ("maxmemory", "1000000"),
                ("maxmemory-policy", policy),
                (
                    "client-output-buffer-limit",
                    &format!("normal 0 0 0 pubsub {pubsub} 60"),
                ),
                ("appendonly", "no"),
                ("save", ""),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
            let findings = judge(&settings.into());
            findings
                .iter()
                .map(|finding| finding.status)
                .collect::<Vec<_>>()
        };
        use Status::{Ok, Warning};
        assert_eq!(judged("volatile-lru", "33554432 8388608"), [Ok, Ok, Ok]);
        assert_eq!(
            judged("noeviction", "1048576 8388608"),
            [Warning, Warning, Ok]
        );
        assert_eq!(judged("allkeys-lru", "0 0"), [Warning, Ok, Ok]);
        assert_eq!(
            field("a:1\r\nredis_version:7.2.4\r\n", "redis_version"),
            Some("7.2.4")
        );
    }
}
