//! A curve as files: JSON, and a page with charts.

use plot::{Panel, Series, stacked};
use serde_json::json;

use super::{args::Scaling, curve::Curve, metrics::Sample};
use crate::{
    error::Result,
    load::{latencies, rates, verdict},
    page::{Page, save},
};

/// Writes the files that `--json` and `--html` name.
///
/// # Errors
/// A file that cannot be written.
pub fn write(scaling: &Scaling, curve: &Curve) -> Result<()> {
    if let Some(file) = &scaling.json {
        let mut value = json!(curve);
        value["seconds"] = json!(curve.load.seconds);
        value["seen"] = json!(curve.samples);
        save("--json", file, &format!("{value:#}\n"))?;
    }
    if let Some(file) = &scaling.html {
        save("--html", file, &html(scaling, curve))?;
    }
    Ok(())
}

fn html(scaling: &Scaling, curve: &Curve) -> String {
    let run = format!(
        "{} messages a second for {} s, {} for {} s, {} for {} s; {} rooms of {} members.",
        scaling.quiet,
        scaling.before.as_secs_f64(),
        scaling.burst(),
        scaling.during.as_secs_f64(),
        scaling.quiet,
        scaling.after.as_secs_f64(),
        scaling.rooms,
        scaling.members,
    );
    let page = Page {
        title: "chat bench scaling",
        run: &run,
        verdict: &verdict(&curve.load),
        rows: &rows(curve),
        charts: &stacked("The pool follows the load", "seconds", &panels(curve)),
    };
    page.html()
}

fn panels(curve: &Curve) -> [Panel; 5] {
    let over_time = |value: fn(&Sample) -> f64| -> Vec<(f64, f64)> {
        let samples = curve.samples.iter();
        samples.map(|sample| (sample.at, value(sample))).collect()
    };
    let one = |name: &str, points| Panel::new(name, vec![Series::new(name, points)]);
    [
        rates(&curve.load),
        one("messages waiting", over_time(|s| s.waiting)),
        one(
            "age of the oldest, at most, in seconds",
            over_time(|s| s.oldest_seconds),
        ),
        Panel::new(
            "workers",
            vec![
                Series::steps("wanted", &over_time(|s| s.target)),
                Series::steps("running", &over_time(|s| s.workers)),
            ],
        ),
        latencies(&curve.load),
    ]
}

fn rows(curve: &Curve) -> Vec<(String, String)> {
    let seconds = |value: Option<f64>| value.map_or("–".to_owned(), |s| format!("{s:.1} s"));
    let latency = &curve.load.latency_ms;
    let rows = [
        ("accepted", curve.load.accepted.to_string()),
        ("most that waited", curve.most_waiting.to_string()),
        (
            "oldest that waited, at most",
            seconds(Some(curve.oldest_seconds)),
        ),
        (
            "workers before the burst, at most, in the end",
            format!(
                "{}, {}, {}",
                curve.workers_before, curve.workers_most, curve.workers_after
            ),
        ),
        (
            "from the burst's beginning to the most workers",
            seconds(curve.up_seconds),
        ),
        (
            "from the burst's end to nothing waiting",
            seconds(curve.drained_seconds),
        ),
        (
            "latency p50 / p99 / max",
            format!("{} / {} / {} ms", latency.p50, latency.p99, latency.max),
        ),
    ];
    rows.map(|(name, value)| (name.to_owned(), value)).to_vec()
}
