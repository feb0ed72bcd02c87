//! Runs a day of traffic through [`decide()`] with a model of workers: how many there would be, and how long messages
//! would wait. For choosing settings, and for the chart in docs/autoscaling.md. It contacts no server.
//!
//! The model works in steps of one second; the messages of a minute arrive evenly; a worker begins to store one second
//! after its start, stores the same number of messages every second, and ends at once when it is stopped.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use clap::Args;
use plot::{Panel, Series, stacked};
use serde::Serialize;

use super::decide::{Sample, Thresholds, decide};
use crate::{
    error::{Error, Result},
    output,
};

/// The window of the arrival rate, as for the edges' reports.
const RATE_SECONDS: usize = 5;
const MINUTES: usize = 24 * 60;

#[derive(Args, Debug)]
pub struct Simulate {
    /// Simulates a day of traffic (lines of `minute,messages`) with the settings in effect and starts no worker. Prints
    /// a JSON object for each minute and one for the day.
    #[arg(long, value_name = "FILE")]
    pub simulate: Option<PathBuf>,
    /// Scales the day so that its busiest minute has this many messages per second.
    #[arg(long, value_name = "RATE", requires = "simulate")]
    pub peak: Option<f64>,
    /// Messages per second that one worker stores; default: the assumed number [autoscale.messages_per_second].
    #[arg(long, value_name = "RATE", requires = "simulate")]
    pub capacity: Option<f64>,
    /// Also writes a chart of the day to this file.
    #[arg(long, value_name = "FILE", requires = "simulate")]
    pub svg: Option<PathBuf>,
}

/// Messages in each minute of a day.
#[derive(Debug, Clone, PartialEq)]
pub struct Traffic(Vec<f64>);

impl Traffic {
    /// Lines of `minute,messages`, the minute counted from midnight; omitted minutes have no messages. A heading and
    /// lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// `invalid`, with the line's number.
    pub fn parse(text: &str) -> Result<Traffic> {
        let mut minutes = vec![0.0; MINUTES];
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') || line == "minute,messages" {
                continue;
            }
            let mut read = || {
                let (minute, messages) = line.split_once(',')?;
                let minute: usize = minute.trim().parse().ok()?;
                let messages: u64 = messages.trim().parse().ok()?;
                *minutes.get_mut(minute)? = messages as f64;
                Some(())
            };
            if read().is_none() {
                return Err(Error::field(
                    "simulate",
                    format!(
                        "line {number}: expected a minute below {MINUTES} and a number of messages, as in `600,25`"
                    ),
                ));
            }
        }
        Ok(Traffic(minutes))
    }

    /// Scales the day so that the busiest minute has `rate` messages per second. A day without messages stays empty.
    pub fn with_peak(mut self, rate: f64) -> Traffic {
        let busiest = self.0.iter().copied().fold(0.0, f64::max) / 60.0;
        if busiest > 0.0 {
            for minute in &mut self.0 {
                *minute *= rate / busiest;
            }
        }
        self
    }
}

/// The result of one minute: the maximum of each figure, but the mean of the arrivals.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Minute {
    pub minute: usize,
    pub arrived_per_second: f64,
    pub waiting: u64,
    pub oldest_seconds: u64,
    pub workers: u32,
}

/// The result of the day.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Day {
    pub messages: u64,
    pub stored: u64,
    pub most_waiting: u64,
    pub oldest_seconds: u64,
    /// Seconds in which the oldest message was older than `autoscale.target_age`.
    pub late_seconds: u64,
    pub most_workers: u32,
    pub changes: u64,
    pub worker_hours: f64,
    /// The same with the largest number of workers running all day.
    pub worker_hours_at_most: f64,
    /// Seconds without any worker.
    pub asleep_seconds: u64,
}

/// The waiting messages, the oldest first.
#[derive(Default)]
struct WaitingMessages {
    /// The second of arrival, and how many of its messages are left.
    cohorts: VecDeque<(u64, f64)>,
    waiting: f64,
}

