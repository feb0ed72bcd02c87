//! One open socket of either transport: what the peer sends goes to the session, what the outbox holds goes to the
//! peer, pings keep it honest, and it ends with a goodbye. How things look on the wire is the [`Codec`]'s, what
//! events do is the session's.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    Edge,
    auth::Identity,
    link::{Broken, Link, Received},
    outbox::{Ending, Item, Outbox},
    session::{Greeting, RequestId, Session, answer_to},
};
use crate::{
    error::{Code, Error, Result},
    protocol::{Close, Request},
    telemetry::metrics,
};

/// Requests in a row that cannot be read before the socket is closed with 4400.
const MAX_MALFORMED: u32 = 20;
/// How long the end of a socket may take: what is queued, the close frame, the peer's answer.
const GOODBYE: Duration = Duration::from_secs(5);

/// How one transport writes things down. Holds what it must know of its socket; does no I/O.
pub(super) trait Codec: Send {
    /// The metrics' name of the transport.
    const TRANSPORT: &'static str;

    /// What a text from the peer asks for.
    fn read(&mut self, text: &str) -> Input;
    /// What a binary message asks for.
    fn read_binary(&mut self) -> Input;
    fn render(item: &Item) -> Utf8Bytes;

    /// How a session is greeted that answers the request `id`.
    fn greeting(&mut self, id: RequestId) -> Greeting;
    /// Says that credentials do not hold.
    ///
    /// # Errors
    /// Where that ends the socket.
    fn refuse(&mut self, outbox: &Outbox, id: RequestId, error: Error) -> Result<(), Over>;
    /// The end of a socket that brought no credentials in time.
    fn too_late(&mut self, outbox: &Outbox) -> Over;
    /// What the peer should read before the end.
    fn farewell(&self, ending: &Ending, into: &mut VecDeque<Item>);

    /// How long after its start a socket is first looked after.
    fn first_beat(&self) -> Duration;
    /// Looks after a peer that sent nothing for `quiet`, and says when to look again.
    fn beat(&mut self, quiet: Duration) -> (Beat, Duration);
}

/// What a peer asks for.
pub(super) enum Input {
    Request(RequestId, Request),
    /// A request that cannot be read.
    Bad(RequestId, Error),
    /// Credentials, to open the session with.
    Open(RequestId, Result<String>),
    /// A request before the credentials.
    Early(RequestId, Error),
    /// Something that has its answer already.
    Reply(Item),
    /// The session ends, the socket does not.
    Leave,
    /// The peer answered a ping; the next is due after this time.
    Alive(Duration),
    Nothing,
    End(Over),
}

pub(super) enum Beat {
    Nothing,
    /// An RFC 6455 ping.
    Ping,
    Send(Item),
    /// The peer is not there any more.
    Dead,
}

/// Why a connection is over.
pub(super) enum Over {
    /// Tell the peer.
    End(Ending),
    /// There is nobody to tell any more.
    Gone,
}

impl Over {
    pub fn with(close: Close) -> Over {
        Over::because(close, close.reason())
    }

    pub fn because(close: Close, reason: impl Into<String>) -> Over {
        Over::End(Ending {
            close,
            reason: reason.into(),
        })
    }
}

/// The session, if there is one yet.
pub(super) type Opened = Result<Option<Session>, Over>;

pub(super) struct Connection<C> {
    edge: Arc<Edge>,
    outbox: Arc<Outbox>,
    codec: C,
    link: Link,
    /// Taken from the outbox, not yet handed to the link.
    writing: VecDeque<Item>,
    /// When the peer last sent anything.
    heard: Instant,
    malformed: u32,
}

impl<C: Codec> Connection<C> {
    /// On the heap, so that the task of an idle socket is little more than a pointer to it.
    pub fn new(edge: Arc<Edge>, codec: C, link: Link, outbox: Arc<Outbox>) -> Box<Self> {
        Box::new(Connection {
            edge,
            outbox,
            codec,
            link,
            writing: VecDeque::new(),
            heard: Instant::now(),
            malformed: 0,
        })
    }

    /// What came with the handshake opens the session. Without it, the peer brings its credentials within
    /// `edge.auth_timeout`.
    pub async fn begin(&mut self, identity: Option<Result<Identity>>) -> Opened {
        match identity {
            Some(identity) => self.open(None, identity).await,
            None => Ok(None),
        }
    }

