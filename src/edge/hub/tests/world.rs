//! A hub with a store and a bus that tests control: the bus loses, repeats and swaps events as a test decides.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bus::{
        Channel, Incoming, PubSub, Publications, RecentEvents, RoomEvents, Subscriptions,
        encode_events, memory::MemoryBus,
    },
    edge::hub::{Hub, Intervals, Ports, Reports},
    error::{Error, Result},
    model::*,
    store::{
        AccountReads, EpochReads, Login, LoginReads, LoginSession, MemberReads, MessageReads,
        Missed, ReactionReads, Reactor, Reads, RoomEntry, RoomReads, Window,
    },
};

pub struct World {
    pub hub: Arc<Hub>,
    pub store: Arc<FakeStore>,
    pub bus: Arc<FakeBus>,
    pub reports: Reports,
    shutdown: CancellationToken,
}

impl World {
    /// A world in which heads are compared at this interval, and memberships never.
    pub async fn new(reconcile: Duration) -> World {
        let rights = Duration::from_secs(3600);
        World::comparing(Intervals { reconcile, rights }).await
    }

    pub async fn comparing(intervals: Intervals) -> World {
        let (store, bus) = (Arc::<FakeStore>::default(), Arc::new(FakeBus::new()));
        let shutdown = CancellationToken::new();
        let (notices, _) = mpsc::channel(1);
        let (hub, reports) = Hub::start(
            Ports {
                reads: store.clone(),
                pubsub: bus.clone(),
                recent: bus.clone(),
            },
            Channel::Edge(new_id()),
            notices,
            intervals,
            TaskTracker::new(),
            shutdown.clone(),
        )
        .await
        .unwrap();
        World {
            hub,
            store,
            bus,
            reports,
            shutdown,
        }
    }

