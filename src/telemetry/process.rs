//! The metrics of the process and of its runtime, read when they are scraped. Their names are those that Prometheus's
//! client libraries use. What the system does not tell (outside Linux, most of it) has no series.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{Counter, Gauge, GaugeVec, IntGauge};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};
use tokio::runtime::Handle;

use super::declare::Declare;

/// The metrics of this process.
pub struct Process {
    resident: GaugeVec,
    virtual_memory: GaugeVec,
    open_files: GaugeVec,
    max_files: GaugeVec,
    threads: GaugeVec,
    cpu: Counter,
    runtime_workers: IntGauge,
    runtime_tasks: IntGauge,
    runtime_queue: IntGauge,
    runtime_busy: Counter,
}

impl Process {
    pub fn new(declare: &Declare) -> Process {
        let start = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |time| time.as_secs_f64());
        let help = "When the process started, in Unix time";
        // The second name is that of earlier versions.
        for name in [
            "process_start_time_seconds",
            "chat_process_start_time_seconds",
        ] {
            let gauge: Gauge = declare.float_gauge(name, help);
            gauge.set(start);
        }
        Process {
            resident: declare.float_gauges(
                "process_resident_memory_bytes",
                "Memory of the process that is in RAM",
                &[],
            ),
            virtual_memory: declare.float_gauges(
                "process_virtual_memory_bytes",
                "Address space of the process; mostly not memory",
                &[],
            ),
            open_files: declare.float_gauges(
                "process_open_fds",
                "Open file descriptors: one for each connection, and some tens",
                &[],
            ),
            max_files: declare.float_gauges(
                "process_max_fds",
                "Limit of open file descriptors (`ulimit -n`)",
                &[],
            ),
            threads: declare.float_gauges("process_threads", "Threads of the process", &[]),
            cpu: declare.float_counter(
                "process_cpu_seconds_total",
                "CPU time of the process, user and system",
            ),
            runtime_workers: declare.gauge(
                "chat_runtime_workers",
                "Threads that run the tasks of the async runtime",
            ),
            runtime_tasks: declare.gauge(
                "chat_runtime_tasks",
                "Tasks of the async runtime: at least one for each connection",
            ),
            runtime_queue: declare.gauge(
                "chat_runtime_queue_depth",
                "Tasks that are ready and wait in the runtime's global queue",
            ),
            runtime_busy: declare.float_counter(
                "chat_runtime_busy_seconds_total",
                "Time that the runtime's threads spent running tasks, all threads together",
            ),
        }
    }

    /// Reads the current values.
    pub fn update(&self) {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |field| number_of(&status, field).map(|kib| kib * 1024.0);
        set(&self.resident, kib("VmRSS:"));
        set(&self.virtual_memory, kib("VmSize:"));
        set(&self.threads, number_of(&status, "Threads:"));
        set(&self.open_files, open_files().map(|open| open as f64));
        let limit = getrlimit(Resource::Nofile).current;
        set(&self.max_files, limit.map(|limit| limit as f64));
        let used = clock_gettime(ClockId::ProcessCPUTime);
        raise(&self.cpu, used.tv_sec as f64 + used.tv_nsec as f64 / 1e9);
        if let Ok(runtime) = Handle::try_current() {
            let metrics = runtime.metrics();
            let workers = metrics.num_workers();
            self.runtime_workers.set(workers as i64);
            self.runtime_tasks.set(metrics.num_alive_tasks() as i64);
            self.runtime_queue.set(metrics.global_queue_depth() as i64);
            let busy = (0..workers).map(|worker| metrics.worker_total_busy_duration(worker));
            raise(
                &self.runtime_busy,
                busy.map(|busy| busy.as_secs_f64()).sum(),
            );
        }
    }
}

/// Sets the gauge, or removes its series.
fn set(gauge: &GaugeVec, value: Option<f64>) {
    match value {
        Some(value) => gauge.with_label_values::<&str>(&[]).set(value),
        None => gauge.reset(),
    }
}

/// Raises the counter to a total that is counted elsewhere.
fn raise(counter: &Counter, total: f64) {
    let more = total - counter.get();
    if more > 0.0 {
        counter.inc_by(more);
    }
}

/// The number behind `field` in `/proc/self/status`.
fn number_of(status: &str, field: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(field))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The number of open file descriptors. Since Linux 6.2 it is the size of the directory; before, its entries are
/// counted, which takes a millisecond for some thousands.
pub fn open_files() -> Option<u64> {
    let directory = "/proc/self/fd";
    match fs::metadata(directory).ok()?.len() {
        0 => {
            // Without the descriptor that reads the directory.
            let entries = fs::read_dir(directory).ok()?.count() as u64;
            Some(entries.saturating_sub(1))
        }
        size => Some(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_status_are_read() {
        let status = "Name:\tchat\nVmSize:\t  123 kB\nVmRSS:\t     7 kB\nThreads:\t12\n";
        assert_eq!(number_of(status, "VmRSS:"), Some(7.0));
        assert_eq!(number_of(status, "Threads:"), Some(12.0));
        assert_eq!(number_of(status, "VmSwap:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn open_files_are_counted() {
        let before = open_files().expect("Linux tells it");
        let files: Vec<_> = (0..50)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        // Other tests open and close files at the same time.
        let with_files = open_files().expect("Linux tells it");
        assert!(with_files >= 50, "{before} {with_files}");
        drop(files);
    }
}
