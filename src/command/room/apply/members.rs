//! Effects of commands on rooms and their members.

use super::{Batch, Decided, Touched, json, refuse};
use crate::{
    command::room::RoomEnvelope,
    error::Code,
    model::{EventKind, Member, Role, Room, RoomKind, Seq, Timestamp, UserId},
    protocol::{MemberEvent, MemberLeftReason, MemberView, RoomEvent, RoomView},
};

impl Batch {
    pub(super) fn create(
        &mut self,
        envelope: &RoomEnvelope,
        kind: RoomKind,
        name: &str,
        members: &[UserId],
    ) -> Decided {
        if let Some(room) = self.facts.rooms.get(&envelope.room) {
            if room.deleted {
                return refuse(Code::Conflict, "this room was deleted; create another");
            }
            if kind == RoomKind::Direct && room.kind == RoomKind::Direct {
                return self.open_direct(envelope, members);
            }
            // For any other kind, the room is returned to its creator as long as they may see it.
            let is_member = self
                .facts
                .members
                .contains_key(&(envelope.room, envelope.actor));
            if room.created_by == envelope.actor && (is_member || room.kind == RoomKind::Public) {
                return Ok(Some(json(&RoomView::from(room))));
            }
            return refuse(
                Code::Conflict,
                "this room exists already; use another Idempotency-Key",
            );
        }
        let mut people = vec![envelope.actor];
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
            self.may_add(envelope, *user)?;
        }
        self.facts.rooms.insert(
            envelope.room,
            Room {
                id: envelope.room,
                kind,
                name: name.to_owned(),
                head: 0,
                created_by: envelope.actor,
                created_at: envelope.at,
                deleted: false,
            },
        );
        self.touched.insert(Touched::Room(envelope.room));
        for user in people {
            let role = if kind != RoomKind::Direct && user == envelope.actor {
                Role::Owner
            } else {
                Role::Member
            };
            self.add_member(envelope, user, role);
        }
        Ok(Some(json(&RoomView::from(
            &self.facts.rooms[&envelope.room],
        ))))
    }

    /// Reopens a direct room: a user who left becomes a member again. The other user is added only as
    /// `rooms.add_members` allows, so that leaving can be final.
    fn open_direct(&mut self, envelope: &RoomEnvelope, members: &[UserId]) -> Decided {
        for user in std::iter::once(&envelope.actor).chain(members) {
            let is_member = self.facts.members.contains_key(&(envelope.room, *user));
            let exists = self.facts.users.contains_key(user);
            if !is_member && exists && self.may_add(envelope, *user).is_ok() {
                self.add_member(envelope, *user, Role::Member);
            }
        }
        Ok(Some(json(&RoomView::from(&*self.room(envelope)))))
    }

    pub(super) fn rename(&mut self, envelope: &RoomEnvelope, name: &str) -> Decided {
        self.at_least(envelope, Role::Admin)?;
        if self.room(envelope).kind == RoomKind::Direct {
            return refuse(Code::Conflict, "a direct room has no name");
        }
        if self.room(envelope).name != name {
            self.room(envelope).name = name.to_owned();
            self.room_updated(envelope, None);
        }
        Ok(Some(json(&RoomView::from(&*self.room(envelope)))))
    }

    pub(super) fn delete_room(&mut self, envelope: &RoomEnvelope) -> Decided {
        self.at_least(envelope, Role::Owner)?;
        self.room(envelope).deleted = true;
        self.room_updated(envelope, None);
        Ok(None)
    }

    fn room_updated(&mut self, envelope: &RoomEnvelope, member: Option<MemberView>) {
        let seq = self.next_seq(envelope.room);
        let room = self.room(envelope);
        let data = json(&RoomEvent {
            room: room.id,
            change_seq: seq,
            name: room.name.clone(),
            kind: room.kind,
            deleted: room.deleted,
            member,
        });
        self.touched.insert(Touched::Room(envelope.room));
        self.record(envelope, seq, EventKind::RoomUpdated, None, data.get());
    }

    // ---- members

    pub(super) fn join(&mut self, envelope: &RoomEnvelope) -> Decided {
        let key = (envelope.room, envelope.actor);
        if !self.facts.members.contains_key(&key) {
            if self.room(envelope).kind != RoomKind::Public {
                return refuse(
                    Code::NotFound,
                    "there is no such room, or you may not see it",
                );
            }
            self.not_banned(envelope, envelope.actor)?;
            if !self.facts.users.contains_key(&envelope.actor) {
                return refuse(Code::NotFound, "this account is gone");
            }
            self.add_member(envelope, envelope.actor, Role::Member);
        }
        Ok(Some(json(&MemberView::from(&self.facts.members[&key]))))
    }

    pub(super) fn leave(&mut self, envelope: &RoomEnvelope) -> Decided {
        let Some(member) = self.facts.members.get(&(envelope.room, envelope.actor)) else {
            if self.room(envelope).kind != RoomKind::Public {
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
        self.drop_member(envelope, envelope.actor, MemberLeftReason::Left);
        Ok(None)
    }

    pub(super) fn leave_by_deletion(&mut self, envelope: &RoomEnvelope) -> Decided {
        let Some(member) = self.facts.members.get(&(envelope.room, envelope.actor)) else {
            return Ok(None);
        };
        let successor = self.facts.successors.get(&envelope.room).copied();
        let owned = member.role == Role::Owner;
        if let (true, Some(successor)) = (owned, successor) {
            self.change_role(envelope, successor, Role::Owner);
        }
        self.drop_member(envelope, envelope.actor, MemberLeftReason::Deleted);
        if successor.is_none() && (owned || self.room(envelope).kind == RoomKind::Direct) {
            self.room(envelope).deleted = true;
            self.room_updated(envelope, None);
        }
        let erased = (envelope.room, envelope.actor);
        self.applied.changes.erased.push(erased);
        Ok(None)
    }

    pub(super) fn set_member(
        &mut self,
        envelope: &RoomEnvelope,
        user: UserId,
        role: Role,
    ) -> Decided {
        let actor_role = self.at_least(envelope, Role::Admin)?;
        if self.room(envelope).kind == RoomKind::Direct {
            return refuse(Code::Conflict, "a direct room has exactly its two members");
        }
        let present = self
            .facts
            .members
            .get(&(envelope.room, user))
            .map(|m| m.role);
        if present == Some(role) {
            return Ok(Some(json(&MemberView::from(
                &self.facts.members[&(envelope.room, user)],
            ))));
        }
        // An admin adds plain members; every other role change is reserved to the owner.
        if actor_role < Role::Owner && (present.is_some() || role > Role::Member) {
            return refuse(Code::Forbidden, "only the owner may give or change a role");
        }
        if user == envelope.actor {
            return refuse(
                Code::Conflict,
                "the owner's own role changes when another member becomes the owner",
            );
        }
        if present.is_none() {
            self.not_banned(envelope, user)?;
            if !self.facts.users.contains_key(&user) {
                return refuse(Code::NotFound, "there is no such user");
            }
            self.may_add(envelope, user)?;
            self.add_member(
                envelope,
                user,
                if role == Role::Owner {
                    Role::Member
                } else {
                    role
                },
            );
        }
        if role == Role::Owner {
            self.change_role(envelope, envelope.actor, Role::Admin);
        }
        if present.is_some() || role == Role::Owner {
            self.change_role(envelope, user, role);
        }
        Ok(Some(json(&MemberView::from(
            &self.facts.members[&(envelope.room, user)],
        ))))
    }

    fn change_role(&mut self, envelope: &RoomEnvelope, user: UserId, role: Role) {
        if let Some(member) = self.facts.members.get_mut(&(envelope.room, user)) {
            member.role = role;
            let view = MemberView::from(&*member);
            self.touched.insert(Touched::Member(envelope.room, user));
            self.room_updated(envelope, Some(view));
        }
    }

    pub(super) fn remove_member(&mut self, envelope: &RoomEnvelope, user: UserId) -> Decided {
        if user == envelope.actor {
            return self.leave(envelope);
        }
        self.above(envelope, user)?;
        if self.facts.members.contains_key(&(envelope.room, user)) {
            self.drop_member(envelope, user, MemberLeftReason::Removed);
        }
        Ok(None)
    }

    pub(super) fn ban(
        &mut self,
        envelope: &RoomEnvelope,
        user: UserId,
        until: Option<Timestamp>,
    ) -> Decided {
        self.above(envelope, user)?;
        if user == envelope.actor {
            return refuse(Code::Conflict, "you cannot ban yourself");
        }
        if !self.facts.users.contains_key(&user) {
            return refuse(Code::NotFound, "there is no such user");
        }
        self.facts.bans.insert((envelope.room, user), until);
        self.touched.insert(Touched::Ban(envelope.room, user));
        if self.facts.members.contains_key(&(envelope.room, user)) {
            self.drop_member(envelope, user, MemberLeftReason::Banned);
        }
        Ok(None)
    }

    pub(super) fn lift_ban(&mut self, envelope: &RoomEnvelope, user: UserId) -> Decided {
        self.at_least(envelope, Role::Admin)?;
        if self.facts.bans.remove(&(envelope.room, user)).is_some() {
            self.touched.insert(Touched::Ban(envelope.room, user));
        }
        Ok(None)
    }

    pub(super) fn mute(
        &mut self,
        envelope: &RoomEnvelope,
        user: UserId,
        until: Option<Timestamp>,
    ) -> Decided {
        self.above(envelope, user)?;
        let Some(member) = self.facts.members.get_mut(&(envelope.room, user)) else {
            return self.mute_absent(envelope, user, until);
        };
        if member.muted_until != until {
            member.muted_until = until;
            let view = MemberView::from(&*member);
            self.touched.insert(Touched::Member(envelope.room, user));
            self.room_updated(envelope, Some(view));
        }
        Ok(Some(json(&MemberView::from(
            &self.facts.members[&(envelope.room, user)],
        ))))
    }

    /// Mutes a user who is not a member; members see it once the user joins.
    fn mute_absent(
        &mut self,
        envelope: &RoomEnvelope,
        user: UserId,
        until: Option<Timestamp>,
    ) -> Decided {
        if !self.facts.users.contains_key(&user) {
            return refuse(Code::NotFound, "there is no such user");
        }
        self.keep_mute(envelope, user, until);
        Ok(None)
    }

    /// Stores the mute of a user who is not, or no longer, a member; `None` or a past time removes it.
    fn keep_mute(&mut self, envelope: &RoomEnvelope, user: UserId, until: Option<Timestamp>) {
        let key = (envelope.room, user);
        let kept = match until.filter(|until| *until > envelope.at) {
            Some(until) => self.facts.mutes.insert(key, until) != Some(until),
            None => self.facts.mutes.remove(&key).is_some(),
        };
        if kept {
            self.touched.insert(Touched::Mute(envelope.room, user));
        }
    }

    pub(super) fn mark_read(&mut self, envelope: &RoomEnvelope, seq: Seq) -> Decided {
        let head = self.room(envelope).head;
        let mut member = self.member(envelope.room, envelope.actor)?;
        if seq > head {
            return refuse(Code::Invalid, &format!("seq: the room is at {head}"));
        }
        if seq > member.read_seq {
            member.read_seq = seq;
            self.touched
                .insert(Touched::Member(envelope.room, envelope.actor));
            self.applied
                .reads
                .insert((envelope.room, envelope.actor), seq);
            self.facts
                .members
                .insert((envelope.room, envelope.actor), member.clone());
        }
        Ok(Some(json(&MemberView::from(&member))))
    }

    fn add_member(&mut self, envelope: &RoomEnvelope, user: UserId, role: Role) {
        let Some(who) = self.facts.users.get(&user).cloned() else {
            return;
        };
        let seq = self.next_seq(envelope.room);
        let muted = self.facts.mutes.get(&(envelope.room, user)).copied();
        self.keep_mute(envelope, user, None);
        let member = Member {
            room: envelope.room,
            user: who,
            role,
            joined_at: envelope.at,
            // Earlier messages are not unread.
            read_seq: seq,
            muted_until: muted.filter(|until| *until > envelope.at),
        };
        self.member_event(envelope, seq, EventKind::MemberJoined, &member, None);
        self.touched.insert(Touched::Member(envelope.room, user));
        let name = member.user.username.to_lowercase();
        self.facts.named.insert(name, user);
        self.facts.members.insert((envelope.room, user), member);
    }

    fn drop_member(&mut self, envelope: &RoomEnvelope, user: UserId, reason: MemberLeftReason) {
        if let Some(member) = self.facts.members.remove(&(envelope.room, user)) {
            let seq = self.next_seq(envelope.room);
            self.member_event(envelope, seq, EventKind::MemberLeft, &member, Some(reason));
            self.touched.insert(Touched::Member(envelope.room, user));
            // Leaving does not end a mute. A deleted account cannot return, so its mute is dropped.
            let muted = member.muted_until;
            self.keep_mute(
                envelope,
                user,
                muted.filter(|_| reason != MemberLeftReason::Deleted),
            );
        }
    }

    fn member_event(
        &mut self,
        envelope: &RoomEnvelope,
        seq: Seq,
        kind: EventKind,
        member: &Member,
        reason: Option<MemberLeftReason>,
    ) {
        let data = json(&MemberEvent {
            room: envelope.room,
            change_seq: seq,
            user: member.user.clone(),
            role: member.role,
            reason,
            by: envelope.actor,
            at: envelope.at,
        });
        self.record(envelope, seq, kind, None, data.get());
    }
}
