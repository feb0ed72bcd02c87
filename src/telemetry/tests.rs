//! Tests of the metrics.

use super::*;

#[test]
fn metrics_are_rendered_with_prefix_and_help() {
    let metrics = Metrics::new();
    metrics.commands_accepted.inc_by(3);
    metrics
        .commands_refused
        .with_label_values(&["forbidden"])
        .inc();
    metrics.dead_letters.with_label_values(&["malformed"]).inc();
    metrics
        .http_requests
        .with_label_values(&["GET", "/v1/rooms", "200"])
        .inc();
    metrics.worker_batch_messages.observe(100.0);
    let text = metrics.render();
    for line in [
        "chat_commands_accepted_total 3",
        "chat_commands_refused_total{code=\"forbidden\"} 1",
        "chat_dead_letters_total{reason=\"malformed\"} 1",
        "chat_http_requests_total{method=\"GET\",route=\"/v1/rooms\",status=\"200\"} 1",
        "chat_logins_failed_total{reason=\"wrong_password\"} 0",
        "chat_sockets_open{transport=\"ws\"} 0",
        "chat_worker_batch_messages_bucket{le=\"128\"} 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is missing in\n{text}"
        );
    }
    assert!(
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .all(|line| line.starts_with("chat_") || line.starts_with("process_")),
        "{text}"
    );
    let start = text
        .lines()
        .find_map(|line| line.strip_prefix("chat_process_start_time_seconds "))
        .unwrap();
    assert!(start.parse::<f64>().unwrap() > 1.7e9, "{start}");
}
