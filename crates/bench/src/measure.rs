//! Latencies and progress.

use std::io::Write;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Longer latencies are recorded as this one, in microseconds.
const MAX_LATENCY: u64 = 10 * 60 * 1_000_000;

/// Quantiles of a latency, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Latency {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

/// A histogram of microseconds that keeps so many significant digits.
pub(crate) fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY, digits).expect("bounds that fit the digits")
}

/// A bar on a terminal; one line elsewhere.
/// Prints a line to standard error. `eprintln!` would panic if its reader is gone.
pub(crate) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub(crate) fn progress(what: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    if bar.is_hidden() {
        note(format_args!("{what}: {total}"));
    }
    if let Ok(style) = ProgressStyle::with_template("{msg:>18} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar
}
