//! The middleware around every request: request id, body limits, CORS, problem documents, panic handling, and the
//! request's metrics and log line.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use poem::{
    Endpoint, Request, Response,
    error::MethodNotAllowedError,
    http::{HeaderName, HeaderValue, Method, header},
};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    callbacks::MAX_REPORT,
    cors::Cors,
    metered::AuthenticatedUser,
    problem::{Problem, render},
    request_log::{Answered, RequestLog},
    routes::Routes,
};
use crate::{
    edge::{client_address, credentials::no_token_in},
    error::{Code, Error, Result},
    model::Timestamp,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id accepted from a client, in bytes.
const MAX_REQUEST_ID: usize = 64;
/// Time limit for receiving a request body, so that a slow body cannot hold a connection open.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// How many bytes of an oversized body are read and discarded before the connection is closed, and for how long.
const DISCARD: u64 = 4 << 20;
const DISCARD_WITHIN: Duration = Duration::from_secs(5);

/// Settings of [`WithMiddleware`].
pub struct Middleware {
    pub cors: Cors,
    pub max_bytes: usize,
    pub routes: Routes,
    pub log: RequestLog,
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

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let started = Instant::now();
        let id = request_id(&request);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let origin = self.middleware.cors.origin(&request);
        let client = client_address::of(&request);
        let user = AuthenticatedUser::default();
        request.extensions_mut().insert(user.clone());

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

        let (route, method) = self.middleware.routes.labels(&method, &path);
        let answered = Answered {
            request_id: &id,
            path: &path,
            client,
            user: &user,
            route,
            method,
            took: started.elapsed(),
        };
        self.middleware.log.answered(&answered, &mut response);
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
        if not_allowed && let Some(allow) = self.middleware.routes.allowed(path) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
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
