//! The log on standard error, and every Prometheus metric, declared here once (those of the process itself in
//! `process.rs`). Labels must never contain personal data: no user names, message bodies or addresses.

mod declare;
mod exposition;
mod fields;
mod log;
mod one_line;
mod process;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::{
    LazyLock,
    atomic::{AtomicBool, Ordering},
};

use prometheus::{
    Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};
use tracing_subscriber::util::TryInitError;

use self::declare::{Declare, Description, delivery_buckets, message_buckets, second_buckets};
pub use self::{
    exposition::{Labelled, include},
    log::LogThread,
    watch::{BLOCKED, DOWN, Dependency, PoolUse, UP, watch_pool, watch_state},
};
use crate::config::Log;

/// Sends the log to standard error, in colour only if that is a terminal and `NO_COLOR` is empty (no-color.org).
///
/// # Errors
/// If a log was set up before; that one stays. Tests that start many servers ignore it.
pub fn init(log: &Log) -> Result<LogThread, TryInitError> {
    // The start time is recorded when the metrics are first used.
    LazyLock::force(&METRICS);
    log::init(log)
}

/// Version, commit and compiler of the program.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    pub version: &'static str,
    /// The commit, or `unknown`.
    pub commit: &'static str,
    /// The compiler's version.
    pub rustc: &'static str,
}

/// Sets `chat_build_info`.
pub fn built_from(build: Build) {
    metrics()
        .build_info
        .with_label_values(&[build.version, build.commit, build.rustc])
        .set(1);
}

/// All metrics of this process and of those that [`include()`] added, in Prometheus's text format (`text/plain;
/// version=0.0.4`).
pub async fn exposition() -> String {
    exposition::with_others(|| metrics().render()).await
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
    described: Vec<Description>,
    process: process::Process,
    is_autoscaler: AtomicBool,
    build_info: IntGaugeVec,

    pub log_lines_dropped: IntCounter,
    pub commands_accepted: IntCounter,
    pub commands_busy: IntCounter,
    pub publish_batch_messages: Histogram,
    pub publish_confirm_seconds: Histogram,
    pub queue_backlog_messages: IntGauge,
    /// [`UP`], [`DOWN`] or [`BLOCKED`]. Read from [`watch_state`], as are the other states.
    queue_state: IntGaugeVec,

    /// By `transport`: `ws`, `socketio`.
    pub sockets_open: IntGaugeVec,
    pub rooms_subscribed: IntGauge,
    pub deliveries: IntCounter,
    pub delivery_seconds: Histogram,
    pub slow_readers_closed: IntCounter,
    pub holes_repaired: IntCounter,
    pub rights_revoked: IntCounter,
    pub gaps: IntCounter,

    pub worker_batch_messages: Histogram,
    pub worker_batch_seconds: Histogram,
    pub worker_wait_seconds: Histogram,
    /// By `stage`: `store`, `publish`, `finish`.
    pub worker_stage_seconds: HistogramVec,
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
    pub autoscale_worker_scrapes_failed: IntCounter,

    /// [`UP`] or [`DOWN`].
    bus_state: IntGaugeVec,
    /// [`UP`] or [`DOWN`].
    store_state: IntGaugeVec,
    pub store_errors: IntCounter,

    /// By `pool` and `state`: `in_use`, `idle`. Read from [`watch_pool`], as is the maximum.
    pool_connections: IntGaugeVec,
    /// By `pool`.
    pool_max_connections: IntGaugeVec,
    /// By `pool`: `postgres`, `redis`, `sqlite` (its one write connection).
    pub pool_wait_seconds: HistogramVec,
    /// By `pool`.
    pub pool_timeouts: IntCounterVec,

    /// By `channel` and `outcome`: `sent`, `not_sent`, `unknown`, `refused`, `locked`.
    pub notify_attempts: IntCounterVec,
    /// By `channel`: 1 while its provider refuses the credentials.
    pub notify_paused: IntGaugeVec,

    /// By `limit`: `server` or `address`.
    pub connections_refused: IntCounterVec,
    /// By `reason`: `wrong_password`, `limited`, `bad_token`.
    pub logins_failed: IntCounterVec,
    /// By `method` (those of the API, anything else as `other`), `route` (the path's template, `other` for a path that
    /// is none) and `status`.
    pub http_requests: IntCounterVec,
    /// By `method` and `route`, as above.
    pub http_request_seconds: HistogramVec,
}

/// The metrics that only `chat autoscale` has begin with this.
const OF_AUTOSCALERS: &str = "chat_autoscale_";

