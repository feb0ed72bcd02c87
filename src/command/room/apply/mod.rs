//! Computes the effects of a batch of room commands: a pure function from facts and commands to changes and events,
//! independent of queue and store. It gives both stores the same numbering and makes it testable without either.

mod members;
mod messages;
mod reactions;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{RoomCommand, RoomEnvelope};
use crate::{
    command::{Outcome, Refusal},
    error::Code,
    model::{
        EventKind, FeedEvent, Member, Message, MessageId, Role, Room, RoomId, RoomKind, Seq, User,
        UserId,
    },
    store::{AddMembers, Changes, Facts, FeedEntry, ReactionKey},
};

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
    /// Edited messages that mention more users than before, and those of redelivered edits, for which this is not
    /// known.
    pub mentions_added: Vec<MessageId>,
}

/// Applies `envelopes` to `facts`, in order.
pub fn apply<'a>(facts: Facts, envelopes: impl IntoIterator<Item = &'a RoomEnvelope>) -> Applied {
    let mut batch = Batch {
        facts,
        applied: Applied::default(),
        touched: HashSet::new(),
        reactions: HashMap::new(),
    };
    for envelope in envelopes {
        let outcome = match batch.one(envelope) {
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
    /// Reactions added or removed, each with the number of its last event.
    reactions: HashMap<(ReactionKey, UserId), Seq>,
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
    fn one(&mut self, envelope: &RoomEnvelope) -> Decided {
        if let RoomCommand::Create {
            kind,
            name,
            members,
        } = &envelope.command
        {
            return self.create(envelope, *kind, name, members);
        }
        if self
            .facts
            .rooms
            .get(&envelope.room)
            .is_none_or(|r| r.deleted)
        {
            return refuse(
                Code::NotFound,
                "there is no such room, or you may not see it",
            );
        }
        match &envelope.command {
            RoomCommand::Create { .. } => unreachable!("handled above"),
            RoomCommand::Send(send) => self.send(envelope, send),
            RoomCommand::Edit { message, body } => self.edit(envelope, *message, body),
            RoomCommand::Delete { message } => self.delete(envelope, *message),
            RoomCommand::React { message, emoji, on } => self.react(envelope, *message, emoji, *on),
            RoomCommand::Rename { name } => self.rename(envelope, name),
            RoomCommand::DeleteRoom => self.delete_room(envelope),
            RoomCommand::Join => self.join(envelope),
            RoomCommand::Leave => self.leave(envelope),
            RoomCommand::SetMember { user, role } => self.set_member(envelope, *user, *role),
            RoomCommand::RemoveMember { user } => self.remove_member(envelope, *user),
            RoomCommand::Ban { user, until } => self.ban(envelope, *user, *until),
            RoomCommand::LiftBan { user } => self.lift_ban(envelope, *user),
            RoomCommand::Mute { user, until } => self.mute(envelope, *user, *until),
            RoomCommand::MarkRead { seq } => self.mark_read(envelope, *seq),
            RoomCommand::LeaveByDeletion => self.leave_by_deletion(envelope),
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
    fn writer(&self, envelope: &RoomEnvelope) -> Result<User, Refusal> {
        let member = self.member(envelope.room, envelope.actor)?;
        match member.muted_until {
            Some(until) if until > envelope.at => refuse(
                Code::Forbidden,
                &format!("you may not write in this room until {until}"),
            ),
            _ => Ok(member.user),
        }
    }

    fn at_least(&self, envelope: &RoomEnvelope, role: Role) -> Result<Role, Refusal> {
        let actor = self.member(envelope.room, envelope.actor)?;
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
    fn above(&self, envelope: &RoomEnvelope, user: UserId) -> Result<(), Refusal> {
        let role = self.at_least(envelope, Role::Admin)?;
        match self.facts.members.get(&(envelope.room, user)) {
            Some(target) if target.role >= role => refuse(
                Code::Forbidden,
                "you may not do this to someone of your own role or above",
            ),
            _ => Ok(()),
        }
    }

    fn not_banned(&self, envelope: &RoomEnvelope, user: UserId) -> Result<(), Refusal> {
        match self.facts.bans.get(&(envelope.room, user)) {
            Some(Some(until)) if *until <= envelope.at => Ok(()),
            Some(_) => refuse(Code::Forbidden, "this user is banned from the room"),
            None => Ok(()),
        }
    }

    /// Applies `rooms.add_members`; users may always add themselves.
    fn may_add(&self, envelope: &RoomEnvelope, user: UserId) -> Result<(), Refusal> {
        let allowed = match self.facts.add_members {
            AddMembers::Anyone => true,
            AddMembers::SharedRooms => self.facts.acquaintances.contains(&(envelope.actor, user)),
            AddMembers::Invitation => false,
        };
        match (allowed || user == envelope.actor, self.facts.add_members) {
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
    fn room(&mut self, envelope: &RoomEnvelope) -> &mut Room {
        self.facts
            .rooms
            .get_mut(&envelope.room)
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
        envelope: &RoomEnvelope,
        seq: Seq,
        kind: EventKind,
        message: Option<MessageId>,
        data: &str,
    ) {
        self.applied.changes.entries.push(FeedEntry {
            room: envelope.room,
            seq,
            kind,
            message,
            data: message.is_none().then(|| data.to_owned()),
            detail: None,
            at: envelope.at,
        });
        self.emit(
            envelope.room,
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
        self.finish_reactions();
        let changes = &mut self.applied.changes;
        // In primary key order, which suits the index.
        changes.new_messages.sort_by_key(|m| (m.room, m.seq));
        self.applied
    }
}
