//! The event of a reaction. It says what changed, so its size does not depend on how many users reacted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{MessageId, Reaction, RoomId, Seq, UserId};

/// The data of `reactionUpdated`: one user added or removed one reaction. It has no `me`, since all members receive the
/// same event: compare `user` with your own id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReactionUpdated {
    pub room: RoomId,
    /// The message.
    pub id: MessageId,
    /// The message's number in the room's feed.
    pub seq: Seq,
    /// The event's number in the room's feed.
    pub change_seq: Seq,
    /// One emoji, fully-qualified, or a word.
    pub emoji: String,
    /// The user who added or removed it.
    pub user: UserId,
    /// `true` if it was added, `false` if it was removed.
    pub on: bool,
    /// How many users have given this emoji now.
    pub count: u32,
    /// The first 10 of them, in the order in which they did.
    pub users: Vec<UserId>,
}

impl ReactionUpdated {
    /// Brings a message's reactions up to date.
    pub fn apply_to(&self, reactions: &mut Vec<Reaction>) {
        let place = reactions.iter().position(|known| known.emoji == self.emoji);
        let reaction = Reaction {
            emoji: self.emoji.clone(),
            count: self.count,
            me: None,
            users: self.users.clone(),
        };
        match place {
            Some(place) if self.count == 0 => drop(reactions.remove(place)),
            Some(place) => reactions[place] = reaction,
            None if self.count == 0 => {}
            None => reactions.push(reaction),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::new_id;

    #[test]
    fn an_event_brings_reactions_up_to_date() {
        let (ada, bob) = (new_id(), new_id());
        let event = |emoji: &str, user: UserId, on, users: &[UserId]| ReactionUpdated {
            room: new_id(),
            id: new_id(),
            seq: 1,
            change_seq: 2,
            emoji: emoji.to_owned(),
            user,
            on,
            count: users.len() as u32,
            users: users.to_vec(),
        };
        let mut reactions = Vec::new();
        let mut step = |event: ReactionUpdated| -> Vec<(String, u32)> {
            event.apply_to(&mut reactions);
            let shown = reactions.iter().map(|r| (r.emoji.clone(), r.count));
            shown.collect()
        };
        step(event("👍", ada, true, &[ada]));
        step(event("🎉", ada, true, &[ada]));
        let two = step(event("👍", bob, true, &[ada, bob]));
        assert_eq!(two, [("👍".to_owned(), 2), ("🎉".to_owned(), 1)]);
        let one = step(event("👍", ada, false, &[bob]));
        assert_eq!(one, [("👍".to_owned(), 1), ("🎉".to_owned(), 1)]);
        let gone = step(event("👍", bob, false, &[]));
        assert_eq!(gone, [("🎉".to_owned(), 1)]);
        assert_eq!(step(event("👍", bob, false, &[])).len(), 1);
    }
}
