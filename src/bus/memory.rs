//! The bus of a single process. The same promises as over Redis, and as forgetful: everything is bounded, and a
//! listener that falls behind sees `Lost` and `Restored`.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};
use uuid::Uuid;

use super::{
    Bus, Channel, Incoming, Presence, Publications, REMEMBER_ACTIVE, RoomEvents, Subscriptions,
    WorkerId, encode_events,
};
use crate::{
    error::Result,
    model::{FeedEvent, RoomId, Timestamp, UserId},
};

/// Messages that wait for a listener, at most.
const QUEUE: usize = 16 * 1024;
/// How often what has expired is looked for, beside where it is asked for.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Settings {
    /// Events kept a room, at least 1.
    pub recent_messages: usize,
    /// How long they are kept after the last one.
    pub recent_ttl: Duration,
    /// Rooms whose events are kept.
    pub recent_rooms: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            recent_messages: 200,
            recent_ttl: Duration::from_secs(3600),
            recent_rooms: 10_000,
        }
    }
}

/// Clones share one bus.
#[derive(Clone)]
pub struct MemoryBus {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    settings: Settings,
    listeners: HashMap<u64, Listener>,
    next_listener: u64,
    channels: HashMap<Channel, HashSet<u64>>,
    recent: Expiring<RoomId, VecDeque<FeedEvent>>,
    values: Expiring<String, String>,
    hits: Expiring<String, u64>,
    counters: Expiring<String, u64>,
    leaders: Expiring<String, Uuid>,
    places: HashMap<String, Expiring<Uuid, ()>>,
    workers: Expiring<WorkerId, ()>,
    connected: Expiring<UserId, ()>,
    active: Expiring<UserId, Timestamp>,
}

struct Listener {
    sender: mpsc::Sender<Incoming>,
    channels: HashSet<Channel>,
    /// It fell behind: nothing more is sent until it has caught up.
    behind: bool,
}

/// A map whose entries end by themselves.
struct Expiring<K, V> {
    entries: HashMap<K, (Instant, V)>,
    swept: Instant,
}

impl<K: Hash + Eq + Clone, V> Expiring<K, V> {
    fn new() -> Self {
        Expiring {
            entries: HashMap::new(),
            swept: Instant::now(),
        }
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.swept) >= SWEEP_EVERY {
            self.entries.retain(|_, (end, _)| *end > now);
            self.swept = now;
        }
    }

    fn get(&mut self, key: &K) -> Option<&mut V> {
        let now = Instant::now();
        self.entries
            .get_mut(key)
            .filter(|(end, _)| *end > now)
            .map(|(_, value)| value)
    }

    fn put(&mut self, key: K, value: V, ttl: Duration) {
        self.sweep();
        self.entries.insert(key, (Instant::now() + ttl, value));
    }

    /// As `put`, but never to an earlier end.
    fn prolong(&mut self, key: K, value: V, ttl: Duration) {
        let known = self.entries.get(&key).map(|(end, _)| *end);
        let end = Instant::now() + ttl;
        self.sweep();
        self.entries
            .insert(key, (known.map_or(end, |known| known.max(end)), value));
    }

    fn take(&mut self, key: &K) -> Option<V> {
        self.sweep();
        let (end, value) = self.entries.remove(key)?;
        (end > Instant::now()).then_some(value)
    }
}

impl MemoryBus {
    pub fn new(settings: Settings) -> MemoryBus {
        MemoryBus {
            inner: Arc::new(Mutex::new(Inner {
                settings,
                listeners: HashMap::new(),
                next_listener: 0,
                channels: HashMap::new(),
                recent: Expiring::new(),
                values: Expiring::new(),
                hits: Expiring::new(),
                counters: Expiring::new(),
                leaders: Expiring::new(),
                places: HashMap::new(),
                workers: Expiring::new(),
                connected: Expiring::new(),
                active: Expiring::new(),
            })),
        }
    }
}

impl Inner {
    fn keep(&mut self, room: &RoomEvents) {
        let keep = self.settings.recent_messages.max(1);
        let ttl = self.settings.recent_ttl;
        let mut kept = self.recent.take(&room.room).unwrap_or_default();
        for event in &room.events {
            if kept.back().is_some_and(|last| last.seq + 1 != event.seq) {
                kept.clear();
            }
            kept.push_back(event.clone());
            if kept.len() > keep {
                kept.pop_front();
            }
        }
        let full = self.recent.entries.len() >= self.settings.recent_rooms;
        // Any room will do: it is only a cache.
        if full && let Some(any) = self.recent.entries.keys().next().copied() {
            self.recent.entries.remove(&any);
        }
        self.recent.put(room.room, kept, ttl);
    }

