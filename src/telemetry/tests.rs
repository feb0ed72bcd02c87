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
    assert!(!text.contains("chat_autoscale_"), "{text}");
    metrics.show_autoscaler();
    assert!(metrics.render().contains("\nchat_autoscale_target 0\n"));
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

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
const BEGIN: &str = "CHAT_UPDATE_DOCS=1 writes it -->\n";
const END: &str = "<!-- end of the generated table -->";

/// The table of all metrics in docs/operations.md.
fn table() -> String {
    let mut table = "\n| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in Metrics::new().described() {
        let labels: Vec<_> = metric
            .labels
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        table += &format!(
            "| `{}` | {} | {} | {} |\n",
            metric.name,
            metric.kind,
            labels.join(", "),
            metric.help
        );
    }
    table + "\n"
}

#[test]
fn every_metric_is_documented() {
    let text = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the table's begin");
    let (found, after) = rest.split_once(END).expect("the table's end");
    let table = table();
    if std::env::var_os("CHAT_UPDATE_DOCS").is_some() {
        std::fs::write(DOCUMENT, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        found, table,
        "update it: CHAT_UPDATE_DOCS=1 cargo test -p chat --lib telemetry"
    );
}

#[test]
fn documents_name_only_metrics_that_exist() {
    let metrics = Metrics::new();
    let names: Vec<&str> = metrics.described().iter().map(|one| &*one.name).collect();
    let text = std::fs::read_to_string(DOCUMENT).unwrap();
    let (_, rest) = text.split_once("\n## Logs\n").expect("the section");
    let (text, _) = rest
        .split_once("\n## When something is wrong")
        .expect("the section");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut found = 0;
    for word in words.filter(|word| word.starts_with("chat_") || word.starts_with("process_")) {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| word.strip_suffix(end))
            .unwrap_or(word);
        assert!(
            names.contains(&word) || names.contains(&family),
            "{word} in docs/operations.md is no metric"
        );
        found += 1;
    }
    assert!(found > 60, "{found}");
}
