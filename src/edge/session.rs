//! One connected user: what each event does, whatever transport it came by. A transport parses frames into
//! [`Request`]s and writes what the outbox holds; everything between is here.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Edge,
    auth::Identity,
    hub::{Ended, Joining, Newest},
    limits::{Admitted, bucket::Allowance},
    outbox::{Frame, Item, Outbox},
    past::{Past, RESUME_PAGE},
    submit::Answer,
};
use crate::{
    error::{Error, Result},
    job::{
        self, Command, Job, ReplyTo,
        room::{RoomCommand, Send},
    },
    model::{self, ClientMetadata, Member, Room, RoomId, RoomKind, Seq, Timestamp, UserId},
    protocol::{
        self, Accepted, Close, Connected, ConnectedLimits, DEFAULT_PAGE, JoinRoom, Joined, Request,
        SendMessage, WireError, raw,
    },
    store::{Entry, Window},
};

/// How many more requests may be refused for their rate than are done before the socket is closed with 4029. A flood is
/// closed within a second or so; what is earned meanwhile does not start the count anew.
const MAX_REFUSED: u32 = 1000;

/// How long a request waits for the store or the bus. What the same client asks behind it waits as long: sends, above
/// all, which need neither.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// A request's number in the client's counting; `None` where it wants no answer.
pub type RequestId = Option<u64>;

/// What the hub knows of a session: where its events go, and which rooms it is in.
pub struct Seated {
    pub session: u64,
    pub user: UserId,
    pub outbox: Arc<Outbox>,
    rooms: Mutex<HashSet<RoomId>>,
    /// When its client last asked for something, in milliseconds since 1970.
    active: AtomicI64,
}

impl Seated {
    pub fn new(session: u64, user: UserId, outbox: Arc<Outbox>) -> Self {
        Seated {
            session,
            user,
            outbox,
            rooms: Mutex::default(),
            active: AtomicI64::new(Timestamp::now().millis()),
        }
    }

    pub fn active(&self) -> Timestamp {
        Timestamp::from_millis(self.active.load(Ordering::Relaxed))
    }

    fn act(&self) {
        self.active
            .store(Timestamp::now().millis(), Ordering::Relaxed);
    }

    /// The rooms it has a place in.
    pub fn rooms(&self) -> MutexGuard<'_, HashSet<RoomId>> {
        self.rooms.lock()
    }
}

/// What a transport has to say when a session opens.
pub struct Greeting {
    /// Goes before everything else.
    pub first: Option<Item>,
    pub limits: ConnectedLimits,
}

pub struct Session {
    edge: Arc<Edge>,
    who: Arc<Seated>,
    allowance: Arc<Allowance>,
    refused: u32,
}

impl Session {
    /// Greets an authenticated user. The session ends when it is dropped.
    ///
    /// # Errors
    /// `unauthorized` where the account is gone, `rate_limited` where the user has too many sockets, and those of the store.
    pub async fn open(
        edge: Arc<Edge>,
        identity: Identity,
        outbox: Arc<Outbox>,
        greeting: Greeting,
    ) -> Result<Session> {
        let session = edge.submit.next_number();
        let who = Arc::new(Seated::new(session, identity.user, outbox));
        // First the place among the sessions, then the account and the login: an end that comes between the two closes
        // the socket, and one that came before is read. An access token outlives its login.
        edge.sessions
            .enter(identity.user)?
            .add(session, identity.login, who.clone());
        let opened = Session {
            allowance: edge.limits.of(identity.user),
            edge,
            who,
            refused: 0,
        };
        let gathers = &opened.edge.gathers;
        let (account, revoked) = tokio::try_join!(
            gathers.accounts.ask(identity.user),
            gathers.revoked.ask(identity.login)
        )?;
        let account = account.ok_or_else(|| Error::unauthorized("this account is gone"))?;
        if revoked {
            return Err(Error::unauthorized("this login has ended; log in again"));
        }
        let connected = Connected {
            user: account.user,
            session: format!("{}-{session}", opened.edge.id.simple()),
            limits: greeting.limits,
        };
        let outbox = &opened.who.outbox;
        if let Some(first) = greeting.first {
            outbox.push(first);
        }
        outbox.push(Item::Event(event("connected", &connected)));
        opened.edge.say_here(&opened.who);
        Ok(opened)
    }

    pub fn user(&self) -> UserId {
        self.who.user
    }

