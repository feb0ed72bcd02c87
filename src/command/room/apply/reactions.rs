//! Effects of reactions. A message has a summary of them, which is updated without reading all users.

use super::{Batch, Decided, Touched, json, refuse};
use crate::{
    command::room::RoomEnvelope,
    error::Code,
    model::{
        EventKind, FeedEvent, MAX_REACTIONS, Message, MessageId, REACTION_USERS, Reaction, UserId,
        text::emoji,
    },
    protocol::ReactionUpdated,
    store::{FeedEntry, GivenReaction, ReactionDetail, ReactionKey},
};

impl Batch {
    pub(super) fn react(
        &mut self,
        envelope: &RoomEnvelope,
        id: MessageId,
        emoji: &str,
        on: bool,
    ) -> Decided {
        self.writer(envelope)?;
        let mut message = self.message(envelope.room, id)?;
        if message.deleted_at.is_some() {
            return refuse(Code::Conflict, "this message is deleted");
        }
        let actor = envelope.actor;
        let given = ((id, emoji::key(emoji).into_owned()), actor);
        let shown = emoji::qualified(&given.0.1).into_owned();
        let is_known = message.reactions.iter().any(|r| r.emoji == shown);
        if !is_known {
            // A worker of the version that listed every user may have removed all that are listed; their rows are left.
            self.facts.reacted.retain(|(key, _)| *key != given.0);
            if let Some(first) = self.facts.reactors.get_mut(&given.0) {
                first.clear();
            }
        }
        if self.facts.reacted.contains(&given) == on {
            return Ok(Some(json(&message)));
        }
        if on && !is_known && message.reactions.len() >= MAX_REACTIONS {
            return refuse(
                Code::Conflict,
                "this message has 50 different reactions already",
            );
        }
        if on {
            if message.reactions.is_empty() {
                // Removes such rows of other users, who are not counted.
                self.applied.changes.cleared_reactions.push(id);
            }
            self.facts.reacted.insert(given.clone());
        } else {
            self.facts.reacted.remove(&given);
        }
        let (count, users) = self.count(&mut message, &given.0, &shown, actor, on);

        let seq = self.next_seq(envelope.room);
        message.change_seq = seq;
        let event = ReactionUpdated {
            room: envelope.room,
            id,
            seq: message.seq,
            change_seq: seq,
            emoji: shown,
            user: actor,
            on,
            count,
            users,
        };
        let kind = EventKind::ReactionUpdated;
        self.applied.changes.entries.push(FeedEntry {
            room: envelope.room,
            seq,
            kind,
            message: Some(id),
            data: None,
            detail: Some(ReactionDetail {
                emoji: given.0.1.clone(),
                user: actor,
                on,
            }),
            at: envelope.at,
        });
        let data = json(&event).get().to_owned();
        self.emit(envelope.room, FeedEvent { seq, kind, data });
        self.reactions.insert(given, seq);
        self.touched.insert(Touched::Message(id));
        let resource = json(&message);
        self.facts.messages.insert(id, message);
        Ok(Some(resource))
    }

    /// Changes the summary of one emoji, and returns its number of users and the first of them.
    fn count(
        &mut self,
        message: &mut Message,
        key: &ReactionKey,
        shown: &str,
        actor: UserId,
        on: bool,
    ) -> (u32, Vec<UserId>) {
        let place = message.reactions.iter().position(|r| r.emoji == shown);
        let place = place.unwrap_or_else(|| {
            message.reactions.push(Reaction {
                emoji: shown.to_owned(),
                count: 0,
                me: None,
                users: Vec::new(),
            });
            message.reactions.len() - 1
        });
        let reaction = &mut message.reactions[place];
        let before = reaction.count;
        // Present if this batch removes the reaction: enough of its first users to fill the list afterwards.
        let first = self.facts.reactors.get_mut(key);
        let first = first.unwrap_or(&mut reaction.users);
        if on {
            reaction.count = before.saturating_add(1);
            // A user is appended only to a list of all users: any other list has the first users already.
            if first.len() as u64 == u64::from(before) {
                first.push(actor);
            }
        } else {
            reaction.count = before.saturating_sub(1);
            first.retain(|user| *user != actor);
        }
        let users: Vec<UserId> = first.iter().take(REACTION_USERS).copied().collect();
        reaction.users.clone_from(&users);
        let count = reaction.count;
        if count == 0 {
            message.reactions.remove(place);
        }
        (count, users)
    }

    /// Removes the reactions of a message that is deleted.
    pub(super) fn clear_reactions(&mut self, message: MessageId) {
        self.reactions.retain(|((of, _), _), _| *of != message);
        self.applied.changes.cleared_reactions.push(message);
    }

    /// Collects each touched reaction and each cleared message once, in its final state.
    pub(super) fn finish_reactions(&mut self) {
        let changes = &mut self.applied.changes;
        changes.cleared_reactions.sort_unstable();
        changes.cleared_reactions.dedup();
        for (given, seq) in self.reactions.drain() {
            if self.facts.reacted.contains(&given) {
                let (key, user) = given;
                changes.reactions.push(GivenReaction { key, user, seq });
            } else {
                changes.removed_reactions.push(given);
            }
        }
    }
}
