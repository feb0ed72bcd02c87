//! A `joinRoom` in progress: the socket is subscribed already, and its events wait until the answer is sent.

use std::sync::{Arc, atomic::AtomicBool};

use super::room::{Pending, Room};
use crate::{
    edge::{outbound::Item, subscriber::Subscriber},
    model::{RoomId, Seq},
};

/// The outcome of a `joinRoom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The socket gets every event above the answer's position.
    Live,
    /// The socket is not subscribed; the client has to join again from the answer's position.
    Again,
    /// The socket is not subscribed: its user is no longer a member. The answer must contain nothing of the room.
    Gone,
}

/// A subscription that is not live yet. Dropping it without `finish` removes it.
pub struct Joining {
    /// Shared with the hub; while it is set, no event arrives.
    pub(super) bus_lost: Arc<AtomicBool>,
    pub(super) room: Arc<Room>,
    subscriber: Arc<Subscriber>,
    /// Everything above this number arrives as events once the socket is live.
    pub live_from: Seq,
    done: bool,
}

impl Joining {
    pub(super) fn new(
        bus_lost: Arc<AtomicBool>,
        room: Arc<Room>,
        subscriber: Arc<Subscriber>,
        live_from: Seq,
    ) -> Self {
        Joining {
            bus_lost,
            room,
            subscriber,
            live_from,
            done: false,
        }
    }

    pub fn room(&self) -> RoomId {
        self.room.id
    }

    /// Answers the `joinRoom` and makes the subscription live: first `answer`, then every event above `position` that
    /// arrived meanwhile, then all later events. With `more` the subscription is removed instead: the client has to
    /// join again.
    ///
    /// `member_at` is the room's head at which the user was read to be a member. An event above it that ended the
    /// membership ends the join, too, as does a subscription that was removed meanwhile. `answer` is made from the
    /// outcome.
    pub fn finish(
        mut self,
        position: Seq,
        more: bool,
        member_at: Seq,
        answer: impl FnOnce(Ended) -> Item,
    ) {
        self.done = true;
        let outbox = self.subscriber.outbox.clone();
        let mut state = self.room.lock();
        let index = state
            .subscriptions
            .iter()
            .position(|known| known.subscriber.session == self.subscriber.session);
        let pending = index.and_then(|i| state.subscriptions[i].pending.as_deref());
        let ended = match pending {
            // Events between the two were not seen, and may have ended the membership.
            _ if member_at < self.live_from => Ended::Gone,
            None => Ended::Gone,
            Some(pending) if pending.left.is_some_and(|seq| seq > member_at) => Ended::Gone,
            Some(Pending { reset: Some(_), .. }) => Ended::Again,
            Some(pending) if more || pending.overflow || position < self.live_from => Ended::Again,
            Some(_) => Ended::Live,
        };
        outbox.push(answer(ended));
        if let Some(i) = index {
            if ended == Ended::Live {
                state.subscriptions[i].above = position;
                let pending = state.subscriptions[i].pending.take().unwrap_or_default();
                let events: Vec<_> = pending
                    .events
                    .into_iter()
                    .filter_map(|one| one.above(self.room.id, position))
                    .collect();
                outbox.push_events(&events);
            } else {
                let removed = state.subscriptions.swap_remove(i);
                if let Some(reset) = removed.pending.and_then(|pending| pending.reset) {
                    outbox.push_events(&[reset]);
                }
            }
        }
        if ended != Ended::Live {
            self.subscriber.rooms().remove(&self.room.id);
        }
        drop(state);
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if !self.done {
            self.room.leave(&self.subscriber);
        }
    }
}
