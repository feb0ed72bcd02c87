//! Routes HTTP requests to sessions: the transport, the session's id, CORS.

use std::sync::Arc;

use poem::{
    Request, Response,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};
use uuid::Uuid;

use super::{engine::Engine, refused::Refused};
use crate::edge::{credentials::no_token_in, origin};

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
        no_token_in(request.uri().query()).map_err(|_| Refused::TokenInUrl)?;
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
        if let Err(error) = origin::check(allowed, request) {
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