impl WaitingMessages {
    fn add(&mut self, second: u64, messages: f64) {
        if messages > 0.0 {
            self.cohorts.push_back((second, messages));
            self.waiting += messages;
        }
    }

    fn take(&mut self, most: f64) -> f64 {
        let taken = most.min(self.waiting);
        let mut left = taken;
        while let Some((_, first)) = self.cohorts.front_mut() {
            let part = first.min(left);
            *first -= part;
            left -= part;
            if *first > 1e-6 {
                break;
            }
            self.cohorts.pop_front();
        }
        self.waiting -= taken;
        if self.cohorts.is_empty() {
            self.waiting = 0.0;
        }
        taken
    }

    fn oldest(&self, second: u64) -> u64 {
        self.cohorts.front().map_or(0, |(came, _)| second - came)
    }
}

/// The whole day, each worker storing `capacity` messages a second.
pub fn play(traffic: &Traffic, settings: &Thresholds, capacity: f64) -> (Vec<Minute>, Day) {
    let (mut queue, mut day) = (WaitingMessages::default(), Day::default());
    let mut minutes = vec![Minute::default(); traffic.0.len()];
    let mut samples: Vec<Sample> = Vec::new();
    let mut recent = VecDeque::from(vec![0.0; RATE_SECONDS]);
    // Workers that were started a second ago store messages from now on, unless they have been stopped.
    let (mut wanted, mut working) = (settings.min, settings.min);
    let (mut arrived, mut stored, mut worker_seconds) = (0.0, 0.0, 0_u64);
    for (minute, (messages, seen)) in traffic.0.iter().zip(&mut minutes).enumerate() {
        seen.minute = minute;
        seen.arrived_per_second = messages / 60.0;
        for second in 0..60 {
            let second = (minute * 60 + second) as u64;
            let now = Duration::from_secs(second);
            queue.add(second, messages / 60.0);
            arrived += messages / 60.0;
            stored += queue.take(capacity * f64::from(working));
            recent.pop_front();
            recent.push_back(messages / 60.0);
            let oldest = queue.oldest(second);
            let waiting = queue.waiting.ceil() as u64;
            samples.push(Sample {
                at: now,
                workers: wanted,
                waiting: Some(waiting),
                oldest: Some(Duration::from_secs(oldest)),
                arrival: Some(recent.iter().sum::<f64>() / RATE_SECONDS as f64),
                tasks: Some(0),
                due_soon: Some(0),
            });
            if samples.len() > 8000 {
                samples.drain(..4000);
            }
            let target = decide(now, &samples, settings).target;
            worker_seconds += u64::from(wanted);
            day.asleep_seconds += u64::from(wanted == 0);
            day.late_seconds += u64::from(Duration::from_secs(oldest) > settings.target_age);
            day.changes += u64::from(target != wanted);
            working = wanted.min(target);
            wanted = target;
            seen.waiting = seen.waiting.max(waiting);
            seen.oldest_seconds = seen.oldest_seconds.max(oldest);
            seen.workers = seen.workers.max(wanted);
        }
        day.most_waiting = day.most_waiting.max(seen.waiting);
        day.oldest_seconds = day.oldest_seconds.max(seen.oldest_seconds);
        day.most_workers = day.most_workers.max(seen.workers);
    }
    day.messages = arrived.round() as u64;
    day.stored = f64::round(stored) as u64;
    day.worker_hours = worker_seconds as f64 / 3600.0;
    day.worker_hours_at_most = f64::from(day.most_workers) * traffic.0.len() as f64 / 60.0;
    (minutes, day)
}

