//! The rooms that have sockets on this edge, and what keeps each socket's view whole: it sees every event of a room
//! once and in order, whatever the bus loses, repeats or swaps.
//!
//! The bus is only a hint. Each room remembers the last number it gave its sockets. A repeat is dropped, the next
//! number is delivered, and a number further ahead shows a hole, which is fetched before anything that follows is
//! delivered. A hole that nothing follows is found by comparing the rooms' heads with the store every
//! `edge.reconcile_interval`, and at once when the bus comes back.
//!
//! A membership ends with a numbered event of the room, and the hub unsubscribes the user's sockets when it delivers
//! it. A socket that joins has read its membership together with the room's head: every event above that head must
//! pass its subscription, or the membership is read again (`Joining::finish`). `rights` is the safety net for both.

mod pages;
mod rights;
mod room;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

pub use pages::Newest;
use pages::Taken;
use room::{Room, Seat};
use tokio::sync::{Notify, RwLock, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{gather::Gather, outbox::Item, session::Seated};
use crate::{
    bus::{self, Bus, Channel, Incoming, RoomNews, Subscriptions},
    error::Result,
    job::Notice,
    model::{FeedEvent, RoomId, Seq},
    store::Reads,
    telemetry::metrics,
};

/// How many events are fetched at once to fill a hole; [`events`](crate::store::MessageReads::events) allows as many.
const REPAIR_PAGE: Seq = 1000;
/// Events kept while a hole before them is being fetched; beyond it they are fetched as well.
const MAX_AHEAD: usize = 4096;
/// How long a hole may stay open because the store does not answer, before sockets hear `gap`.
const REPAIR_DEADLINE: Duration = Duration::from_secs(60);
/// How long an event may be on its way before its absence counts as a hole.
const SETTLE: Duration = Duration::from_millis(300);
const SHARDS: usize = 64;
/// What the bus brings that is taken at once.
const AT_ONCE: usize = 256;

pub struct Hub {
    shards: Vec<Mutex<HashMap<RoomId, Arc<Room>>>>,
    reads: Arc<dyn Reads>,
    /// Heads of rooms that are being opened.
    heads: Gather<RoomId, Seq>,
    bus: Arc<dyn Bus>,
    subscriptions: Arc<dyn Subscriptions>,
    /// Held for reading while a room is being opened, for writing while empty rooms are given up: a subscription
    /// never meets its own cancellation.
    opening: RwLock<()>,
    bus_lost: AtomicBool,
    bus_back: Notify,
    /// Counts `joinRoom`s.
    joins: AtomicU64,
    pages: Taken,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// How often the hub asks the store.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// For the rooms' heads: `edge.reconcile_interval`.
    pub reconcile: Duration,
    /// For the sockets' memberships: `edge.rights_interval`.
    pub rights: Duration,
}

/// What became of a socket's `joinRoom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It gets every event above the answer's position.
    Live,
    /// It is not subscribed, and asks again from the answer's position.
    Again,
    /// It is not subscribed: its user is not a member any more. The answer must hold nothing of the room.
    Gone,
}

/// A socket that has a place but is not live yet. Dropped without `finish`, the place is given up.
pub struct Joining {
    hub: Arc<Hub>,
    room: Arc<Room>,
    who: Arc<Seated>,
    /// Everything above this number comes as events once the socket is live.
    pub live_from: Seq,
    done: bool,
}

