//! The fast, forgetful part: pub/sub between workers and edges, the cache of recent events, and small facts
//! with a time to live (tickets, heartbeats, counters). Redis in a cluster, memory in one process.
//!
//! What it guarantees: what one publisher sends to one channel arrives in that order, or not at all. Everything
//! here may be lost at any moment, and nothing that was promised may depend on it.

pub mod memory;
pub mod redis;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    error::Result,
    model::{EphemeralEvent, EphemeralKind, FeedEvent, RoomId, Timestamp, UserId},
};

pub type EdgeId = Uuid;
pub type WorkerId = Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// A room's events; the payload is what [`encode_events`] or [`encode_ephemeral`] made.
    Room(RoomId),
    /// Answers for one edge.
    Edge(EdgeId),
    /// Notices for every edge.
    Everyone,
}

#[derive(Debug, Clone)]
pub enum Incoming {
    Message {
        channel: Channel,
        payload: Bytes,
    },
    /// The connection was lost and is back, with every subscription made again: messages may be missing.
    Restored,
    /// The connection is gone; nothing comes until `Restored`.
    Lost,
}

/// A room's new events, contiguous and ascending.
#[derive(Debug, Clone)]
pub struct RoomEvents {
    pub room: RoomId,
    pub events: Vec<FeedEvent>,
}

/// What a batch tells the edges.
#[derive(Debug, Clone, Default)]
pub struct Publications {
    /// Go to the cache and to the room's channel.
    pub rooms: Vec<RoomEvents>,
    /// Rooms whose cached events may be behind the truth: forgotten before anything is added.
    pub stale: Vec<RoomId>,
    /// Go to a channel only.
    pub notices: Vec<(Channel, Bytes)>,
}

#[async_trait]
pub trait Subscriptions: Send + Sync {
    /// Resolves when messages published from now on will arrive, or, while the connection is down, at once: they
    /// are subscribed when it returns, before `Restored`. Returns whether they are subscribed now.
    async fn subscribe(&self, channels: &[Channel]) -> Result<bool>;
    async fn unsubscribe(&self, channels: &[Channel]) -> Result<()>;
}

#[async_trait]
pub trait Bus: Send + Sync {
    /// One round trip for all of it. Fails as a whole or not at all, as far as the caller can know.
    async fn publish(&self, publications: &Publications) -> Result<()>;
    /// A listener of its own, with a bounded queue. A listener that falls behind loses its connection (and sees
    /// `Lost`, `Restored`) rather than memory.
    async fn listen(&self) -> Result<(Arc<dyn Subscriptions>, mpsc::Receiver<Incoming>)>;
    /// The cached tail of a room's feed: contiguous, ascending, possibly empty. It can be behind the truth by what
    /// a failed `publish` could not add.
    async fn recent(&self, room: RoomId) -> Result<Vec<FeedEvent>>;

    /// Keeps a small value for at most `ttl`.
    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<()>;
    /// Takes it away: of many callers one gets it.
    async fn take(&self, key: &str) -> Result<Option<String>>;
    /// Counts one more within the window that the first one opened.
    async fn hit(&self, key: &str, window: Duration) -> Result<u64>;

    /// Adds to counters and returns the totals, in the same order; adding 0 only asks. They are forgotten `ttl`
    /// after the last addition.
    async fn count(&self, additions: &[(&str, u64)], ttl: Duration) -> Result<Vec<u64>>;

    /// Takes or renews the leadership named `key`: of many callers one holds it, until `ttl` after its last call or
    /// its [`Bus::resign`]. Returns whether `holder` has it now.
    async fn lead(&self, key: &str, holder: Uuid, ttl: Duration) -> Result<bool>;
    /// Gives it up, if `holder` has it.
    async fn resign(&self, key: &str, holder: Uuid) -> Result<()>;

    /// Takes, or keeps for longer, one of `places` places named `key`: it is the holder's until `ttl` after the last call,
    /// by the bus's own clock, or until [`Bus::vacate`]. Returns whether `holder` has one now.
    async fn occupy(&self, key: &str, holder: Uuid, places: u32, ttl: Duration) -> Result<bool>;
    /// Gives its place to whoever asks next; without one it changes nothing.
    async fn vacate(&self, key: &str, holder: Uuid) -> Result<()>;

    /// Says that a worker lives, and tells which do (itself included). Lives end `ttl` after the last beat, by the
    /// bus's own clock.
    async fn beat(&self, worker: WorkerId, ttl: Duration) -> Result<Vec<WorkerId>>;
    /// The worker is leaving: the others see it at their next beat.
    async fn retire(&self, worker: WorkerId) -> Result<()>;

    /// Says that these users are connected, and when each last did something: once and then again before `ttl` is
    /// over, since whoever says it may die without taking it back. Of two who say it the later counts.
    async fn here(&self, users: &[(UserId, Timestamp)], ttl: Duration) -> Result<()>;
    /// What is known of each, in the order asked. When someone was last active outlives the connection and its edge,
    /// for [`REMEMBER_ACTIVE`].
    async fn presence(&self, users: &[UserId]) -> Result<Vec<Presence>>;

    async fn ping(&self) -> Result<()>;
}

/// How long it is known when a user was last active.
pub const REMEMBER_ACTIVE: Duration = Duration::from_secs(30 * 86_400);

/// Whether a user is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Presence {
    pub connected: bool,
    pub active: Option<Timestamp>,
}