/// The day as an SVG chart.
pub fn picture(minutes: &[Minute], day: &Day) -> String {
    let points = |value: fn(&Minute) -> f64| -> Vec<(f64, f64)> {
        let hours = minutes.iter().map(|minute| minute.minute as f64 / 60.0);
        hours.zip(minutes.iter().map(value)).collect()
    };
    let panel = |name: &str, points| Panel::new(name, vec![Series::new(name, points)]);
    let workers = Series::steps("workers", &points(|minute| f64::from(minute.workers)));
    let title = format!(
        "A day through decide(): {:.1} million messages, {:.1} worker hours instead of {:.0}",
        day.messages as f64 / 1e6,
        day.worker_hours,
        day.worker_hours_at_most
    );
    stacked(
        &title,
        "hour",
        &[
            panel(
                "messages a second",
                points(|minute| minute.arrived_per_second),
            ),
            panel(
                "messages waiting, at most",
                points(|minute| minute.waiting as f64),
            ),
            panel(
                "age of the oldest in seconds, at most",
                points(|minute| minute.oldest_seconds as f64),
            ),
            Panel::new("workers", vec![workers]),
        ],
    )
}

/// Prints the minutes and the day, and draws the chart if requested.
///
/// # Errors
/// A file that cannot be read or written, with its name.
pub fn run(file: &std::path::Path, args: &Simulate, settings: &Thresholds) -> Result<()> {
    let named = |error: std::io::Error, file: &std::path::Path| {
        Error::conflict(format!("{}: {error}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| named(error, file))?;
    let mut traffic = Traffic::parse(&text)?;
    if let Some(peak) = args.peak {
        traffic = traffic.with_peak(peak);
    }
    let capacity = args.capacity.unwrap_or(settings.messages_per_second);
    let (minutes, day) = play(&traffic, settings, capacity);
    for minute in &minutes {
        output::line(serde_json::json!(minute));
    }
    output::line(serde_json::json!(day));
    if let Some(svg) = &args.svg {
        std::fs::write(svg, picture(&minutes, &day)).map_err(|error| named(error, svg))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        autoscale::rules,
        config::{Config, Role, Sources},
    };

    const DAY: &str = include_str!("../../docs/autoscaling-day.csv");
    const PICTURE: &str = include_str!("../../docs/autoscaling-day.svg");

    /// The inputs documented in docs/autoscaling.md.
    fn documented() -> (Vec<Minute>, Day) {
        let flags = Sources::default().with_flag("autoscale.max", "8", "--max");
        let config = Config::load(&flags, Role::Tool).unwrap();
        let settings = rules(&config.autoscale, config.queue.partitions.into());
        let traffic = Traffic::parse(DAY).unwrap().with_peak(20_000.0);
        play(&traffic, &settings, 4000.0)
    }

    #[test]
    fn a_real_day_has_enough_workers_and_no_more() {
        let (minutes, day) = documented();
        assert_eq!(day.messages, day.stored, "{day:?}");
        // No worker runs after a quiet time, so the first messages wait for a start.
        assert!(day.oldest_seconds <= 5, "{day:?}");
        assert!(day.late_seconds < 500, "{day:?}");
        assert!((5..=8).contains(&day.most_workers), "{day:?}");
        assert!(day.worker_hours < day.worker_hours_at_most / 3.0, "{day:?}");
        assert!(day.asleep_seconds > 4 * 3600, "{day:?}");
        // There is always a worker while messages wait.
        let left = minutes
            .iter()
            .filter(|m| m.arrived_per_second > 0.0 && m.workers == 0);
        assert_eq!(left.count(), 0);
        // 564 minutes have messages: at most one start and one stop for each of them.
        assert!(day.changes < 2 * 564, "{day:?}");
    }

    #[test]
    fn the_picture_in_the_documents_is_this_one() {
        let (minutes, day) = documented();
        assert!(
            picture(&minutes, &day) == PICTURE,
            "docs/autoscaling-day.svg is out of date; docs/autoscaling.md has the command"
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        assert_eq!(Traffic::parse("minute,messages\n3,4\n").unwrap().0[3], 4.0);
        for bad in ["x", "1440,1", "3,-1", "3,many"] {
            let error = Traffic::parse(&format!("# a day\n{bad}\n")).unwrap_err();
            assert!(format!("{error:?}").contains("line 2: "), "{error:?}");
        }
    }
}