impl Metrics {
    fn new() -> Self {
        let m = Declare::default();
        let process = process::Process::new(&m);
        let mut metrics = Metrics {
            build_info: m.gauges(
                "chat_build_info",
                "Always 1: the version, the commit and the compiler of this build",
                &["version", "commit", "rustc"],
            ),
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
            queue_state: m.gauges(
                "chat_queue_state",
                "Connection to the queue: 1 up, 0 down, -1 blocked by the broker",
                &[],
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
            delivery_seconds: m.histogram(
                "chat_delivery_seconds",
                "From the acceptance of a new message by an edge to the send queues of this edge's sockets, once per message and edge; by the clocks of the two edges, so a difference between them is part of it",
                delivery_buckets(),
            ),
            slow_readers_closed: m
                .counter("chat_slow_readers_closed_total", "Sockets closed with 4008"),
            holes_repaired: m.counter(
                "chat_holes_repaired_total",
                "Missing ranges of a room's events, filled from cache or database",
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
            worker_wait_seconds: m.histogram(
                "chat_worker_wait_seconds",
                "From the acceptance of a batch's first room command by an edge to its worker; by the clocks of both",
                delivery_buckets(),
            ),
            worker_stage_seconds: m.histograms(
                "chat_worker_stage_seconds",
                "Parts of a batch's time: store (transactions), publish (to the bus), finish (notification tasks and dead letters)",
                &["stage"],
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
            autoscale_worker_scrapes_failed: m.counter(
                "chat_autoscale_worker_scrapes_failed_total",
                "Reads of a worker's metrics that failed or took too long; its series are absent from that answer",
            ),

            bus_state: m.gauges("chat_bus_state", "Connection to the bus: 1 up, 0 down", &[]),
            store_state: m.gauges(
                "chat_store_state",
                "Whether the database answers: 1 yes, 0 no; checked every 2 s",
                &[],
            ),
            store_errors: m.counter(
                "chat_store_errors_total",
                "Statements or transactions the database failed",
            ),

            pool_connections: m.gauges(
                "chat_pool_connections",
                "Open connections of a pool, by state: in_use, idle",
                &["pool", "state"],
            ),
            pool_max_connections: m.gauges(
                "chat_pool_max_connections",
                "Connections that a pool may open (database.max_connections, redis.pool)",
                &["pool"],
            ),
            pool_wait_seconds: m.histograms(
                "chat_pool_wait_seconds",
                "How long a call waited for a connection of the pool",
                &["pool"],
                second_buckets(),
            ),
            pool_timeouts: m.counters(
                "chat_pool_timeouts_total",
                "Calls that got no connection of the pool in time",
                &["pool"],
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
            logins_failed: m.counters(
                "chat_logins_failed_total",
                "Logins that failed, by reason: wrong_password, limited (too many attempts), bad_token (a refresh token that is not valid)",
                &["reason"],
            ),
            http_requests: m.counters(
                "chat_http_requests_total",
                "HTTP requests answered; route is the path's template, or other",
                &["method", "route", "status"],
            ),
            http_request_seconds: m.histograms(
                "chat_http_request_seconds",
                "From request to response, upgrades not included",
                &["method", "route"],
                second_buckets(),
            ),
            process,
            is_autoscaler: AtomicBool::new(false),
            registry: Registry::new(),
            described: Vec::new(),
        };
        (metrics.registry, metrics.described) = m.finish();
        // Created at the start: a series that is absent until its first use would look like a failure.
        for transport in ["ws", "socketio"] {
            metrics.sockets_open.with_label_values(&[transport]).set(0);
        }
        for channel in ["email", "sms"] {
            metrics.notify_paused.with_label_values(&[channel]).set(0);
        }
        for reason in ["wrong_password", "limited", "bad_token"] {
            metrics.logins_failed.with_label_values(&[reason]);
        }
        metrics
    }

    /// Shows the metrics of an autoscaler. In other processes their zeros would look like a failure.
    pub fn show_autoscaler(&self) {
        self.is_autoscaler.store(true, Ordering::Relaxed);
    }

    /// All metrics in Prometheus's text format (`text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        let new = log::dropped_lines().saturating_sub(self.log_lines_dropped.get());
        self.log_lines_dropped.inc_by(new);
        self.process.update();
        self.read_watched();
        let mut families = self.registry.gather();
        if !self.is_autoscaler.load(Ordering::Relaxed) {
            families.retain(|family| !family.name().starts_with(OF_AUTOSCALERS));
        }
        TextEncoder::new()
            .encode_to_string(&families)
            .unwrap_or_else(|error| {
                tracing::error!(%error, "the metrics could not be written");
                String::new()
            })
    }

    /// The states and pools that their owners registered. A process without such a connection has no series of it.
    fn read_watched(&self) {
        let states = watch::states();
        for (of, gauge) in [
            (Dependency::Queue, &self.queue_state),
            (Dependency::Bus, &self.bus_state),
            (Dependency::Store, &self.store_state),
        ] {
            match states.get(&of) {
                Some(state) => gauge.with_label_values::<&str>(&[]).set(*state),
                None => gauge.reset(),
            }
        }
        for (pool, used) in watch::pools() {
            let connections = |state| self.pool_connections.with_label_values(&[pool, state]);
            connections("in_use").set(used.in_use as i64);
            connections("idle").set(used.idle as i64);
            let max = self.pool_max_connections.with_label_values(&[pool]);
            max.set(used.max as i64);
        }
    }

    /// Every metric, in the order of declaration.
    pub fn described(&self) -> &[Description] {
        &self.described
    }
}
