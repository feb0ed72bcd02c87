//! The log on standard error, and every Prometheus metric, declared here once. Labels must never contain personal data:
//! no user names, message bodies or addresses.

mod one_line;

use std::io::IsTerminal;
use std::sync::{LazyLock, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tracing::{Level, level_filters::LevelFilter};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt};

use crate::config::{Log, LogFormat};

/// Sends the log to standard error, in colour only if that is a terminal and `NO_COLOR` is empty (no-color.org).
///
/// # Errors
/// If a log was set up before; that one stays. Tests that start many servers ignore it.
pub fn init(log: &Log) -> Result<LogThread, TryInitError> {
    // The start time is recorded when the metrics are first used.
    LazyLock::force(&METRICS);
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (thread, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let dropped = thread.error_counter();
    let layer = fmt::layer()
        .with_writer(one_line::OneLine { thread, colour })
        .with_ansi(colour)
        // Such errors would be printed by `eprintln!`, which panics when standard error is closed.
        .log_internal_errors(false);
    let dependencies = log.dependencies;
    let subscriber = tracing_subscriber::registry()
        // The settings have checked the filter; an invalid part is ignored here.
        .with(EnvFilter::new(&log.filter))
        .with(filter_fn(move |metadata| {
            may_say(metadata.target(), *metadata.level(), dependencies)
        }));
    match log.format {
        LogFormat::Text => subscriber.with(layer).try_init()?,
        LogFormat::Json => subscriber
            .with(layer.json().flatten_event(true))
            .try_init()?,
    }
    let _ = DROPPED_LINES.set(dropped);
    Ok(LogThread(Some(guard)))
}

/// Lines that wait for the log's reader; further ones are dropped and counted. About 20 MiB.
const LOG_LINES: usize = 65_536;

static DROPPED_LINES: OnceLock<ErrorCounter> = OnceLock::new();

/// The thread that writes the log. Dropping it writes the waiting lines, for at most a second.
#[must_use]
pub struct LogThread(Option<WorkerGuard>);

impl Drop for LogThread {
    fn drop(&mut self) {
        // If the log's reader does not read, the guard would wait without effect, and report that by `println!`, which panics
        // if standard output is closed.
        if DROPPED_LINES
            .get()
            .is_some_and(|lines| lines.dropped_lines() > 0)
        {
            std::mem::forget(self.0.take());
        }
    }
}

/// Whether an event of a library may reach the log, whatever `log.filter` is. Below `info`, libraries log confidential
/// data: lapin and amq-protocol whole frames, lettre mails and the login, tungstenite and redis payloads. Two do so at
/// `warn`: sqlx shows what it does not understand of `~/.pgpass` and of the parameters of `database.url`; lapin shows
/// unroutable messages.
fn may_say(target: &str, level: Level, dependencies: LevelFilter) -> bool {
    let below = |module: &str| {
        let rest = target.strip_prefix(module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    if below("chat") {
        return true;
    }
    level <= dependencies && !below("sqlx_postgres::options") && !below("lapin::returned_messages")
}

/// Every metric of the process.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The metrics; the help text of each documents it.
#[allow(
    missing_docs,
    reason = "the help texts in `new` say it, for operators as well"
)]
pub struct Metrics {
    registry: Registry,

    pub log_lines_dropped: IntCounter,
    pub commands_accepted: IntCounter,
    pub commands_busy: IntCounter,
    pub publish_batch_messages: Histogram,
    pub publish_confirm_seconds: Histogram,
    pub queue_backlog_messages: IntGauge,
    /// [`UP`], [`DOWN`] or [`BLOCKED`].
    pub queue_state: IntGauge,

    /// By `transport`: `ws`, `socketio`.
    pub sockets_open: IntGaugeVec,
    pub rooms_subscribed: IntGauge,
    pub deliveries: IntCounter,
    pub slow_readers_closed: IntCounter,
    pub holes_repaired: IntCounter,
    pub rights_revoked: IntCounter,
    pub gaps: IntCounter,

    pub worker_batch_messages: Histogram,
    pub worker_batch_seconds: Histogram,
    pub messages_stored: IntCounter,
    pub messages_duplicate: IntCounter,
    pub history_resets: IntCounter,
    /// By `code`: the error codes of the protocol.
    pub commands_refused: IntCounterVec,
    /// By `reason`: a word from a fixed set, never an error's text.
    pub dead_letters: IntCounterVec,
    pub partitions_owned: IntGauge,

    pub expired_rows: IntCounter,
    pub autoscale_target: IntGauge,
    pub autoscale_workers: IntGauge,
    pub autoscale_waiting_messages: IntGauge,
    pub autoscale_oldest_seconds: Gauge,
    pub autoscale_waiting_jobs: IntGauge,
    pub autoscale_due_soon_jobs: IntGauge,
    /// [`UP`] or [`DOWN`].
    pub autoscale_signal: IntGauge,

    /// [`UP`] or [`DOWN`].
    pub bus_state: IntGauge,
    pub store_errors: IntCounter,

    /// By `channel` and `outcome`: `sent`, `not_sent`, `unknown`, `refused`, `locked`.
    pub notify_attempts: IntCounterVec,
    /// By `channel`: 1 while its provider refuses the credentials.
    pub notify_paused: IntGaugeVec,

    /// By `limit`: `server` or `address`.
    pub connections_refused: IntCounterVec,
    /// By `method` (only those of the API, anything else as `other`) and `status`.
    pub http_requests: IntCounterVec,
    pub http_request_seconds: Histogram,
}

/// State gauges: connected and working.
pub const UP: i64 = 1;
/// State gauges: not connected.
pub const DOWN: i64 = 0;
/// State gauges: connected, but the broker blocks publishers (memory or disk alarm).
pub const BLOCKED: i64 = -1;

impl Metrics {
    fn new() -> Self {
        let m = Declare(Registry::new());
        let start = m.float_gauge(
            "chat_process_start_time_seconds",
            "When the process started, in Unix time",
        );
        start.set(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |time| time.as_secs_f64()),
        );

        let metrics = Metrics {
            log_lines_dropped: m.counter(
                "chat_log_lines_dropped_total",
                "Log lines dropped because standard error was not read",
            ),
            commands_accepted: m.counter(
                "chat_commands_accepted_total",
                "Commands the queue holds durably",
            ),
            commands_busy: m.counter(
                "chat_commands_busy_total",
                "Commands answered `busy`, backlog full or broker blocked",
            ),
            publish_batch_messages: m.histogram(
                "chat_publish_batch_messages",
                "Commands in one published batch",
                message_buckets(),
            ),
            publish_confirm_seconds: m.histogram(
                "chat_publish_confirm_seconds",
                "From publishing a batch to its confirm",
                second_buckets(),
            ),
            queue_backlog_messages: m.gauge(
                "chat_queue_backlog_messages",
                "Messages accepted and not yet stored",
            ),
            queue_state: m.gauge(
                "chat_queue_state",
                "Connection to the queue: 1 up, 0 down, -1 blocked by the broker",
            ),

            sockets_open: m.gauges("chat_sockets_open", "Open sockets", &["transport"]),
            rooms_subscribed: m.gauge(
                "chat_rooms_subscribed",
                "Rooms with at least one socket here",
            ),
            deliveries: m.counter(
                "chat_deliveries_total",
                "Events put into the send queue of a socket",
            ),
            slow_readers_closed: m
                .counter("chat_slow_readers_closed_total", "Sockets closed with 4008"),
            holes_repaired: m.counter(
                "chat_holes_repaired_total",
                "Holes in a room's events filled from cache or database",
            ),
            rights_revoked: m.counter(
                "chat_rights_revoked_total",
                "Subscriptions ended by the comparison of memberships with the store; no event had ended them before",
            ),
            gaps: m.counter(
                "chat_gaps_total",
                "Holes that could not be filled: clients got `gap`",
            ),

            worker_batch_messages: m.histogram(
                "chat_worker_batch_messages",
                "Commands in one transaction",
                message_buckets(),
            ),
            worker_batch_seconds: m.histogram(
                "chat_worker_batch_seconds",
                "From taking a batch to its acknowledgement",
                second_buckets(),
            ),
            messages_stored: m.counter("chat_messages_stored_total", "Messages stored"),
            messages_duplicate: m.counter(
                "chat_messages_duplicate_total",
                "Messages that were stored already",
            ),
            history_resets: m.counter(
                "chat_history_resets_total",
                "New epochs of the store: the database had lost history that sockets were given",
            ),
            commands_refused: m.counters(
                "chat_commands_refused_total",
                "Commands a worker refused",
                &["code"],
            ),
            dead_letters: m.counters(
                "chat_dead_letters_total",
                "Commands put into the dead-letter queue",
                &["reason"],
            ),
            partitions_owned: m.gauge("chat_partitions_owned", "Partitions this worker consumes"),

            expired_rows: m.counter(
                "chat_expired_rows_total",
                "Expired rows that this worker deleted",
            ),
            autoscale_target: m.gauge(
                "chat_autoscale_target",
                "Workers there should be, by the autoscaler's decision",
            ),
            autoscale_workers: m.gauge(
                "chat_autoscale_workers",
                "Workers this autoscaler runs, without stopping ones",
            ),
            autoscale_waiting_messages: m.gauge(
                "chat_autoscale_waiting_messages",
                "Messages waiting in the queue, as the autoscaler last measured",
            ),
            autoscale_oldest_seconds: m.float_gauge(
                "chat_autoscale_oldest_seconds",
                "Upper bound of the age of the oldest waiting message, as last measured",
            ),
            autoscale_waiting_jobs: m.gauge(
                "chat_autoscale_waiting_jobs",
                "Tasks (notifications) that are due, as the autoscaler last measured",
            ),
            autoscale_due_soon_jobs: m.gauge(
                "chat_autoscale_due_soon_jobs",
                "Delayed tasks that are due within the cool-down",
            ),
            autoscale_signal: m.gauge(
                "chat_autoscale_signal",
                "Whether the queue's figures are known: 1 yes, 0 no",
            ),

            bus_state: m.gauge("chat_bus_state", "Connection to the bus: 1 up, 0 down"),
            store_errors: m.counter(
                "chat_store_errors_total",
                "Statements or transactions the database failed",
            ),

            notify_attempts: m.counters(
                "chat_notify_attempts_total",
                "Requests to providers of e-mail and text messages, by what came of them",
                &["channel", "outcome"],
            ),
            notify_paused: m.gauges(
                "chat_notify_paused",
                "1 while a channel is paused because its provider refuses the credentials",
                &["channel"],
            ),

            connections_refused: m.counters(
                "chat_connections_refused_total",
                "Connections beyond edge.max_connections or edge.max_connections_per_address",
                &["limit"],
            ),
            http_requests: m.counters(
                "chat_http_requests_total",
                "HTTP requests answered",
                &["method", "status"],
            ),
            http_request_seconds: m.histogram(
                "chat_http_request_seconds",
                "From request to response, upgrades not included",
                second_buckets(),
            ),
            registry: m.0,
        };
        // Created at the start: a series that is absent until its first use would look like a failure.
        for transport in ["ws", "socketio"] {
            metrics.sockets_open.with_label_values(&[transport]).set(0);
        }
        for channel in ["email", "sms"] {
            metrics.notify_paused.with_label_values(&[channel]).set(0);
        }
        metrics
    }

    /// All metrics in Prometheus's text format (`text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        let dropped = DROPPED_LINES.get().map_or(0, ErrorCounter::dropped_lines);
        let new = (dropped as u64).saturating_sub(self.log_lines_dropped.get());
        self.log_lines_dropped.inc_by(new);
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| {
                tracing::error!(%error, "the metrics could not be written");
                String::new()
            })
    }
}

