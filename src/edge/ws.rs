//! The plain WebSocket transport at `/ws`: JSON text frames over the session. It answers the upgrade itself and runs
//! tungstenite on poem's upgraded stream, for small buffers and bytes shared between sockets; poem's own WebSocket
//! copies every message for every recipient.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use poem::{
    IntoResponse, Request as HttpRequest, Response,
    http::{StatusCode, header},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message, Utf8Bytes,
        error::CapacityError,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use super::{
    Edge,
    auth::Identity,
    outbox::{Ending, Frame, Item, Outbox},
    session::{RequestId, Session, answer_to},
};
use crate::{
    error::{Code, Error, Result},
    protocol::{Close, Request},
    telemetry::metrics,
};

/// Frames in a row that are not JSON before the socket is closed with 4400.
const MAX_MALFORMED: u32 = 20;
/// How long the end of a socket may take: what is queued, the close frame, the peer's answer.
const GOODBYE: Duration = Duration::from_secs(5);
/// Bytes gathered before they are written to the socket.
const WRITE_BUFFER: usize = 16 * 1024;

/// The upgrade at `GET /ws`.
pub async fn upgrade(edge: &Arc<Edge>, request: HttpRequest) -> Response {
    match accept(edge, &request).await {
        Ok((response, run)) => {
            edge.tasks.spawn(run);
            response
        }
        Err(error) => super::api::problem_response(&error),
    }
}

type Run = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn accept(edge: &Arc<Edge>, request: &HttpRequest) -> Result<(Response, Run)> {
    let key = request
        .headers()
        .get("sec-websocket-key")
        .filter(|_| request.header("sec-websocket-version") == Some("13"));
    let Some(key) = key else {
        return Err(Error::malformed(
            "this is a WebSocket endpoint (version 13): connect with a WebSocket client",
        ));
    };
    super::origin::check(&edge.config.edge.allowed_origins, request)?;
    let credentials = credentials(edge, request).await?;
    let upgrade = request.take_upgrade().map_err(|_| {
        Error::malformed(
            "this connection cannot be upgraded; send Connection: Upgrade over HTTP/1.1",
        )
    })?;
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .finish();
    let edge = edge.clone();
    let permit = request.extensions().get::<super::server::Permit>().cloned();
    let run = async move {
        let _permit = permit;
        if let Ok(stream) = upgrade.await {
            run(edge, stream, credentials).await;
        }
    };
    Ok((response.into_response(), Box::pin(run)))
}

/// What the handshake brought.
enum Credentials {
    Good(Identity),
    /// A browser cannot read a refused handshake: it is told with a close code instead.
    Bad(Error),
    /// The first frame will bring them.
    Awaited,
}

async fn credentials(edge: &Edge, request: &HttpRequest) -> Result<Credentials> {
    if let Some(header) = request.header(header::AUTHORIZATION) {
        let token = header.strip_prefix("Bearer ").ok_or_else(|| {
            Error::unauthorized("the Authorization header must be `Bearer <access token>`")
        })?;
        return edge.auth.verify(token).map(Credentials::Good);
    }
    let query = request.uri().query().unwrap_or("");
    let parameter = |name: &str| {
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key == name).then_some(value)
        })
    };
    if parameter("token").is_some() || parameter("access_token").is_some() {
        return Err(Error::malformed(
            "never put an access token in a URL: use ?ticket= (POST /v1/auth/ticket), the Authorization header, or a first `auth` frame",
        ));
    }
    Ok(match parameter("ticket") {
        None => Credentials::Awaited,
        Some(ticket) => match edge.auth.take_ticket(edge.bus.as_ref(), ticket).await {
            Ok(identity) => Credentials::Good(identity),
            Err(error) => Credentials::Bad(error),
        },
    })
}

/// A client's frame.
#[derive(Deserialize)]
struct ClientFrame<'a> {
    #[serde(default)]
    id: RequestId,
    #[serde(borrow)]
    event: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

fn parse(text: &str) -> (RequestId, Result<Request>) {
    match serde_json::from_str::<ClientFrame>(text) {
        Ok(frame) => (frame.id, Request::parse(&frame.event, frame.data)),
        Err(error) => {
            #[derive(Deserialize)]
            struct OnlyId {
                #[serde(default)]
                id: RequestId,
            }
            let id = serde_json::from_str::<OnlyId>(text).ok().and_then(|f| f.id);
            let message = match error.classify() {
                serde_json::error::Category::Data => {
                    "a frame is {\"id\": number, \"event\": string, \"data\": object}"
                }
                _ => {
                    "this frame is not JSON; a frame is {\"id\": number, \"event\": string, \"data\": object}"
                }
            };
            (id, Err(Error::malformed(message)))
        }
    }
}

