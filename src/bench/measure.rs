//! What every benchmark measures with: latencies, CPU time and memory of processes, progress; and how their arguments
//! are read.

use std::{collections::BTreeMap, path::Path, time::Duration};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::client::failed;
use crate::{
    config::parse_duration,
    error::{Error, Result},
};

/// The longest latency told apart from longer ones, in microseconds.
const MAX_LATENCY: u64 = 10 * 60 * 1_000_000;

pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a whole number and one of ms, s, m, h, d".to_owned())
}

pub fn process(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').ok_or("NAME=PID")?;
    Ok((name.to_owned(), pid.parse().map_err(|_| "PID is a number")?))
}

/// In milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Latency {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

/// Of microseconds, told apart by so many significant digits.
pub fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY, digits).expect("bounds that fit the digits")
}

/// CPU time of processes, this one included, since it was started.
pub struct Meter(Vec<(String, u32, f64)>);

impl Meter {
    pub fn start(processes: &[(String, u32)]) -> Result<Meter> {
        let this = ("generator".to_owned(), std::process::id());
        let all = processes.iter().cloned().chain([this]);
        let started = all.map(|(name, pid)| Ok((name, pid, cpu_seconds(pid)?)));
        started.collect::<Result<_>>().map(Meter)
    }

    /// Microseconds for each of `count`.
    pub fn per(&self, count: u64) -> Result<BTreeMap<String, f64>> {
        let spent = self.0.iter().map(|(name, pid, before)| {
            let micros = (cpu_seconds(*pid)? - before) * 1e6 / count.max(1) as f64;
            Ok((name.clone(), (micros * 10.0).round() / 10.0))
        });
        spent.collect()
    }
}

/// A bar on a terminal; a line elsewhere.
pub fn progress(what: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    if bar.is_hidden() {
        eprintln!("{what}: {total}");
    }
    if let Ok(style) = ProgressStyle::with_template("{msg:>18} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar
}

/// The CPU time of a process so far, with that of its children: PostgreSQL has one for each connection.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    /// `sysconf(_SC_CLK_TCK)`, which Linux has fixed for programs (man 7 time).
    const TICKS_PER_SECOND: f64 = 100.0;
    let own = Stat::of(pid)
        .map_err(|e| Error::field("--pid", format!("{pid} cannot be looked at: {e}")))?;
    let processes = std::fs::read_dir("/proc").map_err(|e| failed("--pid", e))?;
    let children = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // One that ended meanwhile counts in its parent.
        .filter_map(|other: u32| Stat::of(other).ok())
        .filter(|stat| stat.parent == pid);
    let ticks: u64 = children.map(|stat| stat.ticks).sum::<u64>() + own.ticks;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// The memory of a process that is its own and resident: a file that it maps is not counted.
pub fn memory_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|e| Error::field("--pid", format!("{pid} cannot be looked at: {e}")))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes * 1024)
        .ok_or_else(|| failed("--pid", "an unknown format of /proc"))
}

/// What man 5 proc says of a process.
struct Stat {
    parent: u32,
    /// User and system time, of the process and of children that have ended.
    ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> std::io::Result<Stat> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the name, in parentheses, and may hold anything.
        let read = || {
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            let parent = fields.nth(1)?.parse().ok()?;
            // Fields 14 to 17.
            let times = fields.skip(9).take(4).map(|ticks| ticks.parse::<u64>());
            let ticks = times.sum::<Result<u64, _>>().ok()?;
            Some(Stat { parent, ticks })
        };
        read().ok_or_else(|| std::io::Error::other("an unknown format of /proc"))
    }
}

pub fn save(flag: &str, file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|e| {
        let why = format!("{} cannot be written: {e}", file.display());
        Error::field(flag, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_some_time() {
        assert!(cpu_seconds(std::process::id()).is_ok());
        assert!(cpu_seconds(0).is_err());
    }
}
