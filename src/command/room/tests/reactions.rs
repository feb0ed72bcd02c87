//! Reactions, compared with a model that keeps every user: the summary of a message must equal that of the model,
//! although a batch reads only some of the users.

use std::collections::{BTreeMap, HashSet};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    model::{MAX_REACTIONS, Message, REACTION_USERS, Reaction, text::emoji},
    protocol::ReactionUpdated,
};

const EMOJIS: [&str; 4] = ["👍", "❤", "❤\u{FE0F}", "+1"];

/// The users of each emoji, in order, and the order of the emojis.
#[derive(Default)]
struct Model {
    order: Vec<String>,
    users: BTreeMap<String, Vec<UserId>>,
}

impl Model {
    fn react(&mut self, emoji: &str, user: UserId, on: bool) {
        let key = emoji::key(emoji).into_owned();
        let users = self.users.entry(key.clone()).or_default();
        if on == users.contains(&user) {
            return;
        }
        if on {
            users.push(user);
            if users.len() == 1 {
                self.order.push(key);
            }
        } else {
            users.retain(|known| *known != user);
            if users.is_empty() {
                self.order.retain(|known| *known != key);
            }
        }
    }

    fn summary(&self) -> Vec<Reaction> {
        let reaction = |key: &String| Reaction {
            emoji: emoji::qualified(key).into_owned(),
            count: self.users[key].len() as u32,
            me: None,
            users: self.users[key]
                .iter()
                .take(REACTION_USERS)
                .copied()
                .collect(),
        };
        self.order.iter().map(reaction).collect()
    }

    /// The facts that a store returns for the batch's scope.
    fn facts(&self, scope: &Scope, facts: &mut Facts) {
        for ((message, key), asked) in &scope.reactions {
            let users = self.users.get(key).cloned().unwrap_or_default();
            for user in asked.users.iter().filter(|user| users.contains(user)) {
                facts.reacted.insert(((*message, key.clone()), *user));
            }
            if asked.removals > 0 {
                let first = users.into_iter().take(REACTION_USERS + asked.removals);
                let first = first.collect();
                facts.reactors.insert((*message, key.clone()), first);
            }
        }
    }
}

fn member(w: &mut World) -> User {
    let new = user("member");
    let member = Member {
        room: w.room,
        user: new.clone(),
        role: Role::Member,
        joined_at: Timestamp::from_millis(0),
        read_seq: 0,
        muted_until: None,
    };
    w.facts.members.insert((w.room, new.id), member);
    new
}

fn stored(w: &World) -> Message {
    let first = apply(w.facts.clone(), [&w.send(&w.owner, "a")]);
    first.changes.new_messages[0].clone()
}

proptest! {
    #[test]
    fn a_summary_equals_that_of_a_model_with_all_users(
        batches in vec(vec((0..15_usize, 0..EMOJIS.len(), any::<bool>()), 1..25), 1..8)
    ) {
        let mut w = world();
        let users: Vec<User> = (0..15).map(|_| member(&mut w)).collect();
        let message = stored(&w);
        w.facts.messages.insert(message.id, message.clone());
        let (mut model, mut rows) = (Model::default(), HashSet::new());
        for batch in batches {
            let envelopes: Vec<RoomEnvelope> = batch
                .iter()
                .map(|&(user, emoji, on)| {
                    let emoji = EMOJIS[emoji].to_owned();
                    let command = RoomCommand::React { message: message.id, emoji, on };
                    w.envelope(&users[user], command)
                })
                .collect();
            let mut facts = w.facts.clone();
            model.facts(&scope(&envelopes), &mut facts);
            let mut shown = facts.messages[&message.id].reactions.clone();
            let applied = apply(facts, &envelopes);
            for &(user, emoji, on) in &batch {
                model.react(EMOJIS[emoji], users[user].id, on);
            }
            for event in applied.events.values().flatten() {
                let event: ReactionUpdated = serde_json::from_str(&event.data).unwrap();
                prop_assert!(event.users.len() <= REACTION_USERS);
                event.apply_to(&mut shown);
            }
            prop_assert_eq!(&shown, &model.summary(), "as a client has it that follows the events");
            for given in applied.changes.reactions {
                rows.insert((given.key.1, given.user));
            }
            for ((_, key), user) in applied.changes.removed_reactions {
                rows.remove(&(key, user));
            }
            let all = model.users.iter();
            let all = all.flat_map(|(key, users)| users.iter().map(|user| (key.clone(), *user)));
            prop_assert_eq!(&rows, &all.collect::<HashSet<_>>());
            if let Some(updated) = applied.changes.updated_messages.into_iter().next() {
                prop_assert_eq!(&updated.reactions, &model.summary());
                w.facts.messages.insert(message.id, updated);
            }
            let head = applied.changes.heads.get(&w.room).copied();
            let room = w.facts.rooms.get_mut(&w.room).unwrap();
            room.head = head.unwrap_or(room.head);
        }
    }
}

