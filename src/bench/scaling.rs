//! The curve: a quiet load, a burst, quiet again, against a deployment whose workers `chat autoscale` runs. The generator
//! and its judge are those of [`super::load`]; beside them the autoscaler's `/metrics` are read, a few times a second. It
//! starts and stops nothing.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    client::failed,
    load::{self, Load, Report, Step},
    measure::{duration, process, save},
    report,
};
use crate::{
    error::{Error, Result},
    plot::{Panel, Series, stacked},
};

/// Between two readings of the metrics.
const EVERY: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Args)]
pub struct Scaling {
    /// The server, as it prints its address; several are used in turns.
    #[arg(long, default_value = "http://127.0.0.1:3000", value_delimiter = ',')]
    pub url: Vec<String>,
    /// The metrics of `chat autoscale` (metrics.port).
    #[arg(
        long,
        default_value = "http://127.0.0.1:9100/metrics",
        value_name = "URL"
    )]
    pub autoscaler: String,
    /// Messages a second before and after the burst.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub quiet: u32,
    /// Messages a second in the burst; left out, twenty times as many.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub burst: Option<u32>,
    /// How long it is quiet first.
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub before: Duration,
    /// How long the burst is.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub during: Duration,
    /// How long it is quiet then: longer than autoscale.cooldown, or nobody is seen to go.
    #[arg(long, default_value = "90s", value_parser = duration)]
    pub after: Duration,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Online members of each room.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Users that send, in turns.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub senders: u32,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub body: u32,
    /// Processes on this machine whose CPU time is told, their children's included, as NAME=PID.
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = process)]
    pub pid: Vec<(String, u32)>,
    /// Writes the result here as well, with the figures of each second and what the metrics said.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draws it.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl Scaling {
    fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.quiet.saturating_mul(20))
    }

    fn load(&self) -> Load {
        let step = |rate: u32, duration| Step {
            rate: rate.into(),
            duration,
        };
        Load {
            url: self.url.clone(),
            rooms: self.rooms,
            members: self.members,
            senders: self.senders,
            body: self.body,
            pid: self.pid.clone(),
            steps: vec![
                step(self.quiet, self.before),
                step(self.burst(), self.during),
                step(self.quiet, self.after),
            ],
            ..Load::default()
        }
    }
}

/// What the autoscaler said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Seen {
    /// Seconds since the first message was to be sent; negative before.
    pub at: f64,
    pub waiting: f64,
    pub oldest_seconds: f64,
    pub workers: f64,
    pub target: f64,
}

#[derive(Debug, Serialize)]
pub struct Curve {
    #[serde(flatten)]
    pub load: Report,
    pub most_waiting: f64,
    pub oldest_seconds: f64,
    /// Running at once: at the burst's beginning, at most, and in the end.
    pub workers_before: f64,
    pub workers_most: f64,
    pub workers_after: f64,
    /// From the burst's beginning to the most workers; `None` where there were never more than before.
    pub up_seconds: Option<f64>,
    /// From the burst's end to nothing waiting.
    pub drained_seconds: Option<f64>,
    #[serde(skip)]
    pub seen: Vec<Seen>,
}

/// Drives the load and reads the metrics beside it.
///
/// # Errors
/// Where a server refuses, or the autoscaler's metrics cannot be read at the start.
pub async fn run(scaling: &Scaling) -> Result<Curve> {
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .build()
        .map_err(Error::internal)?;
    // Better now than after the load.
    look(&client, &scaling.autoscaler).await?;
    let stop = CancellationToken::new();
    let looking = tokio::spawn({
        let (stop, url) = (stop.clone(), scaling.autoscaler.clone());
        async move {
            let mut seen = Vec::new();
            while !stop.is_cancelled() {
                // A reading that fails is a gap in the curve.
                if let Ok(found) = look(&client, &url).await {
                    seen.push((Instant::now(), found));
                }
                stop.run_until_cancelled(tokio::time::sleep(EVERY)).await;
            }
            seen
        }
    });
    let report = load::run(&scaling.load()).await;
    stop.cancel();
    let seen = looking.await.map_err(Error::internal)?;
    Ok(curve(scaling, report?, seen))
}

async fn look(client: &reqwest::Client, url: &str) -> Result<Seen> {
    let text = async {
        let answer = client.get(url).send().await?;
        answer.error_for_status()?.text().await
    };
    let text = text
        .await
        .map_err(|error| failed("the autoscaler's metrics", error))?;
    read(&text).ok_or_else(|| {
        failed(
            "the autoscaler's metrics",
            "they are not of `chat autoscale`",
        )
    })
}

