//! Hashes of the contents of recent sends. The edge refuses a repeated `clientMsgId` with other content at once; if it
//! does not have the first send, the worker compares the repetition with the stored message.

use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::OnceLock,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    command::{Refusal, room::Send},
    error::Result,
    model::MessageId,
};

/// Maximum number of sends. A later one takes the slot of an earlier one, so that a send costs one hash and one access;
/// 2 MiB, allocated by the first send.
const SLOTS: usize = 1 << 16;

/// How long a send is kept. A refusal by the worker removes it earlier, unless the bus lost the refusal.
const KEEP: Duration = Duration::from_secs(60);

pub struct RecentSends {
    hasher: RandomState,
    started: Instant,
    slots: OnceLock<Box<[Mutex<Slot>]>>,
}

/// The id of a message and the hash of its content.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The halves of the id; zero where the slot is free.
    id: (u64, u64),
    content: u64,
    /// Seconds since the start.
    at: u32,
}

impl Default for RecentSends {
    fn default() -> Self {
        RecentSends {
            hasher: RandomState::default(),
            started: Instant::now(),
            slots: OnceLock::new(),
        }
    }
}

impl RecentSends {
    /// Adds a send. Returns `false` if it is there already.
    ///
    /// # Errors
    /// `conflict` if the message was sent with another content.
    pub fn admit(&self, send: &Send) -> Result<bool> {
        self.admit_at(send, self.started.elapsed())
    }

    fn admit_at(&self, send: &Send, now: Duration) -> Result<bool> {
        let mut content = self.hasher.build_hasher();
        (send.body.as_str(), send.reply_to).hash(&mut content);
        if let Some(metadata) = &send.metadata {
            // By value: a client may write the same metadata in another way when it sends again.
            let value: Value = serde_json::from_str(metadata.as_json()).unwrap_or_default();
            hash_json(&value, &mut content);
        }
        let sent = Slot {
            id: send.id.as_u64_pair(),
            content: content.finish(),
            at: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
        };
        let mut slot = self.slot(sent.id).lock();
        let age = sent.at.saturating_sub(slot.at);
        if slot.id != sent.id || u64::from(age) > KEEP.as_secs() {
            *slot = sent;
            return Ok(true);
        }
        if slot.content == sent.content {
            return Ok(false);
        }
        Err(Refusal::other_content(send.id).into())
    }

    /// Removes a send that was not accepted, or whose message was changed since.
    pub fn remove(&self, message: MessageId) {
        let id = message.as_u64_pair();
        let mut slot = self.slot(id).lock();
        if slot.id == id {
            *slot = Slot::default();
        }
    }

    fn slot(&self, (_, low): (u64, u64)) -> &Mutex<Slot> {
        let slots = self
            .slots
            .get_or_init(|| (0..SLOTS).map(|_| Mutex::default()).collect());
        // The low half of a derived id is a part of a hash.
        &slots[low as usize % SLOTS]
    }
}

/// Hashes a value of I-JSON, whose numbers are doubles and whose objects have no order. Its depth is bounded
/// (`MAX_METADATA_DEPTH`).
fn hash_json(value: &Value, hasher: &mut impl Hasher) {
    match value {
        Value::Null => 0_u8.hash(hasher),
        Value::Bool(value) => (1_u8, value).hash(hasher),
        // 0.0 and -0.0 are equal.
        Value::Number(number) => {
            let bits = number.as_f64().map(|number| (number + 0.0).to_bits());
            (2_u8, bits).hash(hasher);
        }
        Value::String(text) => (3_u8, text).hash(hasher),
        Value::Array(items) => {
            (4_u8, items.len()).hash(hasher);
            items.iter().for_each(|item| hash_json(item, hasher));
        }
        Value::Object(fields) => {
            (5_u8, fields.len()).hash(hasher);
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in fields {
                name.hash(hasher);
                hash_json(value, hasher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Code,
        model::{Metadata, message_id, new_id},
    };

    fn send(id: MessageId, body: &str) -> Send {
        Send {
            id,
            client_msg_id: "c".to_owned(),
            body: body.to_owned(),
            reply_to: None,
            metadata: None,
        }
    }

    #[test]
    fn another_content_is_a_conflict() {
        let (sends, reply) = (RecentSends::default(), new_id());
        let metadata = |json: &str| Metadata::stored(json.to_owned());
        let contents = |id| {
            let with = |body: &str, reply_to, json: Option<&str>| Send {
                reply_to,
                metadata: json.map(metadata),
                ..send(id, body)
            };
            [
                with("a", None, None),
                with("b", None, None),
                with("", None, None),
                with("a", Some(reply), None),
                with("a", Some(id), None),
                with("a", None, Some("{}")),
                with("a", None, Some("null")),
            ]
        };
        for first in 0..7 {
            let id = message_id(new_id(), new_id(), "c");
            let contents = contents(id);
            assert!(sends.admit(&contents[first]).unwrap());
            for (i, content) in contents.iter().enumerate() {
                match sends.admit(content) {
                    Ok(new) => assert!(!new && i == first, "{first} {i}"),
                    Err(error) => {
                        assert_eq!((error.code, error.id), (Code::Conflict, Some(id)));
                        assert_ne!(i, first);
                    }
                }
            }
            sends.remove(id);
            assert!(
                sends.admit(&contents[(first + 1) % 7]).unwrap(),
                "forgotten"
            );
        }
    }

    #[test]
    fn metadata_is_compared_by_value() {
        let (sends, id) = (RecentSends::default(), new_id());
        let with = |json: &str| Send {
            metadata: Some(Metadata::stored(json.to_owned())),
            ..send(id, "a")
        };
        assert!(sends.admit(&with(r#"{"a":1,"b":["é",0.0]}"#)).unwrap());
        for same in [
            r#"{"b":["\u00e9",0],"a":1}"#,
            r#"{"a":1.0,"b":["é",-0.0]}"#,
            r#"{"a":1e0,"b":["é",0]}"#,
        ] {
            assert!(!sends.admit(&with(same)).unwrap(), "{same}");
        }
        for other in [
            r#"{"a":1,"b":[0.0,"é"]}"#,
            r#"{"a":1,"b":["é"]}"#,
            r#"{"a":"1","b":["é",0]}"#,
            r#"{"a":1,"b":["é",0],"c":null}"#,
        ] {
            assert!(sends.admit(&with(other)).is_err(), "{other}");
        }
    }

    #[test]
    fn a_later_send_takes_the_slot() {
        let sends = RecentSends::default();
        let low = |high: u64| uuid::Uuid::from_u64_pair(high, 7);
        assert!(sends.admit(&send(low(1), "a")).unwrap());
        assert!(sends.admit(&send(low(2), "b")).unwrap());
        assert!(sends.admit(&send(low(1), "c")).unwrap(), "forgotten");
        sends.remove(low(2));
        assert!(!sends.admit(&send(low(1), "c")).unwrap(), "not removed");
    }

    #[test]
    fn a_send_expires_after_a_minute() {
        let (sends, id) = (RecentSends::default(), new_id());
        let at = |body, seconds| sends.admit_at(&send(id, body), Duration::from_secs(seconds));
        assert!(at("a", 100).unwrap());
        assert!(!at("a", 160).unwrap());
        assert_eq!(at("b", 160).unwrap_err().code, Code::Conflict);
        assert!(at("b", 161).unwrap());
        assert_eq!(at("a", 162).unwrap_err().code, Code::Conflict);
    }
}
