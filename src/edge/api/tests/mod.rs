//! The API over fakes of the store, bus, queue and worker: what an edge answers by itself. The interaction of the real
//! parts is tested over real sockets in `tests/`.

mod health;
mod logins;
mod middleware;
mod rooms;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use async_trait::async_trait;
use poem::{Endpoint, Request, Response, http::Method};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::routes;
use crate::{
    bus::{self, Channel, memory::MemoryBus},
    command::{
        self, Command, Envelope, Outcome, Refusal, account::AccountCommand, room::RoomCommand,
    },
    config::{Config, Secret, Secrets, Sources},
    edge::{
        Edge,
        auth::{Auth, Identity},
        batch_reads::BatchedReads,
        hub::{self, Hub, Intervals},
        registry::Registry,
        submit::{Limits, Submitter},
        unauthenticated::Unauthenticated,
    },
    error::{Code, Error, Result},
    model::{address::Address, notify::Delivery, *},
    queue::{EncodedBatch, Partition, Publisher, QueueState, framing},
    store::{
        AccountReads, EpochReads, Login, LoginReads, LoginSession, MemberReads, MessageReads,
        Missed, ReactionReads, Reactor, Reads, RoomEntry, RoomReads, Window,
        notify::{
            AddressReads, DeliveryReads, LogEntry, LogPosition, LogReads, NotifySettings,
            PreferenceReads,
        },
    },
};

type Rooms = HashMap<RoomId, (Room, Vec<Member>)>;

/// A store with the contents that a test sets; unavailable until it is filled.
#[derive(Default)]
struct Store {
    rooms: Mutex<Option<Rooms>>,
    accounts: Mutex<Vec<Credentials>>,
}

impl Store {
    fn away() -> Error {
        Error::unavailable("store", "the test has none")
    }

    fn found(&self, room: RoomId) -> Result<Option<(Room, Vec<Member>)>> {
        self.rooms
            .lock()
            .unwrap()
            .as_ref()
            .map(|rooms| rooms.get(&room).cloned())
            .ok_or_else(Self::away)
    }
}

