//! The messages of a run: sender, room, body and intended time, from constant rates or from a chat log.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::args::{Load, Step};
use crate::{
    client::User,
    error::{Error, Result},
};

/// A message of the run, counted from 0.
pub(super) type MessageNo = u64;

/// The messages of a run by the indices of users and rooms, before these exist.
pub(super) struct Script {
    pub users: usize,
    pub rooms: usize,
    /// The rooms of each user.
    pub memberships: Vec<Vec<usize>>,
    /// The number of members of each room.
    members: Vec<u64>,
    pub messages: u64,
    kind: Kind,
}

enum Kind {
    /// Message `n` is sent by user `n % senders`, evenly within each step, to the sender's rooms round-robin.
    Even {
        senders: u64,
        steps: Vec<Step>,
        body: String,
    },
    Log(Vec<PlannedMessage>),
}

struct PlannedMessage {
    at: Duration,
    user: usize,
    body: String,
}

/// The intended time of message `n`, since the beginning of the run.
fn offset(steps: &[Step], mut n: MessageNo) -> Duration {
    let mut begin = Duration::ZERO;
    for (i, step) in steps.iter().enumerate() {
        if n < step.messages() || i + 1 == steps.len() {
            return begin + Duration::from_secs_f64(n as f64 / step.rate);
        }
        n -= step.messages();
        begin += step.duration;
    }
    begin
}

impl Script {
    /// # Errors
    /// A log that cannot be read.
    pub fn of(load: &Load) -> Result<Script> {
        match &load.replay {
            Some(log) => Script::read(log, load.speed),
            None => Ok(Script::even(load)),
        }
    }

    fn even(load: &Load) -> Script {
        let users = load.senders.max(load.members) as usize;
        let mut memberships = vec![Vec::new(); users];
        let steps = match load.steps.as_slice() {
            [] => vec![Step {
                rate: load.rate.into(),
                duration: load.duration,
            }],
            steps => steps.to_vec(),
        };
        for room in 0..load.rooms as usize {
            for member in 0..load.members as usize {
                memberships[(room * load.members as usize + member) % users].push(room);
            }
        }
        Script {
            users,
            rooms: load.rooms as usize,
            memberships,
            members: vec![load.members.into(); load.rooms as usize],
            messages: steps.iter().map(|step| step.messages()).sum(),
            kind: Kind::Even {
                senders: load.senders.into(),
                steps,
                body: json(&"x".repeat(load.body as usize)),
            },
        }
    }

    /// Reads a channel's log: `[HH:MM] <nick> text`; other lines are ignored. The messages of one minute are spread evenly
    /// over it.
    fn read(file: &Path, speed: f64) -> Result<Script> {
        let wrong = |why: String| Error::argument("--replay", format!("{}: {why}", file.display()));
        let text = std::fs::read(file).map_err(|e| wrong(e.to_string()))?;
        let text = String::from_utf8_lossy(&text);
        let messages: Vec<(u64, &str, &str)> = text.lines().filter_map(parse_line).collect();
        let mut users: HashMap<&str, usize> = HashMap::new();
        let mut lines = Vec::with_capacity(messages.len());
        // After midnight a log continues at 00:00.
        let (mut days, mut before, mut first) = (0, 0, None);
        for same in messages.chunk_by(|a, b| a.0 == b.0) {
            let minute = same[0].0;
            days += u64::from(minute < before);
            before = minute;
            let minute = days * 24 * 60 + minute;
            let first = *first.get_or_insert(minute);
            for (i, (_, nick, body)) in same.iter().enumerate() {
                let next = users.len();
                let seconds =
                    60.0 * ((minute - first) as f64 + i as f64 / same.len() as f64) / speed;
                lines.push(PlannedMessage {
                    at: Duration::from_secs_f64(seconds),
                    user: *users.entry(nick).or_insert(next),
                    body: json(body),
                });
            }
        }
        if lines.is_empty() {
            return Err(wrong(
                "it has no lines like `[12:34] <nick> text`".to_owned(),
            ));
        }
        Ok(Script {
            users: users.len(),
            rooms: 1,
            memberships: vec![vec![0]; users.len()],
            members: vec![users.len() as u64],
            messages: lines.len() as u64,
            kind: Kind::Log(lines),
        })
    }

    pub fn members(&self, room: usize) -> u64 {
        self.members[room]
    }