    /// Delivers these events over the bus.
    pub fn publish(&self, room: RoomId, events: &[FeedEvent]) {
        self.bus
            .send(Channel::Room(room), encode_events(events).into());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The store: the events of each room, independent of the bus.
#[derive(Default)]
pub struct FakeStore(Mutex<Facts>);

#[derive(Default)]
pub struct Facts {
    feeds: HashMap<RoomId, Vec<FeedEvent>>,
    /// Numbers without content.
    pub lost: HashSet<(RoomId, Seq)>,
    pub down: bool,
    pub epoch: Epoch,
}

impl Facts {
    fn position(&self, room: RoomId, number: Seq) -> Option<Position> {
        let feed = self.feeds.get(&room)?;
        let event = feed.iter().find(|event| event.seq == number);
        let occupant = match event {
            Some(event) if !self.lost.contains(&(room, number)) => {
                Anchor::of(event).map_or(Occupant::Other, |of| Occupant::Message(of.message))
            }
            _ => Occupant::Nothing,
        };
        Some(Position {
            room,
            head: feed.len() as Seq,
            number,
            occupant,
        })
    }
}

impl FakeStore {
    pub fn lock(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap()
    }

    /// Appends this many messages.
    pub fn append(&self, room: RoomId, count: usize) -> Vec<FeedEvent> {
        (0..count)
            .map(|_| self.add(room, EventKind::NewMessage, json!({})))
            .collect()
    }

    pub fn add(&self, room: RoomId, kind: EventKind, mut data: Value) -> FeedEvent {
        let mut facts = self.lock();
        let feed = facts.feeds.entry(room).or_default();
        let seq = feed.len() as Seq + 1;
        data["changeSeq"] = seq.into();
        let mut data = data.to_string();
        if kind == EventKind::NewMessage {
            // As a message is serialised: its id is the first field.
            data = format!("{{\"id\":\"{}\",{}", new_id(), &data[1..]);
        }
        let event = FeedEvent { seq, kind, data };
        feed.push(event.clone());
        event
    }

    /// Loses everything above `head`, as a standby that was behind.
    pub fn lose(&self, room: RoomId, head: Seq) {
        let mut facts = self.lock();
        let feed = facts.feeds.get_mut(&room);
        feed.unwrap().truncate(usize::try_from(head).unwrap());
    }

    /// Appends an event that was lost.
    pub fn restore(&self, room: RoomId, event: FeedEvent) {
        self.lock().feeds.get_mut(&room).unwrap().push(event);
    }

    pub fn feed(&self, room: RoomId) -> Vec<FeedEvent> {
        self.lock().feeds[&room].clone()
    }

    /// Loses the room itself.
    pub fn remove(&self, room: RoomId) {
        self.lock().feeds.remove(&room);
    }

    pub fn head(&self, room: RoomId) -> Seq {
        self.lock().feeds.get(&room).map_or(0, Vec::len) as Seq
    }

    /// The result of reading a membership: the room's head if the user is a member. Every user is a member until an
    /// event of the feed ends the membership or deletes the room, even if the content of that event is lost.
    pub fn member_at(&self, room: RoomId, user: UserId) -> Option<Seq> {
        let facts = self.lock();
        let feed = facts.feeds.get(&room)?;
        let is_member = feed.iter().rev().find_map(|event| match event.kind {
            EventKind::RoomUpdated if event.data.contains("\"deleted\":true") => Some(false),
            EventKind::MemberLeft if event.data.contains(&user.to_string()) => Some(false),
            EventKind::MemberJoined if event.data.contains(&user.to_string()) => Some(true),
            _ => None,
        });
        (is_member != Some(false)).then_some(feed.len() as Seq)
    }

    fn up(&self) -> Result<MutexGuard<'_, Facts>> {
        let facts = self.lock();
        if facts.down {
            Err(Error::unavailable("store", "the test took it away"))
        } else {
            Ok(facts)
        }
    }
}

fn unused<T>() -> Result<T> {
    Err(Error::internal("a hub does not ask this"))
}

#[async_trait]
impl RoomReads for FakeStore {
    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>> {
        let facts = self.up()?;
        let head = |room: &RoomId| facts.feeds.get(room).map(|feed| (*room, feed.len() as Seq));
        Ok(rooms.iter().filter_map(head).collect())
    }
    async fn tips(&self, rooms: &[RoomId]) -> Result<Vec<Position>> {
        let facts = self.up()?;
        let tip = |room: &RoomId| {
            let head = facts.feeds.get(room)?.len() as Seq;
            facts.position(*room, head)
        };
        Ok(rooms.iter().filter_map(tip).collect())
    }
    async fn room(&self, _: RoomId) -> Result<Option<Room>> {
        unused()
    }
    async fn public_rooms(&self, _: Option<RoomId>, _: u32) -> Result<Vec<Room>> {
        unused()
    }
}

#[async_trait]
impl ReactionReads for FakeStore {
    async fn reactors(
        &self,
        _: MessageId,
        _: &str,
        _: (Seq, UserId),
        _: u32,
    ) -> Result<Vec<Reactor>> {
        unused()
    }
    async fn reacted(&self, _: &[(MessageId, UserId)]) -> Result<Vec<(MessageId, UserId, String)>> {
        unused()
    }
}

#[async_trait]
impl MessageReads for FakeStore {
    async fn events(&self, room: RoomId, after: Seq, upto: Seq) -> Result<Vec<FeedEvent>> {
        let facts = self.up()?;
        let events = facts.feeds.get(&room).into_iter().flatten();
        let events = events.filter(|e| e.seq > after && e.seq <= upto);
        let found = events.filter(|e| !facts.lost.contains(&(room, e.seq)));
        Ok(found.cloned().collect())
    }
    async fn missed(&self, _: RoomId, _: Seq, _: Seq) -> Result<Vec<Missed>> {
        unused()
    }
    async fn messages(&self, _: RoomId, _: Window, _: u32) -> Result<Vec<Message>> {
        unused()
    }
    async fn message(&self, _: RoomId, _: MessageId) -> Result<Option<Message>> {
        unused()
    }
    async fn unread(&self, _: RoomId, _: Seq) -> Result<u32> {
        unused()
    }
}

#[async_trait]
impl MemberReads for FakeStore {
    async fn are_members(&self, who: &[(RoomId, UserId)]) -> Result<Vec<(RoomId, UserId)>> {
        drop(self.up()?);
        let members = who
            .iter()
            .filter(|who| self.member_at(who.0, who.1).is_some());
        Ok(members.copied().collect())
    }
    async fn membership(&self, _: RoomId, _: UserId) -> Result<Option<(Room, Option<Member>)>> {
        unused()
    }
    async fn entries(&self, _: &[(RoomId, UserId)]) -> Result<Vec<Option<RoomEntry>>> {
        unused()
    }
    async fn members(&self, _: RoomId, _: Option<UserId>, _: u32) -> Result<Vec<Member>> {
        unused()
    }
    async fn rooms_of(&self, _: UserId, _: Option<RoomId>, _: u32) -> Result<Vec<(Room, Member)>> {
        unused()
    }
}

#[async_trait]
impl AccountReads for FakeStore {
    async fn credentials(&self, _: &str) -> Result<Option<Credentials>> {
        unused()
    }
    async fn account(&self, _: UserId) -> Result<Option<Account>> {
        unused()
    }
    async fn accounts(&self, _: &[UserId]) -> Result<Vec<Option<Account>>> {
        unused()
    }
    async fn users(&self, _: &[UserId]) -> Result<Vec<User>> {
        unused()
    }
}

#[async_trait]
impl LoginReads for FakeStore {
    async fn login(&self, _: LoginId) -> Result<Option<Login>> {
        unused()
    }
    async fn sessions(&self, _: UserId, _: Option<LoginId>, _: u32) -> Result<Vec<LoginSession>> {
        unused()
    }
    async fn revoked(&self, _: &[LoginId]) -> Result<Vec<LoginId>> {
        unused()
    }
}

#[async_trait]
impl EpochReads for FakeStore {
    async fn epoch(&self) -> Result<Epoch> {
        Ok(self.up()?.epoch)
    }
    async fn positions(&self, delivered: &[Delivered]) -> Result<Vec<Position>> {
        let facts = self.up()?;
        let position = |one: &Delivered| facts.position(one.room, one.number());
        Ok(delivered.iter().filter_map(position).collect())
    }
}

#[async_trait]
impl Reads for FakeStore {
    async fn ping(&self) -> Result<()> {
        unused()
    }
}

/// The two ports that a hub uses: the memory bus's cache, and a listener whose messages the test sends.
pub struct FakeBus {
    cache: MemoryBus,
    to_hub: mpsc::Sender<Incoming>,
    from_test: Mutex<Option<mpsc::Receiver<Incoming>>>,
    subscribed: Arc<Subscribed>,
}

#[derive(Default)]
struct Subscribed(Mutex<HashSet<Channel>>);

impl FakeBus {
    fn new() -> Self {
        let (to_hub, from_test) = mpsc::channel(10_000);
        FakeBus {
            cache: MemoryBus::new(Default::default()),
            to_hub,
            from_test: Mutex::new(Some(from_test)),
            subscribed: Arc::default(),
        }
    }