    /// Returns the listeners that just fell behind.
    fn send(&mut self, channel: Channel, payload: &Bytes) -> Vec<u64> {
        let mut fallen = Vec::new();
        let Some(subscribed) = self.channels.get(&channel) else {
            return fallen;
        };
        let mut gone = Vec::new();
        for id in subscribed {
            let Some(listener) = self.listeners.get_mut(id) else {
                continue;
            };
            if listener.behind {
                continue;
            }
            let payload = payload.clone();
            match listener
                .sender
                .try_send(Incoming::Message { channel, payload })
            {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    listener.behind = true;
                    fallen.push(*id);
                }
                Err(TrySendError::Closed(_)) => gone.push(*id),
            }
        }
        for id in gone {
            self.forget(id);
        }
        fallen
    }

    fn forget(&mut self, id: u64) {
        let Some(listener) = self.listeners.remove(&id) else {
            return;
        };
        for channel in listener.channels {
            self.unsubscribe(id, channel);
        }
    }

    fn unsubscribe(&mut self, id: u64, channel: Channel) {
        if let Some(subscribed) = self.channels.get_mut(&channel) {
            subscribed.remove(&id);
            if subscribed.is_empty() {
                self.channels.remove(&channel);
            }
        }
    }
}

/// Waits until the listener has taken something, then tells it what happened and lets it have messages again.
async fn restore(inner: Weak<Mutex<Inner>>, id: u64) {
    let Some(sender) = inner.upgrade().and_then(|inner| {
        let inner = inner.lock();
        inner
            .listeners
            .get(&id)
            .map(|listener| listener.sender.clone())
    }) else {
        return;
    };
    // An error means that nobody listens any more.
    let Ok(places) = sender.reserve_many(2).await else {
        return;
    };
    if let Some(inner) = inner.upgrade() {
        // Under the lock: nothing comes between the two, and nothing is missed after them.
        let mut inner = inner.lock();
        for (place, news) in places.zip([Incoming::Lost, Incoming::Restored]) {
            place.send(news);
        }
        if let Some(listener) = inner.listeners.get_mut(&id) {
            listener.behind = false;
        }
    }
}

struct MemorySubscriptions {
    inner: Arc<Mutex<Inner>>,
    id: u64,
}

#[async_trait]
impl Subscriptions for MemorySubscriptions {
    async fn subscribe(&self, channels: &[Channel]) -> Result<bool> {
        let mut inner = self.inner.lock();
        let Some(listener) = inner.listeners.get_mut(&self.id) else {
            return Ok(false);
        };
        listener.channels.extend(channels);
        for channel in channels {
            inner.channels.entry(*channel).or_default().insert(self.id);
        }
        Ok(true)
    }

    async fn unsubscribe(&self, channels: &[Channel]) -> Result<()> {
        let mut inner = self.inner.lock();
        for channel in channels {
            if let Some(listener) = inner.listeners.get_mut(&self.id) {
                listener.channels.remove(channel);
            }
            inner.unsubscribe(self.id, *channel);
        }
        Ok(())
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(&self, publications: &Publications) -> Result<()> {
        let mut fallen = Vec::new();
        {
            let mut inner = self.inner.lock();
            for room in &publications.stale {
                inner.recent.take(room);
            }
            for room in publications
                .rooms
                .iter()
                .filter(|room| !room.events.is_empty())
            {
                inner.keep(room);
                let channel = Channel::Room(room.room);
                // Nobody here may care about the room.
                if inner.channels.contains_key(&channel) {
                    let payload = Bytes::from(encode_events(&room.events));
                    fallen.extend(inner.send(channel, &payload));
                }
            }
            for (channel, payload) in &publications.notices {
                fallen.extend(inner.send(*channel, payload));
            }
        }
        for id in fallen {
            tokio::spawn(restore(Arc::downgrade(&self.inner), id));
        }
        Ok(())
    }

    async fn listen(&self) -> Result<(Arc<dyn Subscriptions>, mpsc::Receiver<Incoming>)> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut inner = self.inner.lock();
        let deaf = inner
            .listeners
            .iter()
            .filter(|(_, listener)| listener.sender.is_closed());
        for id in deaf.map(|(id, _)| *id).collect::<Vec<_>>() {
            inner.forget(id);
        }
        let id = inner.next_listener;
        inner.next_listener += 1;
        inner.listeners.insert(
            id,
            Listener {
                sender,
                channels: HashSet::new(),
                behind: false,
            },
        );
        let subscriptions = MemorySubscriptions {
            inner: self.inner.clone(),
            id,
        };
        Ok((Arc::new(subscriptions), receiver))
    }

