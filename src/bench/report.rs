//! What the reports of benchmarks share: one HTML page without scripts that says what was run, what the judge says and
//! the figures, with charts below.

use super::load::{Report, Second};
use crate::plot::{Panel, Series};

/// `charts` is SVG; everything else is escaped.
pub fn page(
    title: &str,
    what: &str,
    report: &Report,
    rows: &[(String, String)],
    charts: &str,
) -> String {
    let rows: String = rows
        .iter()
        .map(|(name, value)| {
            format!(
                "<tr><td>{}</td><td>{}</td></tr>",
                escaped(name),
                escaped(value)
            )
        })
        .collect();
    let (title, what, verdict) = (escaped(title), escaped(what), escaped(&verdict(report)));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\">\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
         td{{padding:.1rem 1.5rem .1rem 0}}svg{{margin:1rem 0}}</style></head>\n<body><h1>{title}</h1>\
         <p>{what}</p><p><b>{verdict}</b></p><table>{rows}</table>{charts}</body></html>\n"
    )
}

fn verdict(report: &Report) -> String {
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

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// What happened in each second.
pub fn rates(report: &Report) -> Panel {
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

/// A second without a delivery has none, and leaves a gap.
pub fn latencies(report: &Report) -> Panel {
    let heard = |value: fn(&Second) -> f64| {
        over_seconds(report, move |second| match second.delivered {
            0 => f64::NAN,
            _ => value(second),
        })
    };
    Panel::new(
        "latency in ms, intended send to each member",
        vec![
            Series::new("p50", heard(|s| s.p50_ms)),
            Series::new("p99", heard(|s| s.p99_ms)),
        ],
    )
}

fn over_seconds(report: &Report, value: impl Fn(&Second) -> f64) -> Vec<(f64, f64)> {
    let seconds = report.seconds.iter().enumerate();
    seconds
        .map(|(at, second)| (at as f64, value(second)))
        .collect()
}
