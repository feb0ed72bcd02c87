//! The hub: the rooms of this edge and their subscriptions.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    history_cache::CacheBytes,
    joining::Joining,
    room::{Room, Subscription},
};
use crate::{
    bus::{Channel, PubSub, RecentEvents, Subscriptions},
    command::Notice,
    edge::{batch_reads::BatchedRead, subscriber::Subscriber},
    error::Result,
    model::{FeedEvent, RoomId, Seq},
    store::Reads,
    telemetry::metrics,
};

/// How long an event may be on its way before its absence counts as a missing range.
pub(super) const SETTLE: Duration = Duration::from_millis(300);
const SHARDS: usize = 64;

/// The rooms of this edge.
pub struct Hub {
    pub(super) shards: Vec<Mutex<HashMap<RoomId, Arc<Room>>>>,
    pub(super) reads: Arc<dyn Reads>,
    /// Heads of rooms that are being opened.
    pub(super) heads: BatchedRead<RoomId, Seq>,
    pub(super) recent: Arc<dyn RecentEvents>,
    pub(super) subscriptions: Arc<dyn Subscriptions>,
    /// Held for reading while a room is being opened, and for writing while empty rooms are removed: a channel is not
    /// subscribed and unsubscribed at the same time.
    pub(super) opening: RwLock<()>,
    pub(super) bus_lost: Arc<AtomicBool>,
    pub(super) bus_back: Notify,
    /// Counts `joinRoom`s.
    pub(super) joins: AtomicU64,
    pub(super) pages: CacheBytes,
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
    ) -> Result<Arc<Self>> {
        let (subscriptions, incoming) = pubsub.listen().await?;
        let subscribed = subscriptions
            .subscribe(&[edge_channel, Channel::Everyone])
            .await?;
        metrics().bus_state.set(if subscribed {
            crate::telemetry::UP
        } else {
            crate::telemetry::DOWN
        });
        let truth = reads.clone();
        let hub = Arc::new(Hub {
            heads: BatchedRead::new(move |rooms: Vec<RoomId>| {
                let reads = truth.clone();
                async move {
                    let heads: HashMap<_, _> = reads.heads(&rooms).await?.into_iter().collect();
                    let head = |room| heads.get(room).copied().unwrap_or(0);
                    Ok(rooms.iter().map(head).collect())
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
            joins: AtomicU64::new(0),
            tasks: tasks.clone(),
            shutdown,
        });
        tasks.spawn(hub.clone().receive(incoming, notices));
        tasks.spawn(hub.clone().reconcile_forever(intervals.reconcile));
        tasks.spawn(hub.clone().check_rights_forever(intervals.rights));
        Ok(hub)
    }

    /// Subscribes a socket to a room, before anything is fetched for it. The caller has read its membership. If that was at
    /// a head below [`Joining::live_from`], events between the two may have ended it: the caller must read it again.
    pub async fn join(
        self: &Arc<Self>,
        room: RoomId,
        subscriber: Arc<Subscriber>,
    ) -> Result<Joining> {
        let room = self.open(room).await?;
        let live_from = {
            let mut state = room.lock();
            let joined = self.joins.fetch_add(1, Ordering::Relaxed);
            match state
                .subscriptions
                .iter_mut()
                .find(|s| s.subscriber.session == subscriber.session)
            {
                Some(subscription) => {
                    subscription.pending.get_or_insert_default();
                    subscription.joined = joined;
                }
                None => state.subscriptions.push(Subscription {
                    subscriber: subscriber.clone(),
                    pending: Some(Box::default()),
                    above: -1,
                    joined,
                }),
            }
            state.last
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
            && let Ok(recent) = self.recent.get(room).await
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
                let head = self.heads.get(id).await?;
                let mut state = room.lock();
                state.last = head;
                state.target = state.target.max(head);
                Ok::<_, crate::error::Error>(())
            })
            .await?;
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