#[test]
fn a_message_with_many_reactions_is_changed_without_its_users() {
    let mut w = world();
    let mut message = stored(&w);
    let first: Vec<UserId> = (0..REACTION_USERS).map(|_| new_id()).collect();
    message.reactions = vec![Reaction {
        emoji: "👍".to_owned(),
        count: 27_250,
        me: None,
        users: first.clone(),
    }];
    let id = message.id;
    w.facts.messages.insert(id, message);
    let react = |emoji: &str, on| {
        let emoji = emoji.to_owned();
        let command = RoomCommand::React {
            message: id,
            emoji,
            on,
        };
        w.envelope(&w.owner, command)
    };
    let applied = apply(w.facts.clone(), [&react("👍\u{FE0F}", true)]);
    let event: ReactionUpdated = serde_json::from_str(&applied.events[&w.room][0].data).unwrap();
    assert_eq!((event.count, &event.users), (27_251, &first));
    assert_eq!((event.user, event.on), (w.owner.id, true));
    assert_eq!(
        (event.emoji.as_str(), event.seq, event.change_seq),
        ("👍", 3, 3)
    );
    let detail = applied.changes.entries[0].detail.as_ref().unwrap();
    assert_eq!((detail.emoji.as_str(), detail.user), ("👍", w.owner.id));

    // The eleventh takes the place of one of the first ten.
    let eleventh = new_id();
    let mut facts = w.facts.clone();
    let key = (id, "👍".to_owned());
    let users = [&[w.owner.id], &first[1..], &[eleventh]].concat();
    facts.reacted.insert((key.clone(), w.owner.id));
    facts.messages.get_mut(&id).unwrap().reactions[0].users = users[..10].to_vec();
    facts.reactors.insert(key, users);
    let applied = apply(facts, [&react("👍", false)]);
    let after = &applied.changes.updated_messages[0].reactions[0];
    assert_eq!(after.count, 27_249);
    assert_eq!(after.users, [&first[1..], &[eleventh]].concat());
}

/// A worker of an earlier version removed the last listed user and left the rows.
#[test]
fn a_row_that_the_summary_does_not_have_is_not_given() {
    let mut w = world();
    let message = stored(&w);
    let (id, bob) = (message.id, member(&mut w));
    w.facts.messages.insert(id, message);
    let react = |user: &User, on| {
        let emoji = "👍".to_owned();
        let command = RoomCommand::React {
            message: id,
            emoji,
            on,
        };
        w.envelope(user, command)
    };
    let key = (id, "👍".to_owned());
    let mut facts = w.facts.clone();
    for user in [w.owner.id, bob.id] {
        facts.reacted.insert((key.clone(), user));
    }
    let users = vec![w.owner.id, bob.id];
    facts.reactors.insert(key, users);

    let removed = apply(facts.clone(), [&react(&w.owner, false)]);
    assert!(removed.changes.is_empty());
    let envelopes = [react(&bob, true), react(&w.owner, true)];
    let given = apply(facts.clone(), &envelopes).changes;
    assert_eq!(given.cleared_reactions, [id]);
    assert_eq!(given.reactions.len(), 2);
    let shown = &given.updated_messages[0].reactions[0];
    assert_eq!(shown.count, 2);
    assert_eq!(shown.users, [bob.id, w.owner.id]);
    let both = [react(&bob, true), react(&bob, false)];
    let none = apply(facts, &both).changes;
    assert_eq!(none.reactions, []);
    assert_eq!(none.cleared_reactions, [id]);
    assert_eq!(none.updated_messages[0].reactions, []);
}

#[test]
fn a_reaction_within_the_batch_that_deletes_its_message_is_not_stored() {
    let w = world();
    let id = w.message(&w.owner, "a");
    let emoji = "👍".to_owned();
    let react = RoomCommand::React {
        message: id,
        emoji,
        on: true,
    };
    let envelopes = [
        w.send(&w.owner, "a"),
        w.envelope(&w.owner, react.clone()),
        w.envelope(&w.owner, RoomCommand::Delete { message: id }),
    ];
    let stored = apply(w.facts.clone(), &envelopes[..2]);
    assert_eq!(stored.changes.reactions.len(), 1, "of a new message");
    assert_eq!(stored.changes.new_messages[0].reactions.len(), 1);
    let deleted = apply(w.facts.clone(), &envelopes);
    assert_eq!(deleted.changes.reactions, []);
    assert_eq!(deleted.changes.cleared_reactions, [id]);
}

#[test]
fn the_fiftieth_emoji_is_the_last() {
    let mut w = world();
    let mut message = stored(&w);
    let other = new_id();
    message.reactions = (0..MAX_REACTIONS)
        .map(|number| Reaction {
            emoji: format!("r{number}"),
            count: 1,
            me: None,
            users: vec![other],
        })
        .collect();
    let id = message.id;
    w.facts.messages.insert(id, message);
    let react = |emoji: &str| {
        let emoji = emoji.to_owned();
        let command = RoomCommand::React {
            message: id,
            emoji,
            on: true,
        };
        apply(w.facts.clone(), [&w.envelope(&w.owner, command)])
    };
    let refused = react("one-more");
    assert_eq!(refusal(&refused.outcomes[0]), crate::error::Code::Conflict);
    assert!(refused.changes.is_empty());
    assert_eq!(
        react("r7").changes.updated_messages[0].reactions[7].count,
        2
    );
}
