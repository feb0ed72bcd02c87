//! The changes that a batch writes.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::scope::ReactionKey;
use crate::{
    error::{Error, Result},
    model::{EventKind, Member, Message, MessageId, Room, RoomId, Seq, Timestamp, UserId},
};

/// An entry of the feed that is not a new message (those are rows of their own).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEntry {
    pub room: RoomId,
    pub seq: Seq,
    pub kind: EventKind,
    /// The message it is about; its event shows that message as it is when read.
    pub message: Option<MessageId>,
    /// The event's JSON where it is not about a message; `None` where `message` is set.
    pub data: Option<String>,
    /// The change, if it is the event of a reaction.
    pub detail: Option<ReactionDetail>,
    pub at: Timestamp,
}

/// One user added or removed one reaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReactionDetail {
    /// A [key](crate::model::text::emoji::key).
    pub emoji: String,
    pub user: UserId,
    pub on: bool,
}

/// A reaction that a user gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenReaction {
    pub key: ReactionKey,
    pub user: UserId,
    /// The number of its event, which orders the users of a reaction.
    pub seq: Seq,
}

/// The result of a batch, written in one transaction. A member, a ban, a mute or a message is in one list only, and
/// once.
#[derive(Debug, Default, Clone)]
pub struct Changes {
    /// New rooms and rooms whose name or `deleted` changed, `head` included.
    pub rooms: Vec<Room>,
    /// New heads of rooms, including those in `rooms`.
    pub heads: HashMap<RoomId, Seq>,
    pub new_messages: Vec<Message>,
    /// Messages whose body, mentions, reactions, metadata, `change_seq`, `edited_at` or `deleted_at` changed.
    /// The other fields are what they were.
    pub updated_messages: Vec<Message>,
    pub entries: Vec<FeedEntry>,
    /// Reactions of messages that are in the lists above, as are the removed ones. A user's reaction is in one list
    /// only, and once.
    pub reactions: Vec<GivenReaction>,
    pub removed_reactions: Vec<(ReactionKey, UserId)>,
    /// Messages whose stored reactions are all removed, before those of `reactions` are stored.
    pub cleared_reactions: Vec<MessageId>,
    /// New or changed members (role, `read_seq`, mute).
    pub members: Vec<Member>,
    pub removed_members: Vec<(RoomId, UserId)>,
    pub bans: Vec<(RoomId, UserId, Option<Timestamp>)>,
    pub lifted_bans: Vec<(RoomId, UserId)>,
    /// Mutes of users who are not members (any more).
    pub mutes: Vec<(RoomId, UserId, Timestamp)>,
    /// Mutes to delete: they ended, or their users are members again and have the mute in their row of `members`.
    pub lifted_mutes: Vec<(RoomId, UserId)>,
    /// Users whose names are removed from the room's old events. They are no longer members.
    pub erased: Vec<(RoomId, UserId)>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.new_messages.is_empty() && self.is_only_new_messages()
    }

    /// New messages and the heads that they move, or nothing.
    fn is_only_new_messages(&self) -> bool {
        self.rooms.is_empty()
            && self.updated_messages.is_empty()
            && self.entries.is_empty()
            && self.reactions.is_empty()
            && self.removed_reactions.is_empty()
            && self.cleared_reactions.is_empty()
            && self.members.is_empty()
            && self.removed_members.is_empty()
            && self.bans.is_empty()
            && self.lifted_bans.is_empty()
            && self.mutes.is_empty()
            && self.lifted_mutes.is_empty()
            && self.erased.is_empty()
    }

    /// [`Changes::check`] for [`BatchWrites::append`](crate::store::BatchWrites::append).
    pub(super) fn check_only_new_messages(&self, before: &HashMap<RoomId, Seq>) -> Result<()> {
        if !self.is_only_new_messages() {
            return Err(Error::internal("only new messages are appended"));
        }
        self.check(|room| before.contains_key(room))
    }

    /// Rejects changes that must not be written: of a room that is not locked, of one row twice (it is undefined which
    /// of the two would win), or with U+0000, which PostgreSQL cannot store.
    pub(super) fn check(&self, is_locked: impl Fn(&RoomId) -> bool) -> Result<()> {
        let fault = |what: &str| Err(Error::internal(what));
        let members = self.members.iter().map(|m| (m.room, m.user.id));
        let members = members.chain(self.removed_members.iter().copied());
        let bans = self.bans.iter().map(|&(room, user, _)| (room, user));
        let bans = bans.chain(self.lifted_bans.iter().copied());
        let mutes = self.mutes.iter().map(|&(room, user, _)| (room, user));
        let mutes = mutes.chain(self.lifted_mutes.iter().copied());

        let given = self.reactions.iter().map(|r| (&r.key, r.user));
        let removed = self.removed_reactions.iter();
        let reactions = given.chain(removed.map(|(key, user)| (key, *user)));
        let mut reacted = reactions.clone().map(|((message, _), _)| *message);
        let mut changed = None;
        let is_changed = |id: MessageId| {
            let messages = self.new_messages.iter().chain(&self.updated_messages);
            let changed =
                changed.get_or_insert_with(|| messages.map(|m| m.id).collect::<HashSet<_>>());
            changed.contains(&id)
        };
        if !reacted.all(is_changed) {
            return fault("a batch has reactions of a message that it does not change");
        }

        let rooms = self.rooms.iter().map(|room| room.id);
        let mut touched = rooms
            .chain(self.heads.keys().copied())
            .chain(self.new_messages.iter().map(|m| m.room))
            .chain(self.updated_messages.iter().map(|m| m.room))
            .chain(self.entries.iter().map(|e| e.room))
            .chain(members.clone().map(|(room, _)| room))
            .chain(bans.clone().map(|(room, _)| room))
            .chain(mutes.clone().map(|(room, _)| room))
            .chain(self.erased.iter().map(|(room, _)| *room));
        if !touched.all(|room| is_locked(&room)) {
            return fault("a batch changes a room that it has not locked");
        }

        if repeats(self.rooms.iter().map(|room| room.id))
            || repeats(self.updated_messages.iter().map(|m| m.id))
            || repeats(members)
            || repeats(bans)
            || repeats(mutes)
            || repeats(reactions)
        {
            return fault("a batch changes the same thing twice");
        }

        let texts = self.rooms.iter().map(|room| room.name.as_str());
        let messages = self.new_messages.iter().chain(&self.updated_messages);
        let mut texts = texts
            .chain(messages.flat_map(|m| [m.body.as_str(), m.client_msg_id.as_str()]))
            .chain(self.entries.iter().filter_map(|e| e.data.as_deref()))
            .chain(self.reactions.iter().map(|r| r.key.1.as_str()));
        if texts.any(|text| text.contains('\0')) {
            return fault("a batch holds a text with U+0000 in it");
        }
        Ok(())
    }
}

fn repeats<T: Eq + std::hash::Hash>(mut items: impl Iterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    !items.all(|item| seen.insert(item))
}
