//! Hashes of the contents of recent sends. The edge refuses a repeated `clientMsgId` with other content at once; if it
//! does not have the first send, the worker compares the repetition with the stored message.

use std::{
    hash::{BuildHasher, RandomState},
    sync::OnceLock,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

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
        let metadata = send.metadata.as_ref().map(|metadata| metadata.as_json());
        let content = (send.body.as_str(), send.reply_to, metadata);
        let sent = Slot {
            id: send.id.as_u64_pair(),
            content: self.hasher.hash_one(content),
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
