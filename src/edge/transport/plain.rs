//! The plain WebSocket transport at `/ws`: its handshake and its JSON text frames.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use poem::{
    Request as HttpRequest, Response,
    http::{StatusCode, header},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    connection::{Admitted, Codec, Connection, Heartbeat, Input, Over},
    handshake,
    link::Link,
    socket,
};
use crate::{
    config::Config,
    edge::{
        Edge, api,
        auth::Identity,
        credentials::{bearer, no_token_in},
        origin,
        outbound::{Encoding, Ending, Item, Outbox, RequestId, answer_to},
        session::Greeting,
    },
    error::{Code, Error, Result},
    protocol::{Close, ConnectedLimits, Request},
};

/// Handles the upgrade at `GET /ws`.
pub async fn upgrade(edge: &Arc<Edge>, request: HttpRequest) -> Response {
    match accept(edge, &request).await {
        Ok(response) => response,
        Err(Refusal::Handshake(refused)) => {
            let status = match refused {
                handshake::Refused::Version => StatusCode::UPGRADE_REQUIRED,
                handshake::Refused::Malformed(_) => StatusCode::BAD_REQUEST,
            };
            let mut response = api::problem_response_with(&refused.error(), status);
            refused.mark(&mut response);
            response
        }
        Err(Refusal::Error(error)) => api::problem_response(&error),
    }
}

enum Refusal {
    Handshake(handshake::Refused),
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Error(error)
    }
}

impl From<handshake::Refused> for Refusal {
    fn from(refused: handshake::Refused) -> Self {
        Refusal::Handshake(refused)
    }
}

async fn accept(edge: &Arc<Edge>, request: &HttpRequest) -> Result<Response, Refusal> {
    handshake::key(request)?;
    origin::check(&edge.config.edge.allowed_origins, request)?;
    let identity = credentials(edge, request).await?;
    let admitted = match identity {
        Some(Ok(_)) => Admitted::authenticated(request),
        Some(Err(_)) | None => Admitted::anonymous(edge, request)?,
    };
    let (response, upgrading) = socket::accept(request)?;
    let (edge, tasks) = (edge.clone(), edge.tasks.clone());
    let beginning = Box::pin(async move {
        let socket = upgrading.finish(edge.config.edge.max_frame_bytes).await?;
        let (outbox, link) = (edge.outbox(), Link::WebSocket(socket));
        let codec = Plain {
            config: edge.config.clone(),
            open: false,
        };
        let connection = Connection::new(edge, codec, link, outbox, admitted);
        Some((connection, identity))
    });
    tasks.spawn(async move {
        if let Some((connection, identity)) = beginning.await {
            connection.serve(identity.map(Box::new)).await;
        }
    });
    Ok(response)
}

/// The credentials of the handshake, if it has any.
async fn credentials(edge: &Edge, request: &HttpRequest) -> Result<Option<Result<Identity>>> {
    let query = request.uri().query();
    no_token_in(query)?;
    if let Some(header) = request.header(header::AUTHORIZATION) {
        let token = bearer(header).ok_or_else(|| {
            Error::unauthorized("the Authorization header must be `Bearer <access token>`")
        })?;
        return edge.auth.verify(token).map(|identity| Some(Ok(identity)));
    }
    let ticket = query.unwrap_or("").split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == "ticket").then_some(value)
    });
    match ticket {
        // Expected in the first frame.
        None => Ok(None),
        // A browser cannot read the response of a rejected handshake, so an invalid ticket is reported by a close code.
        Some(ticket) => Ok(Some(
            edge.auth
                .take_ticket(edge.bus.coordination.as_ref(), ticket)
                .await,
        )),
    }
}

/// The codec of JSON text frames.
pub(super) struct Plain {
    config: Arc<Config>,
    open: bool,
}

/// Renders `{"event": …, "data": …}`.
fn frame(event: &str, data: &str) -> Utf8Bytes {
    let mut text = String::with_capacity(event.len() + data.len() + 22);
    text.push_str("{\"event\":\"");
    text.push_str(event);
    text.push_str("\",\"data\":");
    text.push_str(data);
    text.push('}');
    text.into()
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
        Input::End(Over::with(Close::Unsupported))
    }

    fn render(item: &Item) -> Utf8Bytes {
        match item {
            Item::Event(event) => event.rendered(Encoding::Plain, frame),
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

    /// Sends the error, then closes the socket.
    fn refuse(&mut self, outbox: &Outbox, id: RequestId, error: Error) -> Result<(), Over> {
        let close = match error.code {
            Code::RateLimited => Close::RateLimited,
            _ => Close::Unauthorized,
        };
        let over = Over::because(close, error.code.as_str());
        answer_to(outbox, id, Err(error));
        Err(over)
    }

    fn too_late(&mut self, outbox: &Outbox) -> Over {
        let error = Error::unauthorized("no `auth` frame came in time");
        answer_to(outbox, None, Err(error));
        Over::because(Close::Unauthorized, "unauthorized")
    }

    fn last_items(&self, _: &Ending, _: &mut VecDeque<Item>) {}

    fn first_heartbeat(&self) -> Duration {
        self.config.edge.ping_interval
    }

    fn heartbeat(&mut self, quiet: Duration) -> (Heartbeat, Duration) {
        let interval = self.config.edge.ping_interval;
        let heartbeat = if quiet >= interval + self.config.edge.pong_timeout {
            Heartbeat::Dead
        } else if quiet >= interval / 2 {
            Heartbeat::Ping
        } else {
            Heartbeat::Nothing
        };
        (heartbeat, interval)
    }

    fn pong_due(&self) -> Option<Duration> {
        None
    }
}

/// A frame from the client.
#[derive(Deserialize)]
struct ClientFrame<'a> {
    #[serde(default)]
    id: RequestId,
    #[serde(borrow)]
    event: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

pub(in crate::edge) fn parse(text: &str) -> (RequestId, Result<Request>) {
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
