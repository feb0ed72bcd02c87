//! How the workers followed the load.

use std::time::Instant;

use serde::Serialize;

use super::{args::Scaling, metrics::Sample};
use crate::load::Report;

#[derive(Debug, Serialize)]
pub struct Curve {
    #[serde(flatten)]
    pub load: Report,
    pub most_waiting: f64,
    pub oldest_seconds: f64,
    /// Workers running at the beginning of the burst, at most, and at the end of the run.
    pub workers_before: f64,
    pub workers_most: f64,
    pub workers_after: f64,
    /// From the beginning of the burst to the most workers; `None` if there were never more than before.
    pub up_seconds: Option<f64>,
    /// From the end of the burst to an empty backlog.
    pub drained_seconds: Option<f64>,
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

impl Curve {
    pub(super) fn new(scaling: &Scaling, load: Report, samples: Vec<(Instant, Sample)>) -> Curve {
        let since = |at: Instant| match at.checked_duration_since(load.started) {
            Some(after) => after.as_secs_f64(),
            None => -(load.started - at).as_secs_f64(),
        };
        let samples: Vec<Sample> = samples
            .into_iter()
            .map(|(at, sample)| Sample {
                at: since(at),
                ..sample
            })
            .filter(|sample| sample.at >= 0.0)
            .collect();
        let begin = scaling.before.as_secs_f64();
        let end = begin + scaling.during.as_secs_f64();
        let most = |value: fn(&Sample) -> f64| samples.iter().map(value).fold(0.0, f64::max);
        let before = samples.iter().rfind(|sample| sample.at <= begin);
        let workers_before = before.map_or(0.0, |sample| sample.workers);
        let workers_most = most(|sample| sample.workers);
        let reached = samples
            .iter()
            .find(|sample| sample.at >= begin && sample.workers >= workers_most);
        let drained = samples
            .iter()
            .find(|sample| sample.at >= end && sample.waiting == 0.0);
        Curve {
            most_waiting: most(|sample| sample.waiting),
            oldest_seconds: most(|sample| sample.oldest_seconds),
            workers_before,
            workers_most,
            workers_after: samples.last().map_or(0.0, |sample| sample.workers),
            up_seconds: reached
                .filter(|_| workers_most > workers_before)
                .map(|sample| sample.at - begin),
            drained_seconds: drained.map(|sample| sample.at - end),
            load,
            samples,
        }
    }
}
