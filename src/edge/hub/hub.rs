//! The hub: the rooms of this edge, their subscriptions, and what arrives for them on the bus.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    epochs::{Epochs, Report, Reports},
    history_cache::CacheBytes,
    joining::Joining,
    room::{Room, Subscription},
};
use crate::{
    bus::{self, Channel, Incoming, PubSub, RecentEvents, RoomPayload, Subscriptions},
    command::Notice,
    edge::{batch_reads::BatchedRead, subscriber::Subscriber},
    error::Result,
    model::{Anchor, FeedEvent, Occupant, Position, RoomId, Seq},
    store::Reads,
    telemetry::metrics,
};

/// How long an event may be on its way before its absence counts as a missing range.
pub(super) const SETTLE: Duration = Duration::from_millis(300);
const SHARDS: usize = 64;
/// Messages of the bus that are handled in one go.
const AT_ONCE: usize = 256;
/// Events kept while a range before them is being fetched; those beyond it are fetched as well.
const MAX_AHEAD: usize = 4096;
/// Reports of lost history that may wait to be handled.
const REPORTS: usize = 16;

/// The rooms of this edge.
pub struct Hub {
    pub(super) shards: Vec<Mutex<HashMap<RoomId, Arc<Room>>>>,
    pub(super) reads: Arc<dyn Reads>,
    /// Positions of rooms that are being opened.
    pub(super) tips: BatchedRead<RoomId, Option<Position>>,
    pub(super) recent: Arc<dyn RecentEvents>,
    pub(super) subscriptions: Arc<dyn Subscriptions>,
    /// Held for reading while a room is being opened, and for writing while empty rooms are removed: a channel is not
    /// subscribed and unsubscribed at the same time.
    pub(super) opening: RwLock<()>,
    pub(super) bus_lost: Arc<AtomicBool>,
    pub(super) bus_back: Notify,
    /// Counts `joinRoom`s.
    pub(super) joins: AtomicU64,
    /// Counts comparisons of heads.
    pub(super) round: AtomicU64,
    pub(super) pages: CacheBytes,
    pub(super) epochs: Mutex<Epochs>,
    /// Held while the epoch is read and its change is handled, and while suspected rooms are compared.
    pub(super) comparing: tokio::sync::Mutex<()>,
    pub(super) suspected: Notify,
    pub(super) reports: mpsc::Sender<Report>,
    /// Counts the reports that were handled.
    pub(super) handled: watch::Sender<u64>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

/// The ports that a hub uses.
pub struct Ports {
    pub reads: Arc<dyn Reads>,
    pub pubsub: Arc<dyn PubSub>,
    pub recent: Arc<dyn RecentEvents>,
}

/// How often the hub compares its state with the store.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// For the rooms' heads: `edge.reconcile_interval`.
    pub reconcile: Duration,
    /// For the sockets' memberships: `edge.rights_interval`.
    pub rights: Duration,
}