    /// Serves the socket to its end. Of what is only now and then, nothing is part of this future: it is as large as
    /// its largest part for as long as the socket lives.
    pub async fn serve(mut self: Box<Self>, opened: Opened) {
        let open = metrics().sockets_open.with_label_values(&[C::TRANSPORT]);
        open.inc();
        let over = match opened {
            Ok(session) => self.talk(session).await,
            Err(over) => over,
        };
        if let Over::End(ending) = over {
            let _ = Box::pin(tokio::time::timeout(GOODBYE, self.goodbye(ending))).await;
        }
        open.dec();
    }

    async fn open(&mut self, id: RequestId, identity: Result<Identity>) -> Opened {
        let identity = match identity {
            Ok(identity) => identity,
            Err(error) => {
                self.codec.refuse(&self.outbox, id, error)?;
                return Ok(None);
            }
        };
        let greeting = self.codec.greeting(id);
        let (edge, outbox) = (self.edge.clone(), self.outbox.clone());
        match Session::open(edge, identity, outbox, greeting).await {
            Ok(session) => Ok(Some(session)),
            Err(error) if error.code == Code::Unauthorized => {
                self.codec.refuse(&self.outbox, id, error)?;
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "a session could not be opened");
                let retry = error.retry_after_ms().unwrap_or(1000);
                let reason = format!("{{\"retryAfterMs\":{retry}}}");
                Err(Over::because(Close::Restarting, reason))
            }
        }
    }

    async fn talk(&mut self, mut session: Option<Session>) -> Over {
        let outbox = self.outbox.clone();
        let auth_timeout = self.edge.config.edge.auth_timeout;
        let start = tokio::time::Instant::now();
        let mut beat_at = start + self.codec.first_beat();
        let mut open_by = start + auth_timeout;
        let next = |open: bool, beat_at, open_by| match open {
            true => beat_at,
            false => std::cmp::min(beat_at, open_by),
        };
        let timer = tokio::time::sleep_until(next(session.is_some(), beat_at, open_by));
        let mut timer = std::pin::pin!(timer);
        loop {
            // What may go out goes first, then one thing at a time is waited for.
            if let Err(over) = self.write_all().await {
                return over;
            }
            tokio::select! {
                biased;
                input = self.receive() => {
                    let was_open = session.is_some();
                    match input {
                        Ok(Input::Nothing) => continue,
                        Ok(Input::Alive(again)) => beat_at = tokio::time::Instant::now() + again,
                        Ok(input) => if let Some(input) = self.input_now(&mut session, input)
                            && let Err(over) = Box::pin(self.input(&mut session, input)).await
                        {
                            return over;
                        },
                        Err(over) => return over,
                    }
                    if was_open && session.is_none() {
                        open_by = tokio::time::Instant::now() + auth_timeout;
                    }
                }
                () = timer.as_mut() => {
                    let now = tokio::time::Instant::now();
                    if session.is_none() && now >= open_by {
                        return self.codec.too_late(&outbox);
                    }
                    if now >= beat_at {
                        let (beat, again) = self.codec.beat(self.heard.elapsed());
                        match beat {
                            Beat::Nothing => {}
                            Beat::Ping => if Box::pin(self.link.ping()).await.is_err() {
                                return Over::Gone;
                            },
                            Beat::Send(item) => outbox.push(item),
                            Beat::Dead => return Over::with(Close::Idle),
                        }
                        beat_at = now + again;
                    }
                }
                // The last to be asked: the writer has its turn in each round anyway.
                () = outbox.wait() => continue,
            }
            let due = next(session.is_some(), beat_at, open_by);
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
        }
    }

    /// Handles what needs no waiting, and gives the rest back.
    fn input_now(&mut self, session: &mut Option<Session>, input: Input) -> Option<Input> {
        match (input, session) {
            (Input::Request(id, request), Some(session)) => {
                self.malformed = 0;
                let request = session.handle_now(id, request)?;
                Some(Input::Request(id, request))
            }
            (input, _) => Some(input),
        }
    }

    /// Handles one thing the peer sent; while it takes its time, what the outbox holds is still written.
    async fn input(&mut self, session: &mut Option<Session>, input: Input) -> Result<(), Over> {
        match (input, session.as_mut()) {
            (Input::Request(id, request), Some(session)) => {
                let outbox = self.outbox.clone();
                let mut handling = std::pin::pin!(session.handle(id, request));
                loop {
                    tokio::select! {
                        biased;
                        () = &mut handling => return Ok(()),
                        () = outbox.wait() => self.write_all().await?,
                    }
                }
            }
            (Input::Bad(id, error), _) => self.answer_error(id, error),
            (Input::Open(id, token), None) => {
                let identity = token.and_then(|token| self.edge.auth.verify(&token));
                *session = self.open(id, identity).await?;
                Ok(())
            }
            (Input::Early(id, error), _) => self.codec.refuse(&self.outbox, id, error),
            (Input::Reply(item), _) => {
                self.outbox.push(item);
                Ok(())
            }
            (Input::Leave, _) => {
                *session = None;
                // What waits was meant for the session that is gone.
                self.outbox.take(&mut self.writing);
                self.writing.clear();
                Ok(())
            }
            (Input::End(over), _) => Err(over),
            (Input::Alive(_) | Input::Nothing, _) => Ok(()),
            (Input::Request(..), None) | (Input::Open(..), Some(_)) => {
                Err(Over::with(Close::Malformed))
            }
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

    /// Cancel-safe.
    async fn receive(&mut self) -> Result<Input, Over> {
        let received = self.link.receive().await;
        self.heard = Instant::now();
        match received {
            Ok(Received::Text(text)) => Ok(self.codec.read(&text)),
            Ok(Received::Binary) => Ok(self.codec.read_binary()),
            Ok(Received::Nothing) => {
                // It may be a new wire, which takes what waited for room on the old one.
                if !self.outbox.is_empty() {
                    self.outbox.poke();
                }
                Ok(Input::Nothing)
            }
            Err(Broken::TooLong(max)) => {
                let message = format!("a frame may have at most {max} bytes");
                let error = Error::new(Code::TooLarge, message);
                answer_to(&self.outbox, None, Err(error));
                Err(Over::with(Close::TooBig))
            }
            Err(Broken::Malformed(reason)) => Err(Over::because(Close::Malformed, reason)),
            Err(Broken::Gone) => Err(Over::Gone),
        }
    }

    /// Writes all that the outbox holds and flushes once, if it is this socket's turn. Ends early when the reader is too
    /// slow: a socket that takes nothing must not keep what others send to it.
    async fn write_all(&mut self) -> Result<(), Over> {
        let outbox = self.outbox.clone();
        while let Some(turn) = outbox.turn() {
            let ending = match self.link.is_writable(&outbox) {
                true => outbox.take(&mut self.writing),
                false => outbox.ending(),
            };
            if !self.writing.is_empty() {
                let written = {
                    let mut writing = std::pin::pin!(self.write_taken());
                    let first = poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await;
                    drop(turn);
                    match first {
                        Poll::Ready(written) => Some(written),
                        Poll::Pending => {
                            outbox.block();
                            loop {
                                tokio::select! {
                                    biased;
                                    written = &mut writing => break Some(written),
                                    () = outbox.wait() => if outbox.is_slow() { break None },
                                }
                            }
                        }
                    }
                };
                match written {
                    Some(Ok(())) => {}
                    Some(Err(_)) => return Err(Over::Gone),
                    None => {
                        self.writing.clear();
                        return Err(Over::with(Close::Slow));
                    }
                }
            }
            if let Some(ending) = ending {
                return Err(Over::End(ending));
            }
        }
        Ok(())
    }

    async fn write_taken(&mut self) -> Result<(), Broken> {
        self.link.write(&mut self.writing, C::render).await?;
        // An idle socket keeps no buffer.
        self.writing = VecDeque::new();
        Ok(())
    }

    /// Everything that still waits, what the codec says at the end, and the link's own goodbye.
    async fn goodbye(&mut self, ending: Ending) {
        let outbox = self.outbox.clone();
        outbox.block();
        if ending.close != Close::Slow {
            loop {
                if self.link.is_writable(&outbox) {
                    outbox.take(&mut self.writing);
                    if !self.writing.is_empty() && self.write_taken().await.is_err() {
                        return;
                    }
                }
                // What the queue has not confirmed yet is still answered.
                if !outbox.owes() {
                    break;
                }
                outbox.wait().await;
            }
        }
        outbox.take(&mut self.writing);
        self.codec.farewell(&ending, &mut self.writing);
        if self.writing.is_empty() {
            self.writing.extend(self.link.last_item());
        }
        while !self.writing.is_empty() {
            if self.link.hold() {
                if self.write_taken().await.is_err() {
                    return;
                }
            } else if ending.close == Close::Idle {
                return;
            } else {
                outbox.wait().await;
            }
        }
        self.link.close(ending).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::ws::Plain;

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
