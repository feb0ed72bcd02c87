//! Which web pages may call the API from a browser (the Fetch standard's CORS protocol). Credentials are tokens in a
//! header, never cookies, so a page that may not is simply told nothing: its browser keeps the answer from it.

use poem::{
    Request, Response,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
};

use crate::edge::transport::origin::is_allowed;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Content-Type, Idempotency-Key, X-Request-Id");
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static("Retry-After, X-Request-Id");
/// How long a browser may remember a preflight, in seconds: the longest that all of them honour is two hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// The answer's side of CORS.
pub struct Cors {
    allowed: Vec<String>,
}

impl Cors {
    pub fn new(allowed: &[String]) -> Self {
        Cors {
            allowed: allowed.to_vec(),
        }
    }

    /// The origin to allow, if the request is from a page that may.
    pub fn origin(&self, request: &Request) -> Option<HeaderValue> {
        let origin = request.headers().get(header::ORIGIN)?;
        let host = request.header(header::HOST).unwrap_or("");
        is_allowed(&self.allowed, origin.to_str().ok()?, host).then(|| origin.clone())
    }

    /// The answer to a browser that asks before it sends the real request.
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

    /// What every answer says about who may read it.
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
