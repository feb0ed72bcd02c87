//! The session of one connected user: handles each request, whatever the transport. A transport parses frames into
//! [`Request`]s and writes the items of the outbox; the session does everything between.

mod joining;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{
    Edge,
    auth::Identity,
    log_sample::is_sampled,
    outbound::{Item, Outbox, RequestId, answer_to, event},
    presence,
    rate_limit::{Admitted, bucket::Allowance},
    reactions,
    revocation::login_ended,
    submit::SubmitResult,
    subscriber::Subscriber,
};
use crate::{
    command::{
        self, Command, Envelope, ReplyTo,
        room::{RoomCommand, Send},
    },
    error::{Error, Result},
    model::{self, ClientMetadata, RoomId, RoomKind, Timestamp, UserId},
    protocol::{
        self, Accepted, Close, Connected, ConnectedLimits, EventName, Request, SendMessage, raw,
    },
};

/// The socket is closed with 4029 when rate-limited requests outnumber admitted ones by this many, which takes a flood
/// about a second. Tokens that refill meanwhile do not reset the count.
const MAX_REFUSED: u32 = 1000;

/// Time limit of a request's read from the store or the bus. The same client's later requests wait behind it, including
/// sends, which need neither.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// The transport's part of an opening session.
pub struct Greeting {
    /// An item that is sent before everything else.
    pub first: Option<Item>,
    pub limits: ConnectedLimits,
}

pub struct Session {
    edge: Arc<Edge>,
    who: Arc<Subscriber>,
    allowance: Arc<Allowance>,
    refused: u32,
    opened: Option<Opened>,
}

/// The log lines of an opened session.
struct Opened {
    at: Instant,
    /// Both lines are written at `info`, or both at `debug`.
    sampled: bool,
}

impl Session {
    /// Opens the session of an authenticated user and sends `connected`. The session ends when it is dropped.
    ///
    /// # Errors
    /// `unauthorized` if the account is deleted or the login revoked, `rate_limited` if the user has too many sockets,
    /// and store errors.
    pub async fn open(
        edge: Arc<Edge>,
        identity: Identity,
        outbox: Arc<Outbox>,
        greeting: Greeting,
    ) -> Result<Session> {
        let session = edge.submit.next_number();
        let who = Arc::new(Subscriber::new(session, identity.user, outbox));
        // Register first, then read the account and the login: a revocation between the two closes the socket, and an
        // earlier one is read. An access token outlives its login.
        edge.sessions
            .enter(identity.user)?
            .add(session, identity.login, who.clone());
        let mut opened = Session {
            opened: None,
            allowance: edge.limits.of(identity.user),
            edge,
            who,
            refused: 0,
        };
        let batched = &opened.edge.batched;
        let (account, revoked) = tokio::try_join!(
            batched.accounts.get(identity.user),
            batched.revoked.get(identity.login)
        )?;
        let account = account.ok_or_else(|| Error::unauthorized("this account is gone"))?;
        if revoked {
            return Err(login_ended());
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
        outbox.push(Item::Event(event(EventName::Connected, &connected)));
        presence::announce_now(&opened.edge, &opened.who);
        let sampled = is_sampled(opened.edge.config.log.requests);
        opened.opened = Some(Opened {
            at: Instant::now(),
            sampled,
        });
        if sampled {
            tracing::info!(user = %identity.user, session, "session opened");
        } else {
            tracing::debug!(user = %identity.user, session, "session opened");
        }
        Ok(opened)
    }

    pub fn user(&self) -> UserId {
        self.who.user
    }

    /// Handles a request and answers it. Requests of one session are handled in order; a send is answered later, when
    /// the queue has confirmed it.
    pub async fn handle(&mut self, id: RequestId, request: Request) {
        self.who.touch();
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
            Request::Disconnect(_) => {
                self.who.outbox.close(Close::Bye);
                Ok(None)
            }
            Request::SendMessage(_) | Request::JoinRoom(_) => {
                Err(Error::internal("handled before"))
            }
        }
    }

    /// Verifies a newer token of the same user, which a client may send on a long-lived socket.
    async fn authenticate_again(&self, token: &str) -> Result<Option<Box<RawValue>>> {
        let identity = self.edge.auth.verify(token)?;
        if identity.user != self.who.user {
            return Err(Error::forbidden(
                "this socket belongs to another user; open a new one",
            ));
        }
        if soon(self.edge.batched.revoked.get(identity.login)).await? {
            return Err(login_ended());
        }
        Ok(None)
    }

    async fn call(&self, room: RoomId, command: RoomCommand) -> Result<Option<Box<RawValue>>> {
        // An early check for the caller's sake: the worker checks rights again, for the whole batch, under the room's
        // lock.
        self.check_member(room).await?;
        match self
            .edge
            .submit
            .call(self.who.user, Command::Room(room, command))
            .await?
        {
            SubmitResult::Done(Some(resource)) => {
                let reacted = &self.edge.batched.reacted;
                Ok(Some(
                    reactions::answer(reacted, self.who.user, resource).await,
                ))
            }
            SubmitResult::Done(None) => Ok(None),
            SubmitResult::Accepted => Ok(Some(raw(&serde_json::json!({ "status": "accepted" })))),
        }
    }

    // ---- sending

    /// The fast path of nearly all requests, which never waits: a send to a room that this session is subscribed to.
    /// Any other request is returned, to be passed to [`Session::handle`].
    pub fn handle_now(&mut self, id: RequestId, request: Request) -> Option<Request> {
        match request {
            Request::SendMessage(ref send) if self.who.rooms().contains(&send.room) => {
                self.who.touch();
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
        let envelope = Envelope {
            v: command::VERSION,
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
        outbox.add_pending_ack();
        let submitted = self.edge.submit.submit(
            &envelope,
            Box::new(move |result| {
                answer_to(&outbox, id, result.map(|()| Some(raw(&accepted))));
                outbox.remove_pending_ack();
            }),
        );
        if submitted.is_err() {
            self.who.outbox.remove_pending_ack();
        }
        submitted
    }

    /// Takes the request's cost from the rate limit, before anything else is done.
    fn admit(&mut self, request: Request) -> Result<Admitted<Request>> {
        let admitted = self.allowance.admit(request);
        self.count_refused(admitted)
    }

    /// Charges the rate limit for a frame that does not parse. Returns the error to answer with.
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

    /// A subscription implies membership: the hub ends it together with the membership.
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
}

impl Drop for Session {
    fn drop(&mut self) {
        self.edge.sessions.remove(self.who.session);
        let rooms: Vec<RoomId> = self.who.rooms().iter().copied().collect();
        if let Some(opened) = &self.opened {
            let (user, session, rooms) = (self.who.user, self.who.session, rooms.len());
            let open_s = opened.at.elapsed().as_secs_f64();
            if opened.sampled {
                tracing::info!(%user, session, rooms, open_s, "session closed");
            } else {
                tracing::debug!(%user, session, rooms, open_s, "session closed");
            }
        }
        for room in rooms {
            self.edge.hub.leave(room, &self.who);
        }
    }
}

/// Awaits the read; `busy` after [`READ_WITHIN`].
async fn soon<T>(read: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(READ_WITHIN, read).await {
        Ok(result) => result,
        Err(elapsed) => Err(Error::unavailable("store", elapsed)),
    }
}

/// The error for a non-member; it does not reveal that a room exists unless the room is public.
fn not_a_member(kind: RoomKind) -> Error {
    match kind {
        RoomKind::Public => Error::forbidden("you are not a member of this room; join it first"),
        RoomKind::Private | RoomKind::Direct => Error::not_found("room"),
    }
}