    async fn recent(&self, room: RoomId) -> Result<Vec<FeedEvent>> {
        let mut inner = self.inner.lock();
        Ok(inner
            .recent
            .get(&room)
            .map(|kept| kept.iter().cloned().collect())
            .unwrap_or_default())
    }

    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<()> {
        self.inner
            .lock()
            .values
            .put(key.to_owned(), value.to_owned(), ttl);
        Ok(())
    }

    async fn take(&self, key: &str) -> Result<Option<String>> {
        Ok(self.inner.lock().values.take(&key.to_owned()))
    }

    async fn hit(&self, key: &str, window: Duration) -> Result<u64> {
        let key = key.to_owned();
        let mut inner = self.inner.lock();
        if let Some(count) = inner.hits.get(&key) {
            *count += 1;
            return Ok(*count);
        }
        inner.hits.put(key, 1, window);
        Ok(1)
    }

    async fn count(&self, additions: &[(&str, u64)], ttl: Duration) -> Result<Vec<u64>> {
        let mut inner = self.inner.lock();
        let totals = additions.iter().map(|(key, addition)| {
            let key = (*key).to_owned();
            let total = inner.counters.get(&key).map_or(0, |total| *total) + addition;
            if *addition > 0 {
                inner.counters.put(key, total, ttl);
            }
            total
        });
        Ok(totals.collect())
    }

    async fn lead(&self, key: &str, holder: Uuid, ttl: Duration) -> Result<bool> {
        let key = key.to_owned();
        let mut inner = self.inner.lock();
        if inner
            .leaders
            .get(&key)
            .is_some_and(|other| *other != holder)
        {
            return Ok(false);
        }
        inner.leaders.put(key, holder, ttl);
        Ok(true)
    }

    async fn resign(&self, key: &str, holder: Uuid) -> Result<()> {
        let key = key.to_owned();
        let mut inner = self.inner.lock();
        if inner.leaders.get(&key) == Some(&mut { holder }) {
            inner.leaders.take(&key);
        }
        Ok(())
    }

    async fn occupy(&self, key: &str, holder: Uuid, places: u32, ttl: Duration) -> Result<bool> {
        let mut inner = self.inner.lock();
        let taken = inner
            .places
            .entry(key.to_owned())
            .or_insert_with(Expiring::new);
        let now = Instant::now();
        taken.entries.retain(|_, (end, ())| *end > now);
        let free = taken.entries.len() < places as usize;
        if free || taken.entries.contains_key(&holder) {
            taken.put(holder, (), ttl);
            return Ok(true);
        }
        Ok(false)
    }

    async fn vacate(&self, key: &str, holder: Uuid) -> Result<()> {
        let mut inner = self.inner.lock();
        if let Some(taken) = inner.places.get_mut(key) {
            taken.entries.remove(&holder);
            if taken.entries.is_empty() {
                inner.places.remove(key);
            }
        }
        Ok(())
    }

    async fn beat(&self, worker: WorkerId, ttl: Duration) -> Result<Vec<WorkerId>> {
        let mut inner = self.inner.lock();
        inner.workers.put(worker, (), ttl);
        let now = Instant::now();
        let alive = inner
            .workers
            .entries
            .iter()
            .filter(|(_, (end, ()))| *end > now);
        Ok(alive.map(|(worker, _)| *worker).collect())
    }

    async fn retire(&self, worker: WorkerId) -> Result<()> {
        self.inner.lock().workers.take(&worker);
        Ok(())
    }

    async fn here(&self, users: &[(UserId, Timestamp)], ttl: Duration) -> Result<()> {
        let mut inner = self.inner.lock();
        for (user, active) in users {
            inner.connected.prolong(*user, (), ttl);
            let known = inner.active.get(user).copied();
            let active = known.map_or(*active, |known| known.max(*active));
            inner.active.put(*user, active, REMEMBER_ACTIVE);
        }
        Ok(())
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<Presence>> {
        let mut inner = self.inner.lock();
        let presence = users.iter().map(|user| Presence {
            connected: inner.connected.get(user).is_some(),
            active: inner.active.get(user).copied(),
        });
        Ok(presence.collect())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