impl Hub {
    pub async fn start(
        reads: Arc<dyn Reads>,
        bus: Arc<dyn Bus>,
        edge_channel: Channel,
        notices: mpsc::Sender<Notice>,
        intervals: Intervals,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>> {
        let (subscriptions, incoming) = bus.listen().await?;
        let subscribed = subscriptions
            .subscribe(&[edge_channel, Channel::Everyone])
            .await?;
        metrics().bus_state.set(match subscribed {
            true => crate::telemetry::UP,
            false => crate::telemetry::DOWN,
        });
        let truth = reads.clone();
        let hub = Arc::new(Hub {
            heads: Gather::new(move |rooms: Vec<RoomId>| {
                let reads = truth.clone();
                async move {
                    let heads: HashMap<_, _> = reads.heads(&rooms).await?.into_iter().collect();
                    let head = |room| heads.get(room).copied().unwrap_or(0);
                    Ok(rooms.iter().map(head).collect())
                }
            }),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            reads,
            bus,
            subscriptions,
            opening: RwLock::new(()),
            bus_lost: AtomicBool::new(false),
            pages: Taken::default(),
            bus_back: Notify::new(),
            joins: AtomicU64::new(0),
            tasks: tasks.clone(),
            shutdown,
        });
        tasks.spawn(hub.clone().receive(incoming, notices));
        tasks.spawn(hub.clone().reconcile_forever(intervals.reconcile));
        tasks.spawn(hub.clone().check_rights_forever(intervals.rights));
        Ok(hub)
    }

    /// Gives a socket a place in a room, before anything is fetched for it. The caller has read its membership. Where that
    /// was at a head below [`Joining::live_from`], events between the two may have ended it: the caller reads it again.
    pub async fn join(self: &Arc<Self>, room: RoomId, who: Arc<Seated>) -> Result<Joining> {
        let room = self.open(room).await?;
        let live_from = {
            let mut state = room.lock();
            let joined = self.joins.fetch_add(1, Ordering::Relaxed);
            match state
                .seats
                .iter_mut()
                .find(|s| s.who.session == who.session)
            {
                Some(seat) => {
                    seat.pending.get_or_insert_default();
                    seat.joined = joined;
                }
                None => state.seats.push(Seat {
                    who: who.clone(),
                    pending: Some(Box::default()),
                    above: -1,
                    joined,
                }),
            }
            state.last
        };
        who.rooms().insert(room.id);
        Ok(Joining {
            hub: self.clone(),
            room,
            who,
            live_from,
            done: false,
        })
    }

    /// Whether nothing comes from the bus at present.
    pub fn is_bus_lost(&self) -> bool {
        self.bus_lost.load(Ordering::Relaxed)
    }

    /// Resolves when the bus has come back since the last time, for one caller. Cancel-safe.
    pub async fn bus_back(&self) {
        self.bus_back.notified().await;
    }

    /// Takes a socket's place away; no event of the room follows.
    pub fn leave(&self, room: RoomId, who: &Seated) {
        who.rooms().remove(&room);
        if let Some(room) = self.find(room) {
            room.lock()
                .seats
                .retain(|seat| seat.who.session != who.session);
        }
    }

    /// The events of a room between two numbers, `after` excluded, from the cache where it has all of them.
    pub async fn fetch(&self, room: RoomId, after: Seq, upto: Seq) -> Result<Vec<FeedEvent>> {
        // While the bus is away its cache is not waited for: what is to be fetched may be the end of a right.
        if !self.is_bus_lost()
            && let Ok(recent) = self.bus.recent(room).await
            && recent.first().is_some_and(|first| first.seq <= after + 1)
            && recent.last().is_some_and(|last| last.seq >= upto)
        {
            return Ok(recent
                .into_iter()
                .filter(|event| event.seq > after && event.seq <= upto)
                .collect());
        }
        self.reads.events(room, after, upto).await
    }

    async fn open(self: &Arc<Self>, id: RoomId) -> Result<Arc<Room>> {
        let _opening = self.opening.read().await;
        let room = self
            .shard(id)
            .lock()
            .entry(id)
            .or_insert_with(|| {
                metrics().rooms_subscribed.inc();
                Arc::new(Room::new(id, self.pages.clone()))
            })
            .clone();
        room.open
            .get_or_try_init(|| async {
                self.subscriptions.subscribe(&[Channel::Room(id)]).await?;
                // Read after the subscription holds: what is stored from here on will be announced.
                let head = self.heads.ask(id).await?;
                let mut state = room.lock();
                state.last = head;
                state.target = state.target.max(head);
                Ok::<_, crate::error::Error>(())
            })
            .await?;
        self.settle(&room);
        Ok(room)
    }

    // ---- what the bus brings

    async fn receive(
        self: Arc<Self>,
        mut incoming: mpsc::Receiver<Incoming>,
        notices: mpsc::Sender<Notice>,
    ) {
        // All that is there at once: on a busy edge it takes a while until this task has its next turn.
        let mut next = Vec::with_capacity(AT_ONCE);
        loop {
            let heard = tokio::select! {
                heard = incoming.recv_many(&mut next, AT_ONCE) => heard,
                () = self.shutdown.cancelled() => 0,
            };
            if heard == 0 {
                return;
            }
            for one in next.drain(..) {
                self.hear(one, &notices).await;
            }
        }
    }

    async fn hear(self: &Arc<Self>, incoming: Incoming, notices: &mpsc::Sender<Notice>) {
        match incoming {
            Incoming::Message {
                channel: Channel::Room(room),
                payload,
            } => {
                if let Some(room) = self.find(room) {
                    match bus::decode_room(&payload) {
                        RoomNews::Feed(events) => self.arrived(&room, events),
                        RoomNews::Ephemeral(event) => room.lock().tell(event),
                        // Whatever it was, its numbers will be missed and fetched.
                        RoomNews::Unknown => {}
                    }
                }
            }
            Incoming::Message { payload, .. } => match serde_json::from_slice(&payload) {
                Ok(notice) => {
                    let _ = notices.send(notice).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a notice that this version cannot read");
                }
            },
            Incoming::Lost => {
                self.bus_lost.store(true, Ordering::Relaxed);
                metrics().bus_state.set(crate::telemetry::DOWN);
            }
            Incoming::Restored => {
                self.bus_lost.store(false, Ordering::Relaxed);
                metrics().bus_state.set(crate::telemetry::UP);
                let hub = self.clone();
                self.tasks.spawn(async move { hub.reconcile().await });
                self.bus_back.notify_one();
            }
        }
    }

    /// Takes events in any order, any number of times.
    fn arrived(self: &Arc<Self>, room: &Arc<Room>, events: Vec<FeedEvent>) {
        let mut state = room.lock();
        let mut ready = Vec::new();
        for event in events {
            state.target = state.target.max(event.seq);
            if state.last >= 0 && event.seq == state.last + 1 {
                state.last = event.seq;
                ready.push(event);
            } else if event.seq > state.last && state.ahead.len() < MAX_AHEAD {
                state.ahead.insert(event.seq, event);
            }
        }
        state.deliver(ready);
        drop(state);
        self.settle(room);
    }

    /// Delivers what has become contiguous, and has a hole fetched where one is left.
    fn settle(self: &Arc<Self>, room: &Arc<Room>) {
        let mut state = room.lock();
        if state.last < 0 {
            return;
        }
        state.advance();
        if state.target > state.last && !state.repairing {
            state.repairing = true;
            let (hub, room) = (self.clone(), room.clone());
            self.tasks.spawn(async move { hub.repair(&room).await });
        }
    }

    /// Fetches until nothing known is missing.
    async fn repair(self: &Arc<Self>, room: &Arc<Room>) {
        let started = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            let (after, upto) = {
                let mut state = room.lock();
                let hole_end = state
                    .ahead
                    .first_key_value()
                    .map_or(state.target, |(first, _)| first - 1);
                if state.target <= state.last || state.seats.is_empty() {
                    // An empty room catches up by its head when someone joins.
                    if state.seats.is_empty() {
                        state.last = state.last.max(state.target);
                        state.ahead.clear();
                        state.pages.end();
                    }
                    state.repairing = false;
                    return;
                }
                (state.last, hole_end.min(state.last + REPAIR_PAGE))
            };
            let fetched = tokio::select! {
                fetched = self.fetch(room.id, after, upto) => fetched,
                () = self.shutdown.cancelled() => return,
            };
            match fetched {
                Ok(events) => {
                    metrics().holes_repaired.inc();
                    room.lock().fill(after, upto, events);
                    pause = Duration::from_millis(50);
                }
                Err(error) if started.elapsed() < REPAIR_DEADLINE => {
                    tracing::debug!(room = %room.id, error = %error.chain(), "a hole waits for the store");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.shutdown.cancelled() => return,
                    }
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => {
                    tracing::warn!(room = %room.id, from = after + 1, to = upto, error = %error.chain(), "a hole could not be filled");
                    room.lock().fill(after, upto, Vec::new());
                }
            }
            room.lock().advance();
        }
    }

