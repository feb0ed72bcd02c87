//! How large a message can become as JSON. Each of its lists is bounded where it is made, so this is a sum of limits;
//! the settings are validated against it: a socket's queue must hold the largest message.

use super::{MAX_CLIENT_MSG_ID, MAX_EMOJI};
use crate::model::{MAX_REACTIONS, REACTION_USERS, metadata::MAX_METADATA};

/// Maximum members that a message mentions.
pub const MAX_MENTIONS: usize = 50;

/// JSON writes a control character, one byte, as `\u0001`; every other byte becomes at most two.
const ESCAPED: usize = 6;
/// An id with its quotes and a comma.
const ID: usize = 39;
/// The names of a sender, in bytes of JSON: a user name, and a display name of 64 characters.
const NAMES: usize = 2 * 64 * ESCAPED;
/// The names of the fields, the numbers and the times.
const FIELDS: usize = 1024;

/// One reaction: its emoji, which U+FE0F may make half as long again, its users, and 64 bytes for the rest. Earlier
/// versions stored reactions with control characters.
const REACTION: usize = MAX_EMOJI * ESCAPED + REACTION_USERS * ID + 64;

/// Metadata that an earlier version accepted: `12345678901234567`, a number that a double does not hold, is read as
/// `1.2345678901234568e+16`.
const REPAIRED_METADATA: usize = MAX_METADATA / 3 * 4;

/// Maximum bytes of a message's JSON, if its body has at most `max_body` bytes:
///
/// | part | bytes |
/// |---|---|
/// | body | 6 × `max_body` |
/// | metadata | 4,096, a third more if it was repaired: 5,460 |
/// | reactions | 50 × (6 × 64 + 10 × 39 + 64) = 41,900 |
/// | mentions | 50 × 39 = 1,950 |
/// | `clientMsgId` | 6 × 128 = 768 |
/// | names | 768 |
/// | everything else | 1,024 |
///
/// No event is larger: that of a reaction has one entry of `reactions`, those of members and of a room have names only.
pub const fn largest_message(max_body: usize) -> usize {
    max_body * ESCAPED
        + REPAIRED_METADATA
        + MAX_REACTIONS * REACTION
        + MAX_MENTIONS * ID
        + MAX_CLIENT_MSG_ID * ESCAPED
        + NAMES
        + FIELDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Message, Metadata, Reaction, Timestamp, User, UserId, new_id};

    /// A message in which every field is as long as its limit allows.
    fn largest(body: String) -> Message {
        let users = |count: usize| -> Vec<UserId> { (0..count).map(|_| new_id()).collect() };
        let reaction = |_| Reaction {
            emoji: "\u{1}".repeat(MAX_EMOJI),
            count: u32::MAX,
            me: Some(false),
            users: users(REACTION_USERS),
        };
        let metadata = format!("[{}]", ["12345678901234567"; 227].join(","));
        assert!((MAX_METADATA - 18..=MAX_METADATA).contains(&metadata.len()));
        Message {
            id: new_id(),
            room: new_id(),
            seq: i64::MAX,
            change_seq: i64::MAX,
            sender: User {
                id: new_id(),
                username: "u".repeat(64),
                display_name: "\u{1F600}".repeat(64),
            },
            body,
            client_msg_id: "\u{1}".repeat(MAX_CLIENT_MSG_ID),
            reply_to: Some(new_id()),
            mentions: users(MAX_MENTIONS),
            reactions: (0..MAX_REACTIONS).map(reaction).collect(),
            metadata: Some(Metadata::stored(metadata)),
            created_at: Timestamp::MAX,
            edited_at: Some(Timestamp::MAX),
            deleted_at: Some(Timestamp::MAX),
        }
    }

    #[test]
    fn the_largest_message_fits_its_bound() {
        for max_body in [1, 8_000, 16_000, 100_000] {
            let json = serde_json::to_string(&largest("\u{1}".repeat(max_body))).unwrap();
            let bound = largest_message(max_body);
            assert!(json.len() <= bound, "{} > {bound}", json.len());
            // The bound is close, so a new list in a message fails here.
            assert!(json.len() + 2_048 > bound, "{} << {bound}", json.len());
        }
    }

    #[test]
    fn an_emoji_does_not_outgrow_its_bound_when_it_is_shown() {
        use crate::model::text::emoji;
        let longest = "❤\u{200D}".repeat(MAX_EMOJI / 6) + "❤";
        assert!(longest.len() <= MAX_EMOJI && emoji::is_reaction(&longest));
        assert!(emoji::qualified(&longest).len() <= MAX_EMOJI * ESCAPED);
    }
}
