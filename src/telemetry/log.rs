//! The log on standard error, written by a thread of its own.

use std::{io::IsTerminal, sync::OnceLock};

use tracing::{Level, level_filters::LevelFilter};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt};

use super::{fields::Fields, one_line};
use crate::config::{Log, LogFormat};

/// Sends the log to standard error, in colour only if that is a terminal and `NO_COLOR` is empty (no-color.org).
///
/// # Errors
/// If a log was set up before; that one stays. Tests that start many servers ignore it.
pub fn init(log: &Log) -> Result<LogThread, TryInitError> {
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
        LogFormat::Text => subscriber.with(layer.fmt_fields(Fields)).try_init()?,
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

/// Lines dropped so far because standard error was not read.
pub fn dropped_lines() -> u64 {
    DROPPED_LINES
        .get()
        .map_or(0, ErrorCounter::dropped_lines)
        .try_into()
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            requests: 0.0,
            format: LogFormat::Json,
        };
        // Another test of this process may have set up the log before.
        let _ = init(&log);
        assert!(init(&log).is_err());
    }
}
