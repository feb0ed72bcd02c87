//! The pool follows the load: as `chat bench scaling` shows it, and with the broker killed in the middle.

use serde_json::Value;
use tokio::process::Command;

use super::autoscale::{Talk, children, is_running, plan, set, until_workers};
use crate::harness::eventually;

#[tokio::test]
async fn the_curve_of_a_burst() {
    let chat = plan().start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = free.local_addr().expect("it has an address").port();
    drop(free);
    let mut recipe = chat.recipe("autoscale", &["autoscale"]);
    set(&mut recipe.env, "CHAT__METRICS__PORT", &port.to_string());
    // So few that the burst asks for more of them, however fast this machine is.
    set(
        &mut recipe.env,
        "CHAT__AUTOSCALE__MESSAGES_PER_SECOND",
        "100",
    );
    let mut autoscaler = recipe.start().await;
    let (json, html) = (chat.dir().join("curve.json"), chat.dir().join("curve.html"));
    let url = chat.edges.iter().map(|edge| edge.url().to_owned());
    let bench = chat.recipe(
        "bench",
        &[
            "bench",
            "scaling",
            "--url",
            &url.collect::<Vec<_>>().join(","),
            "--autoscaler",
            &format!("http://127.0.0.1:{port}/metrics"),
            "--quiet",
            "20",
            "--before",
            "2s",
            "--during",
            "4s",
            "--after",
            "10s",
            "--rooms",
            "4",
            "--members",
            "2",
            "--senders",
            "8",
            "--json",
            &json.to_string_lossy(),
            "--html",
            &html.to_string_lossy(),
        ],
    );
    let ended = bench.run().await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let text = std::fs::read_to_string(&json).expect("the file that --json names");
    let curve: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(curve["accepted"], 20 * 2 + 400 * 4 + 20 * 10);
    assert_eq!(curve["delivered"], curve["expected"]);
    let workers = |name: &str| curve[name].as_f64().expect("a number");
    assert!(workers("workers_most") >= 2.0, "{text}");
    assert!(workers("workers_most") <= 3.0, "autoscale.max: {text}");
    assert!(curve["up_seconds"].as_f64().is_some(), "{text}");
    let html = std::fs::read_to_string(html).expect("the file that --html names");
    for part in [
        "messages waiting",
        "workers",
        "latency in ms",
        "once and in order",
    ] {
        assert!(html.contains(part), "{part}");
    }
    autoscaler.sigterm();
    assert_eq!(autoscaler.ended().await, Some(0));
}

/// A RabbitMQ of its own, to be killed. Wiped at the end.
struct Broker;

impl Broker {
    const URL: &str = "amqp://guest:guest@127.0.0.1:15973/%2f";

    fn services(arguments: &[&str]) -> std::process::Command {
        let root = env!("CARGO_MANIFEST_DIR");
        let mut command = std::process::Command::new(format!("{root}/scripts/services"));
        command
            .args(arguments)
            .env(
                "CHAT_SERVICES_DIR",
                format!("{root}/target/services-scaling"),
            )
            .env("CHAT_AMQP_PORT", "15973")
            .env_remove("CHAT_RABBIT_MGMT_PORT");
        command
    }

    async fn run(arguments: &[&str]) {
        let done = Command::from(Broker::services(arguments)).output().await;
        let done = done.expect("scripts/services can be run");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "scripts/services {arguments:?}: {said}"
        );
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = Broker::services(&["down", "--wipe"]).output();
    }
}

#[tokio::test]
async fn a_burst_from_zero_and_back_with_the_broker_killed() {
    let _broker = Broker;
    Broker::run(&["up", "rabbitmq"]).await;
    let chat = plan()
        .address("AMQP_URL", Broker::URL.to_owned())
        // Who sends waits for the broker's return, however long that takes on a busy machine.
        .set("queue.confirm_timeout", "5m")
        .start()
        .await;
    let mut autoscaler = chat.recipe("autoscale", &["autoscale"]).start().await;
    let mut talk = Talk::begin(&chat).await;
    until_workers(&autoscaler, "back to nobody", |n| n == 0).await;
    let first = talk.say().await;
    let seen = until_workers(&autoscaler, "somebody works", |n| n > 0).await;
    Broker::run(&["kill", "rabbitmq"]).await;
    let second = talk.say().await;
    // Whom it had started it keeps: nothing is known, and that is not nothing to do.
    eventually("the autoscaler says that it does not know", async || {
        autoscaler
            .log()
            .contains("unknown what waits")
            .then_some(())
    })
    .await;
    let kept = children(autoscaler.pid());
    assert!(!kept.is_empty(), "{}", autoscaler.log());
    Broker::run(&["start", "rabbitmq"]).await;
    talk.accepted(first).await;
    talk.accepted(second).await;
    talk.everything_arrived().await;
    until_workers(&autoscaler, "back to nobody", |n| n == 0).await;
    autoscaler.sigterm();
    assert_eq!(autoscaler.ended().await, Some(0));
    let all = seen.into_iter().chain(kept);
    assert!(!all.into_iter().any(is_running), "nobody is left");
}
