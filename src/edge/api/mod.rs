//! The REST API, one file per resource. Each endpoint is a method whose doc comment is its OpenAPI description. Nothing
//! here writes to the store: reads go to the store, and commands go to the queue through the submitter.

mod access;
mod auth;
pub(super) mod callbacks;
mod changes;
mod cors;
mod fields;
mod health;
mod me;
mod members;
mod messages;
mod metered;
mod middleware;
pub(super) mod notifications;
mod page;
mod pages;
mod password;
mod payload;
mod problem;
mod query;
mod reactions;
mod recent;
mod request_log;
mod rooms;
mod routes;
mod sessions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use poem::{Endpoint, EndpointExt, IntoEndpoint, Request, Response, Route};
use poem_openapi::{OpenApi, OpenApiService, Tags as TagsDerive};

pub use self::pages::protect;
use super::Edge;
use crate::{error::Error, model::new_id};

/// Groups of operations in the OpenAPI document.
#[derive(TagsDerive)]
enum Tags {
    /// Registration, login, tokens and socket tickets.
    Auth,
    /// The caller's own account.
    Me,
    /// Create, find, change, join and leave rooms.
    Rooms,
    /// Members of a room, their roles, bans and mutes.
    Members,
    /// Messages, reactions, read positions and the event feed of a room.
    Messages,
    /// Notifications by e-mail and text message: preferences, address verification, delivery log.
    Notifications,
    /// For notification providers and for links in e-mails. Authenticated by a signature or a secret instead of a
    /// login.
    Callbacks,
    /// For operators: health and metrics.
    Operations,
}

/// The resources of the API, as a type and as a value.
macro_rules! apis {
    ($($module:ident::$api:ident,)*) => {
        type Apis = ($($module::$api,)*);
        const APIS: Apis = ($($module::$api,)*);
    };
}

apis! {
    auth::AuthApi,
    me::MeApi,
    password::PasswordApi,
    sessions::SessionsApi,
    rooms::RoomsApi,
    members::MembersApi,
    messages::MessagesApi,
    reactions::ReactionsApi,
    changes::ChangesApi,
    notifications::NotificationsApi,
    callbacks::CallbacksApi,
    health::HealthApi,
}

const DESCRIPTION: &str = "\
Rooms, messages and accounts over HTTP. The WebSocket `/ws` uses the same events and error codes; `chat asyncapi` \
prints its description.

**Writes** go through a durable queue. The response waits up to `edge.wait` for the worker and then contains the \
stored resource. A `202` means that the write was enqueued and will be done, but is not stored yet; until then, reads \
of a new resource return `not_found`.

**Repeating** a request is safe. `PUT`, `PATCH` and `DELETE` are idempotent, and so are joining and leaving. The id of \
a resource created by `POST` is derived from the `Idempotency-Key` (for a message, from its `clientMsgId`), without \
time limit. Operations that do not list the header ignore it.

**Times** are RFC 3339 in UTC with milliseconds and are meant for display; order and page by `seq`.

**Lists** are `{items, nextCursor, hasMore}`. For the next page, repeat the request with `cursor` set to `nextCursor` \
and all other parameters unchanged, until `hasMore` is false. A cursor is opaque and belongs to the list that returned \
it. A `limit` above the maximum is an error.

**Query parameters** that an operation does not have, that are given twice, or that exclude each other are an error \
(400 `invalid`), so that a misspelt name does not go unnoticed. Callbacks ignore them.

**Errors** are `application/problem+json` (RFC 9457) with a stable `code` and the `requestId`, which is also in the \
header `X-Request-Id`. A client can set the id by sending that header.";

fn service() -> OpenApiService<Apis, ()> {
    OpenApiService::new(APIS, "chat", env!("CARGO_PKG_VERSION")).description(DESCRIPTION)
}

/// The OpenAPI document, as `chat openapi` prints it; identical for all builds of one version.
pub fn spec() -> String {
    let mut text = service().spec();
    text.push('\n');
    text
}

/// A problem document for `error`, for endpoints outside the API.
pub fn problem_response(error: &Error) -> Response {
    problem_response_with(error, problem::status(error.code))
}

/// As [`problem_response`], with another HTTP status than the error code's own.
pub fn problem_response_with(error: &Error, status: poem::http::StatusCode) -> Response {
    problem::document(error, status, &new_id().to_string())
}

/// As [`problem_response`], without a log line, for errors that an attacker can cause at will.
pub fn refusal(error: &Error) -> Response {
    problem::write(error, problem::status(error.code), &new_id().to_string())
}

/// The endpoint of `metrics.port`: `/healthz` and `/metrics`, and `/readyz` if there is an edge.
pub fn operations(edge: Option<Arc<Edge>>) -> impl Endpoint<Output = Response> {
    let api = Arc::new(service().into_endpoint());
    let middleware = middleware::Middleware {
        cors: cors::Cors::new(&[]),
        max_bytes: 0,
        routes: routes::Routes::of(<Apis as OpenApi>::meta()),
        log: request_log::RequestLog::failures_only(),
    };
    let mut routes = Route::new()
        .at("/healthz", api.clone())
        .at("/metrics", api.clone());
    if edge.is_some() {
        routes = routes.at("/readyz", api);
    }
    middleware.around(WithEdge {
        edge,
        inner: routes.data(Arc::<health::Checked>::default()),
    })
}

/// Adds the edge, if there is one, to each request's data.
struct WithEdge<E> {
    edge: Option<Arc<Edge>>,
    inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for WithEdge<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        if let Some(edge) = &self.edge {
            request.set_data(edge.clone());
        }
        self.inner.call(request).await
    }
}

/// All plain HTTP endpoints: the API, its description, health and metrics. Always returns a response: errors and panics
/// become problem documents. `local`: the edge listens on a loopback address.
pub fn routes(edge: Arc<Edge>, local: bool) -> impl Endpoint<Output = Response> {
    let config = &edge.config.edge;
    let shown: Vec<_> = config
        .pages
        .iter()
        .flat_map(|page| pages::paths(*page))
        .collect();
    let mut known = routes::Routes::of(<Apis as OpenApi>::meta());
    for (path, _) in &shown {
        known.add(path, &pages::METHODS);
    }
    let middleware = middleware::Middleware {
        cors: cors::Cors::new(&config.allowed_origins),
        // The frame limit leaves room for the largest message body even if every character is escaped.
        max_bytes: config.max_frame_bytes,
        routes: known,
        log: request_log::RequestLog::new(&edge.config),
    };
    let api = Arc::new(service().into_endpoint());
    let metrics = health::Metrics {
        public: edge.config.metrics.public,
        local,
        inner: api.clone(),
    };
    let mut routes = Route::new()
        .at("/v1/*rest", api.clone())
        .at("/healthz", api.clone())
        .at("/readyz", api)
        .at("/metrics", metrics);
    for (path, document) in shown {
        routes = routes.at(path, document);
    }
    middleware.around(recent::Recent {
        edge: edge.clone(),
        inner: metered::Metered {
            edge: edge.clone(),
            operations: metered::Operations::of(<Apis as OpenApi>::meta()),
            inner: routes.data(edge).data(Arc::<health::Checked>::default()),
        },
    })
}
