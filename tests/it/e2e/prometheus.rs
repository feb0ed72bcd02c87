//! Runs the queries of `deploy/` on a real Prometheus that scrapes a real deployment's `/metrics`. `scripts/test`
//! installs Prometheus; without it the test prints that it is skipped.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{
    harness::{Chat, Kind, eventually, process::Program, server},
    support::TcpProxy,
};

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    free.local_addr().expect("it has an address").port()
}

fn program() -> Option<PathBuf> {
    let named = std::env::var_os("CHAT_PROMETHEUS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|dir| dir.join("prometheus"));
    let mut all = named.into_iter().chain(installed);
    all.find(|program| program.is_file())
}

fn deploy(file: &str) -> String {
    let path = Path::new(crate::support::ROOT)
        .join("deploy/kubernetes")
        .join(file);
    std::fs::read_to_string(path).expect("it is in the repository")
}

/// The only query of the ScaledObject.
fn query() -> String {
    let text = deploy("worker.yaml");
    let mut queries = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("query: "));
    let query = queries.next().expect("the trigger has a query").to_owned();
    assert_eq!(queries.next(), None, "there is one");
    query
}

struct Prometheus {
    _process: Child,
    url: String,
    http: reqwest::Client,
}

impl Prometheus {
    /// Scrapes each target (a job, a pod and a port) once a second, labelled as in deploy/kubernetes/monitor.yaml.
    async fn start(chat: &Chat, program: &Path, targets: &[(&str, &str, u16)]) -> Prometheus {
        let mut config =
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n".to_owned();
        for (job, pod, port) in targets {
            config += &format!(
                "  - job_name: {job}\n    static_configs:\n      - {{targets: ['127.0.0.1:{port}'], labels: {{pod: {pod}}}}}\n"
            );
        }
        let file = chat.dir().join("prometheus.yml");
        std::fs::write(&file, config).expect("it can be written");
        let port = free_port();
        let log = std::fs::File::create(chat.dir().join("prometheus.log")).expect("a log");
        let process = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                chat.dir().join("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("it can be started");
        Prometheus {
            _process: process,
            url: format!("http://127.0.0.1:{port}/api/v1"),
            http: chat.http.clone(),
        }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let url = reqwest::Url::parse_with_params(&format!("{}{path}", self.url), query);
        let answer = self.http.get(url.expect("an address")).send().await.ok()?;
        let text = answer.text().await.ok()?;
        let answer: Value = serde_json::from_str(&text).ok()?;
        assert_ne!(answer["errorType"], "bad_data", "{answer}");
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// The query's results, one value for each series.
    async fn values(&self, query: &str) -> Option<Vec<String>> {
        let data = self.get("/query", &[("query", query)]).await?;
        let series = data["result"].as_array()?.iter();
        let values = series.map(|one| one["value"][1].as_str().unwrap_or_default().to_owned());
        Some(values.collect())
    }
}

pub fn with_metrics(mut program: Program, port: u16) -> Program {
    let name = "CHAT__METRICS__PORT";
    program.env.retain(|(key, _)| key != name);
    program.env.push((name.to_owned(), port.to_string()));
    program
}

#[tokio::test]
async fn the_keda_query_returns_the_number_of_workers() {
    let Some(program) = program() else {
        eprintln!(
            "skipped: there is no prometheus in PATH or CHAT_PROMETHEUS; scripts/test brings one"
        );
        return;
    };
    let chat = Chat::plan(Kind::Cluster)
        .workers(0)
        .set("autoscale.interval", "200ms")
        .set("autoscale.messages_per_worker", 10)
        .set("limits.messages_per_second", 1_000_000)
        .set("limits.burst", 1_000_000)
        .start()
        .await;
    let port = free_port();
    let worker = with_metrics(chat.program("worker", &["worker"]), port);
    let mut worker_process = worker.start().await;
    // The dry-run autoscaler reaches the broker through a proxy that can be frozen.
    let url = server("AMQP_URL");
    let (_, authority) = url.rsplit_once('@').unwrap_or(("", &url));
    let address = authority.split('/').next().expect("there is a first part");
    let proxy = TcpProxy::to(address.trim_start_matches("amqp://")).await;
    let signal_port = free_port();
    let mut signal = with_metrics(
        chat.program("signal", &["autoscale", "--dry-run", "--max", "3"]),
        signal_port,
    );
    signal.env.retain(|(key, _)| key != "AMQP_URL");
    let through = url.replace(address, &proxy.address.to_string());
    signal.env.push(("AMQP_URL".to_owned(), through));
    let _signal = signal.start().await;
    let edge_port = chat.edges[0].url().rsplit_once(':').expect("a port").1;
    let edge_port = edge_port.parse().expect("a number");
    let targets = [
        ("edge", "edge-0", edge_port),
        ("worker", "worker-0", port),
        ("signal", "signal-0", signal_port),
    ];
    let prometheus = Prometheus::start(&chat, &program, &targets).await;
    let query = query();
    let comes_to = async |what: &str, wanted: &[&str]| {
        eventually(what, async || {
            (prometheus.values(&query).await? == wanted).then_some(())
        })
        .await;
    };
    comes_to("an empty queue needs no worker", &["0"]).await;

    // Every metric that `deploy/` names exists.
    let mut named = BTreeSet::new();
    for file in [
        "worker.yaml",
        "edge.yaml",
        "signal.yaml",
        "monitor.yaml",
        "README.md",
    ] {
        let text = deploy(file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        named.extend(
            words
                .filter(|word| word.starts_with("chat_"))
                .map(str::to_owned),
        );
    }
    assert!(named.contains("chat_autoscale_target"), "{named:?}");
    let names = eventually("it has read all of them", async || {
        let up = prometheus.values("sum(up)").await?;
        (up == ["3"]).then_some(())?;
        prometheus.get("/label/__name__/values", &[]).await
    })
    .await;
    let names: BTreeSet<String> = serde_json::from_value(names).expect("a list of names");
    let unknown: Vec<_> = named.difference(&names).collect();
    assert!(
        unknown.is_empty(),
        "deploy/ names {unknown:?}, which no /metrics has"
    );

    // A backlog for several workers, and no worker.
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    worker_process.sigterm();
    assert_eq!(worker_process.ended().await, Some(0));
    for i in 0..60 {
        let path = format!("/v1/rooms/{room}/messages");
        let body = json!({"body": format!("message {i}")});
        chat.rest_as(0, &ada).post(&path, body).await.ok(202);
    }
    comes_to("the backlog needs three workers", &["3"]).await;

    // With an unknown backlog the metric is absent, which triggers KEDA's fallback; it must never be zero.
    proxy.freeze();
    comes_to("unknown", &[]).await;
    assert_eq!(
        prometheus.values("max(chat_autoscale_target)").await,
        Some(vec!["3".to_owned()])
    );
    proxy.thaw();
    comes_to("known again", &["3"]).await;
}