    // ---- heads

    async fn reconcile_forever(self: Arc<Self>, interval: Duration) {
        loop {
            // Without the bus this is the only way events come.
            let pause = if self.bus_lost.load(Ordering::Relaxed) {
                interval.min(Duration::from_millis(500))
            } else {
                interval
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => return,
            }
            self.give_up_empty_rooms().await;
            self.reconcile().await;
        }
    }

    /// Compares every room here with the store, and has what is missing fetched.
    pub async fn reconcile(self: &Arc<Self>) {
        let rooms: Vec<RoomId> = self.rooms().iter().map(|room| room.id).collect();
        let mut behind = Vec::new();
        for chunk in rooms.chunks(5000) {
            match self.reads.heads(chunk).await {
                Ok(heads) => {
                    for (id, head) in heads {
                        if let Some(room) = self.find(id)
                            && room.is_behind(head)
                        {
                            behind.push((room, head));
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "the rooms' heads could not be compared");
                    return;
                }
            }
        }
        if behind.is_empty() {
            return;
        }
        if !self.bus_lost.load(Ordering::Relaxed) {
            tokio::time::sleep(SETTLE).await;
        }
        for (room, head) in behind {
            if room.is_behind(head) {
                let mut state = room.lock();
                state.target = state.target.max(head);
                drop(state);
                self.settle(&room);
            }
        }
    }

    async fn give_up_empty_rooms(&self) {
        if self.rooms().iter().all(|room| !room.is_empty()) {
            return;
        }
        let _closing = self.opening.write().await;
        let mut gone = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|id, room| {
                room.lock().pages.forget_old();
                // A joiner holds the room while it takes its seat.
                let keep = !room.is_empty() || Arc::strong_count(room) > 1;
                if !keep {
                    gone.push(Channel::Room(*id));
                }
                keep
            });
        }
        metrics().rooms_subscribed.sub(gone.len() as i64);
        if let Err(error) = self.subscriptions.unsubscribe(&gone).await {
            tracing::debug!(error = %error.chain(), "rooms could not be unsubscribed");
        }
    }

    fn rooms(&self) -> Vec<Arc<Room>> {
        let mut rooms = Vec::new();
        for shard in &self.shards {
            rooms.extend(shard.lock().values().cloned());
        }
        rooms
    }

    fn find(&self, room: RoomId) -> Option<Arc<Room>> {
        self.shard(room).lock().get(&room).cloned()
    }

    fn shard(&self, room: RoomId) -> &Mutex<HashMap<RoomId, Arc<Room>>> {
        &self.shards[room.as_u128() as usize % SHARDS]
    }
}

