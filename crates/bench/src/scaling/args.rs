//! The arguments of a run.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    arguments::{duration, process},
    load::{Load, Step},
};

#[derive(Debug, Clone, Args)]
pub struct Scaling {
    /// The server, as it prints its address; several are used round-robin.
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
    /// Messages a second in the burst; twenty times --quiet if left out.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub burst: Option<u32>,
    /// Length of the quiet time before the burst.
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub before: Duration,
    /// Length of the burst.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub during: Duration,
    /// Length of the quiet time after the burst: longer than autoscale.cooldown, so that workers are stopped again.
    #[arg(long, default_value = "90s", value_parser = duration)]
    pub after: Duration,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Online members of each room.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Users that send, round-robin.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub senders: u32,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub body: u32,
    /// Processes on this machine whose CPU time is reported, including their children, as NAME=PID.
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = process)]
    pub pid: Vec<(String, u32)>,
    /// Also writes the result to this file, with the figures of each second and the autoscaler's metrics.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes a page with charts.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl Scaling {
    pub(super) fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.quiet.saturating_mul(20))
    }

    pub(super) fn load(&self) -> Load {
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
