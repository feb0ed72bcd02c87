//! What a batch of room commands does: a pure function. It knows neither queue nor store: facts and commands in,
//! changes and events out. That is why both stores number rooms the same way, and why the numbering can be tested
//! without either.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{RoomCommand, RoomJob, Send, mentions};
use crate::{
    error::Code,
    job::{Outcome, Refusal},
    model::{
        EventKind, FeedEvent, Member, Message, MessageId, Reaction, Role, Room, RoomId, RoomKind,
        Seq, Timestamp, User, UserId,
    },
    protocol::{MemberEvent, MemberLeftReason, MemberView, RoomEvent, RoomView},
    store::{Changes, Facts, FeedEntry},
};

/// How many different emojis one message takes.
const MAX_REACTIONS: usize = 50;

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// One for each job, in order.
    pub outcomes: Vec<Outcome>,
    pub changes: Changes,
    /// The new events of each room, contiguous from its old head.
    pub events: BTreeMap<RoomId, Vec<FeedEvent>>,
    /// Events stored earlier whose command came again: told once more, since whoever stored them may have died
    /// before telling.
    pub repeats: Vec<(RoomId, FeedEvent)>,
    /// Who has read further in this batch, and how far.
    pub reads: BTreeMap<(RoomId, UserId), Seq>,
}

