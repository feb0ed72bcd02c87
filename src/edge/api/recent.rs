//! A fast path for `GET /v1/rooms/{room}/messages` without a cursor, the most frequent read: a cached newest page is
//! returned before routing. All other requests, and all errors, are left to the router's endpoint.

use std::sync::Arc;

use bytes::Bytes;
use poem::{
    Endpoint, IntoResponse, Request, Response,
    http::{Method, header},
};
use uuid::Uuid;

use super::{page::MessagePage, payload::RawJson};
use crate::{
    edge::{Edge, rate_limit::cost, revocation::LoginState},
    protocol::check_limit,
};

/// Serves a cached page from the hub, otherwise calls `inner`.
pub struct Recent<E> {
    pub edge: Arc<Edge>,
    pub inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Recent<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        match kept(&self.edge, &request) {
            Some(page) => Ok(RawJson::<MessagePage>::of_bytes(page).into_response()),
            None => self.inner.call(request).await,
        }
    }
}

fn kept(edge: &Edge, request: &Request) -> Option<Bytes> {
    if *request.method() != Method::GET {
        return None;
    }
    let path = request.uri().path().strip_prefix("/v1/rooms/")?;
    let room = Uuid::try_parse(path.strip_suffix("/messages")?).ok()?;
    let limit = match request.uri().query() {
        None => None,
        Some(query) => Some(number(query.strip_prefix("limit=")?)?),
    };
    let limit = check_limit(limit).ok()?;
    let token = request
        .header(header::AUTHORIZATION)?
        .strip_prefix("Bearer ")?;
    let identity = edge.auth.recognise(token).ok()?;
    if edge.revocations.state(identity.login) != Some(LoginState::Open) {
        return None;
    }
    let page = edge.hub.page(room, identity.user, limit)?;
    let page = page.for_reader_now(identity.user)?;
    let cost = cost::of_operation("listMessages")?.for_page(Some(limit));
    // If the rate limit refuses, the router's endpoint returns the error.
    edge.limits.admit(identity, cost).ok().map(|_| page)
}

/// Parses a number of decimal digits only, which needs no percent-decoding.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}