    pub fn send(&self, channel: Channel, payload: Bytes) {
        if self.subscribed.0.lock().unwrap().contains(&channel) {
            self.deliver(Incoming::Message { channel, payload });
        }
    }

    /// Whether the hub has taken everything that was sent.
    pub fn is_empty(&self) -> bool {
        self.to_hub.capacity() == self.to_hub.max_capacity()
    }

    pub fn deliver(&self, incoming: Incoming) {
        self.to_hub.try_send(incoming).unwrap();
    }

    /// Writes to the bus's cache only.
    pub async fn keep(&self, room: RoomId, events: &[FeedEvent]) {
        let publications = Publications {
            rooms: vec![RoomEvents {
                room,
                events: events.to_vec(),
            }],
            ..Publications::default()
        };
        self.cache.publish(&publications).await.unwrap();
    }
}

#[async_trait]
impl Subscriptions for Subscribed {
    async fn subscribe(&self, channels: &[Channel]) -> Result<bool> {
        self.0.lock().unwrap().extend(channels);
        Ok(true)
    }

    async fn unsubscribe(&self, channels: &[Channel]) -> Result<()> {
        let mut subscribed = self.0.lock().unwrap();
        for channel in channels {
            subscribed.remove(channel);
        }
        Ok(())
    }
}

#[async_trait]
impl PubSub for FakeBus {
    async fn publish(&self, _: &Publications) -> Result<()> {
        unused()
    }
    async fn listen(&self) -> Result<(Arc<dyn Subscriptions>, mpsc::Receiver<Incoming>)> {
        let incoming = self.from_test.lock().unwrap().take();
        Ok((self.subscribed.clone(), incoming.unwrap()))
    }
    async fn ping(&self) -> Result<()> {
        unused()
    }
}

#[async_trait]
impl RecentEvents for FakeBus {
    async fn get(&self, epoch: Epoch, room: RoomId) -> Result<Vec<FeedEvent>> {
        RecentEvents::get(&self.cache, epoch, room).await
    }
}