    /// Does what the client asked, and answers. Requests of one session are handled one after the other; a send is
    /// answered later, when the queue holds it.
    pub async fn handle(&mut self, id: RequestId, request: Request) {
        self.who.act();
        let request = match self.admit(request) {
            Ok(request) => request,
            Err(error) => return answer_to(&self.who.outbox, id, Err(error)),
        };
        let answer = match request.into_inner() {
            Request::SendMessage(send) => match self.send(id, send).await {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Request::JoinRoom(join) => match Box::pin(self.join(id, join)).await {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            other => Box::pin(self.other(other)).await,
        };
        answer_to(&self.who.outbox, id, answer);
    }

    async fn other(&mut self, request: Request) -> Result<Option<Box<RawValue>>> {
        match request {
            Request::Auth(auth) => self.authenticate_again(&auth.token).await,
            Request::LeaveRoom(leave) => {
                self.edge.hub.leave(leave.room, &self.who);
                Ok(Some(raw(&serde_json::json!({ "room": leave.room }))))
            }
            Request::EditMessage(edit) => {
                protocol::check_body(&edit.body, self.edge.config.edge.max_body_bytes)?;
                let (message, body) = (edit.id, edit.body);
                self.call(edit.room, RoomCommand::Edit { message, body })
                    .await
            }
            Request::DeleteMessage(delete) => {
                let message = delete.id;
                self.call(delete.room, RoomCommand::Delete { message })
                    .await
            }
            Request::React(react) => {
                protocol::check_reaction(&react.emoji, react.on)?;
                let command = RoomCommand::React {
                    message: react.id,
                    emoji: react.emoji,
                    on: react.on,
                };
                self.call(react.room, command).await
            }
            Request::MarkRead(read) => {
                if read.seq < 0 {
                    return Err(Error::field("seq", "must be 0 or more"));
                }
                self.call(read.room, RoomCommand::MarkRead { seq: read.seq })
                    .await
            }
            Request::Disconnect => {
                self.who.outbox.close(Close::Bye);
                Ok(None)
            }
            Request::SendMessage(_) | Request::JoinRoom(_) => {
                Err(Error::internal("handled before"))
            }
        }
    }

    /// A newer token of the same user, so that a long-lived socket can show that it still may.
    async fn authenticate_again(&self, token: &str) -> Result<Option<Box<RawValue>>> {
        let identity = self.edge.auth.verify(token)?;
        if identity.user != self.who.user {
            return Err(Error::forbidden(
                "this socket belongs to another user; open a new one",
            ));
        }
        Ok(None)
    }

    async fn call(&self, room: RoomId, command: RoomCommand) -> Result<Option<Box<RawValue>>> {
        // Known here or not: the worker checks the right again, set-wise, under the room's lock.
        self.check_member(room).await?;
        match self
            .edge
            .submit
            .call(self.who.user, Command::Room(room, command))
            .await?
        {
            Answer::Done(resource) => Ok(resource),
            Answer::Accepted => Ok(Some(raw(&serde_json::json!({ "status": "accepted" })))),
        }
    }

    // ---- sending

    /// What nearly all requests are, without waiting for anything: a send to a room where this session has a place. Any
    /// other is given back, for [`Session::handle`].
    pub fn handle_now(&mut self, id: RequestId, request: Request) -> Option<Request> {
        match request {
            Request::SendMessage(ref send) if self.who.rooms().contains(&send.room) => {
                self.who.act();
                let sent = self
                    .admit(request)
                    .and_then(|admitted| match admitted.into_inner() {
                        Request::SendMessage(send) => {
                            self.check_send(&send)?;
                            self.submit(id, send)
                        }
                        _ => Ok(()),
                    });
                if let Err(error) = sent {
                    answer_to(&self.who.outbox, id, Err(error));
                }
                None
            }
            other => Some(other),
        }
    }

    async fn send(&mut self, id: RequestId, send: SendMessage) -> Result<()> {
        self.check_send(&send)?;
        self.check_member(send.room).await?;
        self.submit(id, send)
    }

    fn check_send(&self, send: &SendMessage) -> Result<()> {
        protocol::check_body(&send.body, self.edge.config.edge.max_body_bytes)?;
        protocol::check_client_msg_id(&send.client_msg_id)
    }

    fn submit(&self, id: RequestId, send: SendMessage) -> Result<()> {
        let user = self.who.user;
        let metadata = send.metadata.map(ClientMetadata::check).transpose()?;
        let message = model::message_id(send.room, user, &send.client_msg_id);
        let accepted = Accepted::new(message, &send.client_msg_id);
        let job = Job {
            v: job::VERSION,
            at: Timestamp::now(),
            actor: user,
            reply: Some(ReplyTo {
                edge: self.edge.id,
                number: self.who.session,
                wait: false,
            }),
            command: Command::Room(
                send.room,
                RoomCommand::Send(Send {
                    id: message,
                    client_msg_id: send.client_msg_id,
                    body: send.body,
                    reply_to: send.reply_to,
                    metadata,
                }),
            ),
        };
        let outbox = self.who.outbox.clone();
        outbox.owe();
        let submitted = self.edge.submit.submit(
            &job,
            Box::new(move |result| {
                answer_to(&outbox, id, result.map(|()| Some(raw(&accepted))));
                outbox.pay();
            }),
        );
        if submitted.is_err() {
            self.who.outbox.pay();
        }
        submitted
    }

    /// Takes what the request costs. Nothing is done before.
    fn admit(&mut self, request: Request) -> Result<Admitted<Request>> {
        let admitted = self.allowance.admit(request);
        self.count_refused(admitted)
    }

    /// What to say of a frame that cannot be read, which costs something, too.
    pub fn unreadable(&mut self, error: Error) -> Error {
        let admitted = self.allowance.admit_unreadable();
        self.count_refused(admitted).err().unwrap_or(error)
    }

    fn count_refused<T>(&mut self, admitted: Result<T>) -> Result<T> {
        match &admitted {
            Ok(_) => self.refused = self.refused.saturating_sub(1),
            Err(_) => {
                self.refused += 1;
                if self.refused >= MAX_REFUSED {
                    self.who.outbox.close(Close::RateLimited);
                }
            }
        }
        admitted
    }

    /// A place in the room means membership: the hub takes it away with the membership.
    async fn check_member(&self, room: RoomId) -> Result<()> {
        if self.who.rooms().contains(&room) {
            return Ok(());
        }
        match soon(self.edge.reads.membership(room, self.who.user)).await? {
            Some((_, Some(_))) => Ok(()),
            Some((room, None)) => Err(not_a_member(room.kind)),
            None => Err(Error::not_found("room")),
        }
    }

    // ---- joining

    async fn join(&mut self, id: RequestId, join: JoinRoom) -> Result<()> {
        if join.after_seq.is_some_and(|seq| seq < 0) {
            return Err(Error::field("afterSeq", "must be 0 or more"));
        }
        let mut entry = self.enter(join.room).await?;
        if let Some(after) = join.after_seq
            && after > entry.room.head
        {
            let message = format!("is in the future: the room is at {}", entry.room.head);
            return Err(Error::field("afterSeq", message));
        }
        // First the place, then the past: what is stored between the two comes as events.
        let joining = soon(self.edge.hub.join(join.room, self.who.clone())).await?;
        // A membership ends with a numbered event. Those above `live_from` pass the subscription, and those up to the head
        // at which the membership was read came before it. Between the two nothing was seen: it is read again.
        if joining.live_from > entry.room.head {
            entry = match self.entry(join.room).await? {
                Entry {
                    room,
                    member: Some(member),
                    unread,
                } => Entered {
                    room,
                    member,
                    unread,
                },
                Entry { room, .. } => return Err(not_a_member(room.kind)),
            };
        }
        let past = match join.after_seq {
            // No further than where the membership was read: what follows passes the subscription.
            Some(after) => self.missed(join.room, after, entry.room.head).await?,
            None => self.latest(&joining).await?,
        };
        answer_join(joining, id, entry, past);
        Ok(())
    }

    /// What the caller finds in the room, as a read that begins from now on has it.
    async fn entry(&self, room: RoomId) -> Result<Entry> {
        let entry = soon(self.edge.gathers.entries.ask((room, self.who.user))).await?;
        entry.ok_or_else(|| Error::not_found("room"))
    }

    /// The room, the caller's membership, which a public room grants on the way in, and how much is unread.
    async fn enter(&self, room: RoomId) -> Result<Entered> {
        let user = self.who.user;
        let found = async || -> Result<_> {
            let entry = self.entry(room).await?;
            Ok((entry.room, entry.member, entry.unread))
        };
        let entered = |room, member, unread| Entered {
            room,
            member,
            unread,
        };
        match found().await? {
            (room, Some(member), unread) => return Ok(entered(room, member, unread)),
            (room, None, _) if room.kind == RoomKind::Public => {}
            _ => return Err(Error::not_found("room")),
        }
        let joined = self
            .edge
            .submit
            .call(user, Command::Room(room, RoomCommand::Join))
            .await?;
        match (joined, found().await?) {
            (_, (room, Some(member), unread)) => Ok(entered(room, member, unread)),
            _ => Err(Error::busy(
                "joining takes longer than usual; try again",
                Duration::from_secs(1),
            )),
        }
    }

    /// What happened above `after` and up to `head`, which exists: as much as one answer holds.
    async fn missed(&self, room: RoomId, after: Seq, head: Seq) -> Result<Past> {
        let upto = after + RESUME_PAGE;
        let events = soon(self.edge.reads.events(room, after, upto.min(head))).await?;
        let budget = self.edge.config.edge.send_queue_bytes / 4;
        Past::page(room, after, head, events, budget)
    }

    /// The newest messages up to the number that the socket is live from.
    async fn latest(&self, joining: &Joining) -> Result<Past> {
        let position = joining.live_from;
        let messages = soon(joining.newest(self.newest(joining.room(), position))).await?;
        let mut past = Past {
            position,
            ..Past::default()
        };
        let budget = self.edge.config.edge.send_queue_bytes / 4;
        let mut bytes = 0;
        let fits = messages.iter().rev().enumerate().take_while(|(i, json)| {
            bytes += json.get().len();
            *i == 0 || bytes <= budget
        });
        let first = messages.len() - fits.count();
        past.messages = messages[first..].to_vec();
        Ok(past)
    }

    async fn newest(&self, room: RoomId, position: Seq) -> Result<Newest> {
        let messages = match self.cached_latest(room, position).await {
            Some(messages) => messages,
            None => {
                let reads = &self.edge.reads;
                soon(reads.messages(room, Window::Latest, DEFAULT_PAGE)).await?
            }
        };
        let upto = messages.iter().filter(|m| m.seq <= position);
        Ok(upto.map(|m| protocol::message_json(m).into()).collect())
    }

    /// From the cache, where it reaches far enough back and as far as `position`.
    async fn cached_latest(&self, room: RoomId, position: Seq) -> Option<Vec<model::Message>> {
        let events = self.edge.bus.recent.get(room).await.ok()?;
        let (first, last) = (events.first()?.seq, events.last()?.seq);
        if last < position {
            return None;
        }
        let mut messages: Vec<model::Message> = Vec::new();
        for event in events.iter().filter(|event| event.kind.carries_message()) {
            let message: model::Message = serde_json::from_str(&event.data).ok()?;
            match messages.iter_mut().find(|m| m.id == message.id) {
                Some(known) => *known = message,
                // A change of a message older than the cache is of no use here.
                None if message.seq == event.seq => messages.push(message),
                None => {}
            }
        }
        let enough = DEFAULT_PAGE as usize;
        (first == 1 || messages.len() >= enough)
            .then(|| messages.split_off(messages.len().saturating_sub(enough)))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.edge.sessions.remove(self.who.session);
        let rooms: Vec<RoomId> = self.who.rooms().iter().copied().collect();
        for room in rooms {
            self.edge.hub.leave(room, &self.who);
        }
    }
}

/// The result, or `busy` after [`READ_WITHIN`].
async fn soon<T>(read: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(READ_WITHIN, read).await {
        Ok(result) => result,
        Err(elapsed) => Err(Error::unavailable("store", elapsed)),
    }
}

/// What a member found who enters a room, at the room's head.
struct Entered {
    room: Room,
    member: Member,
    unread: u32,
}

/// The answer to someone who is not a member: of what is not public they learn nothing.
fn not_a_member(kind: RoomKind) -> Error {
    match kind {
        RoomKind::Public => Error::forbidden("you are not a member of this room; join it first"),
        RoomKind::Private | RoomKind::Direct => Error::not_found("room"),
    }
}

fn answer_join(joining: Joining, id: RequestId, entry: Entered, past: Past) {
    let Entered {
        room,
        member,
        unread,
    } = entry;
    let mut joined = Joined {
        room: room.id,
        seq: past.position,
        head: room.head.max(past.position),
        role: member.role,
        unread,
        messages: past.messages,
        events: past.events,
        gaps: past.gaps,
        has_more: past.more,
    };
    joining.finish(past.position, past.more, room.head, |ended| {
        if ended == Ended::Gone {
            let error = not_a_member(room.kind);
            return Item::Ack {
                id,
                ok: false,
                body: text(raw(&WireError::from(&error))),
            };
        }
        joined.has_more = ended == Ended::Again;
        Item::Ack {
            id,
            ok: true,
            body: text(raw(&joined)),
        }
    });
}

/// Puts the answer of a request into the outbox. A request without an id hears only of errors.
pub fn answer_to(outbox: &Outbox, id: RequestId, answer: Result<Option<Box<RawValue>>>) {
    let (ok, body) = match answer {
        Ok(_) if id.is_none() => return,
        Ok(data) => (true, data.map_or("{}".to_owned(), text)),
        Err(error) => {
            if error.code == crate::error::Code::Internal {
                tracing::error!(error = %error.chain(), "a request failed");
            }
            (false, text(raw(&WireError::from(&error))))
        }
    };
    outbox.push(Item::Ack { id, ok, body });
}

/// An event for one socket.
pub fn event(name: &'static str, data: &impl Serialize) -> Arc<Frame> {
    Frame::new(name, text(raw(data)))
}

fn text(json: Box<RawValue>) -> String {
    Box::<str>::from(json).into()
}
