//! The report as one page without scripts: what was run, what the judge says, and three charts.

use super::{Load, Report, Second};
use crate::plot::{Panel, Series, over, stacked};

pub fn page(load: &Load, report: &Report) -> String {
    let what = match &load.replay {
        Some(log) => format!("{} at {} times its speed", log.display(), load.speed),
        None => format!(
            "{} messages a second of {} bytes for {} s: {} rooms of {} members, {} senders",
            load.rate,
            load.body,
            load.duration.as_secs_f64(),
            load.rooms,
            load.members,
            load.senders
        ),
    };
    let verdict = match report.is_clean() {
        true => "Every accepted message came to every member once and in order.".to_owned(),
        false => format!(
            "{} lost, {} duplicated, {} reordered: {}",
            report.lost,
            report.duplicated,
            report.reordered,
            report.examples.join("; ")
        ),
    };
    let over_time = |value: fn(&Second) -> f64| {
        let seconds = report.seconds.iter().enumerate();
        seconds
            .map(|(at, second)| (at as f64, value(second)))
            .collect()
    };
    let rates = [
        Panel::new(
            "a second",
            vec![
                Series::new("accepted", over_time(|s| s.accepted as f64)),
                Series::new("delivered", over_time(|s| s.delivered as f64)),
            ],
        ),
        Panel::new(
            "latency, ms",
            vec![
                Series::new("p50", over_time(|s| s.p50_ms)),
                Series::new("p99", over_time(|s| s.p99_ms)),
            ],
        ),
    ];
    let places: Vec<String> = report
        .distribution
        .iter()
        .map(|(quantile, _)| format!("{} %", quantile * 100.0))
        .collect();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let points = report.distribution.iter().enumerate();
    let points = points.map(|(at, (_, ms))| (at as f64, *ms)).collect();
    let distribution = [Panel::new("ms", vec![Series::new("latency", points)])];

    let cpu = report.cpu_us_per_message.iter();
    let cpu: String = cpu
        .map(|(name, micros)| row(&format!("CPU of {name}, µs a message"), micros))
        .collect();
    let rows = [
        row("sent", report.sent),
        row("accepted", report.accepted),
        row(
            "delivered",
            format!("{} of {}", report.delivered, report.expected),
        ),
        row("accepted a second", report.accepted_per_s),
        row("delivered a second", report.delivered_per_s),
        row(
            "latency from the intended send, p50 / p99 / p99.9 / max, ms",
            format!(
                "{} / {} / {} / {}",
                report.latency_ms.p50,
                report.latency_ms.p99,
                report.latency_ms.p999,
                report.latency_ms.max
            ),
        ),
        cpu,
    ]
    .concat();
    crate::bench::page(
        "chat bench",
        &format!(
            "<p>{}</p><p><b>{}</b></p><table>{rows}</table>{}{}",
            escaped(&what),
            escaped(&verdict),
            stacked("Over time", "seconds", &rates),
            over(
                "How long deliveries took",
                "of all deliveries within",
                &places,
                &distribution
            ),
        ),
    )
}

fn row(name: &str, value: impl std::fmt::Display) -> String {
    format!("<tr><td>{}</td><td>{value}</td></tr>", escaped(name))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
