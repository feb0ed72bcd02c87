//! `chat bench scaling` with an autoscaler: the pool follows the load.

use serde_json::Value;

use super::autoscale::{plan, set};

#[tokio::test]
async fn the_pool_scales_with_a_burst_and_back() {
    let chat = plan().start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = free.local_addr().expect("it has an address").port();
    drop(free);
    let mut program = chat.program("autoscale", &["autoscale"]);
    set(&mut program.env, "CHAT__METRICS__PORT", &port.to_string());
    // Low enough that the burst requires several workers, however fast this machine is.
    set(
        &mut program.env,
        "CHAT__AUTOSCALE__MESSAGES_PER_SECOND",
        "100",
    );
    let mut autoscaler = program.start().await;
    let (json, html) = (chat.dir().join("curve.json"), chat.dir().join("curve.html"));
    let url = chat.edges.iter().map(|edge| edge.url().to_owned());
    let bench = chat.program(
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
