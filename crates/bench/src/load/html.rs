//! A report as files: JSON, and a page with charts.

use plot::{Panel, Series, over, stacked};
use serde_json::json;

use super::{
    args::Load,
    report::{Report, Second},
};
use crate::{
    error::Result,
    measure::Latency,
    page::{Page, save},
};

/// Writes the files that `--json` and `--html` name.
///
/// # Errors
/// A file that cannot be written.
pub fn write(load: &Load, report: &Report) -> Result<()> {
    if let Some(file) = &load.json {
        let mut value = json!(report);
        value["seconds"] = json!(report.seconds);
        save("--json", file, &format!("{value:#}\n"))?;
    }
    if let Some(file) = &load.html {
        save("--html", file, &html(load, report))?;
    }
    Ok(())
}

fn html(load: &Load, report: &Report) -> String {
    let run = match &load.replay {
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
    let charts = [
        stacked("Over time", "seconds", &[rates(report), latencies(report)]),
        distribution(report),
    ];
    let page = Page {
        title: "chat bench",
        run: &run,
        verdict: &verdict(report),
        rows: &rows(report),
        charts: &charts.concat(),
    };
    page.html()
}

fn rows(report: &Report) -> Vec<(String, String)> {
    let Latency {
        p50,
        p99,
        p999,
        max,
    } = report.latency_ms;
    let rows = [
        ("sent", report.sent.to_string()),
        ("accepted", report.accepted.to_string()),
        (
            "delivered",
            format!("{} of {}", report.delivered, report.expected),
        ),
        ("accepted a second", report.accepted_per_s.to_string()),
        ("delivered a second", report.delivered_per_s.to_string()),
        (
            "latency from the intended send, p50 / p99 / p99.9 / max, ms",
            format!("{p50} / {p99} / {p999} / {max}"),
        ),
    ];
    let cpu = report.cpu_us_per_message.iter().map(|(name, micros)| {
        let name = format!("CPU of {name}, µs a message");
        (name, micros.to_string())
    });
    let rows = rows.map(|(name, value)| (name.to_owned(), value));
    rows.into_iter().chain(cpu).collect()
}

fn distribution(report: &Report) -> String {
    let quantiles = report.distribution.iter();
    let names: Vec<String> = quantiles
        .map(|(quantile, _)| format!("{} %", quantile * 100.0))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let points = report.distribution.iter().enumerate();
    let points = points.map(|(at, (_, ms))| (at as f64, *ms)).collect();
    over(
        "How long deliveries took",
        "of all deliveries within",
        &names,
        &[Panel::new("ms", vec![Series::new("latency", points)])],
    )
}

/// One sentence about what the judge found.
pub(crate) fn verdict(report: &Report) -> String {
    if report.is_clean() {
        return "Every accepted message came to every member once and in order.".to_owned();
    }
    format!(
        "{} lost, {} duplicated, {} reordered: {}",
        report.lost,
        report.duplicated,
        report.reordered,
        report.examples.join("; ")
    )
}

/// Messages accepted and delivered in each second.
pub(crate) fn rates(report: &Report) -> Panel {
    Panel::new(
        "messages a second",
        vec![
            Series::new("accepted", over_seconds(report, |s| s.accepted as f64)),
            Series::new(
                "delivered, all members",
                over_seconds(report, |s| s.delivered as f64),
            ),
        ],
    )
}

/// Latencies of the deliveries in each second. A second without deliveries is a gap in the lines.
pub(crate) fn latencies(report: &Report) -> Panel {
    let of_deliveries = |value: fn(&Second) -> f64| {
        over_seconds(report, move |second| match second.delivered {
            0 => f64::NAN,
            _ => value(second),
        })
    };
    Panel::new(
        "latency in ms, intended send to each member",
        vec![
            Series::new("p50", of_deliveries(|s| s.p50_ms)),
            Series::new("p99", of_deliveries(|s| s.p99_ms)),
        ],
    )
}

fn over_seconds(report: &Report, value: impl Fn(&Second) -> f64) -> Vec<(f64, f64)> {
    let seconds = report.seconds.iter().enumerate();
    seconds
        .map(|(at, second)| (at as f64, value(second)))
        .collect()
}
