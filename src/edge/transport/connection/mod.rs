//! One open socket of either transport: what the peer sends goes to the session, what the outbox holds goes to the
//! peer, pings keep it honest, and it ends with a goodbye. How things look on the wire is the [`Codec`]'s, what
//! events do is the session's.
//!
//! Everything a socket does is polled in one place, [`Connection::pass`]: writing, the request under way, reading and the
//! timer. None of them is awaited alone, so a peer that does not read holds up nothing but its own reading: a request
//! under way goes on and gives back what it holds, its time limits and the pings run, and a write that makes no progress
//! ends the socket after `edge.write_timeout`. No function here but [`Connection::serve`] is async, which keeps it so.

mod codec;
mod goodbye;
mod progress;

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

pub(super) use self::codec::{Beat, Codec, Input, Over};
use self::progress::Progress;
use super::link::{Broken, Link, Received};
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

/// Requests in a row that cannot be read before the socket is closed with 4400.
const MAX_MALFORMED: u32 = 20;
/// Between two looks at a peer whose silence does not count, because it is not being read.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Where a connection comes from, and the place it has for as long as it has not authenticated.
pub(super) struct Admitted {
    address: Option<IpAddr>,
    slot: Option<Slot>,
}

impl Admitted {
    /// # Errors
    /// `busy` or `rate_limited` where too many connections without credentials are open.
    pub fn anonymous(edge: &Edge, request: &poem::Request) -> Result<Admitted> {
        let address = client_address::of(request);
        Ok(Admitted {
            address,
            slot: Some(edge.unauthenticated.admit(address)?),
        })
    }

    /// For a request with valid credentials, which needs no such place.
    pub fn authenticated(request: &poem::Request) -> Admitted {
        Admitted {
            address: client_address::of(request),
            slot: None,
        }
    }
}

/// How far the peer has come.
enum Phase {
    /// It has not authenticated.
    Anonymous(#[expect(dead_code, reason = "held, never read")] Option<Slot>),
    /// Something is done for it that takes its time. The session is part of it meanwhile.
    Busy(Pin<Box<dyn Future<Output = Done> + Send>>),
    Open(Session),
}

enum Done {
    /// A request was handled.
    Handled(Session),
    /// A session was opened, or not.
    Opened(RequestId, Result<Session>),
}

pub(super) struct Connection<C> {
    edge: Arc<Edge>,
    outbox: Arc<Outbox>,
    codec: C,
    link: Link,
    phase: Phase,
    address: Option<IpAddr>,
    /// Taken from the outbox, not yet handed to the link.
    writing: VecDeque<Item>,
    /// The link takes nothing more of it until the peer reads.
    blocked: bool,
    /// How that goes on.
    progress: Option<Box<Progress>>,
    /// The peer did not read in time.
    stalled: bool,
    /// What the peer sent while something was under way. As long as it waits nothing more is read, so that requests keep
    /// their order and a peer that sends more than it reads is slowed down.
    next: Option<Box<Result<Input, Over>>>,
    /// When the peer last sent anything.
    heard: Instant,
    /// When it is next looked after, and until when it may authenticate.
    beat_at: Instant,
    open_by: Instant,
    malformed: u32,
}

impl<C: Codec> Connection<C> {
    /// On the heap, so that the task of an idle socket is little more than a pointer to it.
    pub fn new(
        edge: Arc<Edge>,
        codec: C,
        link: Link,
        outbox: Arc<Outbox>,
        admitted: Admitted,
    ) -> Box<Self> {
        let now = Instant::now();
        Box::new(Connection {
            beat_at: now + codec.first_beat(),
            open_by: now + edge.config.edge.auth_timeout,
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
            heard: now,
            malformed: 0,
        })
    }

    /// Serves the socket to its end. What came with the handshake opens the session; without it, the peer brings its
    /// credentials within `edge.auth_timeout`. Of what is only now and then, nothing is part of this future: it is as
    /// large as its largest part for as long as the socket lives.
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
        // The session ends here, and a request under way with all that it holds.
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

    /// Polls all that can happen to the socket, and says whether anything did: then there may be more at once. What may go
    /// out goes first, since a request that was handled is to be answered before the next one is read.
    fn pass(&mut self, cx: &mut Context, timer: Pin<&mut Sleep>) -> Result<bool, Over> {
        self.poll_write(cx)?;
        let done = self.poll_busy(cx)?;
        let read = self.poll_input(cx)?;
        let beaten = self.poll_timer(cx, timer)?;
        Ok(done || read || beaten)
    }

    // ---- writing

