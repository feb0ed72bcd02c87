//! One room on this edge: its subscriptions, the last number delivered to them, and the events that wait for a missing
//! range. No I/O.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Instant,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OnceCell;

use super::history_cache::{CacheBytes, HistoryCache};
use crate::{
    edge::{
        outbound::{OutboundEvent, event},
        subscriber::Subscriber,
    },
    model::{
        Anchor, Delivered, EphemeralEvent, Epoch, EventKind, FeedEvent, RoomId, Seq, Timestamp,
        UserId,
    },
    protocol::{EventName, Gap, MemberEvent, Reset, RoomEvent},
    telemetry::metrics,
};

/// Events kept for one socket while its `joinRoom` is being answered; with more, the client has to join again.
const MAX_PENDING: usize = 4096;

pub(super) struct Room {
    pub id: RoomId,
    /// Set once the room's channel is subscribed and its head is known.
    pub open: OnceCell<()>,
    /// Held while the newest page is read, so that concurrent requests for it share one read.
    pub reading: tokio::sync::Mutex<()>,
    state: Mutex<RoomState>,
}

pub(super) struct RoomState {
    room: RoomId,
    /// The last number delivered to the subscriptions; -1 until the room is open.
    pub last: Seq,
    /// The newest message that was delivered.
    pub anchor: Option<Anchor>,
    /// `last` has advanced without a delivery, so a newer message than `anchor` may exist at or below it.
    pub skipped: bool,
    /// The anchor at the last comparison with the store.
    pub compared: Option<Anchor>,
    /// The highest number known to exist.
    pub target: Seq,
    pub ahead: BTreeMap<Seq, FeedEvent>,
    pub repairing: bool,
    pub subscriptions: Vec<Subscription>,
    pub pages: HistoryCache,
    /// The room has lost history, and another instance takes its place.
    ended: bool,
}

/// A socket's subscription to a room.
pub(super) struct Subscription {
    pub subscriber: Arc<Subscriber>,
    /// `Some` while its `joinRoom` is being answered: events wait here so that the answer comes first.
    pub pending: Option<Box<Pending>>,
    /// The number up to which the answer to its `joinRoom` contained everything. The store may be ahead of the bus:
    /// events up to here may still arrive, and are not delivered to this socket.
    pub above: Seq,
    /// Unique for each `joinRoom`, so that a decision about an earlier subscription is not applied to a later one.
    pub joined: u64,
    /// When it was subscribed, if the client resumed from a position.
    pub resumed: Option<Instant>,
}

/// Events that wait until a `joinRoom` is answered.
#[derive(Default)]
pub(super) struct Pending {
    pub events: Vec<Numbered>,
    /// More than [`MAX_PENDING`] events arrived.
    pub overflow: bool,
    /// The number of the newest event that ended the user's membership. Whether it ends this subscription, too, depends
    /// on the head at which the session read the membership.
    pub left: Option<Seq>,
    /// The room has lost history: this event follows the answer, and the subscription ends.
    pub reset: Option<Arc<OutboundEvent>>,
}

/// An event with the numbers that it covers: one, or a range for a `gap`.
#[derive(Clone)]
pub(super) struct Numbered {
    from: Seq,
    to: Seq,
    event: Arc<OutboundEvent>,
}

impl Numbered {
    fn one(event: FeedEvent) -> Self {
        Numbered {
            from: event.seq,
            to: event.seq,
            event: OutboundEvent::feed(event),
        }
    }

    fn gap(room: RoomId, from: Seq, to: Seq) -> Self {
        Numbered {
            from,
            to,
            event: event(EventName::Gap, &Gap { room, from, to }),
        }
    }

    /// The event as a socket at `position` needs it: `None` if the socket has it; a `gap` is shortened to the numbers
    /// above.
    pub fn above(self, room: RoomId, position: Seq) -> Option<Arc<OutboundEvent>> {
        if self.from > position {
            Some(self.event)
        } else if self.to > position {
            Some(Numbered::gap(room, position + 1, self.to).event)
        } else {
            None
        }
    }
}

impl Room {
    pub fn new(id: RoomId, taken: CacheBytes) -> Self {
        Room {
            id,
            open: OnceCell::new(),
            reading: tokio::sync::Mutex::new(()),
            state: Mutex::new(RoomState {
                room: id,
                last: -1,
                anchor: None,
                skipped: false,
                compared: None,
                target: -1,
                ahead: BTreeMap::new(),
                repairing: false,
                subscriptions: Vec::new(),
                pages: HistoryCache::new(taken),
                ended: false,
            }),
        }
    }