/// Prometheus's text: `name value` a line.
fn read(text: &str) -> Option<Seen> {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines
            .find(|(found, _)| *found == name)?
            .1
            .trim()
            .parse()
            .ok()
    };
    Some(Seen {
        at: 0.0,
        waiting: value("chat_autoscale_waiting_messages")?,
        oldest_seconds: value("chat_autoscale_oldest_seconds")?,
        workers: value("chat_autoscale_workers")?,
        target: value("chat_autoscale_target")?,
    })
}

fn curve(scaling: &Scaling, load: Report, seen: Vec<(Instant, Seen)>) -> Curve {
    let since = |at: Instant| match at.checked_duration_since(load.started) {
        Some(after) => after.as_secs_f64(),
        None => -(load.started - at).as_secs_f64(),
    };
    let seen: Vec<Seen> = seen
        .into_iter()
        .map(|(at, seen)| Seen {
            at: since(at),
            ..seen
        })
        .filter(|seen| seen.at >= 0.0)
        .collect();
    let begin = scaling.before.as_secs_f64();
    let end = begin + scaling.during.as_secs_f64();
    let most = |value: fn(&Seen) -> f64| seen.iter().map(value).fold(0.0, f64::max);
    let before = seen.iter().rfind(|seen| seen.at <= begin);
    let workers_before = before.map_or(0.0, |seen| seen.workers);
    let workers_most = most(|seen| seen.workers);
    let reached = seen
        .iter()
        .find(|seen| seen.at >= begin && seen.workers >= workers_most);
    let drained = seen
        .iter()
        .find(|seen| seen.at >= end && seen.waiting == 0.0);
    Curve {
        most_waiting: most(|seen| seen.waiting),
        oldest_seconds: most(|seen| seen.oldest_seconds),
        workers_before,
        workers_most,
        workers_after: seen.last().map_or(0.0, |seen| seen.workers),
        up_seconds: reached
            .filter(|_| workers_most > workers_before)
            .map(|seen| seen.at - begin),
        drained_seconds: drained.map(|seen| seen.at - end),
        load,
        seen,
    }
}

/// Writes the files that `--json` and `--html` name.
///
/// # Errors
/// Where one cannot be written.
pub fn write(scaling: &Scaling, curve: &Curve) -> Result<()> {
    if let Some(file) = &scaling.json {
        let mut value = json!(curve);
        value["seconds"] = json!(curve.load.seconds);
        value["seen"] = json!(curve.seen);
        save("--json", file, &format!("{value:#}\n"))?;
    }
    if let Some(file) = &scaling.html {
        save("--html", file, &page(scaling, curve))?;
    }
    Ok(())
}

fn page(scaling: &Scaling, curve: &Curve) -> String {
    let seen = |value: fn(&Seen) -> f64| -> Vec<(f64, f64)> {
        let all = curve.seen.iter();
        all.map(|seen| (seen.at, value(seen))).collect()
    };
    let one = |name: &str, points| Panel::new(name, vec![Series::new(name, points)]);
    let panels = [
        report::rates(&curve.load),
        one("messages waiting", seen(|s| s.waiting)),
        one(
            "age of the oldest, at most, in seconds",
            seen(|s| s.oldest_seconds),
        ),
        Panel::new(
            "workers",
            vec![
                Series::steps("wanted", &seen(|s| s.target)),
                Series::steps("running", &seen(|s| s.workers)),
            ],
        ),
        report::latencies(&curve.load),
    ];
    let what = format!(
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
    report::page(
        "chat bench scaling",
        &what,
        &curve.load,
        &rows.map(|(name, value)| (name.to_owned(), value)),
        &stacked("The pool follows the load", "seconds", &panels),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_by_their_whole_names() {
        let text = "# TYPE chat_autoscale_workers gauge\nchat_autoscale_workers 3\nchat_autoscale_target 4\n\
             chat_autoscale_waiting_messages 120\nchat_autoscale_oldest_seconds 0.5\n";
        let seen = read(text).unwrap();
        assert_eq!((seen.workers, seen.target), (3.0, 4.0));
        assert_eq!((seen.waiting, seen.oldest_seconds), (120.0, 0.5));
        assert_eq!(read("chat_sockets_open 3\n"), None);
    }
}
