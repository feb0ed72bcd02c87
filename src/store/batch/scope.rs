//! What a batch reads: the scope that it asks for, and the facts that it gets.

use std::collections::{BTreeSet, HashMap, HashSet};

pub use crate::config::AddMembers;
use crate::model::{Member, Message, MessageId, Room, RoomId, Timestamp, User, UserId};

/// What a batch of room commands needs to know, collected before anything is locked.
#[derive(Debug, Default, Clone)]
pub struct Scope {
    /// Locked in id order for the whole transaction.
    pub rooms: BTreeSet<RoomId>,
    /// Messages that may exist: ids about to be edited, deleted, replied to.
    pub messages: HashSet<MessageId>,
    /// Ids about to be stored; they may exist if their commands come again.
    pub new_messages: HashSet<MessageId>,
    /// Membership and ban of these.
    pub members: HashSet<(RoomId, UserId)>,
    /// Users whose names are needed although they are not members.
    pub users: HashSet<UserId>,
    /// Members to be found by user name, in lower case.
    pub named: HashSet<(RoomId, String)>,
    /// Members whose accounts are about to be deleted: their successors are looked for.
    pub successors: HashSet<(RoomId, UserId)>,
    /// The actor and someone who is to be added: are both members of any one room that is not deleted?
    pub acquaintances: HashSet<(UserId, UserId)>,
}

impl Scope {
    /// Nothing is to be read.
    pub fn is_empty(&self) -> bool {
        let Scope {
            rooms,
            messages,
            new_messages,
            members,
            users,
            named,
            successors,
            acquaintances,
        } = self;
        rooms.is_empty()
            && messages.is_empty()
            && new_messages.is_empty()
            && members.is_empty()
            && users.is_empty()
            && named.is_empty()
            && successors.is_empty()
            && acquaintances.is_empty()
    }
}

/// What is true of a [`Scope`]: while its rooms are locked, or at the time of a
/// [preview](crate::store::BatchWrites::preview).
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// Deleted rooms are there too, with `deleted` set.
    pub rooms: HashMap<RoomId, Room>,
    /// With `change_seq` as stored.
    pub messages: HashMap<MessageId, Message>,
    pub members: HashMap<(RoomId, UserId), Member>,
    /// Every user named in the scope whose account was not deleted, members included. Those of [`Scope::users`] stay
    /// so until the transaction ends.
    pub users: HashMap<UserId, User>,
    /// Banned users, and until when; `None` is for ever.
    pub bans: HashMap<(RoomId, UserId), Option<Timestamp>>,
    /// Mutes of users who are not members, and until when they last. A member's mute is in [`Member::muted_until`].
    pub mutes: HashMap<(RoomId, UserId), Timestamp>,
    /// Those of [`Scope::acquaintances`] who are members of a common room.
    pub acquaintances: HashSet<(UserId, UserId)>,
    /// `rooms.add_members`; not read from the store.
    pub add_members: AddMembers,
    /// The members of [`Scope::named`], by user name in lower case. They are in `members` too.
    pub named: HashMap<String, UserId>,
    /// The successor in each room of [`Scope::successors`] that its member owns, or that is a direct room: the admin,
    /// or else the member, with the longest membership among the accounts that are not deleted. They are in `members`
    /// too.
    pub successors: HashMap<RoomId, UserId>,
}

impl Facts {
    /// Adds what a preview of other members or messages found.
    pub fn add(&mut self, other: Facts) {
        self.rooms.extend(other.rooms);
        self.messages.extend(other.messages);
        self.members.extend(other.members);
        self.named.extend(other.named);
    }

    pub(super) fn add_members(&mut self, members: impl IntoIterator<Item = Member>) {
        let by_place = |member: Member| ((member.room, member.user.id), member);
        self.members.extend(members.into_iter().map(by_place));
    }
}