impl Joining {
    pub fn room(&self) -> RoomId {
        self.room.id
    }

    /// Answers the `joinRoom` and goes live: first `answer`, then every event above `position` that came meanwhile,
    /// then whatever comes. With `more`, the place is given up instead: the client asks again. `member_at` is the room's
    /// head when the user was read to be a member: an event above it that ended the membership ends the join, too. So does
    /// the loss of the place. The answer must say what became of it, so `answer` is made from it.
    pub fn finish(
        mut self,
        position: Seq,
        more: bool,
        member_at: Seq,
        answer: impl FnOnce(Ended) -> Item,
    ) {
        self.done = true;
        let outbox = self.who.outbox.clone();
        let mut state = self.room.lock();
        let place = state
            .seats
            .iter()
            .position(|seat| seat.who.session == self.who.session);
        let pending = place.and_then(|i| state.seats[i].pending.as_deref());
        let ended = match pending {
            // Events that were not seen might have ended the membership.
            _ if member_at < self.live_from => Ended::Gone,
            None => Ended::Gone,
            Some(pending) if pending.left.is_some_and(|seq| seq > member_at) => Ended::Gone,
            // Out of order by too much to keep.
            Some(pending) if more || pending.overflow || position < self.live_from => Ended::Again,
            Some(_) => Ended::Live,
        };
        outbox.push(answer(ended));
        if let Some(i) = place {
            if ended == Ended::Live {
                state.seats[i].above = position;
                let pending = state.seats[i].pending.take().unwrap_or_default();
                let frames: Vec<_> = pending
                    .events
                    .into_iter()
                    .filter(|(seq, _)| *seq > position)
                    .map(|(_, frame)| frame)
                    .collect();
                outbox.push_frames(&frames);
            } else {
                state.seats.swap_remove(i);
            }
        }
        if ended != Ended::Live {
            self.who.rooms().remove(&self.room.id);
        }
        drop(state);
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if !self.done {
            self.hub.leave(self.room.id, &self.who);
        }
    }
}