    /// The intended time of the last message, since the beginning of the run.
    pub fn duration(&self) -> Duration {
        match &self.kind {
            Kind::Even { steps, .. } => offset(steps, self.messages),
            Kind::Log(lines) => lines.last().map_or(Duration::ZERO, |line| line.at),
        }
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Minutes since midnight, nick and text. A text of nothing but spaces is not a message.
fn parse_line(line: &str) -> Option<(u64, &str, &str)> {
    let (time, rest) = line.strip_prefix('[')?.split_once("] <")?;
    let (hours, minutes) = time.split_once(':')?;
    let (nick, text) = rest.split_once("> ")?;
    let minute = hours.parse::<u64>().ok()? * 60 + minutes.parse::<u64>().ok()?;
    (!text.trim().is_empty()).then_some((minute, nick, text))
}

/// The script with its users and rooms.
pub(super) struct Plan {
    pub script: Script,
    pub users: Vec<User>,
    pub rooms: Vec<Uuid>,
    /// The intended time of the first message.
    pub started: Instant,
}

impl Plan {
    pub fn offset(&self, message: MessageNo) -> Duration {
        match &self.script.kind {
            Kind::Even { steps, .. } => offset(steps, message),
            Kind::Log(lines) => lines[message as usize].at,
        }
    }

    pub fn intended(&self, message: MessageNo) -> Instant {
        self.started + self.offset(message)
    }

    pub fn sender(&self, message: MessageNo) -> usize {
        match &self.script.kind {
            Kind::Even { senders, .. } => (message % senders) as usize,
            Kind::Log(lines) => lines[message as usize].user,
        }
    }

    /// The message's body as JSON.
    pub fn body(&self, message: MessageNo) -> &str {
        match &self.script.kind {
            Kind::Even { body, .. } => body,
            Kind::Log(lines) => &lines[message as usize].body,
        }
    }

    /// `None` for a sender without rooms.
    pub fn room(&self, message: MessageNo) -> Option<usize> {
        let rooms = &self.script.memberships[self.sender(message)];
        let index = match &self.script.kind {
            Kind::Even { senders, .. } => (message / senders) as usize,
            Kind::Log(_) => 0,
        };
        rooms.get(index % rooms.len().max(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_room_has_its_members() {
        for (rooms, members, senders) in [(10, 3, 7), (5, 10, 4), (1, 1, 1), (100, 3, 300)] {
            let load = Load {
                rooms,
                members,
                senders,
                ..Load::default()
            };
            let script = Script::even(&load);
            let mut count = vec![0; rooms as usize];
            for rooms in &script.memberships {
                rooms.iter().for_each(|room| count[*room] += 1);
            }
            assert!(
                count.iter().all(|n| *n == members),
                "{rooms} {members} {senders}: {count:?}"
            );
        }
    }

    #[test]
    fn a_step_begins_when_the_one_before_it_ends() {
        let step = |rate, seconds| Step {
            rate,
            duration: Duration::from_secs(seconds),
        };
        let steps = [step(10.0, 2), step(200.0, 1), step(10.0, 3)];
        let load = Load {
            steps: steps.to_vec(),
            ..Load::default()
        };
        let script = Script::even(&load);
        assert_eq!(script.messages, 20 + 200 + 30);
        assert_eq!(script.duration(), Duration::from_secs(6));
        let at = |n| offset(&steps, n).as_millis();
        assert_eq!(
            [0, 19, 20, 21, 219, 220, 249].map(at),
            [0, 1900, 2000, 2005, 2995, 3000, 5900]
        );
    }

    #[test]
    fn a_log_is_played_at_its_own_pace_times_speed() {
        let file = std::env::temp_dir().join(format!("{}.log", Uuid::new_v4()));
        let log = "[23:59] <ann> one\n=== bob has joined\n[23:59] <bob> two\n[00:01] <ann> three\n[00:01] <ann>  \n";
        std::fs::write(&file, log).unwrap();
        let script = Script::read(&file, 60.0).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!((script.users, script.messages), (2, 3));
        let Kind::Log(lines) = &script.kind else {
            panic!("it is a log")
        };
        let millis: Vec<_> = lines.iter().map(|line| line.at.as_millis()).collect();
        assert_eq!(millis, [0, 500, 2000]);
    }
}
