//! CPU time and memory of processes on this machine, from /proc (man 5 proc).

use std::{collections::BTreeMap, error::Error as StdError};

use crate::error::{Error, Result, failed};

/// CPU time of processes, this one included, since the meter was started.
pub(crate) struct Meter(Vec<(String, u32, f64)>);

impl Meter {
    pub fn start(processes: &[(String, u32)]) -> Result<Meter> {
        let this = ("generator".to_owned(), std::process::id());
        let all = processes.iter().cloned().chain([this]);
        let started = all.map(|(name, pid)| Ok((name, pid, cpu_seconds(pid)?)));
        started.collect::<Result<_>>().map(Meter)
    }

    /// Microseconds for each of `count` units of work.
    pub fn per(&self, count: u64) -> Result<BTreeMap<String, f64>> {
        let spent = self.0.iter().map(|(name, pid, before)| {
            let micros = (cpu_seconds(*pid)? - before) * 1e6 / count.max(1) as f64;
            Ok((name.clone(), (micros * 10.0).round() / 10.0))
        });
        spent.collect()
    }
}

/// User and system time of a process and its children, in seconds. PostgreSQL has a child for each connection.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    /// `sysconf(_SC_CLK_TCK)`, which is 100 for programs on Linux (man 7 time).
    const TICKS_PER_SECOND: f64 = 100.0;
    let own = Stat::of(pid).map_err(|e| unreadable(pid, &e))?;
    let processes = std::fs::read_dir("/proc").map_err(|e| failed("--pid", e))?;
    let children = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // A child that has ended meanwhile is counted in its parent.
        .filter_map(|other: u32| Stat::of(other).ok())
        .filter(|stat| stat.parent == pid);
    let ticks: u64 = children.map(|stat| stat.ticks).sum::<u64>() + own.ticks;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// Resident anonymous memory of a process, in bytes: mapped files are not counted.
pub(crate) fn memory_bytes(pid: u32) -> Result<u64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| unreadable(pid, &e))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes * 1024)
        .ok_or_else(|| failed("--pid", "an unknown format of /proc"))
}

fn unreadable(pid: u32, error: &dyn StdError) -> Error {
    Error::argument("--pid", format!("process {pid} cannot be read: {error}"))
}

struct Stat {
    parent: u32,
    /// User and system time of the process and of its children that have ended.
    ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> std::io::Result<Stat> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the name in parentheses, which may contain any character.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_this_process_is_read() {
        assert!(cpu_seconds(std::process::id()).is_ok());
        let error = cpu_seconds(0).unwrap_err();
        assert!(matches!(error, Error::Argument { argument, .. } if argument == "--pid"));
    }
}
