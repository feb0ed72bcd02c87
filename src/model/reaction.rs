//! Reactions as a message shows them: bounded, however many users gave them.

use serde::{Deserialize, Deserializer, Serialize};

use super::{UserId, text::emoji};

/// Maximum number of different emojis per message.
pub const MAX_REACTIONS: usize = 50;
/// How many users a reaction lists; `GET …/reactions/{emoji}` has all of them.
pub const REACTION_USERS: usize = 10;

/// A reaction of a message: an emoji, and the users who gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, poem_openapi::Object, schemars::JsonSchema)]
pub struct Reaction {
    /// One emoji, fully-qualified (UTS #51): with U+FE0F wherever the emoji style needs it. Or a word.
    pub emoji: String,
    /// How many users gave it.
    pub count: u32,
    /// Whether the user that this answer is for gave it. Omitted in events, which all members receive alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub me: Option<bool>,
    /// The first 10 users who gave it, in the order in which they did.
    pub users: Vec<UserId>,
}

/// A reaction as it is read. Earlier versions stored and published all users of a reaction and no `count`.
#[derive(Debug, Clone, Deserialize)]
pub struct StoredReaction {
    emoji: String,
    count: Option<u32>,
    me: Option<bool>,
    users: Vec<UserId>,
}

impl StoredReaction {
    /// Whether all users are listed, however many.
    pub fn lists_all(&self) -> bool {
        self.count.is_none()
    }
}

impl From<StoredReaction> for Reaction {
    fn from(stored: StoredReaction) -> Self {
        let StoredReaction {
            emoji,
            count,
            me,
            mut users,
        } = stored;
        let listed = u32::try_from(users.len()).unwrap_or(u32::MAX);
        users.truncate(REACTION_USERS);
        Reaction {
            emoji: emoji::qualified(&emoji).into_owned(),
            count: count.unwrap_or(listed),
            me,
            users,
        }
    }
}

impl<'de> Deserialize<'de> for Reaction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        StoredReaction::deserialize(deserializer).map(Reaction::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::new_id;

    #[test]
    fn a_list_of_all_users_is_counted_and_cut() {
        let users: Vec<UserId> = (0..300).map(|_| new_id()).collect();
        let old = serde_json::json!({"emoji": "👍", "users": users});
        let read: Reaction = serde_json::from_value(old).unwrap();
        assert_eq!((read.count, read.me), (300, None));
        assert_eq!(read.users, users[..REACTION_USERS]);
        let again = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
        assert_eq!(read, again);
    }
}
