//! Effects of commands on rooms and their members.

use super::{Batch, Decided, Touched, json, refuse};
use crate::{
    error::Code,
    job::room::RoomJob,
    model::{EventKind, Member, Role, Room, RoomKind, Seq, Timestamp, UserId},
    protocol::{MemberEvent, MemberLeftReason, MemberView, RoomEvent, RoomView},
};

impl Batch {
    pub(super) fn create(
        &mut self,
        job: &RoomJob,
        kind: RoomKind,
        name: &str,
        members: &[UserId],
    ) -> Decided {
        if let Some(room) = self.facts.rooms.get(&job.room) {
            if room.deleted {
                return refuse(Code::Conflict, "this room was deleted; create another");
            }
            if kind == RoomKind::Direct && room.kind == RoomKind::Direct {
                return self.open_direct(job, members);
            }
            // For any other kind, the room is returned to its creator as long as they may see it.
            let is_member = self.facts.members.contains_key(&(job.room, job.actor));
            if room.created_by == job.actor && (is_member || room.kind == RoomKind::Public) {
                return Ok(Some(json(&RoomView::from(room))));
            }
            return refuse(
                Code::Conflict,
                "this room exists already; use another Idempotency-Key",
            );
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
        for user in &people {
            self.may_add(job, *user)?;
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

    /// Reopens a direct room: a user who left becomes a member again. The other user is added only as
    /// `rooms.add_members` allows, so that leaving can be final.
    fn open_direct(&mut self, job: &RoomJob, members: &[UserId]) -> Decided {
        for user in std::iter::once(&job.actor).chain(members) {
            let is_member = self.facts.members.contains_key(&(job.room, *user));
            let exists = self.facts.users.contains_key(user);
            if !is_member && exists && self.may_add(job, *user).is_ok() {
                self.add_member(job, *user, Role::Member);
            }
        }
        Ok(Some(json(&RoomView::from(&*self.room(job)))))
    }

    pub(super) fn rename(&mut self, job: &RoomJob, name: &str) -> Decided {
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

    pub(super) fn delete_room(&mut self, job: &RoomJob) -> Decided {
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

    pub(super) fn join(&mut self, job: &RoomJob) -> Decided {
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

    pub(super) fn leave(&mut self, job: &RoomJob) -> Decided {
        let Some(member) = self.facts.members.get(&(job.room, job.actor)) else {
            if self.room(job).kind != RoomKind::Public {
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

    pub(super) fn depart(&mut self, job: &RoomJob) -> Decided {
        let Some(member) = self.facts.members.get(&(job.room, job.actor)) else {
            return Ok(None);
        };
        let heir = self.facts.successors.get(&job.room).copied();
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

    pub(super) fn set_member(&mut self, job: &RoomJob, user: UserId, role: Role) -> Decided {
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
        // An admin adds plain members; every other role change is reserved to the owner.
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
            self.may_add(job, user)?;
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

    pub(super) fn remove_member(&mut self, job: &RoomJob, user: UserId) -> Decided {
        if user == job.actor {
            return self.leave(job);
        }
        self.above(job, user)?;
        if self.facts.members.contains_key(&(job.room, user)) {
            self.drop_member(job, user, MemberLeftReason::Removed);
        }
        Ok(None)
    }

    pub(super) fn ban(&mut self, job: &RoomJob, user: UserId, until: Option<Timestamp>) -> Decided {
        self.above(job, user)?;
        if user == job.actor {
            return refuse(Code::Conflict, "you cannot ban yourself");
        }
        if !self.facts.users.contains_key(&user) {
            return refuse(Code::NotFound, "there is no such user");
        }
        self.facts.bans.insert((job.room, user), until);
        self.touched.insert(Touched::Ban(job.room, user));
        if self.facts.members.contains_key(&(job.room, user)) {
            self.drop_member(job, user, MemberLeftReason::Banned);
        }
        Ok(None)
    }

    pub(super) fn lift_ban(&mut self, job: &RoomJob, user: UserId) -> Decided {
        self.at_least(job, Role::Admin)?;
        if self.facts.bans.remove(&(job.room, user)).is_some() {
            self.touched.insert(Touched::Ban(job.room, user));
        }
        Ok(None)
    }

    pub(super) fn mute(
        &mut self,
        job: &RoomJob,
        user: UserId,
        until: Option<Timestamp>,
    ) -> Decided {
        self.above(job, user)?;
        let Some(member) = self.facts.members.get_mut(&(job.room, user)) else {
            return self.mute_absent(job, user, until);
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

    /// Mutes a user who is not a member; members see it once the user joins.
    fn mute_absent(&mut self, job: &RoomJob, user: UserId, until: Option<Timestamp>) -> Decided {
        if !self.facts.users.contains_key(&user) {
            return refuse(Code::NotFound, "there is no such user");
        }
        self.keep_mute(job, user, until);
        Ok(None)
    }

    /// Stores the mute of a user who is not, or no longer, a member; `None` or a past time removes it.
    fn keep_mute(&mut self, job: &RoomJob, user: UserId, until: Option<Timestamp>) {
        let key = (job.room, user);
        let kept = match until.filter(|until| *until > job.at) {
            Some(until) => self.facts.mutes.insert(key, until) != Some(until),
            None => self.facts.mutes.remove(&key).is_some(),
        };
        if kept {
            self.touched.insert(Touched::Mute(job.room, user));
        }
    }

    pub(super) fn mark_read(&mut self, job: &RoomJob, seq: Seq) -> Decided {
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
        let muted = self.facts.mutes.get(&(job.room, user)).copied();
        self.keep_mute(job, user, None);
        let member = Member {
            room: job.room,
            user: who,
            role,
            joined_at: job.at,
            // Earlier messages are not unread.
            read_seq: seq,
            muted_until: muted.filter(|until| *until > job.at),
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
            // Leaving does not end a mute. A deleted account cannot return, so its mute is dropped.
            let muted = member.muted_until;
            self.keep_mute(
                job,
                user,
                muted.filter(|_| reason != MemberLeftReason::Deleted),
            );
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
}
