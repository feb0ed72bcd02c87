//! One open socket of either transport: passes the peer's messages to the session, writes the outbox to the peer, sends
//! pings, and closes in order. The wire format belongs to the [`Codec`], the effect of requests to the session.
//!
//! All work of a socket is polled in one place, [`Connection::pass`]: writing, the request in progress, reading and the
//! timer. None of them is awaited alone, so a peer that does not read blocks only its own reading: the request in
//! progress completes and releases what it holds, its timeouts and the pings run, and a write without progress ends the
//! socket after `edge.write_timeout`. To keep it so, [`Connection::serve`] is the only function here that awaits.

mod codec;
mod goodbye;
mod progress;
mod timer;

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep};

pub(super) use self::codec::{Codec, Heartbeat, Input, Over};
use self::progress::Progress;
use super::{
    link::Link,
    websocket::{Broken, Received},
};
use crate::{
    edge::{
        Edge,
        auth::Identity,
        client_address,
        outbound::{Item, Outbox, RequestId, answer_to},
        session::Session,
        unauthenticated::Slot,
    },
    error::{Code, Error, Result},
    protocol::{Close, Request},
    telemetry::metrics,
};

/// Consecutive malformed requests before the socket is closed with 4400.
const MAX_MALFORMED: u32 = 20;

/// The client's address, and the slot that the connection occupies until it has authenticated.
pub(super) struct Admitted {
    address: Option<IpAddr>,
    slot: Option<Slot>,
}

impl Admitted {
    /// # Errors
    /// `busy` or `rate_limited` if too many unauthenticated connections are open.
    pub fn anonymous(edge: &Edge, request: &poem::Request) -> Result<Admitted> {
        let address = client_address::of(request);
        Ok(Admitted {
            address,
            slot: Some(edge.unauthenticated.admit(address)?),
        })
    }

    /// For a request with valid credentials, which needs no slot.
    pub fn authenticated(request: &poem::Request) -> Admitted {
        Admitted {
            address: client_address::of(request),
            slot: None,
        }
    }
}

/// The state of the connection.
enum Phase {
    /// Not authenticated.
    Anonymous(#[expect(dead_code, reason = "held, never read")] Option<Slot>),
    /// A request is in progress; its future owns the session meanwhile.
    Busy(Pin<Box<dyn Future<Output = Done> + Send>>),
    Open(Session),
}

enum Done {
    /// A request was handled.
    Handled(Session),
    /// The result of opening a session.
    Opened(RequestId, Result<Session>),
}

pub(super) struct Connection<C> {
    edge: Arc<Edge>,
    outbox: Arc<Outbox>,
    codec: C,
    link: Link,
    phase: Phase,
    address: Option<IpAddr>,
    /// Taken from the outbox, not yet written to the link.
    writing: VecDeque<Item>,
    /// The last write returned `Pending`: the link takes no more until the peer reads.
    blocked: bool,
    /// Progress of the pending write.
    progress: Option<Box<Progress>>,
    /// The peer has not read in time.
    stalled: bool,
    /// Input received while a request was in progress or the link was blocked. Nothing more is read while it waits,
    /// which keeps requests in order and slows down a peer that sends faster than it reads.
    next: Option<Box<Result<Input, Over>>>,
    /// When the peer last sent anything.
    last_received: Instant,
    /// When the next heartbeat is due.
    heartbeat_at: Instant,
    /// The end of `edge.auth_timeout`.
    auth_deadline: Instant,
    malformed: u32,
}

impl<C: Codec> Connection<C> {
    /// Boxed, so that the task of an idle socket is little more than a pointer.
    pub fn new(
        edge: Arc<Edge>,
        codec: C,
        link: Link,
        outbox: Arc<Outbox>,
        admitted: Admitted,
    ) -> Box<Self> {
        let now = Instant::now();
        Box::new(Connection {
            heartbeat_at: now + codec.first_heartbeat(),
            auth_deadline: now + edge.config.edge.auth_timeout,
            edge,
            outbox,
            codec,
            link,
            phase: Phase::Anonymous(admitted.slot),
            address: admitted.address,
            writing: VecDeque::new(),
            blocked: false,
            progress: None,
            stalled: false,
            next: None,
            last_received: now,
            malformed: 0,
        })
    }

