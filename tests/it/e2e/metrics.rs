//! Metrics and log lines of a running deployment.

use serde_json::json;

use super::prometheus::{free_port, with_metrics};
use crate::{
    harness::{
        Chat, Kind, deployment::authority, eventually, exposition, exposition::Exposition, server,
    },
    support::TcpProxy,
};

fn address(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// The lines of a log that contain all of these texts.
fn lines(log: &str, texts: &[&str]) -> usize {
    log.lines()
        .filter(|line| texts.iter().all(|text| line.contains(text)))
        .count()
}

#[tokio::test]
async fn requests_deliveries_and_failed_logins_are_counted_and_logged() {
    let chat = Chat::plan(Kind::Standalone)
        .set("log.requests", 1)
        .start()
        .await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "private", &[]).await;
    let mut socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("it joins");
    socket.say(room, "one", "the body").await;
    socket.event("newMessage").await;
    let wrong = json!({"username": "ada", "password": "a wrong one"});
    let answer = chat.rest(0).post("/v1/auth/login", wrong).await;
    answer.problem(401, "unauthorized");
    let stolen = json!({"refreshToken": "AAAA"});
    let answer = chat.rest(0).post("/v1/auth/refresh", stolen).await;
    answer.problem(401, "unauthorized");
    for unknown in ["/v1/nothing/here", "/wp-login.php"] {
        chat.rest_as(0, &ada).get(unknown).await;
    }
    let url = chat.edges[0].url();
    let seen = Exposition::read(&chat.http, url).await.expect("metrics");
    for (series, expected) in [
        (
            "chat_http_requests_total{method=\"POST\",route=\"/v1/auth/login\",status=\"401\"}",
            1.0,
        ),
        (
            "chat_http_requests_total{method=\"GET\",route=\"other\",status=\"404\"}",
            2.0,
        ),
        (
            "chat_http_request_seconds_count{method=\"POST\",route=\"/v1/rooms\"}",
            1.0,
        ),
        ("chat_logins_failed_total{reason=\"wrong_password\"}", 1.0),
        ("chat_logins_failed_total{reason=\"bad_token\"}", 1.0),
        ("chat_logins_failed_total{reason=\"limited\"}", 0.0),
        ("chat_delivery_seconds_count", 1.0),
        ("chat_queue_state", 1.0),
        ("chat_bus_state", 1.0),
        ("chat_store_state", 1.0),
        ("chat_pool_max_connections{pool=\"sqlite\"}", 1.0),
    ] {
        assert_eq!(seen.get(series), Some(expected), "{series}");
    }
    for series in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
        "chat_process_start_time_seconds",
        "chat_runtime_workers",
        "chat_worker_wait_seconds_count",
        "chat_worker_stage_seconds_count{stage=\"store\"}",
    ] {
        assert!(
            seen.get(series) > Some(0.0),
            "{series}: {:?}",
            seen.get(series)
        );
    }
    let build = seen
        .series()
        .find(|name| name.starts_with("chat_build_info{"));
    let build = build.expect("chat_build_info");
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(
        build.contains(&version) && build.contains("commit=\""),
        "{build}"
    );

    socket.close().await;
    let user = format!("user={}", ada.id);
    eventually("the lines to be written", async || {
        let log = chat.edges[0].log();
        let closed = lines(&log, &[" INFO ", "session closed", &user, "rooms=1"]) == 1;
        closed.then_some(())
    })
    .await;
    let log = chat.edges[0].log();
    let route = "route=\"/v1/rooms\"";
    let request = [
        "INFO",
        "request answered",
        &user,
        route,
        "status=201",
        "took_ms=",
        "bytes=",
    ];
    assert_eq!(lines(&log, &request), 1, "{log}");
    let failed = ["INFO", "login failed", "wrong_password", "client=127.0.0.1"];
    assert_eq!(lines(&log, &failed), 1, "{log}");
    assert_eq!(lines(&log, &["session opened", &user]), 1, "{log}");
    for secret in [
        &ada.password,
        &ada.access,
        &ada.username,
        "the body",
        "a wrong one",
    ] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    assert_eq!(lines(&log, &["route=\"/metrics\""]), 0, "{log}");
}

