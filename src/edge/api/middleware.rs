//! The middleware around every request: request id, body limits, CORS, problem documents, panic handling, metrics and
//! the access log line.

use std::{
    borrow::Cow,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use poem::{
    Endpoint, Request, Response,
    error::MethodNotAllowedError,
    http::{HeaderName, HeaderValue, Method, header},
};
use poem_openapi::registry::MetaApi;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    callbacks::MAX_REPORT,
    cors::Cors,
    problem::{Problem, render},
};
use crate::{
    edge::{client_address, credentials::no_token_in},
    error::{Code, Error, Result},
    model::Timestamp,
    telemetry::metrics,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id accepted from a client, in bytes.
const MAX_REQUEST_ID: usize = 64;
/// Time limit for receiving a request body, so that a slow body cannot hold a connection open.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// How many bytes of an oversized body are read and discarded before the connection is closed, and for how long.
const DISCARD: u64 = 4 << 20;
const DISCARD_WITHIN: Duration = Duration::from_secs(5);

/// The segments of each path (`None` for a parameter) and the methods that it accepts.
type Methods = Vec<(Vec<Option<String>>, Vec<String>)>;

/// Settings of [`WithMiddleware`].
pub struct Middleware {
    pub cors: Cors,
    pub max_bytes: usize,
    pub methods: Methods,
}

impl Middleware {
    pub fn around<E>(self, inner: E) -> WithMiddleware<E> {
        WithMiddleware {
            middleware: self,
            inner,
        }
    }
}

/// An endpoint that always returns a response: errors and panics become problem documents.
pub struct WithMiddleware<E> {
    middleware: Middleware,
    inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for WithMiddleware<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let started = Instant::now();
        let id = request_id(&request);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let origin = self.middleware.cors.origin(&request);
        let client = client_address::of(&request);

        let mut response = match self.middleware.cors.preflight(&request) {
            Some(response) => response,
            None => self.answer(request, &method, &path, &id).await,
        };
        self.middleware.cors.mark(&mut response, origin);
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, id);
        }
        // Most responses are private to the caller, and some contain tokens.
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));

        let (status, took) = (response.status(), started.elapsed());
        metrics()
            .http_requests
            .with_label_values(&[label(&method), status.as_str()])
            .inc();
        metrics().http_request_seconds.observe(took.as_secs_f64());
        tracing::debug!(
            request_id = id,
            client = client.map(tracing::field::display),
            %method,
            path = &*shown(&path),
            status = status.as_u16(),
            took_ms = took.as_secs_f64() * 1000.0,
            "request answered"
        );
        Ok(response)
    }
}

impl<E: Endpoint<Output = Response>> WithMiddleware<E> {
    async fn answer(
        &self,
        mut request: Request,
        method: &Method,
        path: &str,
        id: &str,
    ) -> Response {
        let result = async {
            if path.starts_with("/v1/") {
                no_token_in(request.uri().query()).map_err(Problem::from)?;
            }
            let max_bytes = if path.starts_with("/v1/webhooks/") {
                // Providers send reports of their own size.
                self.middleware.max_bytes.max(MAX_REPORT)
            } else {
                self.middleware.max_bytes
            };
            take_body(&mut request, max_bytes)
                .await
                .map_err(Problem::from)?;
            // Handle HEAD as GET: hyper omits the body and keeps its length (RFC 9110, section 9.3.2).
            if *method == Method::HEAD {
                request.set_method(Method::GET);
            }
            self.inner.call(request).await
        };
        let failure = match AssertUnwindSafe(result).catch_unwind().await {
            Ok(Ok(response)) => return response,
            Ok(Err(failure)) => failure,
            Err(panic) => Problem(Error::internal(panic_text(&*panic))).into(),
        };
        let not_allowed = failure.is::<MethodNotAllowedError>();
        let mut response = render(failure, id);
        if not_allowed && let Some(allow) = self.allowed(path) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }

