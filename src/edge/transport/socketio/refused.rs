//! The responses of Engine.IO to requests that are refused.

use poem::{
    Response,
    http::{HeaderValue, StatusCode, header},
};

use crate::{
    edge::transport::handshake,
    error::{Code, Error},
};

/// The protocol's error responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
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
    /// Maps the errors of [`crate::edge::unauthenticated`].
    fn from(error: Error) -> Self {
        match error.code {
            Code::RateLimited => Refused::TooMany,
            _ => Refused::Full,
        }
    }
}

impl Refused {
    pub fn response(self) -> Response {
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

/// The response to a poll or a post.
pub(super) fn payload(text: String) -> Response {
    Response::builder()
        .content_type("text/plain; charset=UTF-8")
        .header(header::CACHE_CONTROL, "no-store")
        .body(text)
}
