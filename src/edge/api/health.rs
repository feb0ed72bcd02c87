//! `/healthz`, `/readyz` and `/metrics`, for operators.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use poem::{Endpoint, Request, error::NotFoundError, http::header, web::Data};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi, payload::PlainText};
use serde::Serialize;
use tokio::sync::Mutex;

use super::{
    Tags,
    access::Shared,
    payload::{Found, RawJson},
};
use crate::{
    edge::{Edge, client_address},
    error::Result,
    queue::QueueState,
    telemetry::{self, metrics},
};

/// Time limit for each dependency check. Probes usually wait 1 s for the answer.
const PING_WITHIN: Duration = Duration::from_millis(500);

pub struct HealthApi;

/// Liveness.
#[derive(Serialize, Object)]
#[oai(rename = "Alive")]
struct Alive {
    /// Always `ok`.
    status: String,
}

/// The state of this edge and of its dependencies.
#[derive(Serialize, Object)]
#[oai(rename = "Readiness")]
struct Readiness {
    status: Status,
    checks: Checks,
}

/// The overall state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase", rename = "Status")]
enum Status {
    /// All dependencies work.
    Ready,
    /// Requests are served with restrictions; `checks` names the cause. Without the store, joined sockets send, and
    /// reads, logins and joins fail with `busy`. Without the bus, live events are delayed and tickets cannot
    /// be issued. While the broker blocks publishers, writes fail with `busy` on every edge.
    Degraded,
    /// Nothing can be accepted: the queue is unavailable, or the broker blocks publishers and the store is unavailable.
    Unavailable,
    /// The edge is shutting down.
    Stopping,
}

/// The state of each dependency.
#[derive(Serialize, Object)]
#[oai(rename = "Checks")]
struct Checks {
    /// The database.
    store: Check,
    /// The message broker.
    queue: Check,
    /// Fan-out, coordination and cache.
    bus: Check,
}

/// The state of one dependency.
#[derive(Serialize, Object)]
#[oai(rename = "Check")]
struct Check {
    ok: bool,
    /// The reason it is not `ok`; details are in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    error: Option<String>,
}

#[derive(ApiResponse)]
enum Ready {
    /// `ready` or `degraded`: route clients to this edge.
    #[oai(status = 200)]
    Yes(RawJson<Readiness>),
    /// `unavailable` or `stopping`: route new clients to other edges. Existing connections stay open; those of a stopping
    /// edge are closed over `edge.drain`.
    #[oai(status = 503)]
    No(RawJson<Readiness>),
}

#[derive(ApiResponse)]
enum Scraped {
    /// All metrics of this process.
    #[oai(
        status = 200,
        content_type = "text/plain; version=0.0.4; charset=utf-8"
    )]
    Ok(PlainText<String>),
}

/// `/metrics` on the edge's main port. It is served to every client if `metrics.public` is set. Otherwise it is served
/// only to local clients of an edge that listens on a loopback address. A client is not local if a proxy forwarded the
/// request or if `Host` is not a loopback name: a web page can reach a loopback address through its own domain (DNS
/// rebinding). In all other cases the path does not exist (404).
pub struct Metrics<E> {
    pub public: bool,
    /// Whether the edge listens on a loopback address.
    pub local: bool,
    pub inner: E,
}

impl<E: Endpoint> Endpoint for Metrics<E> {
    type Output = E::Output;

    async fn call(&self, request: Request) -> poem::Result<E::Output> {
        if self.public || (self.local && is_local(&request)) {
            self.inner.call(request).await
        } else {
            Err(NotFoundError.into())
        }
    }
}

fn is_local(request: &Request) -> bool {
    let forwarded = [
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
    ];
    let client = client_address::of(request);
    client.is_none_or(|client| client.is_loopback())
        && !forwarded
            .iter()
            .any(|name| request.headers().contains_key(*name))
        && request.header(header::HOST).is_none_or(is_loopback_host)
}

/// Whether `host` is `localhost` or a loopback address, with or without a port. The server has checked its syntax.
fn is_loopback_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback_address = |ip: IpAddr| ip.to_canonical().is_loopback();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_loopback_address)
}

#[OpenApi(tag = "Tags::Operations")]
impl HealthApi {
    /// Check liveness
    ///
    /// Checks no dependency. Restart the process if this fails.
    #[oai(path = "/healthz", method = "get", operation_id = "healthz")]
    async fn healthz(&self) -> Found<Alive> {
        Found::of(&Alive {
            status: "ok".to_owned(),
        })
    }

    /// Check readiness
    ///
    /// Checks each dependency, all at once, for at most 0.5 s. Concurrent requests share one result, which is reused for
    /// 100 ms. An edge that can accept messages is ready, also while its store or its bus is unavailable.
    #[oai(path = "/readyz", method = "get", operation_id = "readyz")]
    async fn readyz(&self, edge: Shared<'_>, checked: Data<&Arc<Checked>>) -> Ready {
        let (status, body) = checked.readiness(&edge).await;
        let body = RawJson::of_bytes(body);
        match status {
            Status::Ready | Status::Degraded => Ready::Yes(body),
            Status::Unavailable | Status::Stopping => Ready::No(body),
        }
    }