async fn run<S: AsyncRead + AsyncWrite + Unpin + Send>(
    edge: Arc<Edge>,
    stream: S,
    credentials: Credentials,
) {
    let frame = edge.config.edge.max_frame_bytes;
    let config = WebSocketConfig::default()
        .read_buffer_size(1024)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(frame))
        .max_frame_size(Some(frame));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    metrics().sockets_open.with_label_values(&["ws"]).inc();
    Connection {
        outbox: Outbox::new(edge.config.edge.send_queue_bytes),
        socket,
        writing: VecDeque::new(),
        heard: Instant::now(),
        malformed: 0,
        edge,
    }
    .serve(credentials)
    .await;
    metrics().sockets_open.with_label_values(&["ws"]).dec();
}

struct Connection<S> {
    edge: Arc<Edge>,
    outbox: Arc<Outbox>,
    socket: WebSocketStream<S>,
    /// Taken from the outbox, not yet handed to the socket.
    writing: VecDeque<Item>,
    /// When the peer last sent anything.
    heard: Instant,
    malformed: u32,
}

/// Why a connection is over.
enum Over {
    /// Tell the peer.
    End(Ending),
    /// There is nobody to tell any more.
    Gone,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    async fn serve(mut self, credentials: Credentials) {
        let opened = match credentials {
            Credentials::Good(identity) => self.open(identity, None).await,
            Credentials::Bad(error) => Err(self.refuse(None, error)),
            Credentials::Awaited => {
                let limit = self.edge.config.edge.auth_timeout;
                let first = Box::pin(tokio::time::timeout(limit, self.authenticate())).await;
                first.unwrap_or_else(|_| {
                    let message = "no `auth` frame came in time";
                    Err(self.refuse(None, Error::unauthorized(message)))
                })
            }
        };
        let over = match opened {
            Ok(session) => self.talk(session).await,
            Err(over) => over,
        };
        if let Over::End(ending) = over {
            let _ = Box::pin(tokio::time::timeout(GOODBYE, self.goodbye(ending))).await;
        }
    }

    /// Waits for the first frame, which must be `auth`.
    async fn authenticate(&mut self) -> Result<Session, Over> {
        loop {
            let Some(text) = self.receive().await? else {
                continue;
            };
            let (id, request) = parse(&text);
            match request {
                Ok(Request::Auth(auth)) => {
                    return match self.edge.auth.verify(&auth.token) {
                        Ok(identity) => self.open(identity, Some(id)).await,
                        Err(error) => Err(self.refuse(id, error)),
                    };
                }
                Ok(_) => {
                    let message = "authenticate first: send {\"id\":1,\"event\":\"auth\",\"data\":{\"token\":\"…\"}}";
                    return Err(self.refuse(id, Error::unauthorized(message)));
                }
                Err(error) => {
                    self.answer_error(id, error)?;
                    self.write_all().await?;
                }
            }
        }
    }