    /// Serves the socket to its end. `identity` comes from the handshake and opens the session; without it, the peer
    /// must authenticate within `edge.auth_timeout`. Rare work is boxed, because this future is as large as its largest
    /// state for the life of the socket.
    pub async fn serve(mut self: Box<Self>, identity: Option<Box<Result<Identity>>>) {
        let open = metrics().sockets_open.with_label_values(&[C::TRANSPORT]);
        open.inc();
        let opened = match identity {
            Some(identity) => self.open(None, *identity),
            None => Ok(()),
        };
        let over = match opened {
            Ok(()) => {
                let mut timer = std::pin::pin!(tokio::time::sleep_until(self.due()));
                poll_fn(|cx| self.poll(cx, timer.as_mut())).await
            }
            Err(over) => over,
        };
        // Ends the session and drops a request in progress with everything it holds.
        self.phase = Phase::Anonymous(None);
        self.next = None;
        if let Over::End(ending) = over {
            Box::pin(self.end(ending)).await;
        }
        open.dec();
    }

    fn poll(&mut self, cx: &mut Context, mut timer: Pin<&mut Sleep>) -> Poll<Over> {
        loop {
            match self.pass(cx, timer.as_mut()) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(over) => return Poll::Ready(over),
            }
        }
    }

    /// Polls all work of the socket once; returns whether any made progress, in which case there may be more. Writing
    /// comes first, since a handled request should be answered before the next one is read.
    fn pass(&mut self, cx: &mut Context, timer: Pin<&mut Sleep>) -> Result<bool, Over> {
        self.poll_write(cx)?;
        let done = self.poll_busy(cx)?;
        let read = self.poll_input(cx)?;
        let expired = self.poll_timer(cx, timer)?;
        Ok(done || read || expired)
    }

    // ---- writing

    /// Writes and flushes the outbox once this socket gets a flush permit, or continues a blocked write. Closes a
    /// socket whose unread items exceed its limit, so that a peer that does not read cannot accumulate memory.
    fn poll_write(&mut self, cx: &mut Context) -> Result<(), Over> {
        if self.blocked {
            self.poll_blocked(cx)?;
        }
        while self.outbox.poll_wait(cx).is_ready() {
            if !self.blocked {
                self.poll_flush(cx)?;
            } else if let Some(ending) = self.outbox.ending() {
                // A socket that must end, for example because its login ended, does not wait for its peer to read.
                if ending.close == Close::Slow {
                    self.writing.clear();
                }
                return Err(Over::End(ending));
            }
        }
        Ok(())
    }

    fn poll_blocked(&mut self, cx: &mut Context) -> Result<(), Over> {
        match self.link.poll_write(cx, &mut self.writing, C::render) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(Over::Gone),
        }
        self.writing = VecDeque::new();
        self.blocked = false;
        self.progress = None;
        self.read_again();
        self.poll_flush(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context) -> Result<(), Over> {
        while let Some(permit) = self.outbox.may_write() {
            let ending = if self.link.is_writable(&self.outbox) {
                self.outbox.take(&mut self.writing)
            } else {
                self.outbox.ending()
            };
            if !self.writing.is_empty() {
                let written = self.link.poll_write(cx, &mut self.writing, C::render);
                drop(permit);
                match written {
                    // Frees the buffer: an idle socket keeps none.
                    Poll::Ready(Ok(())) => self.writing = VecDeque::new(),
                    Poll::Ready(Err(_)) => return Err(Over::Gone),
                    Poll::Pending => {
                        self.outbox.block();
                        self.blocked = true;
                        return ending.map_or(Ok(()), |ending| Err(Over::End(ending)));
                    }
                }
            }
            if let Some(ending) = ending {
                return Err(Over::End(ending));
            }
        }
        Ok(())
    }