/// 1, 2, 4 … 16384: up to the largest batch there can be, and one beyond.
fn message_buckets() -> Vec<f64> {
    (0..15).map(|power| f64::from(1 << power)).collect()
}

/// 0.5 ms to 10 s.
fn second_buckets() -> Vec<f64> {
    vec![
        0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
    ]
}

/// Creates and registers metrics.
struct Declare(Registry);

impl Declare {
    fn register<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: prometheus::Result<M>,
    ) -> M {
        let metric = metric
            .expect("names, labels and buckets are constants above: the unit test makes them all");
        self.0
            .register(Box::new(metric.clone()))
            .expect("each name is declared once: the unit test registers them all");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::new(name, help))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.register(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_rendered_with_prefix_and_help() {
        let metrics = Metrics::new();
        metrics.commands_accepted.inc_by(3);
        metrics
            .commands_refused
            .with_label_values(&["forbidden"])
            .inc();
        metrics.dead_letters.with_label_values(&["malformed"]).inc();
        metrics
            .http_requests
            .with_label_values(&["GET", "200"])
            .inc();
        metrics.worker_batch_messages.observe(100.0);
        let text = metrics.render();
        for line in [
            "chat_commands_accepted_total 3",
            "chat_commands_refused_total{code=\"forbidden\"} 1",
            "chat_dead_letters_total{reason=\"malformed\"} 1",
            "chat_http_requests_total{method=\"GET\",status=\"200\"} 1",
            "chat_sockets_open{transport=\"ws\"} 0",
            "chat_worker_batch_messages_bucket{le=\"128\"} 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
        assert!(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .all(|line| line.starts_with("chat_")),
            "{text}"
        );
        let start = text
            .lines()
            .find_map(|line| line.strip_prefix("chat_process_start_time_seconds "))
            .unwrap();
        assert!(start.parse::<f64>().unwrap() > 1.7e9, "{start}");
    }

    #[test]
    fn dependencies_log_up_to_their_own_level() {
        let may = |target, level| may_say(target, level, LevelFilter::INFO);
        assert!(may("chat", Level::TRACE) && may("chat::edge", Level::TRACE));
        assert!(may("lapin::channel", Level::INFO) && may("sqlx::query", Level::WARN));
        for target in ["lapin::channels", "lettre", "chatty", "log", "redis"] {
            assert!(
                !may(target, Level::DEBUG) && !may(target, Level::TRACE),
                "{target}"
            );
        }
        for target in [
            "sqlx_postgres::options::parse",
            "sqlx_postgres::options::pgpass",
            "lapin::returned_messages",
        ] {
            assert!(!may(target, Level::WARN), "{target}");
            assert!(
                !may_say(target, Level::WARN, LevelFilter::TRACE),
                "{target}"
            );
        }
        assert!(may_say("lapin", Level::TRACE, LevelFilter::TRACE));
        assert!(!may_say("lapin", Level::WARN, LevelFilter::ERROR));
    }

    #[test]
    fn a_log_is_set_up_once() {
        let log = Log {
            filter: "off".into(),
            dependencies: LevelFilter::INFO,
            format: LogFormat::Json,
        };
        // Another test of this process may have set up the log before.
        let _ = init(&log);
        assert!(init(&log).is_err());
    }
}