/// Lines of `seq SP kind SP json`, one an event, whatever the JSON is: a raw line feed in it can only stand between two
/// tokens (RFC 8259 section 2; what an earlier version stored has some), where a space means the same.
pub fn encode_events(events: &[FeedEvent]) -> Vec<u8> {
    let size = events.iter().map(|e| e.data.len() + 40).sum();
    let mut out = Vec::with_capacity(size);
    for event in events {
        if !out.is_empty() {
            out.push(b'\n');
        }
        out.extend_from_slice(event.seq.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(event.kind.as_str().as_bytes());
        out.push(b' ');
        let start = out.len();
        out.extend_from_slice(event.data.as_bytes());
        for at in memchr::memchr_iter(b'\n', event.data.as_bytes()) {
            out[start + at] = b' ';
        }
    }
    out
}

/// `None` where the bytes are not what [`encode_events`] makes (a newer version's, say): the reader treats the
/// events as missed and fetches them.
pub fn decode_events(payload: &[u8]) -> Option<Vec<FeedEvent>> {
    let text = std::str::from_utf8(payload).ok()?;
    text.split('\n')
        .map(|line| {
            let (seq, rest) = line.split_once(' ')?;
            let (kind, data) = rest.split_once(' ')?;
            Some(FeedEvent {
                seq: seq.parse().ok()?,
                kind: crate::model::EventKind::parse(kind)?,
                data: data.to_owned(),
            })
        })
        .collect()
}

/// What stands in front of an ephemeral event instead of a number.
const EPHEMERAL: &[u8] = b"~ ";

/// `~ SP kind SP json`: an event without a number, for a room's channel. [`decode_events`] does not know it, so a
/// reader that is older drops it.
pub fn encode_ephemeral(event: &EphemeralEvent) -> Vec<u8> {
    let mut out = EPHEMERAL.to_vec();
    out.extend_from_slice(event.kind.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(event.data.as_bytes());
    out
}

/// What a room's channel brings.
#[derive(Debug)]
pub enum RoomNews {
    /// Numbered, to be delivered in order and without a hole.
    Feed(Vec<FeedEvent>),
    Ephemeral(EphemeralEvent),
    /// A newer version's, perhaps.
    Unknown,
}

pub fn decode_room(payload: &[u8]) -> RoomNews {
    let Some(rest) = payload.strip_prefix(EPHEMERAL) else {
        return decode_events(payload).map_or(RoomNews::Unknown, RoomNews::Feed);
    };
    let event = std::str::from_utf8(rest).ok().and_then(|text| {
        let (kind, data) = text.split_once(' ')?;
        Some(EphemeralEvent {
            kind: EphemeralKind::parse(kind)?,
            data: data.to_owned(),
        })
    });
    event.map_or(RoomNews::Unknown, RoomNews::Ephemeral)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventKind;

    #[test]
    fn events_survive_the_way() {
        let events: Vec<_> = (1..4)
            .map(|seq| FeedEvent {
                seq,
                kind: EventKind::NewMessage,
                data: format!("{{\"body\":\"a\\nb {seq} c\"}}"),
            })
            .collect();
        let back = decode_events(&encode_events(&events)).unwrap();
        assert_eq!(back.len(), 3);
        for (a, b) in events.iter().zip(&back) {
            assert_eq!((a.seq, a.kind, &a.data), (b.seq, b.kind, &b.data));
        }
        assert!(decode_events(b"1 somethingNew {}").is_none());
        assert!(decode_events(b"").is_none());
    }

    proptest::proptest! {
        #[test]
        fn an_event_is_one_line_whatever_it_carries(
            data in proptest::collection::vec(
                proptest::prop_oneof!["[ \n\r\"\\\\{}~a]{0,20}", "\n7 newMessage \\{\\}\n", ".{0,20}"], 1..6
            ),
            first in 1..1_000_000_i64
        ) {
            let events: Vec<_> = (first..)
                .zip(&data)
                .map(|(seq, data)| FeedEvent {
                    seq,
                    kind: EventKind::NewMessage,
                    data: data.clone(),
                })
                .collect();
            let payload = encode_events(&events);
            let lines: Vec<&[u8]> = payload.split(|byte| *byte == b'\n').collect();
            proptest::prop_assert_eq!(lines.len(), events.len());
            let RoomNews::Feed(back) = decode_room(&payload) else {
                panic!("it is a feed");
            };
            for ((event, back), line) in events.iter().zip(&back).zip(lines) {
                proptest::prop_assert_eq!(
                    (event.seq, event.kind, &event.data.replace('\n', " ")),
                    (back.seq, back.kind, &back.data)
                );
                // So it stands in Redis' cache.
                proptest::prop_assert_eq!(decode_events(line).map_or(0, |events| events.len()), 1);
            }
            let ephemeral = EphemeralEvent {
                kind: EphemeralKind::ReadUpdated,
                data: data.concat(),
            };
            let back = decode_room(&encode_ephemeral(&ephemeral));
            proptest::prop_assert!(matches!(back, RoomNews::Ephemeral(back) if back == ephemeral));
        }
    }

    #[test]
    fn metadata_of_an_earlier_version_is_delivered() {
        let data = "{\"metadata\":{\"a\":\n5 \n}}";
        let event = FeedEvent {
            seq: 4,
            kind: EventKind::NewMessage,
            data: data.to_owned(),
        };
        let back = decode_events(&encode_events(&[event])).unwrap();
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(json(&back[0].data), json(data));
    }

    #[test]
    fn an_ephemeral_event_is_told_from_the_feed() {
        let event = EphemeralEvent {
            kind: EphemeralKind::ReadUpdated,
            data: "{\"seq\":3}".to_owned(),
        };
        let payload = encode_ephemeral(&event);
        assert!(matches!(decode_room(&payload), RoomNews::Ephemeral(back) if back == event));
        assert!(decode_events(&payload).is_none());
        assert!(matches!(decode_room(b"~ other {}"), RoomNews::Unknown));
        assert!(matches!(
            decode_room(b"1 newMessage {}"),
            RoomNews::Feed(events) if events.len() == 1
        ));
    }
}
