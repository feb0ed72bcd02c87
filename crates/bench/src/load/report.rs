//! The figures of a run.

use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;

use crate::{
    error::{Error, Result},
    measure::Latency,
};

#[derive(Debug, Serialize)]
pub struct Report {
    pub sent: u64,
    pub accepted: u64,
    pub stored: u64,
    pub delivered: u64,
    pub expected: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub accepted_per_s: f64,
    pub delivered_per_s: f64,
    /// From the last intended send to the last delivery: the backlog.
    pub behind_ms: f64,
    /// From the intended send to each delivery.
    pub latency_ms: Latency,
    /// From the intended send to the acknowledgement.
    pub accept_ms: Latency,
    /// Refused sends by error code.
    pub errors: BTreeMap<String, u64>,
    /// CPU microseconds for an accepted message, of this generator and of each `--pid`.
    pub cpu_us_per_message: BTreeMap<String, f64>,
    /// A few faults, as text.
    pub examples: Vec<String>,
    /// Quantiles of the latency, in milliseconds.
    #[serde(skip)]
    pub distribution: Vec<(f64, f64)>,
    #[serde(skip)]
    pub seconds: Vec<Second>,
    /// The intended time of the first send.
    #[serde(skip)]
    pub started: Instant,
}

/// The figures of one second.
#[derive(Debug, Serialize)]
pub struct Second {
    pub accepted: u64,
    pub delivered: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Report {
    /// Nothing lost, duplicated or reordered.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered == 0 && self.examples.is_empty()
    }

    /// # Errors
    /// [`Error::Faults`] where the run is not clean.
    pub fn check(&self) -> Result<()> {
        if self.is_clean() {
            Ok(())
        } else {
            Err(Error::Faults)
        }
    }
}