    fn allowed(&self, path: &str) -> Option<HeaderValue> {
        let segments: Vec<&str> = path.split('/').collect();
        let matches = |pattern: &[Option<String>]| {
            pattern.len() == segments.len()
                && pattern
                    .iter()
                    .zip(&segments)
                    .all(|(known, segment)| known.as_ref().is_none_or(|known| known == segment))
        };
        let (_, methods) = self
            .middleware
            .methods
            .iter()
            .find(|(pattern, _)| matches(pattern))?;
        HeaderValue::from_str(&methods.join(", ")).ok()
    }
}

/// Collects the methods of every path of the API.
pub fn methods(apis: Vec<MetaApi>) -> Methods {
    let paths = apis.into_iter().flat_map(|api| api.paths);
    paths
        .map(|path| {
            let segments = path.path.split('/').map(|segment| match segment {
                parameter if parameter.starts_with('{') => None,
                known => Some(known.to_owned()),
            });
            let mut methods: Vec<_> = path
                .operations
                .iter()
                .map(|operation| operation.method.to_string())
                .collect();
            if methods.iter().any(|method| method == "GET") {
                methods.push("HEAD".to_owned());
            }
            (segments.collect(), methods)
        })
        .collect()
}

/// The entry for a path without parameters.
pub fn path(path: &str, methods: &[&str]) -> (Vec<Option<String>>, Vec<String>) {
    let segments = path.split('/').map(|segment| Some(segment.to_owned()));
    let methods = methods.iter().map(|method| (*method).to_owned());
    (segments.collect(), methods.collect())
}

/// Reads the whole body, so that handlers need not limit its size.
async fn take_body(request: &mut Request, max: usize) -> Result<()> {
    let too_large = || {
        Error::new(
            Code::TooLarge,
            format!("the body is too large; at most {max} bytes are allowed"),
        )
    };
    let announced = request
        .header(header::CONTENT_LENGTH)
        .and_then(|length| length.parse::<u64>().ok());
    let over = announced.is_some_and(|length| length > max as u64);
    // With `Expect: 100-continue`, the client has not sent the body yet, so nothing needs to be discarded.
    if over && request.header(header::EXPECT).is_some() {
        return Err(too_large());
    }
    let body = request.take_body();
    if body.is_empty() {
        return Ok(());
    }
    let mut reader = body.into_async_read();
    if over {
        discard(reader).await;
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut within = (&mut reader).take(max as u64 + 1);
    match tokio::time::timeout(BODY_WITHIN, within.read_to_end(&mut bytes)).await {
        Ok(Ok(_)) if bytes.len() > max => {
            discard(reader).await;
            Err(too_large())
        }
        Ok(Ok(_)) => {
            request.set_body(bytes);
            Ok(())
        }
        Ok(Err(_)) => Err(Error::malformed("the body is incomplete")),
        Err(_) => Err(Error::malformed("the body did not arrive in time")),
    }
}

/// Reads and discards part of the body. Closing a connection with unread bytes sends a TCP reset, which can destroy the
/// response before a client that is still sending has read it.
async fn discard(body: impl AsyncRead + Unpin) {
    let reading = async {
        let _ = tokio::io::copy(&mut body.take(DISCARD), &mut tokio::io::sink()).await;
    };
    let _ = tokio::time::timeout(DISCARD_WITHIN, reading).await;
}

/// The client's request id if it is safe to log, otherwise a new one.
fn request_id(request: &Request) -> String {
    request
        .header(&REQUEST_ID)
        .filter(|id| (1..=MAX_REQUEST_ID).contains(&id.len()))
        .filter(|id| {
            id.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        })
        .map_or_else(new_request_id, str::to_owned)
}

/// A UUIDv7 from the thread-local generator: it is needed for each request, and guessing one does no harm.
fn new_request_id() -> String {
    let now = Timestamp::now().millis() as u64;
    let id = uuid::Builder::from_unix_timestamp_millis(now, &rand::random());
    id.into_uuid().to_string()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "a handler panicked: {}",
        text.as_deref().unwrap_or("no text")
    )
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

/// The method as a metric label. Unknown methods share one label, so that clients cannot create time series.
fn label(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => method.as_str(),
        _ => "other",
    }
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
}
