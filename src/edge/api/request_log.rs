//! One log line and the metrics of each answered request. A line has no name, token, query or body.

use std::{borrow::Cow, net::IpAddr, time::Duration};

use hyper::body::Body as _;
use poem::{Body, Response, http};

use super::metered::AuthenticatedUser;
use crate::{config::Config, edge::log_sample::is_sampled, telemetry::metrics};

/// How much longer than `edge.wait` a request may take before its line is written regardless of `log.requests`.
const SLOW: Duration = Duration::from_secs(1);

/// Operations that monitoring calls all the time.
const OPERATIONS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Which requests get a line at `info`; the others get one at `debug`.
pub struct RequestLog {
    share: f64,
    slow: Duration,
}

/// An answered request.
pub struct Answered<'a> {
    pub request_id: &'a str,
    pub path: &'a str,
    pub client: Option<IpAddr>,
    pub user: &'a AuthenticatedUser,
    /// The labels of its metrics: a path's template and a method, or `other`.
    pub route: &'a str,
    pub method: &'a str,
    pub took: Duration,
}

impl RequestLog {
    pub fn new(config: &Config) -> RequestLog {
        RequestLog {
            share: config.log.requests,
            slow: config.edge.wait + SLOW,
        }
    }

    /// For endpoints whose requests are logged only if they fail.
    pub fn failures_only() -> RequestLog {
        RequestLog {
            share: 0.0,
            slow: Duration::MAX,
        }
    }

    /// Counts the request and writes its line.
    pub fn answered(&self, request: &Answered<'_>, response: &mut Response) {
        let (status, labels) = (response.status(), [request.method, request.route]);
        metrics()
            .http_requests
            .with_label_values(&[request.method, request.route, status.as_str()])
            .inc();
        metrics()
            .http_request_seconds
            .with_label_values(&labels)
            .observe(request.took.as_secs_f64());
        let took_ms = (request.took.as_secs_f64() * 1e6).round() / 1e3;
        let unusual = status.is_server_error() || request.took >= self.slow;
        let operation = OPERATIONS.contains(&request.route);
        // A failing readiness probe says so in its answer, and the outage has lines of its own.
        if !operation && (unusual || is_sampled(self.share)) {
            tracing::info!(
                request_id = request.request_id,
                user = request.user.0.get().map(tracing::field::display),
                method = request.method,
                route = request.route,
                status = status.as_u16(),
                took_ms,
                bytes = size_of_body(response),
                "request answered"
            );
        } else {
            tracing::debug!(
                request_id = request.request_id,
                user = request.user.0.get().map(tracing::field::display),
                client = request.client.map(tracing::field::display),
                method = request.method,
                path = &*shown(request.path),
                status = status.as_u16(),
                took_ms,
                "request answered"
            );
        }
    }
}

/// The length of the response's body, if it is known. The body is taken out and put back, since poem shows no length.
fn size_of_body(response: &mut Response) -> Option<u64> {
    let mut shell = Response::default();
    shell.set_body(response.take_body());
    let shell: http::Response<_> = shell.into();
    let body = shell.into_body();
    let size = body.size_hint().exact();
    response.set_body(Body::from(body));
    size
}

/// A path for the log. The segment after `unsubscribe` is a secret, and any segment that is longer than an id may be
/// one, also in a path that is no operation.
fn shown(path: &str) -> Cow<'_, str> {
    const ID: usize = 36;
    let secret = |segment: &str| segment.to_ascii_lowercase().contains("unsubscribe");
    if path.split('/').all(|s| s.len() <= ID && !secret(s)) {
        return path.into();
    }
    let mut hidden = false;
    let segments = path.split('/').map(|segment| {
        let shown = if hidden || segment.len() > ID {
            "…"
        } else {
            segment
        };
        hidden |= secret(segment);
        shown
    });
    segments.collect::<Vec<_>>().join("/").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_log_holds_no_secret() {
        let id = "018f2b6e-0000-7000-8000-000000000000";
        for plain in ["/", "/v1/rooms", &format!("/v1/rooms/{id}/messages")] {
            assert_eq!(shown(plain), plain);
        }
        let paths = [
            (format!("/v1/unsubscribe/{id}/{id}"), "/v1/unsubscribe/…/…"),
            (format!("/v1/Unsubscribes/{id}"), "/v1/Unsubscribes/…"),
            (format!("/v2/x/{}/y", "a".repeat(37)), "/v2/x/…/y"),
        ];
        for (path, expected) in paths {
            assert_eq!(shown(&path), expected);
        }
    }

    #[tokio::test]
    async fn the_size_of_a_body_is_known_and_the_body_is_kept() {
        let mut response = Response::builder().body("twelve bytes");
        assert_eq!(size_of_body(&mut response), Some(12));
        let body = response.take_body().into_string().await.unwrap();
        assert_eq!(body, "twelve bytes");
        assert_eq!(size_of_body(&mut Response::default()), Some(0));
    }
}