    /// Removes the subscription of this subscriber.
    pub fn leave(&self, subscriber: &Subscriber) {
        subscriber.rooms().remove(&self.id);
        self.lock()
            .subscriptions
            .retain(|subscription| subscription.subscriber.session != subscriber.session);
    }

    pub fn is_behind(&self, head: Seq) -> bool {
        let state = self.lock();
        state.last >= 0 && state.last < head
    }

    /// Whether the room has neither subscriptions nor a cached page that is in use.
    pub fn is_empty(&self) -> bool {
        let state = self.lock();
        state.subscriptions.is_empty() && !state.pages.is_read()
    }

    pub fn lock(&self) -> MutexGuard<'_, RoomState> {
        self.state.lock()
    }
}

impl RoomState {
    /// Delivers the kept events that have become contiguous.
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

    /// Delivers contiguous events, up to `last`, to every subscription.
    pub fn deliver(&mut self, events: Vec<FeedEvent>) {
        if events.is_empty() {
            return;
        }
        self.pages.end();
        if let Some(anchor) = events.iter().rev().find_map(Anchor::of) {
            self.anchor = Some(anchor);
        }
        self.observe_delays(&events);
        let mut room_deleted = false;
        let mut numbered = Vec::with_capacity(events.len());
        for event in events {
            match event.kind {
                EventKind::MemberLeft => {
                    if let Ok(left) = serde_json::from_str::<MemberEvent>(&event.data) {
                        // The sockets of the user whose membership ended get this event, and none after it.
                        let seq = event.seq;
                        numbered.push(Numbered::one(event));
                        self.push(&numbered);
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
            numbered.push(Numbered::one(event));
        }
        self.push(&numbered);
        if room_deleted {
            for subscription in &mut self.subscriptions {
                if let Some(pending) = &mut subscription.pending {
                    // Above every head: no membership that was read before counts any more.
                    pending.left = Some(Seq::MAX);
                }
            }
            self.unsubscribe(|subscription| subscription.pending.is_none());
        }
    }

    /// Measures the time from the acceptance of messages to their delivery.
    fn observe_delays(&self, events: &[FeedEvent]) {
        if self.subscriptions.is_empty() {
            return;
        }
        let now = Timestamp::now().millis();
        for accepted in events.iter().filter_map(FeedEvent::accepted_at) {
            // Negative if the accepting edge's clock is ahead.
            let delay = (now - accepted.millis()).max(0) as f64 / 1000.0;
            metrics().delivery_seconds.observe(delay);
        }
    }

    /// The user's membership ended with event `seq`: their sockets are unsubscribed, or marked where they are joining.
    fn member_left(&mut self, user: UserId, seq: Seq) {
        for subscription in &mut self.subscriptions {
            if let Some(pending) = &mut subscription.pending
                && subscription.subscriber.user == user
            {
                pending.left = pending.left.max(Some(seq));
            }
        }
        self.unsubscribe(|subscription| {
            subscription.subscriber.user == user
                && subscription.pending.is_none()
                && seq > subscription.above
        });
    }

    /// The position delivered so far.
    pub fn delivered(&self) -> Delivered {
        Delivered {
            room: self.room,
            seq: self.last.max(0),
            anchor: self.anchor,
        }
    }

    /// The position at the last comparison with the store, if a message has been delivered since. It is compared once
    /// more: the store may have lost it and have a higher head again, and the bus may have lost the publications in
    /// between.
    pub fn delivered_before(&mut self) -> Option<Delivered> {
        if self.compared == self.anchor {
            return None;
        }
        let before = std::mem::replace(&mut self.compared, self.anchor)?;
        Some(Delivered {
            room: self.room,
            seq: before.seq,
            anchor: Some(before),
        })
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Ends the room: every socket gets `reset` and is unsubscribed. Returns how many.
    pub fn end(&mut self, epoch: Epoch) -> usize {
        self.ended = true;
        self.ahead.clear();
        self.pages.end();
        self.reset(epoch, |_| true)
    }

    /// Resets the sockets that resumed after `since`, in a room that continues.
    pub fn reset_resumed(&mut self, epoch: Epoch, since: Option<Instant>) -> usize {
        self.pages.end();
        self.reset(epoch, |subscription| {
            subscription.resumed.is_some_and(|at| Some(at) >= since)
        })
    }

    fn reset(&mut self, epoch: Epoch, which: impl Fn(&Subscription) -> bool) -> usize {
        let mut sockets = 0;
        let event = reset_event(self.room, epoch);
        self.subscriptions.retain_mut(|subscription| {
            if !which(subscription) {
                return true;
            }
            sockets += 1;
            if let Some(pending) = &mut subscription.pending {
                pending.reset = Some(event.clone());
                return true;
            }
            let subscriber = &subscription.subscriber;
            subscriber.outbox.push_events(std::slice::from_ref(&event));
            subscriber.rooms().remove(&self.room);
            false
        });
        sockets
    }

    /// The sockets that are live in this room.
    pub fn live_subscribers(&self) -> impl Iterator<Item = &Arc<Subscriber>> {
        let live = self
            .subscriptions
            .iter()
            .filter(|subscription| subscription.pending.is_none());
        live.map(|subscription| &subscription.subscriber)
    }

    /// The live subscriptions, by user and `joined`.
    pub fn live(&self) -> impl Iterator<Item = (UserId, u64)> {
        let live = self
            .subscriptions
            .iter()
            .filter(|subscription| subscription.pending.is_none());
        live.map(|subscription| (subscription.subscriber.user, subscription.joined))
    }

    /// Unsubscribes these users' sockets, unless they have joined again since. They get a `gap` from the next number
    /// on, which makes clients join again; the answer then says that they are no members.
    pub fn revoke(&mut self, gone: &HashSet<(UserId, u64)>) -> usize {
        let before = self.subscriptions.len();
        let (room, from) = (self.room, self.last + 1);
        let to = self.target.max(from);
        self.unsubscribe(|subscription| {
            let revoked = subscription.pending.is_none()
                && gone.contains(&(subscription.subscriber.user, subscription.joined));
            if revoked {
                let gap = Numbered::gap(room, from, to).event;
                subscription.subscriber.outbox.push_events(&[gap]);
            }
            revoked
        });
        before - self.subscriptions.len()
    }

    /// Delivers an event without a number to every live subscription. A socket that is still joining reads the current
    /// state after it was subscribed.
    pub fn deliver_ephemeral(&mut self, event: EphemeralEvent) {
        let frame = OutboundEvent::new(event.kind.into(), event.data);
        let live = self
            .subscriptions
            .iter()
            .filter(|subscription| subscription.pending.is_none());
        let mut delivered = 0;
        for subscription in live {
            subscription
                .subscriber
                .outbox
                .push_events(std::slice::from_ref(&frame));
            delivered += 1;
        }
        metrics().deliveries.inc_by(delivered);
    }

    /// Delivers to live subscriptions what they do not have yet, and keeps it for pending ones.
    fn push(&mut self, numbered: &[Numbered]) {
        if numbered.is_empty() {
            return;
        }
        let events: Vec<_> = numbered.iter().map(|one| one.event.clone()).collect();
        for subscription in &mut self.subscriptions {
            match &mut subscription.pending {
                None => {
                    let above = subscription.above;
                    let outbox = &subscription.subscriber.outbox;
                    let known = numbered.partition_point(|one| one.to <= above);
                    match numbered.get(known) {
                        Some(first) if first.from > above => outbox.push_events(&events[known..]),
                        Some(first) => {
                            let rest = first.clone().above(self.room, above);
                            let later = events[known + 1..].iter().cloned();
                            outbox.push_events(&rest.into_iter().chain(later).collect::<Vec<_>>());
                        }
                        None => {}
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
            .inc_by((self.subscriptions.len() * events.len()) as u64);
    }

    fn unsubscribe(&mut self, gone: impl Fn(&Subscription) -> bool) {
        self.subscriptions.retain(|subscription| {
            let gone = gone(subscription);
            if gone {
                subscription.subscriber.rooms().remove(&self.room);
            }
            !gone
        });
    }

    /// Delivers what was fetched for `after < seq <= upto`. Numbers that the store does not have (any more) are
    /// delivered as a `gap`.
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
        self.push(&[Numbered::gap(self.room, from, to)]);
    }
}

/// The event `reset`: the client's numbers of the room are no longer valid.
pub fn reset_event(room: RoomId, epoch: Epoch) -> Arc<OutboundEvent> {
    event(EventName::Reset, &Reset { room, epoch })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{edge::outbound::Encoding, model::new_id};

    #[test]
    fn a_socket_gets_no_gap_for_numbers_that_it_has() {
        let room = new_id();
        let gap = Numbered::gap(room, 37, 39);
        let above = |position| {
            let event = gap.clone().above(room, position)?;
            let data = event.rendered(Encoding::Plain, |_, data| data.into());
            let gap: Gap = serde_json::from_str(&data).unwrap();
            Some((gap.from, gap.to))
        };
        assert_eq!(above(36), Some((37, 39)));
        assert_eq!(above(37), Some((38, 39)));
        assert_eq!(above(38), Some((39, 39)));
        assert_eq!(above(39), None);
    }
}
