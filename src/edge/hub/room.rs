//! One room on this edge: its sockets, the last number they were given, and what waits for a hole to be filled.
//! Nothing here waits or does I/O.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OnceCell;

use super::history_cache::{CacheBytes, HistoryCache};
use crate::{
    edge::{outbound::OutboundEvent, subscriber::Subscriber},
    model::{EphemeralEvent, EventKind, FeedEvent, RoomId, Seq, UserId},
    protocol::{Gap, MemberEvent, RoomEvent, raw},
    telemetry::metrics,
};

/// Events kept for one socket while its `joinRoom` is being answered; beyond it the client asks again.
const MAX_PENDING: usize = 4096;

pub(super) struct Room {
    pub id: RoomId,
    /// Filled once the room is subscribed and its head is known.
    pub open: OnceCell<()>,
    /// Held by whoever reads the newest page, so that the others wait for it.
    pub reading: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

pub(super) struct State {
    room: RoomId,
    /// The last number given to the sockets here; -1 until the room is open.
    pub last: Seq,
    /// The highest number known to exist.
    pub target: Seq,
    pub ahead: BTreeMap<Seq, FeedEvent>,
    pub repairing: bool,
    pub subscriptions: Vec<Subscription>,
    pub pages: HistoryCache,
}

/// A socket's place in a room.
pub(super) struct Subscription {
    pub who: Arc<Subscriber>,
    /// `Some` while its `joinRoom` is being answered: events wait here so that the answer comes first.
    pub pending: Option<Box<Pending>>,
    /// What the answer to its `joinRoom` brought it up to. The store may be ahead of the bus: events up to here may
    /// still arrive, and this socket has them already.
    pub above: Seq,
    /// Another one for each `joinRoom`, so that a verdict on an earlier one is not carried out on a later one.
    pub joined: u64,
}

/// What waits for one socket.
#[derive(Default)]
pub(super) struct Pending {
    pub events: Vec<(Seq, Arc<OutboundEvent>)>,
    /// More came than is kept.
    pub overflow: bool,
    /// The number of the newest event that ended the user's membership. Whether it ends this subscription, too, depends on
    /// when the membership was read, which only the joining session knows.
    pub left: Option<Seq>,
}

impl Room {
    pub fn new(id: RoomId, taken: CacheBytes) -> Self {
        Room {
            id,
            open: OnceCell::new(),
            reading: tokio::sync::Mutex::new(()),
            state: Mutex::new(State {
                room: id,
                last: -1,
                target: -1,
                ahead: BTreeMap::new(),
                repairing: false,
                subscriptions: Vec::new(),
                pages: HistoryCache::new(taken),
            }),
        }
    }

    pub fn is_behind(&self, head: Seq) -> bool {
        let state = self.lock();
        state.last >= 0 && state.last < head
    }