    /// Writes what the outbox holds and flushes once, if it is this socket's turn; or goes on with what the peer did not
    /// take before. Ends early when the reader is too slow: a socket that takes nothing must not keep what others send to
    /// it.
    fn poll_write(&mut self, cx: &mut Context) -> Result<(), Over> {
        if self.blocked {
            self.poll_blocked(cx)?;
        }
        while self.outbox.poll_wait(cx).is_ready() {
            if !self.blocked {
                self.poll_flush(cx)?;
            } else if self.outbox.is_slow() {
                self.writing.clear();
                return Err(Over::with(Close::Slow));
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
                    // An idle socket keeps no buffer.
                    Poll::Ready(Ok(())) => self.writing = VecDeque::new(),
                    Poll::Ready(Err(_)) => return Err(Over::Gone),
                    Poll::Pending => {
                        self.outbox.block();
                        self.blocked = true;
                        return Ok(());
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
                    self.beat_at = Instant::now() + again;
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

    /// The peer is read again after a while in which its pongs were not heard.
    fn read_again(&mut self) {
        self.heard = Instant::now();
        if let Some(within) = self.codec.pong_due() {
            self.beat_at = self.beat_at.max(self.heard + within);
        }
    }

    fn poll_receive(&mut self, cx: &mut Context) -> Poll<Result<Input, Over>> {
        let received = ready!(self.link.poll_receive(cx));
        self.heard = Instant::now();
        let input = match received {
            Ok(Received::Text(text)) => self.codec.read(&text),
            Ok(Received::Binary) => self.codec.read_binary(),
            Ok(Received::Nothing) => {
                // It may be a new wire, which takes what waited for room on the old one.
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

    /// Does what the peer asks for, or begins to.
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

    /// Begins what may have to wait; [`Connection::poll_busy`] goes on with it.
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
        // Its place among strangers is free as soon as it is none.
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
        tracing::warn!(error = %error.chain(), "a session could not be opened");
        let retry = error.retry_after_ms().unwrap_or(1000);
        let reason = format!("{{\"retryAfterMs\":{retry}}}");
        Err(Over::because(Close::Restarting, reason))
    }

    /// The session ends, and what waits was meant for it. The socket may open another one.
    fn leave(&mut self) -> Result<(), Over> {
        self.phase = Phase::Anonymous(None);
        self.outbox.take(&mut self.writing);
        self.writing.clear();
        self.open_by = Instant::now() + self.edge.config.edge.auth_timeout;
        self.be_anonymous()
    }

    /// Without a session it needs a place among those who have none.
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

    // ---- time

    /// When there is something to look at, if nothing happens before.
    fn due(&self) -> Instant {
        let mut due = self.beat_at;
        if matches!(self.phase, Phase::Anonymous(_)) {
            due = due.min(self.open_by);
        }
        match &self.progress {
            Some(progress) => due.min(progress.due(self.edge.config.edge.write_timeout)),
            None => due,
        }
    }

    /// Looks whether the peer takes what is written to it, whatever that is.
    fn watch(&mut self) {
        let (unsent, sent) = self.link.unsent();
        match &mut self.progress {
            _ if !unsent && !self.blocked => self.progress = None,
            Some(progress) => progress.note(sent, Instant::now()),
            None => self.progress = Some(Box::new(Progress::new(sent, Instant::now()))),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context, mut timer: Pin<&mut Sleep>) -> Result<bool, Over> {
        self.watch();
        let mut beaten = false;
        loop {
            let due = self.due();
            // A time that moved away is noticed when the timer ends: most never come.
            if due < timer.deadline() {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(beaten);
            }
            let now = Instant::now();
            if now < due {
                timer.as_mut().reset(due);
                continue;
            }
            self.at(now)?;
            timer.as_mut().reset(self.due());
            beaten = true;
        }
    }

    /// Does what is due.
    fn at(&mut self, now: Instant) -> Result<(), Over> {
        let write_timeout = self.edge.config.edge.write_timeout;
        if self
            .progress
            .as_ref()
            .is_some_and(|progress| progress.due(write_timeout) <= now)
        {
            return Err(self.stall());
        }
        if matches!(self.phase, Phase::Anonymous(_)) && now >= self.open_by {
            return Err(self.codec.too_late(&self.outbox));
        }
        if now < self.beat_at {
            return Ok(());
        }
        let (beat, mut again) = self.codec.beat(now - self.heard);
        match beat {
            Beat::Nothing => {}
            Beat::Ping => self.link.ping(),
            Beat::Send(item) => self.outbox.push(item),
            // Its pong may be behind what is not read yet, or our ping behind what it has not read yet; both end in time.
            Beat::Dead if self.blocked || self.next.is_some() => {
                again = self.codec.pong_due().unwrap_or(again).max(LOOK_AGAIN);
            }
            Beat::Dead => return Err(Over::with(Close::Idle)),
        }
        self.beat_at = now + again;
        Ok(())
    }

    /// The peer has not read for too long: what waits for it is given up.
    fn stall(&mut self) -> Over {
        self.stalled = true;
        self.outbox.close_slow();
        self.writing.clear();
        Over::with(Close::Slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::transport::plain::Plain;

    /// The kind of fault, not an instance of it: where something is awaited, the rest of the socket waits.
    #[test]
    fn nothing_is_awaited_but_in_serve() {
        let source = include_str!("mod.rs");
        let product = source.split("#[cfg(test)]").next().unwrap_or_default();
        let asynchronous: Vec<&str> = product
            .lines()
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