#[async_trait]
impl AccountReads for Store {
    async fn credentials(&self, username: &str) -> Result<Option<Credentials>> {
        let accounts = self.accounts.lock().unwrap();
        Ok(accounts
            .iter()
            .find(|one| one.account.user.username == username)
            .cloned())
    }
    async fn account(&self, user: UserId) -> Result<Option<Account>> {
        let accounts = self.accounts.lock().unwrap();
        Ok(accounts
            .iter()
            .map(|one| &one.account)
            .find(|one| one.user.id == user)
            .cloned())
    }
    async fn accounts(&self, users: &[UserId]) -> Result<Vec<Option<Account>>> {
        let mut accounts = Vec::new();
        for user in users {
            accounts.push(self.account(*user).await?);
        }
        Ok(accounts)
    }
    async fn users(&self, _: &[UserId]) -> Result<Vec<User>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl LoginReads for Store {
    async fn login(&self, _: LoginId) -> Result<Option<Login>> {
        Ok(None)
    }
    async fn sessions(&self, _: UserId, _: Option<LoginId>, _: u32) -> Result<Vec<LoginSession>> {
        Ok(Vec::new())
    }
    async fn revoked(&self, _: &[LoginId]) -> Result<Vec<LoginId>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl RoomReads for Store {
    async fn room(&self, room: RoomId) -> Result<Option<Room>> {
        Ok(self.found(room)?.map(|(room, _)| room))
    }
    async fn public_rooms(&self, _: Option<RoomId>, _: u32) -> Result<Vec<Room>> {
        Ok(Vec::new())
    }
    async fn heads(&self, _: &[RoomId]) -> Result<Vec<(RoomId, Seq)>> {
        Ok(Vec::new())
    }
    async fn tips(&self, _: &[RoomId]) -> Result<Vec<Position>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl MemberReads for Store {
    async fn membership(
        &self,
        room: RoomId,
        user: UserId,
    ) -> Result<Option<(Room, Option<Member>)>> {
        Ok(self.found(room)?.map(|(room, members)| {
            let member = members.into_iter().find(|member| member.user.id == user);
            (room, member)
        }))
    }
    async fn entries(&self, who: &[(RoomId, UserId)]) -> Result<Vec<Option<RoomEntry>>> {
        let mut entries = Vec::new();
        for (room, user) in who {
            let found = self.membership(*room, *user).await?;
            entries.push(found.map(|(room, member)| RoomEntry {
                room,
                member,
                unread: 0,
                epoch: Uuid::nil(),
            }));
        }
        Ok(entries)
    }
    async fn are_members(&self, who: &[(RoomId, UserId)]) -> Result<Vec<(RoomId, UserId)>> {
        Ok(who.to_vec())
    }
    async fn members(&self, room: RoomId, _: Option<UserId>, limit: u32) -> Result<Vec<Member>> {
        let members = self
            .found(room)?
            .map(|(_, members)| members)
            .unwrap_or_default();
        Ok(members.into_iter().take(limit as usize).collect())
    }
    async fn rooms_of(&self, _: UserId, _: Option<RoomId>, _: u32) -> Result<Vec<(Room, Member)>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl MessageReads for Store {
    async fn events(&self, _: RoomId, after: Seq, upto: Seq) -> Result<Vec<FeedEvent>> {
        let event = |seq| FeedEvent {
            seq,
            kind: EventKind::NewMessage,
            data: format!("{{\"changeSeq\":{seq}}}"),
        };
        Ok((after + 1..=upto).map(event).collect())
    }
    async fn missed(&self, _: RoomId, _: Seq, _: Seq) -> Result<Vec<Missed>> {
        Ok(Vec::new())
    }
    async fn messages(&self, _: RoomId, _: Window, _: u32) -> Result<Vec<Message>> {
        Ok(Vec::new())
    }
    async fn message(&self, _: RoomId, _: MessageId) -> Result<Option<Message>> {
        Ok(None)
    }
    async fn unread(&self, _: RoomId, _: Seq) -> Result<u32> {
        Ok(0)
    }
}

#[async_trait]
impl EpochReads for Store {
    async fn epoch(&self) -> Result<Epoch> {
        Ok(Uuid::nil())
    }
    async fn positions(&self, _: &[Delivered]) -> Result<Vec<Position>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl ReactionReads for Store {
    async fn reactors(
        &self,
        _: MessageId,
        _: &str,
        _: (Seq, UserId),
        _: u32,
    ) -> Result<Vec<Reactor>> {
        Ok(Vec::new())
    }
    async fn reacted(&self, _: &[(MessageId, UserId)]) -> Result<Vec<(MessageId, UserId, String)>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Reads for Store {
    async fn ping(&self) -> Result<()> {
        self.found(Uuid::nil()).map(|_| ())
    }
}

#[async_trait]
impl PreferenceReads for Store {
    async fn notify_settings(&self, _: UserId) -> Result<NotifySettings> {
        Ok(NotifySettings::default())
    }
}

#[async_trait]
impl DeliveryReads for Store {
    async fn delivery(&self, _: Uuid) -> Result<Option<Delivery>> {
        Ok(None)
    }
}

#[async_trait]
impl LogReads for Store {
    async fn log_of_message(&self, _: MessageId) -> Result<Vec<LogEntry>> {
        Ok(Vec::new())
    }
    async fn log_of_user(
        &self,
        _: UserId,
        _: Option<&LogPosition>,
        _: u32,
    ) -> Result<Vec<LogEntry>> {
        Ok(Vec::new())
    }
    async fn room_of(&self, _: MessageId) -> Result<Option<RoomId>> {
        Ok(None)
    }
}

#[async_trait]
impl AddressReads for Store {
    async fn suppressed(&self, _: &Address) -> Result<Option<String>> {
        Ok(None)
    }
    async fn reset_address(&self, _: UserId, _: Timestamp) -> Result<Option<Address>> {
        Ok(None)
    }
}

type Decide = fn(&Command) -> Option<Outcome>;

/// A queue and its worker: records every command and replies as the test decides.
struct FakeQueue {
    submitter: OnceLock<Weak<Submitter>>,
    envelopes: Mutex<Vec<Envelope>>,
    decide: Decide,
}

#[async_trait]
impl Publisher for FakeQueue {
    async fn publish(&self, _: Partition, batch: EncodedBatch) -> Result<()> {
        for command in framing::decode(batch.payload()).unwrap() {
            let envelope: Envelope = command::read(&command).unwrap();
            if let (Some(reply), Some(outcome)) = (envelope.reply, (self.decide)(&envelope.command))
            {
                self.submitter
                    .get()
                    .unwrap()
                    .upgrade()
                    .unwrap()
                    .answered(reply.number, outcome);
            }
            self.envelopes.lock().unwrap().push(envelope);
        }
        Ok(())
    }
    fn backlog(&self) -> u64 {
        0
    }
    fn state(&self) -> QueueState {
        QueueState::Up
    }
}

struct World {
    edge: Arc<Edge>,
    store: Arc<Store>,
    queue: Arc<FakeQueue>,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn silent(_: &Command) -> Option<Outcome> {
    None
}

async fn world(decide: Decide) -> World {
    world_with(decide, |_| {}).await
}

async fn world_with(decide: Decide, change: impl FnOnce(&mut Config)) -> World {
    let mut config = Config::load(&Sources::default(), crate::config::Role::Tool).unwrap();
    config.auth.secret = Secrets::new([Secret::new("a secret of at least thirty-two bytes")]);
    config.edge.allowed_origins = vec!["https://app.example".to_owned()];
    change(&mut config);
    let store = Arc::<Store>::default();
    let bus = bus::Handles::new(Arc::new(MemoryBus::new(Default::default())));
    let queue = Arc::new(FakeQueue {
        submitter: OnceLock::new(),
        envelopes: Mutex::default(),
        decide,
    });
    let stop = CancellationToken::new();
    let limits = Limits {
        partitions: 2,
        max_backlog: 1000,
        batch_messages: 10,
        batch_bytes: 10_000,
        wait: Duration::from_millis(20),
    };
    let id = new_id();
    let submit = Submitter::start(id, limits, queue.clone(), &TaskTracker::new(), stop.clone());
    queue.submitter.set(Arc::downgrade(&submit)).unwrap();
    let tasks = TaskTracker::new();
    let (hub, _) = Hub::start(
        hub::Ports {
            reads: store.clone(),
            pubsub: bus.pubsub.clone(),
            recent: bus.recent.clone(),
        },
        Channel::Edge(id),
        mpsc::channel(1).0,
        Intervals {
            reconcile: Duration::from_secs(60),
            rights: Duration::from_secs(60),
        },
        tasks.clone(),
        stop.clone(),
    )
    .await
    .unwrap();
    let reads: Arc<dyn Reads> = store.clone();
    let edge = Arc::new(Edge {
        flush_scheduler: Arc::default(),
        batched: BatchedReads::new(&reads, &bus.presence, Duration::from_secs(60)),
        hub,
        sessions: Arc::new(Registry::new(config.edge.max_sockets_per_user)),
        revocations: Arc::default(),
        unauthenticated: Unauthenticated::new(&config.edge),
        tasks,
        id,
        auth: Auth::new(&config),
        limits: crate::edge::rate_limit::Limits::new(&config.limits),
        config: Arc::new(config),
        reads: store.clone(),
        deliveries: store.clone(),
        bus,
        publisher: queue.clone(),
        submit,
        stopping: CancellationToken::new(),
    });
    World {
        edge,
        store,
        queue,
        stop,
    }
}

impl World {
    async fn send(&self, request: Request) -> (Response, Value) {
        let mut response = routes(self.edge.clone(), true).call(request).await.unwrap();
        let text = response.take_body().into_string().await.unwrap();
        (
            response,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    fn token(&self, user: UserId) -> String {
        let login = new_id();
        self.edge
            .auth
            .open(Identity { user, login })
            .unwrap()
            .access
    }

    /// Sends a request as `user`, with `body` as JSON unless it is null.
    async fn call(&self, user: UserId, method: Method, path: &str, body: Value) -> (u16, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri_str(path)
            .header("authorization", format!("Bearer {}", self.token(user)));
        let bytes = match &body {
            Value::Null => String::new(),
            body => {
                request = request.content_type("application/json");
                body.to_string()
            }
        };
        let (response, body) = self.send(request.body(bytes)).await;
        (response.status().as_u16(), body)
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder().method(Method::POST).uri_str(path);
        let request = request
            .content_type("application/json")
            .body(body.to_string());
        let (response, body) = self.send(request).await;
        (response.status().as_u16(), body)
    }

    /// Adds a room with `user` as a member.
    fn room(&self, kind: RoomKind, user: UserId, role: Role, muted: bool) -> RoomId {
        let room = Room {
            id: new_id(),
            kind,
            name: "a room".into(),
            head: 120,
            created_by: user,
            created_at: Timestamp::now(),
            deleted: false,
        };
        let member = Member {
            room: room.id,
            user: User {
                id: user,
                username: "someone".into(),
                display_name: "Someone".into(),
            },
            role,
            joined_at: Timestamp::now(),
            read_seq: 1,
            muted_until: muted.then(|| Timestamp::from_millis(Timestamp::now().millis() + 60_000)),
        };
        let id = room.id;
        let mut rooms = self.store.rooms.lock().unwrap();
        rooms
            .get_or_insert_default()
            .insert(id, (room, vec![member]));
        id
    }
}

fn done(_: &Command) -> Option<Outcome> {
    Some(Outcome::Done(None))
}