impl Hub {
    /// Starts a hub. Its reports of lost history come from the second value.
    pub async fn start(
        Ports {
            reads,
            pubsub,
            recent,
        }: Ports,
        edge_channel: Channel,
        notices: mpsc::Sender<Notice>,
        intervals: Intervals,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<(Arc<Self>, Reports)> {
        let (subscriptions, incoming) = pubsub.listen().await?;
        subscriptions
            .subscribe(&[edge_channel, Channel::Everyone])
            .await?;
        let truth = reads.clone();
        let (reports, reported) = mpsc::channel(REPORTS);
        let hub = Arc::new(Hub {
            tips: BatchedRead::new(move |rooms: Vec<RoomId>| {
                let reads = truth.clone();
                async move {
                    let tips = reads.tips(&rooms).await?;
                    let tips: HashMap<_, _> = tips.into_iter().map(|tip| (tip.room, tip)).collect();
                    Ok(rooms.iter().map(|room| tips.get(room).copied()).collect())
                }
            }),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            reads,
            recent,
            subscriptions,
            opening: RwLock::new(()),
            bus_lost: Arc::default(),
            pages: CacheBytes::default(),
            bus_back: Notify::new(),
            round: AtomicU64::new(0),
            epochs: Mutex::default(),
            comparing: tokio::sync::Mutex::default(),
            suspected: Notify::new(),
            reports,
            handled: watch::Sender::new(0),
            joins: AtomicU64::new(0),
            tasks: tasks.clone(),
            shutdown,
        });
        tasks.spawn(hub.clone().receive(incoming, notices));
        tasks.spawn(hub.clone().reconcile_forever(intervals.reconcile));
        tasks.spawn(hub.clone().check_rights_forever(intervals.rights));
        tasks.spawn(hub.clone().check_suspects_forever());
        Ok((hub, reported))
    }

    /// Subscribes a socket to a room, before anything is fetched for it. The caller has read its membership. If that
    /// was at a head below [`Joining::live_from`], events between the two may have ended it: the caller must read it
    /// again. `after` is the position from which the client resumes.
    pub async fn join(
        self: &Arc<Self>,
        room: RoomId,
        subscriber: Arc<Subscriber>,
        after: Option<Seq>,
    ) -> Result<Joining> {
        let resumed = after.map(|_| Instant::now());
        let id = room;
        let (room, live_from) = loop {
            let room = self.open(id).await?;
            let mut state = room.lock();
            if state.has_ended() {
                drop(state);
                self.remove(&room);
                continue;
            }
            let joined = self.joins.fetch_add(1, Ordering::Relaxed);
            match state
                .subscriptions
                .iter_mut()
                .find(|s| s.subscriber.session == subscriber.session)
            {
                Some(subscription) => {
                    subscription.pending.get_or_insert_default();
                    subscription.joined = joined;
                    subscription.resumed = resumed;
                }
                None => state.subscriptions.push(Subscription {
                    subscriber: subscriber.clone(),
                    pending: Some(Box::default()),
                    above: -1,
                    joined,
                    resumed,
                }),
            }
            let live_from = state.last;
            drop(state);
            break (room, live_from);
        };
        subscriber.rooms().insert(room.id);
        Ok(Joining::new(
            self.bus_lost.clone(),
            room,
            subscriber,
            live_from,
        ))
    }

    /// Whether the connection to the bus is down.
    pub fn is_bus_lost(&self) -> bool {
        self.bus_lost.load(Ordering::Relaxed)
    }

    /// Resolves when the connection to the bus has been restored since the last call. For one caller. Cancel-safe.
    pub async fn bus_back(&self) {
        self.bus_back.notified().await;
    }

    /// Removes this instance of a room; the next join opens another.
    pub(super) fn remove(&self, room: &Arc<Room>) {
        let mut rooms = self.shard(room.id).lock();
        if rooms
            .get(&room.id)
            .is_some_and(|found| Arc::ptr_eq(found, room))
        {
            rooms.remove(&room.id);
            metrics().rooms_subscribed.dec();
        }
    }

    /// Removes a socket's subscription; no event of the room follows.
    pub fn leave(&self, room: RoomId, subscriber: &Subscriber) {
        subscriber.rooms().remove(&room);
        if let Some(room) = self.find(room) {
            room.leave(subscriber);
        }
    }

    /// The events of a room above `after` and up to a number, from the cache if it has all of them.
    pub async fn fetch(&self, room: RoomId, after: Seq, upto: Seq) -> Result<Vec<FeedEvent>> {
        // While the bus is down its cache is not waited for: the fetched events may end a membership.
        if !self.is_bus_lost()
            && let Some(epoch) = self.epoch()
            && let Ok(recent) = self.recent.get(epoch, room).await
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

    pub(super) async fn open(self: &Arc<Self>, id: RoomId) -> Result<Arc<Room>> {
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
                // Read after the channel is subscribed: events stored from now on will be published to it.
                let tip = self.tips.get(id).await?;
                let head = tip.map_or(0, |tip| tip.head);
                let mut state = room.lock();
                state.last = head;
                state.anchor = tip.and_then(anchor_at);
                state.compared = state.anchor;
                state.target = state.target.max(head);
                Ok::<_, crate::error::Error>(())
            })
            .await?;
        let skipped = room.lock().skipped;
        if skipped && let Some(tip) = self.tips.get(id).await? {
            let mut state = room.lock();
            if state.last == tip.head {
                state.anchor = anchor_at(tip).or(state.anchor);
                state.skipped = false;
            }
        }
        self.settle(&room);
        Ok(room)
    }

