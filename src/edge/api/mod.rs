//! The REST API. One file for each resource; an endpoint is a method there, and its doc comment is its description.
//! Nothing here writes: reads go to the store, commands into the queue through the submitter.

mod access;
mod auth;
mod callbacks;
mod changes;
mod cors;
mod fields;
mod gate;
mod health;
mod me;
mod members;
mod messages;
mod notifications;
mod page;
mod payload;
mod problem;
mod recent;
mod rooms;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use poem::{Endpoint, EndpointExt, IntoEndpoint, Response, Route, endpoint::make_sync, web::Html};
use poem_openapi::{OpenApi, OpenApiService, Tags as TagsDerive};

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

/// A page to talk with: someone who has just started the server sees it work.
const INDEX: &str = include_str!("index.html");

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
    problem::document(error, problem::status(error.code), &new_id().to_string())
}

/// `/healthz` and `/metrics` alone, for a process without an edge.
pub fn operations() -> impl Endpoint<Output = Response> {
    let api = Arc::new(service().into_endpoint());
    let gate = gate::Gate {
        cors: cors::Cors::new(&[]),
        max_bytes: 0,
        methods: gate::methods(<Apis as OpenApi>::meta()),
    };
    gate.around(Route::new().at("/healthz", api.clone()).at("/metrics", api))
}

/// Everything that is spoken over plain HTTP: the API, its description, health and metrics. It never fails: every
/// failure, even a panic, is a problem document.
pub fn routes(edge: Arc<Edge>) -> impl Endpoint<Output = Response> {
    let config = &edge.config.edge;
    let gate = gate::Gate {
        cors: cors::Cors::new(&config.allowed_origins),
        // A frame's limit leaves room for the largest message body however it is escaped.
        max_bytes: config.max_frame_bytes,
        methods: gate::methods(<Apis as OpenApi>::meta()),
    };
    let api = Arc::new(service().into_endpoint());
    let routes = Route::new()
        .at("/", make_sync(|_| Html(INDEX)))
        // Made anew each time: it is 1.6 MB that nobody needs while nobody looks.
        .at("/api", make_sync(|_| Html(service().swagger_ui_html())))
        .at(
            "/api/openapi.json",
            make_sync(|_| {
                Response::builder()
                    .content_type("application/json")
                    .body(spec())
            }),
        )
        .at("/v1/*rest", api.clone())
        .at("/healthz", api.clone())
        .at("/readyz", api.clone())
        .at("/metrics", api)
        .data(edge.clone());
    gate.around(recent::Recent {
        edge,
        inner: routes,
    })
}
