//! A client that joins rooms and reads its socket.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::world::World;
use crate::{
    edge::{
        hub::{Ended, Joining},
        outbound::{Encoding, Item, Outbox},
        subscriber::Subscriber,
    },
    error::{Error, Result},
    model::*,
    store::MessageReads,
};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(120);
/// Events in one answer to a join.
const PAGE: Seq = 7;

/// Answers a join as a session does.
pub fn finish(joining: Joining, position: Seq, more: bool, member_at: Seq) {
    joining.finish(position, more, member_at, |ended| Item::Ack {
        id: Some(1),
        ok: ended != Ended::Gone,
        body: json!([position, ended == Ended::Live]).to_string(),
    });
}

/// The client's view of a socket. Each event that it reads must have the next number.
pub struct Reader {
    pub subscriber: Arc<Subscriber>,
    pub room: RoomId,
    /// The reader has every event up to this number, except those in `gaps`.
    pub position: Seq,
    pub live: bool,
    /// Numbers that it received as part of a gap.
    pub gaps: BTreeSet<Seq>,
    /// The data of the events that it has, by their numbers.
    pub held: BTreeMap<Seq, String>,
    /// The epoch of its last join.
    pub epoch: Option<Epoch>,
    /// Numbers of the events that it received live.
    pub received: Vec<Seq>,
    /// Answers to joins that were refused.
    pub refused: usize,
    /// The epochs of the `reset` events that it received.
    pub resets: Vec<Epoch>,
}

impl Reader {
    pub fn new(session: u64, room: RoomId, after: Seq) -> Reader {
        Reader {
            subscriber: Arc::new(Subscriber::new(
                session,
                new_id(),
                Outbox::new(1 << 20, Arc::default()),
            )),
            room,
            position: after,
            live: false,
            gaps: BTreeSet::new(),
            held: BTreeMap::new(),
            epoch: None,
            received: Vec::new(),
            refused: 0,
            resets: Vec::new(),
        }
    }

    /// One `joinRoom` with `afterSeq`, as a session does it; `between` runs before and after the missed events are
    /// read.
    pub async fn join(&mut self, world: &World, between: impl AsyncFn()) -> Result<()> {
        let refused = || Error::not_found("room");
        let (room, user) = (self.room, self.subscriber.user);
        let member_at = || world.store.member_at(room, user).ok_or_else(refused);
        let mut head = member_at()?;
        let epoch = world.store.lock().epoch;
        if self.position > head || self.epoch.is_some_and(|known| known != epoch) {
            self.forget();
        }
        self.epoch = Some(epoch);
        let after = self.position;
        let resumed = (after > 0).then_some(after);
        let subscriber = self.subscriber.clone();
        let joining = world.hub.join(self.room, subscriber, resumed).await?;
        if joining.live_from > head {
            head = member_at()?;
        }
        between().await;
        let upto = (after + PAGE).min(head);
        let events = world.store.events(self.room, after, upto).await?;
        between().await;
        let end = upto.max(after);
        let had: HashSet<Seq> = events.iter().map(|event| event.seq).collect();
        let data = events.into_iter().map(|event| (event.seq, event.data));
        self.held.extend(data);
        self.gaps
            .extend((after + 1..=end).filter(|seq| !had.contains(seq)));
        finish(joining, end, end == after + PAGE, head);
        self.read();
        Ok(())
    }

    /// Drops its numbers.
    fn forget(&mut self) {
        self.held.clear();
        (self.live, self.position) = (false, 0);
    }

    /// Joins repeatedly until the socket is live, also after errors of the store.
    pub async fn join_until_live(&mut self, world: &World, between: impl AsyncFn()) {
        let joining = async {
            while !self.live {
                if self.join(world, &between).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        let joined = tokio::time::timeout(PATIENCE, joining).await;
        joined.expect("the join ends");
    }

    pub fn leave(&mut self, world: &World) {
        world.hub.leave(self.room, &self.subscriber);
        self.read();
        self.live = false;
    }

    /// Reads all received items.
    pub fn read(&mut self) {
        let mut items = VecDeque::new();
        let ending = self.subscriber.outbox.take(&mut items);
        assert_eq!(ending, None);
        for item in items {
            match item {
                Item::Ack { ok: false, .. } => {
                    self.refused += 1;
                    self.live = false;
                }
                Item::Ack { body, .. } => {
                    let (position, live) = serde_json::from_str(&body).unwrap();
                    assert!(position >= self.position);
                    (self.position, self.live) = (position, live);
                }
                Item::Event(event) => {
                    let frame = |event: &str, data: &str| {
                        format!("{{\"event\":\"{event}\",\"data\":{data}}}").into()
                    };
                    self.receive(&event.rendered(Encoding::Plain, frame));
                }
                Item::Text(text) => panic!("{text}"),
            }
        }
    }

    fn receive(&mut self, frame: &str) {
        let Value::Object(frame) = serde_json::from_str(frame).unwrap() else {
            panic!("{frame}");
        };
        let data = &frame["data"];
        assert!(
            self.live || frame["event"] == "reset",
            "an event before the answer: {frame:?}"
        );
        let next = self.position + 1;
        if frame["event"] == "reset" {
            assert_eq!(data["room"], json!(self.room));
            self.resets
                .push(data["epoch"].as_str().unwrap().parse().unwrap());
            self.forget();
        } else if frame["event"] == "gap" {
            let (from, to) = (data["from"].as_i64(), data["to"].as_i64());
            assert_eq!(from, Some(next), "{frame:?}");
            self.position = to.unwrap();
            self.gaps.extend(next..=self.position);
        } else {
            assert_eq!(data["changeSeq"].as_i64(), Some(next), "{frame:?}");
            self.position = next;
            self.received.push(next);
            self.held.insert(next, data.to_string());
        }
    }

    /// Waits until the reader has every event up to `seq`.
    pub async fn wait_for(&mut self, seq: Seq) {
        let waiting = async {
            while self.position < seq {
                tokio::time::sleep(Duration::from_millis(2)).await;
                self.read();
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("it stays at {}, not at {seq}", self.position);
        }
        assert_eq!(self.position, seq);
    }
}