    async fn open(
        &mut self,
        identity: Identity,
        asked: Option<RequestId>,
    ) -> Result<Session, Over> {
        if let Some(id) = asked {
            answer_to(&self.outbox, id, Ok(None));
        }
        let edge = self.edge.clone();
        match Session::open(edge, identity, self.outbox.clone()).await {
            Ok(session) => Ok(session),
            Err(error) if error.code == Code::Unauthorized => Err(self.refuse(None, error)),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "a session could not be opened");
                let reason = format!(
                    "{{\"retryAfterMs\":{}}}",
                    error.retry_after_ms().unwrap_or(1000)
                );
                Err(Over::End(Ending {
                    close: Close::Restarting,
                    reason,
                }))
            }
        }
    }

    /// Says what is wrong with the credentials, then ends.
    fn refuse(&mut self, id: RequestId, error: Error) -> Over {
        let reason = error.code.as_str().to_owned();
        answer_to(&self.outbox, id, Err(error));
        Over::End(Ending {
            close: Close::Unauthorized,
            reason,
        })
    }

    async fn talk(&mut self, mut session: Session) -> Over {
        let ping_interval = self.edge.config.edge.ping_interval;
        let mut ping =
            tokio::time::interval_at(tokio::time::Instant::now() + ping_interval, ping_interval);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let outbox = self.outbox.clone();
        loop {
            // What waits goes out first, then one thing at a time is waited for.
            if let Err(over) = self.write_all().await {
                return over;
            }
            tokio::select! {
                () = outbox.wait() => {}
                received = self.receive() => match received {
                    Ok(Some(text)) => {
                        if let Err(over) = self.request(&mut session, &text).await {
                            return over;
                        }
                    }
                    Ok(None) => {}
                    Err(over) => return over,
                },
                _ = ping.tick() => {
                    let limit = ping_interval + self.edge.config.edge.pong_timeout;
                    if self.heard.elapsed() >= limit {
                        return Over::End(Ending {
                            close: Close::Idle,
                            reason: Close::Idle.reason().to_owned(),
                        });
                    }
                    if self.heard.elapsed() >= ping_interval / 2
                        && self.socket.feed(Message::Ping(Vec::new().into())).await.is_err()
                    {
                        return Over::Gone;
                    }
                    if self.flush().await.is_err() {
                        return Over::Gone;
                    }
                }
            }
        }
    }

    /// Handles one frame; while it takes its time, what the outbox holds is still written.
    async fn request(&mut self, session: &mut Session, text: &str) -> Result<(), Over> {
        let (id, request) = parse(text);
        match request {
            Ok(request) => {
                self.malformed = 0;
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
            Err(error) => self.answer_error(id, error),
        }
    }

    fn answer_error(&mut self, id: RequestId, error: Error) -> Result<(), Over> {
        if error.code == Code::Malformed {
            self.malformed += 1;
        }
        answer_to(&self.outbox, id, Err(error));
        if self.malformed >= MAX_MALFORMED {
            return Err(Over::End(Ending {
                close: Close::Malformed,
                reason: Close::Malformed.reason().to_owned(),
            }));
        }
        Ok(())
    }

    /// The next text frame; `None` for one that needs nothing from us. Cancel-safe.
    async fn receive(&mut self) -> Result<Option<Utf8Bytes>, Over> {
        let ending = |close: Close, reason: &str| {
            Over::End(Ending {
                close,
                reason: reason.to_owned(),
            })
        };
        let received = match self.socket.next().await {
            None => return Err(Over::Gone),
            Some(received) => received,
        };
        self.heard = Instant::now();
        match received {
            Ok(Message::Text(text)) => Ok(Some(text)),
            Ok(Message::Binary(_)) => {
                Err(ending(Close::Malformed, "binary frames are not used here"))
            }
            Ok(Message::Close(_)) => Err(Over::Gone),
            Ok(_) => Ok(None),
            Err(WsError::Capacity(CapacityError::MessageTooLong { max_size, .. })) => {
                let message = format!("a frame may have at most {max_size} bytes");
                let error = Error::new(Code::TooLarge, message);
                answer_to(&self.outbox, None, Err(error));
                Err(ending(Close::TooBig, Close::TooBig.reason()))
            }
            Err(WsError::Utf8(_)) => Err(ending(Close::Malformed, "text frames are UTF-8")),
            Err(WsError::Protocol(_)) => {
                Err(ending(Close::Malformed, "not the WebSocket protocol"))
            }
            Err(_) => Err(Over::Gone),
        }
    }

    /// Writes all that the outbox holds and flushes once. Ends early when the reader is too slow: a socket that
    /// takes nothing must not keep what others send to it.
    async fn write_all(&mut self) -> Result<(), Over> {
        loop {
            let ending = self.outbox.take(&mut self.writing);
            if self.writing.is_empty() {
                return match ending {
                    Some(ending) => Err(Over::End(ending)),
                    None => Ok(()),
                };
            }
            let outbox = self.outbox.clone();
            let written = {
                let mut writing = std::pin::pin!(self.write_taken());
                loop {
                    tokio::select! {
                        biased;
                        written = &mut writing => break Some(written),
                        () = outbox.wait() => if outbox.is_slow() { break None },
                    }
                }
            };
            match written {
                Some(Ok(())) => {}
                Some(Err(_)) => return Err(Over::Gone),
                None => {
                    self.writing.clear();
                    return Err(Over::End(Ending {
                        close: Close::Slow,
                        reason: Close::Slow.reason().to_owned(),
                    }));
                }
            }
        }
    }

    async fn write_taken(&mut self) -> Result<(), WsError> {
        while let Some(item) = self.writing.pop_front() {
            self.socket.feed(Message::Text(render(&item))).await?;
        }
        // A burst's buffer is not kept by an idle socket.
        self.writing.shrink_to(8);
        self.socket.flush().await
    }

    async fn flush(&mut self) -> Result<(), WsError> {
        self.socket.flush().await
    }

    /// Everything that still waits, the close frame, and the peer's answer to it.
    async fn goodbye(&mut self, ending: Ending) {
        if ending.close != Close::Slow {
            let outbox = self.outbox.clone();
            loop {
                self.outbox.take(&mut self.writing);
                if self.write_taken().await.is_err() {
                    return;
                }
                // What the queue has not confirmed yet is still answered.
                if !outbox.owes() {
                    break;
                }
                outbox.wait().await;
            }
        }
        let mut reason = ending.reason;
        reason.truncate(123);
        let frame = CloseFrame {
            code: ending.close.code().into(),
            reason: reason.into(),
        };
        if self.socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = self.socket.next().await {}
        }
    }
}

fn render(item: &Item) -> Utf8Bytes {
    match item {
        Item::Event(frame) => Frame::ws(frame),
        Item::Ack { id: Some(id), body } => format!("{{\"ack\":{id},{body}}}").into(),
        Item::Ack { id: None, body } => format!("{{\"ack\":null,{body}}}").into(),
    }
}