    // ---- reading and handling

    fn poll_busy(&mut self, cx: &mut Context) -> Result<bool, Over> {
        let Phase::Busy(work) = &mut self.phase else {
            return Ok(false);
        };
        let Poll::Ready(done) = work.as_mut().poll(cx) else {
            return Ok(false);
        };
        self.phase = Phase::Anonymous(None);
        match done {
            Done::Handled(session) | Done::Opened(_, Ok(session)) => {
                self.phase = Phase::Open(session);
            }
            Done::Opened(id, Err(error)) => self.not_opened(id, error)?,
        }
        Ok(true)
    }

    fn poll_input(&mut self, cx: &mut Context) -> Result<bool, Over> {
        let busy = matches!(self.phase, Phase::Busy(_));
        let waits = |input: &Result<Input, Over>| busy || self.blocked && input.is_ok();
        let input = match self.next.take_if(|next| !waits(next)) {
            Some(next) => {
                self.read_again();
                *next
            }
            None if self.next.is_some() => return Ok(false),
            None => match self.poll_receive(cx) {
                Poll::Ready(Ok(Input::Nothing)) => return Ok(true),
                Poll::Ready(Ok(Input::Alive(again))) => {
                    self.heartbeat_at = Instant::now() + again;
                    return Ok(true);
                }
                Poll::Ready(input) if busy || self.blocked && input.is_ok() => {
                    self.next = Some(Box::new(input));
                    return Ok(false);
                }
                Poll::Ready(input) => input,
                Poll::Pending => return Ok(false),
            },
        };
        self.input(input?)?;
        Ok(true)
    }

    /// Resets the idle time when reading resumes, since pongs could not be read meanwhile.
    fn read_again(&mut self) {
        self.last_received = Instant::now();
        if let Some(within) = self.codec.pong_due() {
            self.heartbeat_at = self.heartbeat_at.max(self.last_received + within);
        }
    }

    fn poll_receive(&mut self, cx: &mut Context) -> Poll<Result<Input, Over>> {
        let received = ready!(self.link.poll_receive(cx));
        self.last_received = Instant::now();
        let input = match received {
            Ok(Received::Text(text)) => self.codec.read(&text),
            Ok(Received::Binary) => self.codec.read_binary(),
            Ok(Received::Nothing) => {
                // The link may have been upgraded: retry items that the old one could not take.
                if !self.outbox.is_empty() {
                    self.outbox.notify_writable();
                }
                Input::Nothing
            }
            Err(Broken::TooLong(max)) => {
                let message = format!("a frame may have at most {max} bytes");
                let error = Error::new(Code::TooLarge, message);
                answer_to(&self.outbox, None, Err(error));
                Input::End(Over::with(Close::TooBig))
            }
            Err(Broken::Protocol) => Input::End(Over::with(Close::Protocol)),
            Err(Broken::NotUtf8) => Input::End(Over::with(Close::NotUtf8)),
            Err(Broken::Gone) => Input::End(Over::Gone),
        };
        Poll::Ready(match input {
            Input::End(over) => Err(over),
            input => Ok(input),
        })
    }

    /// Handles one input, or starts to.
    fn input(&mut self, input: Input) -> Result<(), Over> {
        match (input, &mut self.phase) {
            (Input::Request(id, request), Phase::Open(session)) => {
                self.malformed = 0;
                if let Some(request) = session.handle_now(id, request) {
                    self.handle(id, request);
                }
                Ok(())
            }
            (Input::Bad(id, error), Phase::Open(session)) => {
                let error = session.unreadable(error);
                self.answer_error(id, error)
            }
            (Input::Bad(id, error), _) => self.answer_error(id, error),
            (Input::Open(id, token), Phase::Anonymous(_)) => {
                let identity = token.and_then(|token| self.edge.auth.verify(&token));
                self.open(id, identity)
            }
            (Input::Early(id, error), _) => self.codec.refuse(&self.outbox, id, error),
            (Input::Reply(item), _) => {
                self.outbox.push(item);
                Ok(())
            }
            (Input::Leave, _) => self.leave(),
            (Input::End(over), _) => Err(over),
            (Input::Alive(_) | Input::Nothing, _) => Ok(()),
            (Input::Request(..), _) | (Input::Open(..), _) => Err(Over::with(Close::Malformed)),
        }
    }

