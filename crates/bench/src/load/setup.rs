//! The users, rooms and sockets of a run, before anything is sent.

use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use uuid::Uuid;

use super::{
    args::{Load, Partitions},
    frames::head,
    plan::Script,
};
use crate::{
    client::{Socket, Target, User},
    error::{Result, failed},
    judge::Seq,
    measure::progress,
    wire::JoinRoom,
};

/// The partition of a room out of a number of partitions, as the server assigns it.
pub type PartitionOf = fn(Uuid, u16) -> u16;

/// Users registered, rooms created and sockets opened at the same time.
const AT_ONCE: usize = 32;

pub(super) struct Setup {
    pub users: Vec<User>,
    pub rooms: Vec<Uuid>,
    /// One for each user.
    pub members: Vec<Member>,
}

/// A user's socket, and the rooms that it has joined, as index and head.
pub(super) struct Member {
    pub socket: Socket,
    pub joined: Vec<(usize, Seq)>,
}

impl Setup {
    /// Registers the users, creates the rooms, opens the sockets and joins.
    pub async fn new(load: &Load, script: &Script, partition_of: PartitionOf) -> Result<Setup> {
        let targets = load.url.iter().map(|url| Target::new(url));
        let targets: Vec<Target> = targets.collect::<Result<_>>()?;
        let target = |i: usize| &targets[i % targets.len()];

        let bar = progress("registering users", script.users as u64);
        let users: Vec<User> = stream::iter(0..script.users)
            .map(|i| counted(&bar, target(i).register()))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        bar.finish();

        let bar = progress("making rooms", script.rooms as u64);
        let owners = first_members(script);
        let only = load.partitions.as_ref();
        let rooms: Vec<Uuid> = stream::iter(0..script.rooms)
            .map(|room| {
                let owner = &users[owners[room]].token;
                counted(&bar, create_room(target(room), owner, only, partition_of))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        bar.finish();

        let bar = progress("joining", users.len() as u64);
        let members = users.iter().zip(&script.memberships).enumerate();
        let members: Vec<Member> = stream::iter(members)
            .map(|(i, (user, memberships))| {
                counted(&bar, join(target(i), user, load, memberships, &rooms))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        bar.finish();
        Ok(Setup {
            users,
            rooms,
            members,
        })
    }
}

/// A member of each room, who creates it.
fn first_members(script: &Script) -> Vec<usize> {
    let mut owners = vec![0; script.rooms];
    for (user, rooms) in script.memberships.iter().enumerate().rev() {
        rooms.iter().for_each(|room| owners[*room] = user);
    }
    owners
}

/// Creates rooms until one is in one of the partitions.
async fn create_room(
    target: &Target,
    owner: &str,
    only: Option<&Partitions>,
    partition_of: PartitionOf,
) -> Result<Uuid> {
    loop {
        let room = target.create_room(owner).await?;
        match only {
            Some(Partitions { some, all }) if !some.contains(&partition_of(room, *all)) => {}
            _ => return Ok(room),
        }
    }
}

async fn join(
    target: &Target,
    user: &User,
    load: &Load,
    memberships: &[usize],
    rooms: &[Uuid],
) -> Result<Member> {
    let mut socket = Socket::open(target, &user.token, load.transport).await?;
    let mut joined = Vec::new();
    for (id, index) in (1..).zip(memberships) {
        let room = rooms[*index];
        let answer = socket.request(id, "joinRoom", &JoinRoom { room }).await?;
        let head = head(&answer).ok_or_else(|| failed("joinRoom", answer.as_str()))?;
        joined.push((*index, head));
    }
    Ok(Member { socket, joined })
}

async fn counted<T>(bar: &ProgressBar, step: impl Future<Output = Result<T>>) -> Result<T> {
    let result = step.await;
    bar.inc(1);
    result
}
