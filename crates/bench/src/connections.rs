//! Many sockets: the arguments and the setup that the connect and the idle benchmark share.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use serde::de::IgnoredAny;
use uuid::Uuid;

use crate::{
    arguments::process,
    client::{Socket, Target, User},
    error::Result,
    measure::{histogram, note, progress},
    wire::{Empty, JoinRoom, Transport},
};

#[derive(Debug, Clone, Args)]
pub struct Connections {
    /// The server, as it prints its address.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub url: String,
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    /// Sockets to open.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Users that own them, round-robin.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// Rooms that each socket joins.
    #[arg(long, default_value_t = 1)]
    pub join: u32,
    /// Sockets in each room.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Sockets being opened at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub at_once: u32,
    /// Only WebSocket handshakes, against a server without users, such as `chat bench baseline serve`.
    #[arg(long, alias = "bare")]
    pub baseline: bool,
    /// Processes on this machine whose CPU time is reported, including their children, as NAME=PID. `idle` needs the
    /// server first: its memory is measured.
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = process)]
    pub pid: Vec<(String, u32)>,
}

/// The users and rooms of a run.
pub(crate) struct Setup<'a> {
    options: &'a Connections,
    pub target: Target,
    pub users: Vec<User>,
    pub rooms: Vec<Uuid>,
}

/// The result of opening all sockets.
pub(crate) struct Opened {
    pub sockets: Vec<Socket>,
    pub failures: u32,
    /// Microseconds for each socket that was opened.
    pub took: Histogram<u64>,
    pub elapsed: Duration,
}

impl<'a> Setup<'a> {
    /// Registers the users, creates the rooms and makes the users their members.
    pub async fn new(options: &'a Connections) -> Result<Setup<'a>> {
        let target = Target::new(&options.url)?;
        let mut setup = Setup {
            options,
            target,
            users: Vec::new(),
            rooms: Vec::new(),
        };
        if options.baseline {
            return Ok(setup);
        }
        let bar = progress("registering users", options.users.into());
        setup.users = stream::iter(0..options.users)
            .map(|_| setup.target.register())
            .buffered(8)
            .inspect(|_| bar.inc(1))
            .try_collect()
            .await?;
        bar.finish();
        let count = match options.join {
            0 => 0,
            join => {
                let joins = u64::from(options.connections) * u64::from(join);
                joins.div_ceil(options.members.into())
            }
        };
        let bar = progress("making rooms", count);
        setup.rooms = stream::iter(0..count as usize)
            .map(|room| {
                let owner = &setup.users[room % setup.users.len()];
                setup.target.create_room(&owner.token)
            })
            .buffered(16)
            .inspect(|_| bar.inc(1))
            .try_collect()
            .await?;
        bar.finish();
        setup.make_members().await?;
        Ok(setup)
    }

    /// Makes everyone a member before the sockets open, as after the restart of an edge: becoming a member is a write.
    async fn make_members(&self) -> Result<()> {
        let all = (0..self.options.connections).flat_map(|number| {
            let rooms = self.rooms_of(number as usize);
            rooms.map(move |room| (room, number as usize % self.users.len()))
        });
        let pairs: BTreeSet<(Uuid, usize)> = all.collect();
        let bar = progress("making members", pairs.len() as u64);
        stream::iter(pairs)
            .map(|(room, user)| async move {
                let path = format!("/v1/rooms/{room}/join");
                let token = Some(self.users[user].token.as_str());
                self.target
                    .post::<IgnoredAny>(&path, token, &Empty {})
                    .await
            })
            .buffer_unordered(64)
            .inspect(|_| bar.inc(1))
            .try_for_each(|_| async { Ok(()) })
            .await?;
        bar.finish();
        Ok(())
    }

    /// The rooms of a socket. For each of its `join` rooms, `members` consecutive sockets share one.
    fn rooms_of(&self, number: usize) -> impl Iterator<Item = Uuid> {
        let connections = self.options.connections as usize;
        let members = self.options.members as usize;
        (0..self.options.join as usize).map(move |join| {
            let room = (number + join * connections) / members;
            self.rooms[room % self.rooms.len()]
        })
    }

    async fn open(&self, number: u32) -> Result<Socket> {
        let transport = self.options.transport;
        if self.options.baseline {
            return Socket::open_plain(&self.target, transport).await;
        }
        let number = number as usize;
        let user = &self.users[number % self.users.len()];
        let mut socket = Socket::open(&self.target, &user.token, transport).await?;
        for (id, room) in (1..).zip(self.rooms_of(number)) {
            socket.request(id, "joinRoom", &JoinRoom { room }).await?;
        }
        Ok(socket)
    }

    /// Opens all sockets, `--at-once` of them at the same time. A socket that fails is counted.
    pub async fn open_all(&self) -> Opened {
        let bar = progress("connecting", self.options.connections.into());
        let mut took = histogram(3);
        let started = Instant::now();
        let mut opening = stream::iter(0..self.options.connections)
            .map(|number| async move {
                let started = Instant::now();
                (self.open(number).await, started.elapsed())
            })
            .buffer_unordered(self.options.at_once as usize);
        let (mut sockets, mut failures) = (Vec::new(), 0);
        while let Some((socket, elapsed)) = opening.next().await {
            bar.inc(1);
            match socket {
                Ok(socket) => {
                    took.saturating_record(elapsed.as_micros() as u64);
                    sockets.push(socket);
                }
                Err(error) => {
                    if failures == 0 {
                        note(format_args!("the first failure: {}", error.chain()));
                    }
                    failures += 1;
                }
            }
        }
        let elapsed = started.elapsed();
        bar.finish();
        Opened {
            sockets,
            failures,
            took,
            elapsed,
        }
    }
}
