//! Computes the effects of a batch of room commands: a pure function from facts and commands to changes and events,
//! independent of queue and store. It gives both stores the same numbering and makes it testable without either.

mod members;
mod messages;

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{RoomCommand, RoomJob};
use crate::{
    error::Code,
    job::{Outcome, Refusal},
    model::{
        EventKind, FeedEvent, Member, Message, MessageId, Role, Room, RoomId, RoomKind, Seq, User,
        UserId,
    },
    store::{AddMembers, Changes, Facts, FeedEntry},
};

/// Maximum number of different emojis per message.
const MAX_REACTIONS: usize = 50;

/// The result of a batch.
#[derive(Debug, Default)]
pub struct Applied {
    /// One per command, in order.
    pub outcomes: Vec<Outcome>,
    pub changes: Changes,
    /// The new events of each room, contiguous from its previous head.
    pub events: BTreeMap<RoomId, Vec<FeedEvent>>,
    /// Events stored earlier whose command was redelivered. They are published again, since the worker that stored them
    /// may have crashed before it published them.
    pub repeats: Vec<(RoomId, FeedEvent)>,
    /// Read positions that advanced in this batch.
    pub reads: BTreeMap<(RoomId, UserId), Seq>,
}

/// Applies `jobs` to `facts`, in order.
pub fn apply<'a>(facts: Facts, jobs: impl IntoIterator<Item = &'a RoomJob>) -> Applied {
    let mut batch = Batch {
        facts,
        applied: Applied::default(),
        touched: HashSet::new(),
    };
    for job in jobs {
        let outcome = match batch.one(job) {
            Ok(resource) => Outcome::Done(resource),
            Err(refusal) => Outcome::Refused(refusal),
        };
        batch.applied.outcomes.push(outcome);
    }
    batch.finish()
}

type Decided = Result<Option<Box<RawValue>>, Refusal>;

/// The state during a batch: commands change the facts, and `touched` records which rows to write.
struct Batch {
    facts: Facts,
    applied: Applied,
    touched: HashSet<Touched>,
}

#[derive(PartialEq, Eq, Hash)]
enum Touched {
    Room(RoomId),
    NewMessage(MessageId),
    Message(MessageId),
    Member(RoomId, UserId),
    Ban(RoomId, UserId),
    Mute(RoomId, UserId),
}

fn refuse<T>(code: Code, message: &str) -> Result<T, Refusal> {
    Err(Refusal::new(code, message))
}

fn json(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("our own types have string keys only")
}

impl Batch {
    fn one(&mut self, job: &RoomJob) -> Decided {
        if let RoomCommand::Create {
            kind,
            name,
            members,
        } = &job.command
        {
            return self.create(job, *kind, name, members);
        }
        if self.facts.rooms.get(&job.room).is_none_or(|r| r.deleted) {
            return refuse(
                Code::NotFound,
                "there is no such room, or you may not see it",
            );
        }
        match &job.command {
            RoomCommand::Create { .. } => unreachable!("handled above"),
            RoomCommand::Send(send) => self.send(job, send),
            RoomCommand::Edit { message, body } => self.edit(job, *message, body),
            RoomCommand::Delete { message } => self.delete(job, *message),
            RoomCommand::React { message, emoji, on } => self.react(job, *message, emoji, *on),
            RoomCommand::Rename { name } => self.rename(job, name),
            RoomCommand::DeleteRoom => self.delete_room(job),
            RoomCommand::Join => self.join(job),
            RoomCommand::Leave => self.leave(job),
            RoomCommand::SetMember { user, role } => self.set_member(job, *user, *role),
            RoomCommand::RemoveMember { user } => self.remove_member(job, *user),
            RoomCommand::Ban { user, until } => self.ban(job, *user, *until),
            RoomCommand::LiftBan { user } => self.lift_ban(job, *user),
            RoomCommand::Mute { user, until } => self.mute(job, *user, *until),
            RoomCommand::MarkRead { seq } => self.mark_read(job, *seq),
            RoomCommand::Depart => self.depart(job),
        }
    }

    // ---- rights

    fn member(&self, room: RoomId, user: UserId) -> Result<Member, Refusal> {
        match self.facts.members.get(&(room, user)) {
            Some(member) => Ok(member.clone()),
            None if self
                .facts
                .rooms
                .get(&room)
                .is_some_and(|r| r.kind == RoomKind::Public) =>
            {
                refuse(
                    Code::Forbidden,
                    "you are not a member of this room; join it first",
                )
            }
            None => refuse(
                Code::NotFound,
                "there is no such room, or you may not see it",
            ),
        }
    }

    /// The actor, if they may write here at the command's time.
    fn writer(&self, job: &RoomJob) -> Result<User, Refusal> {
        let member = self.member(job.room, job.actor)?;
        match member.muted_until {
            Some(until) if until > job.at => refuse(
                Code::Forbidden,
                &format!("you may not write in this room until {until}"),
            ),
            _ => Ok(member.user),
        }
    }

