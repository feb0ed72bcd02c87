//! The Socket.IO transport at `/socket.io/` (Engine.IO 4, Socket.IO 5) for the stock client: HTTP long-polling,
//! WebSocket, and the upgrade from one to the other. Session, outbox, connection loop and WebSocket are shared with the
//! plain transport; codec, handshake and polling are its own. docs/socketio.md explains why no library is used.
//!
//! This file routes HTTP requests: transport, session lookup, CORS and rejections.

mod codec;
mod engine;
pub(in crate::edge) mod packet;
mod polling;
mod upgrade;

use std::sync::Arc;

use poem::{
    Request, Response,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};
use uuid::Uuid;

use super::handshake;
use crate::error::{Code, Error};

pub use engine::Engine;
pub(super) use polling::Polling;

/// The protocol's error responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    UnknownTransport,
    UnknownSession,
    BadMethod,
    BadRequest,
    Forbidden,
    UnsupportedVersion,
    /// The request is not a valid WebSocket handshake.
    Handshake(handshake::Refused),
    // The following are not defined by the protocol.
    /// An access token in the URL.
    TokenInUrl,
    /// The edge has reached its session limit.
    Full,
    /// The client's address has reached its limit of unauthenticated sessions, or opens them too fast.
    TooMany,
}

impl From<Error> for Refused {
    /// Maps the errors of [`super::unauthenticated`].
    fn from(error: Error) -> Self {
        match error.code {
            Code::RateLimited => Refused::TooMany,
            _ => Refused::Full,
        }
    }
}

impl Refused {
    fn response(self) -> Response {
        let (status, code, message) = match self {
            Refused::UnknownTransport => (StatusCode::BAD_REQUEST, 0, "Transport unknown"),
            Refused::UnknownSession => (StatusCode::BAD_REQUEST, 1, "Session ID unknown"),
            Refused::BadMethod => (StatusCode::BAD_REQUEST, 2, "Bad handshake method"),
            Refused::BadRequest => (StatusCode::BAD_REQUEST, 3, "Bad request"),
            Refused::Forbidden => (StatusCode::FORBIDDEN, 4, "Forbidden"),
            Refused::UnsupportedVersion => {
                (StatusCode::BAD_REQUEST, 5, "Unsupported protocol version")
            }
            Refused::Handshake(_) => (StatusCode::BAD_REQUEST, 3, "Bad request"),
            Refused::TokenInUrl => (
                StatusCode::BAD_REQUEST,
                3,
                "Never put an access token in the URL: use the auth option",
            ),
            Refused::Full => (StatusCode::SERVICE_UNAVAILABLE, 4, "Too many sessions"),
            Refused::TooMany => (
                StatusCode::TOO_MANY_REQUESTS,
                4,
                "Too many sessions of this address without credentials",
            ),
        };
        let mut response = Response::builder()
            .status(status)
            .content_type("application/json")
            .body(format!("{{\"code\":{code},\"message\":\"{message}\"}}"));
        match self {
            Refused::Handshake(refused) => refused.mark(&mut response),
            Refused::Full | Refused::TooMany => {
                let headers = response.headers_mut();
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// The protocol's query parameters. Others (cache busters, application parameters) are ignored.
#[derive(Default)]
struct Query<'a> {
    version: Option<&'a str>,
    transport: Option<&'a str>,
    session: Option<&'a str>,
}

impl<'a> Query<'a> {
    fn of(request: &'a Request) -> Self {
        let mut query = Query::default();
        for pair in request.uri().query().unwrap_or("").split('&') {
            let Some((key, value)) = pair.split_once('=') else {
                continue;
            };
            match key {
                "EIO" => query.version = Some(value),
                "transport" => query.transport = Some(value),
                "sid" => query.session = Some(value),
                _ => {}
            }
        }
        query
    }
}

impl Engine {
    pub async fn answer(self: Arc<Self>, request: Request) -> Response {
        let cors = self.cors(&request);
        let response = match &cors {
            Err(refused) => refused.response(),
            Ok(_) if request.method() == Method::OPTIONS => preflight(&request),
            Ok(_) => self.route(request).await.unwrap_or_else(Refused::response),
        };
        match cors {
            Ok(headers) => with_headers(response, headers),
            Err(_) => response,
        }
    }

    async fn route(self: &Arc<Self>, mut request: Request) -> Result<Response, Refused> {
        let method = request.method().clone();
        handshake::no_token_in(request.uri().query()).map_err(|_| Refused::TokenInUrl)?;
        let query = Query::of(&request);
        let websocket = match query.transport {
            Some("polling") => false,
            Some("websocket") => true,
            _ => return Err(Refused::UnknownTransport),
        };
        if query.session.is_none() && query.version != Some("4") {
            return Err(Refused::UnsupportedVersion);
        }
        let session = match query.session {
            None => None,
            Some(sid) => {
                let sid = Uuid::try_parse(sid).map_err(|_| Refused::UnknownSession)?;
                Some(self.find(sid).ok_or(Refused::UnknownSession)?)
            }
        };
        match (session, method) {
            (None, Method::GET) if websocket => self.open_websocket(&request),
            (None, Method::GET) => self.open_polling(&request),
            (Some(session), Method::GET) if websocket => self.upgrade(&session, &request),
            (Some(session), Method::GET) => self.poll(session).await,
            (Some(session), Method::POST) if !websocket => {
                let body = request.take_body();
                self.post(session, request.headers(), body).await
            }
            _ => Err(Refused::BadMethod),
        }
    }

    /// The CORS headers for a request of another origin.
    fn cors(&self, request: &Request) -> Result<HeaderMap, Refused> {
        let mut headers = HeaderMap::new();
        let Some(origin) = request.headers().get(header::ORIGIN) else {
            return Ok(headers);
        };
        let allowed = &self.edge.config.edge.allowed_origins;
        if let Err(error) = super::origin::check(allowed, request) {
            tracing::debug!(error = %error.chain(), "Socket.IO request rejected: origin not allowed");
            return Err(Refused::Forbidden);
        }
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        // Some load balancers use a cookie for sticky sessions, which `withCredentials` sends. With a wildcard origin,
        // credentials are not allowed.
        if !allowed.iter().any(|allowed| allowed == "*") {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        Ok(headers)
    }
}

/// Answers the preflight request that browsers send before one with an `Authorization` header.
fn preflight(request: &Request) -> Response {
    let mut response = Response::builder()
        .status(StatusCode::NO_CONTENT)
        .header(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST")
        .header(header::ACCESS_CONTROL_MAX_AGE, "600")
        .finish();
    if let Some(asked) = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
    {
        response
            .headers_mut()
            .insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    response
}

fn with_headers(mut response: Response, headers: HeaderMap) -> Response {
    response.headers_mut().extend(headers);
    response
}

/// The response to a poll or a post.
fn payload(text: String) -> Response {
    Response::builder()
        .content_type("text/plain; charset=UTF-8")
        .header(header::CACHE_CONTROL, "no-store")
        .body(text)
}