    /// Nobody is here, and nobody reads.
    pub fn is_empty(&self) -> bool {
        let state = self.lock();
        state.subscriptions.is_empty() && !state.pages.is_read()
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Delivers those of the events ahead that nothing is missing before.
    pub fn advance(&mut self) {
        let mut ready = Vec::new();
        while let Some(first) = self.ahead.first_entry() {
            let seq = *first.key();
            if seq > self.last + 1 {
                break;
            }
            let event = first.remove();
            if seq == self.last + 1 {
                self.last = seq;
                ready.push(event);
            }
        }
        self.deliver(ready);
    }

    /// Contiguous events whose numbers are taken already, to every socket here.
    pub fn deliver(&mut self, events: Vec<FeedEvent>) {
        if events.is_empty() {
            return;
        }
        self.pages.end();
        let mut room_deleted = false;
        let mut numbered = Vec::with_capacity(events.len());
        for event in events {
            match event.kind {
                EventKind::MemberLeft => {
                    if let Ok(left) = serde_json::from_str::<MemberEvent>(&event.data) {
                        // Those who left hear it, and nothing after it.
                        let seq = event.seq;
                        numbered.push((seq, OutboundEvent::feed(event)));
                        self.give(&numbered);
                        numbered.clear();
                        self.member_left(left.user.id, seq);
                        continue;
                    }
                }
                EventKind::RoomUpdated => {
                    room_deleted |= serde_json::from_str::<RoomEvent>(&event.data)
                        .is_ok_and(|updated| updated.deleted);
                }
                _ => {}
            }
            numbered.push((event.seq, OutboundEvent::feed(event)));
        }
        self.give(&numbered);
        if room_deleted {
            for subscription in &mut self.subscriptions {
                if let Some(pending) = &mut subscription.pending {
                    // For good: no membership that was read counts any more.
                    pending.left = Some(Seq::MAX);
                }
            }
            self.unsubscribe(|subscription| subscription.pending.is_none());
        }
    }

    /// The user's membership ended with event `seq`: their sockets are unsubscribed, or marked where they are joining.
    fn member_left(&mut self, user: UserId, seq: Seq) {
        for subscription in &mut self.subscriptions {
            if let Some(pending) = &mut subscription.pending
                && subscription.who.user == user
            {
                pending.left = pending.left.max(Some(seq));
            }
        }
        self.unsubscribe(|subscription| {
            subscription.who.user == user
                && subscription.pending.is_none()
                && seq > subscription.above
        });
    }

    /// The sockets that get events, with the number of their `joinRoom`.
    pub fn live(&self) -> impl Iterator<Item = (UserId, u64)> {
        let live = self
            .subscriptions
            .iter()
            .filter(|subscription| subscription.pending.is_none());
        live.map(|subscription| (subscription.who.user, subscription.joined))
    }

    /// Unsubscribes these users' sockets, unless they have joined again since. They hear a `gap` from the next number on,
    /// the event for "ask again", which is then answered with what they are in the room.
    pub fn revoke(&mut self, gone: &HashSet<(UserId, u64)>) -> usize {
        let before = self.subscriptions.len();
        let (room, from) = (self.room, self.last + 1);
        let to = self.target.max(from);
        self.unsubscribe(|subscription| {
            let revoked = subscription.pending.is_none()
                && gone.contains(&(subscription.who.user, subscription.joined));
            if revoked {
                let gap = OutboundEvent::new("gap", raw(&Gap { room, from, to }).get().to_owned());
                subscription.who.outbox.push_events(&[gap]);
            }
            revoked
        });
        before - self.subscriptions.len()
    }

    /// Tells every socket that is live here. One that is still joining reads the truth after its place was taken.
    pub fn tell(&mut self, event: EphemeralEvent) {
        let frame = OutboundEvent::new(event.kind.as_str(), event.data);
        let live = self
            .subscriptions
            .iter()
            .filter(|subscription| subscription.pending.is_none());
        let mut told = 0;
        for subscription in live {
            subscription
                .who
                .outbox
                .push_events(std::slice::from_ref(&frame));
            told += 1;
        }
        metrics().deliveries.inc_by(told);
    }

    fn give(&mut self, numbered: &[(Seq, Arc<OutboundEvent>)]) {
        if numbered.is_empty() {
            return;
        }
        let frames: Vec<_> = numbered.iter().map(|(_, frame)| frame.clone()).collect();
        for subscription in &mut self.subscriptions {
            match &mut subscription.pending {
                None => {
                    let known = numbered.partition_point(|(seq, _)| *seq <= subscription.above);
                    if known < frames.len() {
                        subscription.who.outbox.push_events(&frames[known..]);
                    }
                }
                Some(pending) if pending.overflow => {}
                Some(pending) if pending.events.len() + numbered.len() > MAX_PENDING => {
                    pending.overflow = true;
                    pending.events = Vec::new();
                }
                Some(pending) => pending.events.extend_from_slice(numbered),
            }
        }
        metrics()
            .deliveries
            .inc_by((self.subscriptions.len() * frames.len()) as u64);
    }

    fn unsubscribe(&mut self, gone: impl Fn(&Subscription) -> bool) {
        self.subscriptions.retain(|subscription| {
            let gone = gone(subscription);
            if gone {
                subscription.who.rooms().remove(&self.room);
            }
            !gone
        });
    }

    /// Puts what was fetched for `after < seq <= upto` in its place. A number that the store does not have (any
    /// more) is told as a `gap`.
    pub fn fill(&mut self, after: Seq, upto: Seq, events: Vec<FeedEvent>) {
        let mut ready = Vec::new();
        let mut expected = after + 1;
        for event in events {
            if event.seq > expected {
                self.deliver(std::mem::take(&mut ready));
                self.gap(expected, event.seq - 1);
            }
            expected = event.seq + 1;
            if event.seq > self.last {
                self.last = event.seq;
                ready.push(event);
            }
        }
        self.deliver(ready);
        if expected <= upto {
            self.gap(expected, upto);
        }
    }

    fn gap(&mut self, from: Seq, to: Seq) {
        let from = from.max(self.last + 1);
        if from > to {
            return;
        }
        metrics().gaps.inc();
        self.pages.end();
        self.last = to;
        let gap = Gap {
            room: self.room,
            from,
            to,
        };
        let frame = OutboundEvent::new("gap", raw(&gap).get().to_owned());
        self.give(&[(to, frame)]);
    }
}
