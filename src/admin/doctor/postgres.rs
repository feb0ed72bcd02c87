//! PostgreSQL: each server of `database.url`, its version, its clock, its limit of connections, and the schema.

use futures_util::future::join_all;
use sqlx::{ConnectOptions, Connection, Row};

use super::finding::{Finding, in_time};
use crate::{
    app,
    config::{Config, SecretUrl},
    error::Error,
    model::Timestamp,
    store::postgres,
};

const CHECK: &str = "PostgreSQL";
const CLOCK: &str = "clock";
const REPLICA: &str = "database.read_url";
const LEAST_VERSION: i32 = 14;
/// A replica that is further behind the primary is reported, in bytes of the write-ahead log: one segment.
const MAX_BEHIND: i64 = 16 << 20;
/// A larger difference between the clocks makes times of messages and of tokens visibly wrong, in milliseconds.
const MAX_SKEW: i64 = 1000;

const POSITION: &str = "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
     ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn)::bigint";

/// The state of a server, read from itself.
struct Server {
    url: SecretUrl,
    version: i32,
    /// The most connections of this database's users, and how many are open.
    max_connections: i32,
    connections: i64,
    is_read_only: bool,
    is_standby: bool,
    /// The position in the write-ahead log that it has written, or replayed if it is a standby.
    position: Option<i64>,
    /// How far its clock is ahead of ours, in milliseconds, if the answer was quick enough to tell.
    skew: Option<i64>,
}

pub async fn check(config: &Config) -> Vec<Finding> {
    let urls = config.database.url.expose();
    let replicas = config.database.read_url.as_ref();
    let replicas = replicas.map_or_else(Vec::new, |urls| urls.expose());
    let all = |urls: Vec<String>| join_all(urls.into_iter().map(SecretUrl::new).map(read));
    // The primary last: no replica is ahead of it.
    let replicas = all(replicas).await;
    let servers = all(urls).await;
    let mut findings = Vec::new();
    let mut writable = None;
    for server in servers {
        match server {
            Ok(server) => {
                findings.push(describe(&server));
                if !server.is_read_only && writable.is_none() {
                    writable = Some(server);
                }
            }
            Err((url, error)) => findings.push(Finding::problem(
                CHECK,
                format!("{url}: {error}"),
                "check that it runs, and database.url",
            )),
        }
    }
    let answers = findings.iter().any(|finding| finding.advice.is_none());
    let position = writable.as_ref().and_then(|server| server.position);
    findings.extend(replicas.iter().map(|read| replica(read, position)));
    match writable {
        Some(server) => {
            findings.push(schema(config).await);
            findings.extend(pooler(config).await);
            findings.extend(clock(&server));
            findings.push(connections(config, &server));
        }
        None if answers => {
            findings.push(Finding::problem(
                CHECK,
                "no server of database.url accepts writes",
                "promote a standby, or add the primary to database.url",
            ));
        }
        None => {}
    }
    findings
}