#[tokio::test]
async fn every_role_shows_the_state_of_its_servers() {
    let database = TcpProxy::to(&authority(&server("DATABASE_URL"))).await;
    let redis = TcpProxy::to(&authority(&server("REDIS_URL"))).await;
    let broker = TcpProxy::to(&authority(&server("AMQP_URL"))).await;
    let chat = Chat::plan(Kind::Cluster)
        .edges(1)
        .workers(0)
        .via("DATABASE_URL", database.address)
        .via("REDIS_URL", redis.address)
        .via("AMQP_URL", broker.address)
        .start()
        .await;
    let (worker_port, signal_port) = (free_port(), free_port());
    let worker = with_metrics(chat.program("worker", &["worker"]), worker_port);
    let worker = worker.start().await;
    let args = ["autoscale", "--dry-run"];
    let signal = with_metrics(chat.program("signal", &args), signal_port);
    let _signal = signal.start().await;
    let edge = chat.edges[0].url().to_owned();
    let (worker_url, signal_url) = (address(worker_port), address(signal_port));
    let all = [&edge, &worker_url, &signal_url];
    // No dependency is used for the first time here: the states are known since the start.
    for url in all {
        for series in ["chat_queue_state", "chat_bus_state"] {
            let seen = Exposition::read(&chat.http, url).await.expect("metrics");
            assert_eq!(seen.get(series), Some(1.0), "{series} at {url}");
        }
    }
    for url in [&edge, &worker_url] {
        let seen = Exposition::read(&chat.http, url).await.expect("metrics");
        assert_eq!(seen.get("chat_store_state"), Some(1.0), "{url}");
        for pool in ["postgres", "redis"] {
            let max = format!("chat_pool_max_connections{{pool=\"{pool}\"}}");
            assert!(seen.get(&max) > Some(0.0), "{max} at {url}");
            let wait = format!("chat_pool_wait_seconds_count{{pool=\"{pool}\"}}");
            assert!(seen.get(&wait) > Some(0.0), "{wait} at {url}");
        }
    }
    let seen = Exposition::read(&chat.http, &signal_url).await;
    assert_eq!(seen.expect("metrics").get("chat_store_state"), None);

    for (proxy, series, roles) in [
        (&database, "chat_store_state", &all[..2]),
        (&redis, "chat_bus_state", &all[..]),
        (&broker, "chat_queue_state", &all[..]),
    ] {
        proxy.freeze();
        proxy.cut();
        for url in roles {
            exposition::until(&chat.http, url, series, |state| state == 0.0).await;
        }
        proxy.thaw();
        proxy.cut();
        for url in roles {
            exposition::until(&chat.http, url, series, |state| state == 1.0).await;
        }
    }
    // One line at the begin and one at the end of an outage.
    for log in [chat.edges[0].log(), worker.log()] {
        assert_eq!(
            lines(&log, &["WARN", "the database does not answer"]),
            1,
            "{log}"
        );
        let back = ["INFO", "the database answers again", "outage_ms="];
        assert_eq!(lines(&log, &back), 1, "{log}");
    }
    let log = chat.edges[0].log();
    let back = [
        "INFO",
        "Redis subscription connection restored",
        "outage_ms=",
    ];
    assert_eq!(lines(&log, &back), 1, "{log}");
}

#[tokio::test]
async fn an_autoscaler_shows_the_metrics_of_its_workers() {
    let chat = Chat::plan(Kind::Cluster)
        .edges(1)
        .workers(0)
        .set("autoscale.min", 2)
        .set("autoscale.max", 2)
        .start()
        .await;
    let port = free_port();
    let autoscaler = with_metrics(chat.program("autoscale", &["autoscale"]), port);
    let autoscaler = autoscaler.start().await;
    let url = address(port);
    let state = |worker: u8| format!("chat_store_state{{worker=\"{worker}\"}}");
    for worker in [1, 2] {
        exposition::until(&chat.http, &url, &state(worker), |state| state == 1.0).await;
    }
    let seen = Exposition::read(&chat.http, &url).await.expect("metrics");
    // Its own metrics have no label.
    assert_eq!(seen.get("chat_autoscale_workers"), Some(2.0));
    assert_eq!(seen.get("chat_store_state"), None);
    assert_eq!(seen.get("chat_autoscale_target{worker=\"1\"}"), None);
    assert!(seen.get("process_open_fds") > Some(0.0));
    assert!(seen.get("process_open_fds{worker=\"2\"}") > Some(0.0));
    let ada = chat.register("ada").await;
    chat.room(&ada, "public", &[]).await;
    let batches = |worker: u8| format!("chat_worker_batch_messages_count{{worker=\"{worker}\"}}");
    eventually("a worker has stored them", async || {
        let seen = Exposition::read(&chat.http, &url).await?;
        let [one, two] = [1, 2].map(|worker| seen.get(&batches(worker)).unwrap_or_default());
        (one + two > 0.0).then_some(())
    })
    .await;

    // A worker that hangs is left out; the others are there.
    let children = super::autoscale::children(autoscaler.pid());
    let frozen = *children.first().expect("it has workers");
    signal(frozen, rustix::process::Signal::STOP);
    let failed = "chat_autoscale_worker_scrapes_failed_total";
    exposition::until(&chat.http, &url, failed, |failed| failed >= 2.0).await;
    let seen = Exposition::read(&chat.http, &url).await.expect("metrics");
    let shown: Vec<u8> = [1, 2]
        .into_iter()
        .filter(|worker| seen.get(&state(*worker)).is_some())
        .collect();
    assert_eq!(shown.len(), 1, "{shown:?}");
    signal(frozen, rustix::process::Signal::CONT);
    for worker in [1, 2] {
        exposition::until(&chat.http, &url, &state(worker), |state| state == 1.0).await;
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let pid = pid.expect("a process id");
    rustix::process::kill_process(pid, signal).expect("it can be signalled");
}