    fn at_least(&self, job: &RoomJob, role: Role) -> Result<Role, Refusal> {
        let actor = self.member(job.room, job.actor)?;
        if actor.role < role {
            let who = match role {
                Role::Owner => "the owner",
                _ => "an admin or the owner",
            };
            return refuse(
                Code::Forbidden,
                &format!("only {who} of the room may do this"),
            );
        }
        Ok(actor.role)
    }

    /// An admin may act on plain members, the owner on everyone.
    fn above(&self, job: &RoomJob, user: UserId) -> Result<(), Refusal> {
        let role = self.at_least(job, Role::Admin)?;
        match self.facts.members.get(&(job.room, user)) {
            Some(target) if target.role >= role => refuse(
                Code::Forbidden,
                "you may not do this to someone of your own role or above",
            ),
            _ => Ok(()),
        }
    }

    fn not_banned(&self, job: &RoomJob, user: UserId) -> Result<(), Refusal> {
        match self.facts.bans.get(&(job.room, user)) {
            Some(Some(until)) if *until <= job.at => Ok(()),
            Some(_) => refuse(Code::Forbidden, "this user is banned from the room"),
            None => Ok(()),
        }
    }

    /// Applies `rooms.add_members`; users may always add themselves.
    fn may_add(&self, job: &RoomJob, user: UserId) -> Result<(), Refusal> {
        let allowed = match self.facts.add_members {
            AddMembers::Anyone => true,
            AddMembers::SharedRooms => self.facts.acquaintances.contains(&(job.actor, user)),
            AddMembers::Invitation => false,
        };
        match (allowed || user == job.actor, self.facts.add_members) {
            (true, _) => Ok(()),
            (false, AddMembers::Invitation) => refuse(
                Code::Forbidden,
                "nobody can be added here; ask them to join a public room",
            ),
            (false, _) => refuse(
                Code::Forbidden,
                "you can only add people with whom you share a room",
            ),
        }
    }

    fn message(&self, room: RoomId, id: MessageId) -> Result<Message, Refusal> {
        match self.facts.messages.get(&id) {
            Some(message) if message.room == room => Ok(message.clone()),
            _ => refuse(Code::NotFound, "there is no such message in this room"),
        }
    }

    // ---- numbers and rows

    /// Only for a room whose existence `one` or `create` has checked.
    fn room(&mut self, job: &RoomJob) -> &mut Room {
        self.facts
            .rooms
            .get_mut(&job.room)
            .expect("checked before any command reaches its method")
    }

    fn next_seq(&mut self, room: RoomId) -> Seq {
        let room = self
            .facts
            .rooms
            .get_mut(&room)
            .expect("checked before any command reaches its method");
        room.head += 1;
        self.applied.changes.heads.insert(room.id, room.head);
        room.head
    }

    fn emit(&mut self, room: RoomId, event: FeedEvent) {
        self.applied.events.entry(room).or_default().push(event);
    }

    fn record(
        &mut self,
        job: &RoomJob,
        seq: Seq,
        kind: EventKind,
        message: Option<MessageId>,
        data: &str,
    ) {
        self.applied.changes.entries.push(FeedEntry {
            room: job.room,
            seq,
            kind,
            message,
            data: message.is_none().then(|| data.to_owned()),
            at: job.at,
        });
        self.emit(
            job.room,
            FeedEvent {
                seq,
                kind,
                data: data.to_owned(),
            },
        );
    }

    /// Collects each touched row once, in its final state.
    fn finish(mut self) -> Applied {
        let changes = &mut self.applied.changes;
        for touched in &self.touched {
            match touched {
                Touched::Room(id) => changes.rooms.extend(self.facts.rooms.get(id).cloned()),
                Touched::NewMessage(id) => {
                    changes.new_messages.extend(self.facts.messages.remove(id));
                }
                Touched::Message(id) => {
                    if !self.touched.contains(&Touched::NewMessage(*id)) {
                        changes
                            .updated_messages
                            .extend(self.facts.messages.get(id).cloned());
                    }
                }
                Touched::Member(room, user) => match self.facts.members.get(&(*room, *user)) {
                    Some(member) => changes.members.push(member.clone()),
                    None => changes.removed_members.push((*room, *user)),
                },
                Touched::Ban(room, user) => match self.facts.bans.get(&(*room, *user)) {
                    Some(until) => changes.bans.push((*room, *user, *until)),
                    None => changes.lifted_bans.push((*room, *user)),
                },
                Touched::Mute(room, user) => match self.facts.mutes.get(&(*room, *user)) {
                    Some(until) => changes.mutes.push((*room, *user, *until)),
                    None => changes.lifted_mutes.push((*room, *user)),
                },
            }
        }
        // In primary key order, which suits the index.
        changes.new_messages.sort_by_key(|m| (m.room, m.seq));
        self.applied
    }
}