    /// Read metrics
    ///
    /// In the Prometheus text format. Served on `metrics.port`; on an edge's main port only if `metrics.public = true`,
    /// or to local clients while the edge listens on a loopback address.
    #[oai(path = "/metrics", method = "get", operation_id = "metrics")]
    async fn metrics(&self, request: &Request) -> Scraped {
        if let Some(edge) = request.data::<Arc<Edge>>() {
            update_queue_gauges(edge);
        }
        Scraped::Ok(PlainText(telemetry::exposition().await))
    }
}

/// How long a `/readyz` result is reused. The endpoint is open to all clients, and each check uses a database
/// connection.
const CHECKED_FOR: Duration = Duration::from_millis(100);

/// The last readiness result. The lock allows one check at a time.
#[derive(Default)]
pub struct Checked(Mutex<Option<(Instant, Status, Bytes)>>);

impl Checked {
    async fn readiness(&self, edge: &Edge) -> (Status, Bytes) {
        let mut last = self.0.lock().await;
        match &*last {
            Some((at, status, body))
                if at.elapsed() < CHECKED_FOR
                    && (*status == Status::Stopping) == edge.stopping.is_cancelled() =>
            {
                (*status, body.clone())
            }
            _ => {
                let now = readiness(edge).await;
                let body = Bytes::from(crate::protocol::raw(&now).get().to_owned());
                *last = Some((Instant::now(), now.status, body.clone()));
                (now.status, body)
            }
        }
    }
}

/// Updates the gauges that are read on scrape rather than on change.
fn update_queue_gauges(edge: &Edge) {
    let backlog = i64::try_from(edge.publisher.backlog()).unwrap_or(i64::MAX);
    metrics().queue_backlog_messages.set(backlog);
}

async fn readiness(edge: &Edge) -> Readiness {
    let (store, bus) = tokio::join!(
        ping("store", edge.reads.ping()),
        ping("bus", edge.bus.pubsub.ping())
    );
    let state = edge.publisher.state();
    let queue = match state {
        QueueState::Up => Check::good(),
        QueueState::Blocked => {
            Check::bad("the broker blocks publishers because of its memory or disk alarm")
        }
        QueueState::Down => Check::bad("the queue is not reachable"),
    };
    Readiness {
        status: if edge.stopping.is_cancelled() {
            Status::Stopping
        } else {
            overall(store.ok, state, bus.ok)
        },
        checks: Checks { store, queue, bus },
    }
}

/// A broker's alarm concerns all edges: taking this one out of rotation would only end the reads.
fn overall(store: bool, queue: QueueState, bus: bool) -> Status {
    match (store, queue, bus) {
        (_, QueueState::Down, _) | (false, QueueState::Blocked, _) => Status::Unavailable,
        (true, QueueState::Up, true) => Status::Ready,
        _ => Status::Degraded,
    }
}

async fn ping(what: &str, answer: impl Future<Output = Result<()>>) -> Check {
    match tokio::time::timeout(PING_WITHIN, answer).await {
        Ok(Ok(())) => Check::good(),
        Ok(Err(error)) => {
            tracing::debug!(what, error = %error.chain(), "dependency check failed");
            Check::bad(error.message)
        }
        Err(_) => Check::bad(format!("no answer within {} ms", PING_WITHIN.as_millis())),
    }
}

impl Check {
    fn good() -> Self {
        Check {
            ok: true,
            error: None,
        }
    }

    fn bad(error: impl Into<String>) -> Self {
        Check {
            ok: false,
            error: Some(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn metrics_are_open_to_this_machine_or_by_setting() {
        let asks = async |public, local, client: Option<&str>, header: Option<&str>| {
            let endpoint = Metrics {
                public,
                local,
                inner: poem::endpoint::make_sync(|_| "metrics"),
            };
            let mut request = Request::builder();
            if let Some(name) = header {
                request = request.header(name, "127.0.0.1");
            }
            request = request.header(header::HOST, "localhost:3000");
            let mut request = request.finish();
            if let Some(client) = client {
                let client = client_address::ClientAddress(client.parse().unwrap());
                request.extensions_mut().insert(client);
            }
            endpoint.call(request).await.is_ok()
        };
        assert!(asks(true, false, Some("192.0.2.1"), Some("forwarded")).await);
        assert!(asks(false, true, Some("127.0.0.1"), None).await);
        assert!(asks(false, true, Some("::1"), None).await);
        assert!(asks(false, true, None, None).await);
        assert!(!asks(false, true, Some("192.0.2.1"), None).await);
        assert!(!asks(false, true, Some("127.0.0.1"), Some("forwarded")).await);
        assert!(!asks(false, true, Some("127.0.0.1"), Some("x-forwarded-for")).await);
        assert!(!asks(false, false, Some("127.0.0.1"), None).await);
    }

    #[test]
    fn a_name_that_was_rebound_is_no_loopback_host() {
        for host in [
            "localhost",
            "LocalHost:3000",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:3000",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "evil.example:3000",
            "localhost.evil.example",
            "192.0.2.1",
            "[2001:db8::1]:80",
            "::",
            "",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn an_edge_that_can_accept_something_is_in_rotation() {
        use QueueState::{Blocked, Down, Up};
        assert_eq!(overall(true, Up, true), Status::Ready);
        for (store, queue, bus) in [
            (true, Up, false),
            (false, Up, true),
            (false, Up, false),
            (true, Blocked, true),
            (true, Blocked, false),
        ] {
            assert_eq!(overall(store, queue, bus), Status::Degraded);
        }
        for (store, queue) in [(false, Blocked), (true, Down), (false, Down)] {
            assert_eq!(overall(store, queue, true), Status::Unavailable);
        }
    }
}
