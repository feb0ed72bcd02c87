//! The arguments of a run.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser};

use crate::{
    arguments::{duration, positive, process},
    wire::Transport,
};

#[derive(Debug, Clone, Args)]
pub struct Load {
    /// The server, as it prints its address; several are used round-robin.
    #[arg(long, default_value = "http://127.0.0.1:3000", value_delimiter = ',')]
    pub url: Vec<String>,
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Online members of each room.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Users that send, round-robin; each has one socket and is a member of several rooms.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub senders: u32,
    /// Messages a second, all senders together; limits.messages_per_second bounds each of them.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// How long to send, such as 30s or 2m.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub duration: Duration,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub body: u32,
    /// Plays a chat log instead, with lines such as `[12:34] <nick> text`: one room, a user for each nick.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rooms", "members", "senders", "rate", "duration", "body"])]
    pub replay: Option<PathBuf>,
    /// Speed at which the log is played: 1 is its original pace.
    #[arg(long, default_value_t = 60.0, value_parser = positive, requires = "replay")]
    pub speed: f64,
    /// Uses rooms of these partitions only, out of the number in `queue.partitions`, such as 0,1,2,3/8.
    #[arg(long, value_name = "LIST/ALL", value_parser = partitions)]
    pub partitions: Option<Partitions>,
    /// Ends when every send is answered. Messages not delivered by then do not count as lost: measures accepting alone,
    /// while no worker runs.
    #[arg(long)]
    pub accept_only: bool,
    /// Waits for a line on standard input before it sends, once everyone has joined.
    #[arg(long)]
    pub pause: bool,
    /// Instead of `rate` and `duration`: one step after the other.
    #[arg(skip)]
    pub steps: Vec<Step>,
    /// Processes on this machine whose CPU time is reported, including their children, as NAME=PID.
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = process)]
    pub pid: Vec<(String, u32)>,
    /// Also writes the result to this file, with the figures of each second.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes a page with charts: rates and latency over time, and the distribution of the latency.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl Default for Load {
    fn default() -> Self {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            load: Load,
        }
        Alone::parse_from(["bench"]).load
    }
}

/// A constant rate for some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Messages a second.
    pub rate: f64,
    pub duration: Duration,
}

impl Step {
    pub(crate) fn messages(self) -> u64 {
        (self.duration.as_secs_f64() * self.rate) as u64
    }
}

/// Some of the queue's partitions.
#[derive(Debug, Clone)]
pub struct Partitions {
    pub some: Vec<u16>,
    /// The number of all partitions.
    pub all: u16,
}

fn partitions(text: &str) -> Result<Partitions, String> {
    let read = || {
        let (some, all) = text.split_once('/')?;
        let all: u16 = all.parse().ok()?;
        let some: Option<Vec<u16>> = some.split(',').map(|n| n.parse().ok()).collect();
        Some(Partitions { some: some?, all })
    };
    read()
        .filter(|p| !p.some.is_empty() && p.some.iter().all(|n| *n < p.all))
        .ok_or_else(|| "such as 0,1,2,3/8, counted from 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_counted_from_zero() {
        let read = partitions("0,7/8").unwrap();
        assert_eq!((read.some, read.all), (vec![0, 7], 8));
        for bad in ["", "8/8", "/8", "1,2", "x/8"] {
            assert!(partitions(bad).is_err(), "{bad}");
        }
    }
}
