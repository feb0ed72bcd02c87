//! The reads of a batch: the scope that it requests, and the facts that it gets.

use std::collections::{BTreeSet, HashMap, HashSet};

pub use crate::config::AddMembers;
#[allow(unused_imports, reason = "for the documentation")]
use crate::model::REACTION_USERS;
use crate::model::{Member, Message, MessageId, Room, RoomId, Timestamp, User, UserId};

/// A message and an emoji, which is a [key](crate::model::text::emoji::key).
pub type ReactionKey = (MessageId, String);

/// The parts of one reaction that are needed.
#[derive(Debug, Default, Clone)]
pub struct ReactionScope {
    /// The users who add or remove it.
    pub users: HashSet<UserId>,
    /// How many commands remove it. Each may remove one of the first users, whom a later user then replaces.
    pub removals: usize,
}

/// The rows that a batch of room commands needs, collected before anything is locked.
#[derive(Debug, Default, Clone)]
pub struct Scope {
    /// Locked in id order for the whole transaction.
    pub rooms: BTreeSet<RoomId>,
    /// Messages that may exist: ids about to be edited, deleted, replied to.
    pub messages: HashSet<MessageId>,
    /// Ids about to be stored; they exist already if their commands are redelivered.
    pub new_messages: HashSet<MessageId>,
    /// Users and rooms whose membership, ban and mute are needed.
    pub members: HashSet<(RoomId, UserId)>,
    /// Users whose names are needed although they are not members.
    pub users: HashSet<UserId>,
    /// Members to be found by user name, in lower case.
    pub named: HashSet<(RoomId, String)>,
    /// Members whose accounts are being deleted: their successors are needed.
    pub successors: HashSet<(RoomId, UserId)>,
    /// Reactions about to be added or removed.
    pub reactions: HashMap<ReactionKey, ReactionScope>,
    /// Pairs of an actor and a user to be added, to find out whether they have a common room that is not deleted.
    pub acquaintances: HashSet<(UserId, UserId)>,
}

impl Scope {
    /// Whether nothing has to be read.
    pub fn is_empty(&self) -> bool {
        let Scope {
            rooms,
            messages,
            new_messages,
            members,
            users,
            named,
            successors,
            reactions,
            acquaintances,
        } = self;
        rooms.is_empty()
            && messages.is_empty()
            && new_messages.is_empty()
            && members.is_empty()
            && users.is_empty()
            && named.is_empty()
            && successors.is_empty()
            && reactions.is_empty()
            && acquaintances.is_empty()
    }
}

/// The rows of a [`Scope`]: as they are while its rooms are locked, or as they were at the time of a
/// [preview](crate::store::BatchWrites::preview).
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// Includes deleted rooms, with `deleted` set.
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
    /// Of the users in [`Scope::reactions`], those who have given the reaction.
    pub reacted: HashSet<(ReactionKey, UserId)>,
    /// For each reaction of the scope that is removed: its first users, at least [`REACTION_USERS`] more than there are
    /// removals, or all.
    pub reactors: HashMap<ReactionKey, Vec<UserId>>,
    /// The pairs of [`Scope::acquaintances`] that have a common room.
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
    /// Adds the facts of a preview of other members or messages.
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
