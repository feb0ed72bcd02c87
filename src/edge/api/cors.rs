//! Cross-origin requests from browsers (CORS, Fetch standard). Credentials are bearer tokens, never cookies, so a page
//! of another origin gains nothing from the user's browser: it merely cannot read the response.

use poem::{
    Request, Response,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
};

use crate::edge::origin::{is_allowed, is_secure};

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Content-Type, Idempotency-Key, X-Request-Id");
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static("Retry-After, X-Request-Id");
/// How long browsers may cache a preflight response, in seconds. Two hours is the longest that all browsers honour.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// The CORS response headers for a list of allowed origins.
pub struct Cors {
    allowed: Vec<String>,
}

impl Cors {
    pub fn new(allowed: &[String]) -> Self {
        Cors {
            allowed: allowed.to_vec(),
        }
    }

    /// The request's origin, if it is allowed.
    pub fn origin(&self, request: &Request) -> Option<HeaderValue> {
        let origin = request.headers().get(header::ORIGIN)?;
        let host = request.header(header::HOST).unwrap_or("");
        let allowed = is_allowed(
            &self.allowed,
            origin.to_str().ok()?,
            host,
            is_secure(request),
        );
        allowed.then(|| origin.clone())
    }

    /// The response to a preflight request; `None` if the request is not one.
    pub fn preflight(&self, request: &Request) -> Option<Response> {
        if request.method() != Method::OPTIONS
            || !request
                .headers()
                .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
            || !request.headers().contains_key(header::ORIGIN)
        {
            return None;
        }
        let mut response = Response::builder().status(StatusCode::NO_CONTENT).finish();
        if self.origin(request).is_some() {
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        Some(response)
    }

    /// Sets the CORS headers of a response, and `Vary: Origin`.
    pub fn mark(&self, response: &mut Response, origin: Option<HeaderValue>) {
        if self.allowed.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        headers.append(
            header::VARY,
            HeaderValue::from_name(HeaderName::from_static("origin")),
        );
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
        }
    }
}