/// Decides what `jobs` do to a world of `facts`, in their order.
pub fn apply(facts: Facts, jobs: &[RoomJob]) -> Applied {
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

/// The world as it becomes: facts change as commands are applied, and `touched` remembers which rows to write.
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

    // ---- messages

    fn send(&mut self, job: &RoomJob, send: &Send) -> Decided {
        let sender = self.writer(job)?;
        if let Some(known) = self.facts.messages.get(&send.id) {
            let resource = json(known);
            let mut first = known.clone();
            first.change_seq = first.seq;
            if !self.touched.contains(&Touched::NewMessage(send.id)) {
                let event = FeedEvent {
                    seq: first.seq,
                    kind: EventKind::NewMessage,
                    data: json(&first).get().to_owned(),
                };
                self.applied.repeats.push((job.room, event));
            }
            return Ok(Some(resource));
        }
        if let Some(reply_to) = send.reply_to
            && self
                .facts
                .messages
                .get(&reply_to)
                .is_none_or(|m| m.room != job.room)
        {
            return refuse(
                Code::Invalid,
                "replyTo: there is no such message in this room",
            );
        }
        let seq = self.next_seq(job.room);
        let message = Message {
            id: send.id,
            room: job.room,
            seq,
            change_seq: seq,
            sender,
            body: send.body.clone(),
            client_msg_id: send.client_msg_id.clone(),
            reply_to: send.reply_to,
            mentions: self.mentioned(job.room, &send.body),
            reactions: Vec::new(),
            metadata: send.metadata.clone(),
            created_at: job.at,
            edited_at: None,
            deleted_at: None,
        };
        let resource = json(&message);
        self.emit(
            job.room,
            FeedEvent {
                seq,
                kind: EventKind::NewMessage,
                data: resource.get().to_owned(),
            },
        );
        self.facts.messages.insert(send.id, message);
        self.touched.insert(Touched::NewMessage(send.id));
        Ok(Some(resource))
    }

    /// The members that a body names, each once, in the order in which they are named.
    fn mentioned(&self, room: RoomId, body: &str) -> Vec<UserId> {
        let mut found = Vec::new();
        mentions::resolve(body, |name| {
            let user = *self.facts.named.get(name)?;
            // Only while they are a member: someone may have left earlier in this batch.
            let member = self.facts.members.contains_key(&(room, user));
            member.then(|| found.push(user))
        });
        let mut seen = HashSet::new();
        found.retain(|user| seen.insert(*user));
        found
    }

    fn edit(&mut self, job: &RoomJob, id: MessageId, body: &str) -> Decided {
        self.writer(job)?;
        let mut message = self.message(job.room, id)?;
        if message.sender.id != job.actor {
            return refuse(Code::Forbidden, "only its sender may edit a message");
        }
        if message.deleted_at.is_some() {
            return refuse(Code::Conflict, "this message is deleted");
        }
        if message.body == body {
            return Ok(Some(json(&message)));
        }
        message.body = body.to_owned();
        message.mentions = self.mentioned(job.room, body);
        message.edited_at = Some(job.at);
        Ok(Some(self.change_message(
            job,
            message,
            EventKind::MessageUpdated,
        )))
    }

    fn delete(&mut self, job: &RoomJob, id: MessageId) -> Decided {
        let role = self.member(job.room, job.actor)?.role;
        let mut message = self.message(job.room, id)?;
        if message.sender.id != job.actor && role < Role::Admin {
            return refuse(
                Code::Forbidden,
                "only its sender, an admin or the owner may delete a message",
            );
        }
        if message.deleted_at.is_some() {
            return Ok(Some(json(&message)));
        }
        message.body = String::new();
        message.metadata = None;
        message.mentions = Vec::new();
        message.reactions = Vec::new();
        message.deleted_at = Some(job.at);
        Ok(Some(self.change_message(
            job,
            message,
            EventKind::MessageDeleted,
        )))
    }

    fn react(&mut self, job: &RoomJob, id: MessageId, emoji: &str, on: bool) -> Decided {
        self.writer(job)?;
        let mut message = self.message(job.room, id)?;
        if message.deleted_at.is_some() {
            return refuse(Code::Conflict, "this message is deleted");
        }
        let place = message.reactions.iter().position(|r| r.emoji == emoji);
        let given = place.is_some_and(|i| message.reactions[i].users.contains(&job.actor));
        if given == on {
            return Ok(Some(json(&message)));
        }
        match (place, on) {
            (Some(i), true) => message.reactions[i].users.push(job.actor),
            (Some(i), false) => {
                message.reactions[i].users.retain(|user| *user != job.actor);
                if message.reactions[i].users.is_empty() {
                    message.reactions.remove(i);
                }
            }
            (None, _) if message.reactions.len() >= MAX_REACTIONS => {
                return refuse(
                    Code::Conflict,
                    "this message has 50 different reactions already",
                );
            }
            (None, _) => message.reactions.push(Reaction {
                emoji: emoji.to_owned(),
                users: vec![job.actor],
            }),
        }
        Ok(Some(self.change_message(
            job,
            message,
            EventKind::ReactionUpdated,
        )))
    }

    /// Gives a changed message its number and tells of it.
    fn change_message(
        &mut self,
        job: &RoomJob,
        mut message: Message,
        kind: EventKind,
    ) -> Box<RawValue> {
        let seq = self.next_seq(job.room);
        message.change_seq = seq;
        let resource = json(&message);
        self.record(job, seq, kind, Some(message.id), resource.get());
        self.touched.insert(Touched::Message(message.id));
        self.facts.messages.insert(message.id, message);
        resource
    }

    // ---- rooms

    fn create(&mut self, job: &RoomJob, kind: RoomKind, name: &str, members: &[UserId]) -> Decided {
        if let Some(room) = self.facts.rooms.get(&job.room) {
            // A direct room belongs to its two people; any other is found again by whoever made it.
            if room.deleted {
                return refuse(Code::Conflict, "this room was deleted; create another");
            }
            if kind == RoomKind::Direct || room.created_by == job.actor {
                return Ok(Some(json(&RoomView::from(room))));
            }
            return refuse(Code::Conflict, "this room exists already");
        }
        let mut people = vec![job.actor];
        for user in members {
            if !people.contains(user) {
                people.push(*user);
            }
        }
        if let Some(unknown) = people.iter().find(|u| !self.facts.users.contains_key(u)) {
            return refuse(
                Code::Invalid,
                &format!("members: there is no user {unknown}"),
            );
        }
        self.facts.rooms.insert(
            job.room,
            Room {
                id: job.room,
                kind,
                name: name.to_owned(),
                head: 0,
                created_by: job.actor,
                created_at: job.at,
                deleted: false,
            },
        );
        self.touched.insert(Touched::Room(job.room));
        for user in people {
            let role = if kind != RoomKind::Direct && user == job.actor {
                Role::Owner
            } else {
                Role::Member
            };
            self.add_member(job, user, role);
        }
        Ok(Some(json(&RoomView::from(&self.facts.rooms[&job.room]))))
    }

    fn rename(&mut self, job: &RoomJob, name: &str) -> Decided {
        self.at_least(job, Role::Admin)?;
        if self.room(job).kind == RoomKind::Direct {
            return refuse(Code::Conflict, "a direct room has no name");
        }
        if self.room(job).name != name {
            self.room(job).name = name.to_owned();
            self.room_updated(job, None);
        }
        Ok(Some(json(&RoomView::from(&*self.room(job)))))
    }

    fn delete_room(&mut self, job: &RoomJob) -> Decided {
        self.at_least(job, Role::Owner)?;
        self.room(job).deleted = true;
        self.room_updated(job, None);
        Ok(None)
    }

    fn room_updated(&mut self, job: &RoomJob, member: Option<MemberView>) {
        let seq = self.next_seq(job.room);
        let room = self.room(job);
        let data = json(&RoomEvent {
            room: room.id,
            change_seq: seq,
            name: room.name.clone(),
            kind: room.kind,
            deleted: room.deleted,
            member,
        });
        self.touched.insert(Touched::Room(job.room));
        self.record(job, seq, EventKind::RoomUpdated, None, data.get());
    }

    // ---- members

    fn join(&mut self, job: &RoomJob) -> Decided {
        let key = (job.room, job.actor);
        if !self.facts.members.contains_key(&key) {
            if self.room(job).kind != RoomKind::Public {
                return refuse(
                    Code::NotFound,
                    "there is no such room, or you may not see it",
                );
            }
            self.not_banned(job, job.actor)?;
            if !self.facts.users.contains_key(&job.actor) {
                return refuse(Code::NotFound, "this account is gone");
            }
            self.add_member(job, job.actor, Role::Member);
        }
        Ok(Some(json(&MemberView::from(&self.facts.members[&key]))))
    }

    fn leave(&mut self, job: &RoomJob) -> Decided {
        if self.room(job).kind == RoomKind::Direct {
            return refuse(Code::Conflict, "a direct room cannot be left");
        }
        let Some(member) = self.facts.members.get(&(job.room, job.actor)) else {
            if self.room(job).kind == RoomKind::Private {
                return refuse(
                    Code::NotFound,
                    "there is no such room, or you may not see it",
                );
            }
            return Ok(None);
        };
        if member.role == Role::Owner {
            return refuse(
                Code::Conflict,
                "the owner cannot leave: make another member the owner first, or delete the room",
            );
        }
        self.drop_member(job, job.actor, MemberLeftReason::Left);
        Ok(None)
    }

    fn depart(&mut self, job: &RoomJob) -> Decided {
        let Some(member) = self.facts.members.get(&(job.room, job.actor)) else {
            return Ok(None);
        };
        let heir = self.facts.heirs.get(&job.room).copied();
        let owned = member.role == Role::Owner;
        if let (true, Some(heir)) = (owned, heir) {
            self.change_role(job, heir, Role::Owner);
        }
        self.drop_member(job, job.actor, MemberLeftReason::Deleted);
        if heir.is_none() && (owned || self.room(job).kind == RoomKind::Direct) {
            self.room(job).deleted = true;
            self.room_updated(job, None);
        }
        let forgotten = (job.room, job.actor);
        self.applied.changes.forgotten.push(forgotten);
        Ok(None)
    }

    fn set_member(&mut self, job: &RoomJob, user: UserId, role: Role) -> Decided {
        let actor_role = self.at_least(job, Role::Admin)?;
        if self.room(job).kind == RoomKind::Direct {
            return refuse(Code::Conflict, "a direct room has exactly its two members");
        }
        let present = self.facts.members.get(&(job.room, user)).map(|m| m.role);
        if present == Some(role) {
            return Ok(Some(json(&MemberView::from(
                &self.facts.members[&(job.room, user)],
            ))));
        }
        // An admin adds plain members; every other change of a role is the owner's.
        if actor_role < Role::Owner && (present.is_some() || role > Role::Member) {
            return refuse(Code::Forbidden, "only the owner may give or change a role");
        }
        if user == job.actor {
            return refuse(
                Code::Conflict,
                "the owner's own role changes when another member becomes the owner",
            );
        }
        if present.is_none() {
            self.not_banned(job, user)?;
            if !self.facts.users.contains_key(&user) {
                return refuse(Code::NotFound, "there is no such user");
            }
            self.add_member(
                job,
                user,
                if role == Role::Owner {
                    Role::Member
                } else {
                    role
                },
            );
        }
        if role == Role::Owner {
            self.change_role(job, job.actor, Role::Admin);
        }
        if present.is_some() || role == Role::Owner {
            self.change_role(job, user, role);
        }
        Ok(Some(json(&MemberView::from(
            &self.facts.members[&(job.room, user)],
        ))))
    }

    fn change_role(&mut self, job: &RoomJob, user: UserId, role: Role) {
        if let Some(member) = self.facts.members.get_mut(&(job.room, user)) {
            member.role = role;
            let view = MemberView::from(&*member);
            self.touched.insert(Touched::Member(job.room, user));
            self.room_updated(job, Some(view));
        }
    }

    fn remove_member(&mut self, job: &RoomJob, user: UserId) -> Decided {
        if user == job.actor {
            return self.leave(job);
        }
        self.above(job, user)?;
        if self.facts.members.contains_key(&(job.room, user)) {
            self.drop_member(job, user, MemberLeftReason::Removed);
        }
        Ok(None)
    }

    fn ban(&mut self, job: &RoomJob, user: UserId, until: Option<Timestamp>) -> Decided {
        self.above(job, user)?;
        if user == job.actor {
            return refuse(Code::Conflict, "you cannot ban yourself");
        }
        self.facts.bans.insert((job.room, user), until);
        self.touched.insert(Touched::Ban(job.room, user));
        if self.facts.members.contains_key(&(job.room, user)) {
            self.drop_member(job, user, MemberLeftReason::Banned);
        }
        Ok(None)
    }

    fn lift_ban(&mut self, job: &RoomJob, user: UserId) -> Decided {
        self.at_least(job, Role::Admin)?;
        if self.facts.bans.remove(&(job.room, user)).is_some() {
            self.touched.insert(Touched::Ban(job.room, user));
        }
        Ok(None)
    }

    fn mute(&mut self, job: &RoomJob, user: UserId, until: Option<Timestamp>) -> Decided {
        self.above(job, user)?;
        let Some(member) = self.facts.members.get_mut(&(job.room, user)) else {
            return refuse(Code::NotFound, "this user is not a member of the room");
        };
        if member.muted_until != until {
            member.muted_until = until;
            let view = MemberView::from(&*member);
            self.touched.insert(Touched::Member(job.room, user));
            self.room_updated(job, Some(view));
        }
        Ok(Some(json(&MemberView::from(
            &self.facts.members[&(job.room, user)],
        ))))
    }

    fn mark_read(&mut self, job: &RoomJob, seq: Seq) -> Decided {
        let head = self.room(job).head;
        let mut member = self.member(job.room, job.actor)?;
        if seq > head {
            return refuse(Code::Invalid, &format!("seq: the room is at {head}"));
        }
        if seq > member.read_seq {
            member.read_seq = seq;
            self.touched.insert(Touched::Member(job.room, job.actor));
            self.applied.reads.insert((job.room, job.actor), seq);
            self.facts
                .members
                .insert((job.room, job.actor), member.clone());
        }
        Ok(Some(json(&MemberView::from(&member))))
    }

    fn add_member(&mut self, job: &RoomJob, user: UserId, role: Role) {
        let Some(who) = self.facts.users.get(&user).cloned() else {
            return;
        };
        let seq = self.next_seq(job.room);
        let member = Member {
            room: job.room,
            user: who,
            role,
            joined_at: job.at,
            // What was said before they came is not unread.
            read_seq: seq,
            muted_until: None,
        };
        self.member_event(job, seq, EventKind::MemberJoined, &member, None);
        self.touched.insert(Touched::Member(job.room, user));
        let name = member.user.username.to_lowercase();
        self.facts.named.insert(name, user);
        self.facts.members.insert((job.room, user), member);
    }

    fn drop_member(&mut self, job: &RoomJob, user: UserId, reason: MemberLeftReason) {
        if let Some(member) = self.facts.members.remove(&(job.room, user)) {
            let seq = self.next_seq(job.room);
            self.member_event(job, seq, EventKind::MemberLeft, &member, Some(reason));
            self.touched.insert(Touched::Member(job.room, user));
        }
    }

    fn member_event(
        &mut self,
        job: &RoomJob,
        seq: Seq,
        kind: EventKind,
        member: &Member,
        reason: Option<MemberLeftReason>,
    ) {
        let data = json(&MemberEvent {
            room: job.room,
            change_seq: seq,
            user: member.user.clone(),
            role: member.role,
            reason,
            by: job.actor,
            at: job.at,
        });
        self.record(job, seq, kind, None, data.get());
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

    /// The actor, if they may write here now.
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

    fn message(&self, room: RoomId, id: MessageId) -> Result<Message, Refusal> {
        match self.facts.messages.get(&id) {
            Some(message) if message.room == room => Ok(message.clone()),
            _ => refuse(Code::NotFound, "there is no such message in this room"),
        }
    }

    // ---- numbers and rows

    /// Only for a room that `one` or `create` has seen.
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

    /// Rows are written as they are at the end, each once.
    fn finish(mut self) -> Applied {
        let changes = &mut self.applied.changes;
        for touched in &self.touched {
            match touched {
                Touched::Room(id) => changes.rooms.extend(self.facts.rooms.get(id).cloned()),
                Touched::NewMessage(id) => {
                    changes
                        .new_messages
                        .extend(self.facts.messages.get(id).cloned());
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
            }
        }
        // In the order of the primary key, as an index likes it.
        changes.new_messages.sort_by_key(|m| (m.room, m.seq));
        self.applied
    }
}