    pub(super) fn rooms(&self) -> Vec<Arc<Room>> {
        let mut rooms = Vec::new();
        for shard in &self.shards {
            rooms.extend(shard.lock().values().cloned());
        }
        rooms
    }

    pub(super) fn find(&self, room: RoomId) -> Option<Arc<Room>> {
        self.shard(room).lock().get(&room).cloned()
    }

    fn shard(&self, room: RoomId) -> &Mutex<HashMap<RoomId, Arc<Room>>> {
        &self.shards[room.as_u128() as usize % SHARDS]
    }
}

/// The message at a room's head.
fn anchor_at(tip: Position) -> Option<Anchor> {
    match tip.occupant {
        Occupant::Message(message) => Some(Anchor {
            seq: tip.head,
            message,
        }),
        Occupant::Nothing | Occupant::Other => None,
    }
}

// ---- messages of the bus: events of rooms in any order and any number of times, notices, the state of the connection

impl Hub {
    pub(super) async fn receive(
        self: Arc<Self>,
        mut incoming: mpsc::Receiver<Incoming>,
        notices: mpsc::Sender<Notice>,
    ) {
        // Takes all available messages: on a busy edge this task is not scheduled often.
        let mut next = Vec::with_capacity(AT_ONCE);
        loop {
            let received = tokio::select! {
                received = incoming.recv_many(&mut next, AT_ONCE) => received,
                () = self.shutdown.cancelled() => 0,
            };
            if received == 0 {
                return;
            }
            for one in next.drain(..) {
                self.handle(one, &notices).await;
            }
        }
    }

    async fn handle(self: &Arc<Self>, incoming: Incoming, notices: &mpsc::Sender<Notice>) {
        match incoming {
            Incoming::Message {
                channel: Channel::Room(room),
                payload,
            } => {
                if let Some(room) = self.find(room) {
                    match bus::decode_room(&payload) {
                        RoomPayload::Feed(events) => self.arrived(&room, events),
                        RoomPayload::Ephemeral(event) => room.lock().deliver_ephemeral(event),
                        // Its events count as a missing range, and are fetched.
                        RoomPayload::Unknown => {}
                    }
                }
            }
            Incoming::Message { payload, .. } => match serde_json::from_slice(&payload) {
                Ok(notice) => {
                    let _ = notices.send(notice).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "unreadable notice; a newer version may have sent it");
                }
            },
            Incoming::Lost => {
                self.bus_lost.store(true, Ordering::Relaxed);
            }
            Incoming::Restored => {
                self.bus_lost.store(false, Ordering::Relaxed);
                // The database may have failed together with the bus: compares the positions from before the outage.
                for room in self.rooms() {
                    let before = room.lock().delivered();
                    self.suspect(&room, before);
                }
                let hub = self.clone();
                self.tasks.spawn(async move { hub.reconcile().await });
                self.bus_back.notify_one();
            }
        }
    }

    /// Accepts events in any order, including repeated ones.
    fn arrived(self: &Arc<Self>, room: &Arc<Room>, events: Vec<FeedEvent>) {
        let mut state = room.lock();
        let before = state.delivered();
        let mut suspicious = false;
        let mut ready = Vec::new();
        for event in events {
            state.target = state.target.max(event.seq);
            if state.last >= 0 && event.seq == state.last + 1 {
                state.last = event.seq;
                ready.push(event);
            } else if event.seq <= state.last {
                // A repetition, or another event under a number that was already delivered.
                suspicious |= before.anchor.is_none() || before.anchor != Anchor::of(&event);
            } else if state.ahead.len() < MAX_AHEAD {
                state.ahead.insert(event.seq, event);
            }
        }
        state.deliver(ready);
        drop(state);
        if suspicious {
            self.suspect(room, before);
        }
        self.settle(room);
    }
}