async fn read(url: SecretUrl) -> Result<Server, (SecretUrl, String)> {
    let answer = async {
        let options = postgres::options(url.expose())?;
        let unavailable = |error: sqlx::Error| Error::unavailable("database", error);
        let mut connection = options.connect().await.map_err(unavailable)?;
        let before = Timestamp::now().millis();
        let row = sqlx::query(
            "SELECT current_setting('server_version_num')::int AS version, \
             current_setting('max_connections')::int \
                 - current_setting('superuser_reserved_connections')::int AS max_connections, \
             (SELECT coalesce(sum(numbackends), 0) FROM pg_stat_database)::bigint AS connections, \
             pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS read_only, \
             pg_is_in_recovery() AS standby, \
             (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(unavailable)?;
        let after = Timestamp::now().millis();
        // Not every managed service permits it.
        let position = sqlx::query_scalar(POSITION)
            .fetch_one(&mut connection)
            .await
            .ok();
        // The answer is complete: a failed close changes nothing.
        let _ = connection.close().await;
        let get = |error| Error::internal(error);
        let now: i64 = row.try_get("now").map_err(get)?;
        Ok::<_, Error>(Server {
            url: url.clone(),
            version: row.try_get::<i32, _>("version").map_err(get)? / 10_000,
            max_connections: row.try_get("max_connections").map_err(get)?,
            connections: row.try_get("connections").map_err(get)?,
            is_read_only: row.try_get("read_only").map_err(get)?,
            is_standby: row.try_get("standby").map_err(get)?,
            position,
            skew: (after - before <= MAX_SKEW / 2).then(|| now - i64::midpoint(before, after)),
        })
    };
    let answer = in_time(async { answer.await.map_err(|error| error.reason()) });
    answer.await.map_err(|error| (url.clone(), error))
}

fn describe(server: &Server) -> Finding {
    let Server { url, version, .. } = server;
    if *version < LEAST_VERSION {
        return Finding::problem(
            CHECK,
            format!("{url}: version {version}"),
            format!("use version {LEAST_VERSION} or newer"),
        );
    }
    let role = if server.is_read_only {
        "a standby: accepts no writes"
    } else {
        "accepts writes"
    };
    Finding::ok(CHECK, format!("{url}: version {version}, {role}"))
}

/// A server of `database.read_url`, compared with the position of the primary.
fn replica(read: &Result<Server, (SecretUrl, String)>, primary: Option<i64>) -> Finding {
    let server = match read {
        Ok(server) => server,
        Err((url, error)) => {
            let advice =
                "check that it runs, and database.read_url; its reads go to the other servers";
            return Finding::warning(REPLICA, format!("{url}: {error}"), advice);
        }
    };
    let Server { url, version, .. } = server;
    if !server.is_standby {
        let advice = "name a streaming replica there, or leave the setting empty";
        return Finding::warning(
            REPLICA,
            format!("{url}: is no standby, and is not used"),
            advice,
        );
    }
    match primary
        .zip(server.position)
        .map(|(primary, own)| (primary - own).max(0))
    {
        Some(behind) if behind > MAX_BEHIND => Finding::warning(
            REPLICA,
            format!("{url}: version {version}, {behind} bytes of the log behind the primary"),
            "it is used only while it lacks less than a second; look at pg_stat_replication",
        ),
        Some(behind) => Finding::ok(
            REPLICA,
            format!("{url}: version {version}, {behind} bytes behind the primary"),
        ),
        None => Finding::ok(REPLICA, format!("{url}: version {version}, a standby")),
    }
}

async fn schema(config: &Config) -> Finding {
    let answer = in_time(async {
        let store = app::postgres(config).map_err(|error| error.reason())?;
        let checked = store.check_schema().await;
        store.close().await;
        checked.map_err(|error| error.reason())
    });
    match answer.await {
        Ok(()) => Finding::ok("schema", "is up to date"),
        Err(error) => {
            let text = error.trim_end_matches("; run `chat migrate`");
            Finding::problem("schema", text, "run `chat migrate`")
        }
    }
}

/// `None` without a pooler, and if there is no answer, which the other checks report.
async fn pooler(config: &Config) -> Option<Finding> {
    let check = "PgBouncer";
    let store = app::postgres(config).ok()?;
    let answer = in_time(async { Ok::<_, String>(store.check_pooler().await) }).await;
    store.close().await;
    match answer.ok()? {
        Ok(found) => found.map(|text| Finding::ok(check, text)),
        Err(error) if error.is_retryable() => None,
        Err(error) => Some(Finding::problem(
            check,
            error.for_operator(),
            "docs/operations.md describes poolers",
        )),
    }
}

fn clock(server: &Server) -> Option<Finding> {
    let skew = server.skew?;
    let direction = if skew > 0 { "behind" } else { "ahead of" };
    let text = format!(
        "this machine's clock is {} ms {direction} PostgreSQL's",
        skew.abs()
    );
    Some(if skew.abs() > MAX_SKEW {
        let advice = "synchronise both with NTP (timedatectl, chronyc tracking)";
        Finding::warning(CLOCK, text, advice)
    } else {
        Finding::ok(CLOCK, text)
    })
}

fn connections(config: &Config, server: &Server) -> Finding {
    let check = "database.max_connections";
    let wanted = i64::from(config.database.max_connections);
    let (max, open) = (i64::from(server.max_connections), server.connections);
    let text =
        format!("each edge and worker may open {wanted}; PostgreSQL allows {max}, {open} are open");
    if wanted > max {
        let advice = "lower the setting, or raise max_connections of PostgreSQL";
        Finding::problem(check, text, advice)
    } else if wanted > max - open {
        let advice = "another process may not get its connections: lower the setting, raise max_connections of PostgreSQL, or use PgBouncer";
        Finding::warning(check, text, advice)
    } else {
        Finding::ok(check, text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn a_replica_is_a_standby_that_follows() {
        let server = |is_standby, position| Server {
            url: SecretUrl::new("postgres://u:geheim@db2/chat"),
            version: 16,
            max_connections: 100,
            connections: 1,
            is_read_only: is_standby,
            is_standby,
            position: Some(position),
            skew: None,
        };
        let primary = Some(MAX_BEHIND + 100);
        for (read, expected) in [
            (Ok(server(true, 100)), Status::Ok),
            (Ok(server(true, 99)), Status::Warning),
            (Ok(server(false, 100)), Status::Warning),
            (
                Err((server(true, 0).url, "Connection refused".to_owned())),
                Status::Warning,
            ),
        ] {
            let finding = replica(&read, primary);
            assert_eq!(finding.status, expected, "{finding:?}");
            assert!(!finding.text.contains("geheim"), "{finding:?}");
        }
        assert_eq!(replica(&Ok(server(true, 0)), None).status, Status::Ok);
    }
}