    /// Starts a request that may have to wait; [`Connection::poll_busy`] continues it.
    fn handle(&mut self, id: RequestId, request: Request) {
        match std::mem::replace(&mut self.phase, Phase::Anonymous(None)) {
            Phase::Open(mut session) => {
                self.phase = Phase::Busy(Box::pin(async move {
                    session.handle(id, request).await;
                    Done::Handled(session)
                }));
            }
            other => self.phase = other,
        }
    }

    fn open(&mut self, id: RequestId, identity: Result<Identity>) -> Result<(), Over> {
        let identity = match identity {
            Ok(identity) => identity,
            Err(error) => return self.codec.refuse(&self.outbox, id, error),
        };
        let greeting = self.codec.greeting(id);
        let (edge, outbox) = (self.edge.clone(), self.outbox.clone());
        // Replacing the phase frees the slot of an unauthenticated connection.
        self.phase = Phase::Busy(Box::pin(async move {
            Done::Opened(id, Session::open(edge, identity, outbox, greeting).await)
        }));
        Ok(())
    }

    fn not_opened(&mut self, id: RequestId, error: Error) -> Result<(), Over> {
        if matches!(error.code, Code::Unauthorized | Code::RateLimited) {
            self.codec.refuse(&self.outbox, id, error)?;
            return self.be_anonymous();
        }
        tracing::warn!(error = %error.chain(), "failed to open a session");
        let retry = error.retry_after_ms().unwrap_or(1000);
        let reason = format!("{{\"retryAfterMs\":{retry}}}");
        Err(Over::because(Close::Restarting, reason))
    }

    /// Ends the session and discards its queued items. The socket may open another session.
    fn leave(&mut self) -> Result<(), Over> {
        self.phase = Phase::Anonymous(None);
        self.outbox.take(&mut self.writing);
        self.writing.clear();
        self.auth_deadline = Instant::now() + self.edge.config.edge.auth_timeout;
        self.be_anonymous()
    }

    /// Takes a slot for an unauthenticated connection.
    fn be_anonymous(&mut self) -> Result<(), Over> {
        match self.edge.unauthenticated.admit(self.address) {
            Ok(slot) => {
                self.phase = Phase::Anonymous(Some(slot));
                Ok(())
            }
            Err(error) => Err(Over::because(Close::RateLimited, error.message)),
        }
    }

    fn answer_error(&mut self, id: RequestId, error: Error) -> Result<(), Over> {
        if error.code == Code::Malformed {
            self.malformed += 1;
        }
        answer_to(&self.outbox, id, Err(error));
        match self.malformed {
            MAX_MALFORMED.. => Err(Over::with(Close::Malformed)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::transport::plain::Plain;

    /// Guards the design, not one instance: while one thing is awaited, the rest of the socket waits.
    #[test]
    fn nothing_is_awaited_but_in_serve() {
        let source = include_str!("mod.rs");
        let product = source.split("#[cfg(test)]").next().unwrap_or_default();
        let asynchronous: Vec<&str> = product
            .lines()
            .chain(include_str!("timer.rs").lines())
            .filter(|line| line.contains("async fn"))
            .collect();
        assert_eq!(asynchronous.len(), 1, "{asynchronous:?}");
        assert!(asynchronous[0].contains("pub async fn serve("));
    }

    fn future_size<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_socket_takes_little() {
        let task = future_size(Connection::<Plain>::serve);
        let connection = size_of::<Connection<Plain>>();
        println!("task {task}, connection {connection}");
        assert!(task <= 1024 && connection <= 512, "{task}, {connection}");
    }
}
