//! The REST API. One file for each resource; an endpoint is a method there, and its doc comment is its description.
//! Nothing here writes: reads go to the store, commands into the queue through the submitter.

mod access;
mod auth;
pub(super) mod callbacks;
mod changes;
mod cors;
mod fields;
mod gate;
mod health;
mod me;
mod members;
mod messages;
mod metered;
pub(super) mod notifications;
mod page;
mod pages;
mod payload;
mod problem;
mod recent;
mod rooms;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use poem::{Endpoint, EndpointExt, IntoEndpoint, Request, Response, Route};
use poem_openapi::{OpenApi, OpenApiService, Tags as TagsDerive};

pub use self::pages::protect;
use super::Edge;
use crate::{error::Error, model::new_id};

/// How the specification groups the operations.
#[derive(TagsDerive)]
enum Tags {
    /// Accounts are made here, and logins begin, go on and end.
    Auth,
    /// One's own account.
    Me,
    /// Making, finding, changing and entering rooms.
    Rooms,
    /// Who is in a room and what they may do there.
    Members,
    /// What is said in a room, and what else happens there.
    Messages,
    /// What someone is told of while they are away.
    Notifications,
    /// For providers, and for links in e-mails: no login, but a signature or a secret.
    Callbacks,
    /// For those who run it.
    Operations,
}

type Apis = (
    auth::AuthApi,
    me::MeApi,
    rooms::RoomsApi,
    members::MembersApi,
    messages::MessagesApi,
    changes::ChangesApi,
    notifications::NotificationsApi,
    callbacks::CallbacksApi,
    health::HealthApi,
);

const APIS: Apis = (
    auth::AuthApi,
    me::MeApi,
    rooms::RoomsApi,
    members::MembersApi,
    messages::MessagesApi,
    changes::ChangesApi,
    notifications::NotificationsApi,
    callbacks::CallbacksApi,
    health::HealthApi,
);

const DESCRIPTION: &str = "\
Rooms, messages and accounts over HTTP. The same events and the same codes travel on the WebSocket `/ws`; \
`chat asyncapi` describes it.

**Writes** go through a durable queue. The answer waits for the worker, at most `edge.wait`, and is then the stored \
resource; a `202` says that the queue holds the write and it will be done. Until it is, the thing it makes is not \
found.

**Repeating** a request is safe: `PUT`, `PATCH` and `DELETE` say what shall be, joining and leaving twice is joining \
and leaving once, and what `POST` makes has an id that follows from the `Idempotency-Key` (for a message, from its \
`clientMsgId`), for ever. The header is ignored where it is not named.

**Times** are RFC 3339 in UTC with milliseconds, to show; to order and to page, use `seq`.

**Lists** are `{items, nextCursor, hasMore}`. A `limit` that is too large is refused, never cut.

**Failures** are `application/problem+json` (RFC 9457) with a stable `code` and the `requestId`, which is also in the \
header `X-Request-Id`; send that header to choose it.";

fn service() -> OpenApiService<Apis, ()> {
    OpenApiService::new(APIS, "chat", env!("CARGO_PKG_VERSION")).description(DESCRIPTION)
}

/// The OpenAPI description, as `chat openapi` prints it: the same text from every build of one version.
pub fn spec() -> String {
    let mut text = service().spec();
    text.push('\n');
    text
}

/// An error as an answer, for an endpoint that is not part of the API.
pub fn problem_response(error: &Error) -> Response {
    problem_response_with(error, problem::status(error.code))
}

/// The same with another status than that of the error's code.
pub fn problem_response_with(error: &Error, status: poem::http::StatusCode) -> Response {
    problem::document(error, status, &new_id().to_string())
}

/// The same without a line in the log, for what an attacker can cause at will.
pub fn refusal(error: &Error) -> Response {
    problem::write(error, problem::status(error.code), &new_id().to_string())
}

/// `/healthz` and `/metrics`, and `/readyz` of an edge: what `metrics.port` answers.
pub fn operations(edge: Option<Arc<Edge>>) -> impl Endpoint<Output = Response> {
    let api = Arc::new(service().into_endpoint());
    let gate = gate::Gate {
        cors: cors::Cors::new(&[]),
        max_bytes: 0,
        methods: gate::methods(<Apis as OpenApi>::meta()),
    };
    let mut routes = Route::new()
        .at("/healthz", api.clone())
        .at("/metrics", api.clone());
    if edge.is_some() {
        routes = routes.at("/readyz", api);
    }
    gate.around(WithEdge {
        edge,
        inner: routes.data(Arc::<health::Checked>::default()),
    })
}

/// Hands the edge, where there is one, to the handlers.
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

/// Everything that is spoken over plain HTTP: the API, its description, health and metrics. It never fails: every
/// failure, even a panic, is a problem document. `local` says that only this machine can reach the edge.
pub fn routes(edge: Arc<Edge>, local: bool) -> impl Endpoint<Output = Response> {
    let config = &edge.config.edge;
    let shown: Vec<_> = config
        .pages
        .iter()
        .flat_map(|page| pages::paths(*page))
        .collect();
    let mut methods = gate::methods(<Apis as OpenApi>::meta());
    methods.extend(
        shown
            .iter()
            .map(|(path, _)| gate::path(path, &pages::METHODS)),
    );
    let gate = gate::Gate {
        cors: cors::Cors::new(&config.allowed_origins),
        // A frame's limit leaves room for the largest message body however it is escaped.
        max_bytes: config.max_frame_bytes,
        methods,
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
    gate.around(recent::Recent {
        edge: edge.clone(),
        inner: metered::Metered {
            edge: edge.clone(),
            prices: metered::Prices::of(<Apis as OpenApi>::meta()),
            inner: routes.data(edge).data(Arc::<health::Checked>::default()),
        },
    })
}
