//! The plain WebSocket transport at `/ws`: its handshake and its JSON text frames. The connection is run as every
//! other one is.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use poem::{Request as HttpRequest, Response, http::header};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    Edge,
    auth::Identity,
    connection::{Beat, Codec, Connection, Input, Opened, Over},
    link::{self, Link, Upgrading},
    outbox::{Ending, Item, Outbox},
    session::{Greeting, RequestId, answer_to},
};
use crate::{
    config::Config,
    error::{Error, Result},
    protocol::{Close, ConnectedLimits, Request},
};

/// The upgrade at `GET /ws`.
pub async fn upgrade(edge: &Arc<Edge>, request: HttpRequest) -> Response {
    match accept(edge, &request).await {
        Ok((response, upgrading, identity)) => {
            let beginning = Box::pin(begin(edge.clone(), upgrading, identity));
            edge.tasks.spawn(async move {
                if let Some((connection, opened)) = beginning.await {
                    connection.serve(opened).await;
                }
            });
            response
        }
        Err(error) => super::api::problem_response(&error),
    }
}

async fn accept(
    edge: &Edge,
    request: &HttpRequest,
) -> Result<(Response, Upgrading, Option<Result<Identity>>)> {
    link::check(request)?;
    super::origin::check(&edge.config.edge.allowed_origins, request)?;
    let identity = credentials(edge, request).await?;
    let (response, upgrading) = link::accept(request)?;
    Ok((response, upgrading, identity))
}

async fn begin(
    edge: Arc<Edge>,
    upgrading: Upgrading,
    identity: Option<Result<Identity>>,
) -> Option<(Box<Connection<Plain>>, Opened)> {
    let max = edge.config.edge.max_frame_bytes;
    let socket = upgrading.finish(max).await?;
    let outbox = edge.outbox();
    let codec = Plain {
        config: edge.config.clone(),
        open: false,
    };
    let mut connection = Connection::new(edge, codec, Link::WebSocket(socket), outbox);
    let opened = connection.begin(identity).await;
    Some((connection, opened))
}

/// What the handshake brought.
async fn credentials(edge: &Edge, request: &HttpRequest) -> Result<Option<Result<Identity>>> {
    if let Some(header) = request.header(header::AUTHORIZATION) {
        let token = header.strip_prefix("Bearer ").ok_or_else(|| {
            Error::unauthorized("the Authorization header must be `Bearer <access token>`")
        })?;
        return edge.auth.verify(token).map(|identity| Some(Ok(identity)));
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
    match parameter("ticket") {
        // The first frame will bring them.
        None => Ok(None),
        // A browser cannot read a refused handshake: it is told with a close code instead.
        Some(ticket) => Ok(Some(edge.auth.take_ticket(edge.bus.as_ref(), ticket).await)),
    }
}

/// JSON text frames.
pub(super) struct Plain {
    config: Arc<Config>,
    open: bool,
}

impl Codec for Plain {
    const TRANSPORT: &'static str = "ws";

    fn read(&mut self, text: &str) -> Input {
        let (id, request) = parse(text);
        match request {
            Ok(Request::Auth(auth)) if !self.open => Input::Open(id, Ok(auth.token)),
            Ok(request) if self.open => Input::Request(id, request),
            Ok(_) => {
                let message = "authenticate first: send {\"id\":1,\"event\":\"auth\",\"data\":{\"token\":\"…\"}}";
                Input::Early(id, Error::unauthorized(message))
            }
            Err(error) => Input::Bad(id, error),
        }
    }

    fn read_binary(&mut self) -> Input {
        let reason = "binary frames are not used here";
        Input::End(Over::because(Close::Malformed, reason))
    }

    fn render(item: &Item) -> Utf8Bytes {
        match item {
            Item::Event(frame) => frame.ws(),
            Item::Text(text) => text.clone(),
            Item::Ack { id, ok, body } => {
                let id = id.map_or("null".to_owned(), |id| id.to_string());
                let field = if *ok { "data" } else { "error" };
                format!("{{\"ack\":{id},\"ok\":{ok},\"{field}\":{body}}}").into()
            }
        }
    }

    fn greeting(&mut self, id: RequestId) -> Greeting {
        self.open = true;
        let edge = &self.config.edge;
        Greeting {
            first: id.map(|id| Item::Ack {
                id: Some(id),
                ok: true,
                body: "{}".to_owned(),
            }),
            limits: ConnectedLimits {
                max_frame_bytes: edge.max_frame_bytes,
                max_body_bytes: edge.max_body_bytes,
                ping_interval_ms: edge.ping_interval.as_millis() as u64,
            },
        }
    }

    /// Says what is wrong, then ends.
    fn refuse(&mut self, outbox: &Outbox, id: RequestId, error: Error) -> Result<(), Over> {
        let over = Over::because(Close::Unauthorized, error.code.as_str());
        answer_to(outbox, id, Err(error));
        Err(over)
    }

    fn too_late(&mut self, outbox: &Outbox) -> Over {
        let error = Error::unauthorized("no `auth` frame came in time");
        answer_to(outbox, None, Err(error));
        Over::because(Close::Unauthorized, "unauthorized")
    }

    fn farewell(&self, _: &Ending, _: &mut VecDeque<Item>) {}

    fn first_beat(&self) -> Duration {
        self.config.edge.ping_interval
    }

    fn beat(&mut self, quiet: Duration) -> (Beat, Duration) {
        let interval = self.config.edge.ping_interval;
        let beat = if quiet >= interval + self.config.edge.pong_timeout {
            Beat::Dead
        } else if quiet >= interval / 2 {
            Beat::Ping
        } else {
            Beat::Nothing
        };
        (beat, interval)
    }
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
