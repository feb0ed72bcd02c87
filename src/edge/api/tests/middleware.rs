//! Middleware: errors, tokens, bodies, CORS and panics.

use super::*;
use crate::edge::{api, auth::access::AccessTokens};

#[tokio::test]
async fn every_failure_is_a_problem_with_an_id() {
    let world = world(silent).await;
    let get = |path: &str| Request::builder().uri_str(path).finish();
    let (response, body) = world.send(get("/v1/nowhere")).await;
    assert_eq!(response.status(), 404);
    assert_eq!(response.content_type(), Some("application/problem+json"));
    assert_eq!(response.header("x-request-id"), body["requestId"].as_str());

    let (response, body) = world.send(get("/v1/auth/login")).await;
    assert_eq!(
        (response.status().as_u16(), response.header("allow")),
        (405, Some("POST"))
    );
    assert_eq!(body["code"], "malformed");

    let request = Request::builder()
        .uri_str("/v1/me")
        .header("x-request-id", "mine-1")
        .finish();
    let (response, body) = world.send(request).await;
    assert_eq!(response.status(), 401);
    assert_eq!(body["requestId"], "mine-1");
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    let request = Request::builder()
        .uri_str("/v1/me")
        .header("x-request-id", "a b")
        .finish();
    assert_ne!(world.send(request).await.1["requestId"], "a b");
}

#[tokio::test]
async fn expired_and_invalid_tokens_are_distinguished() {
    let world = world_with(silent, |config| {
        config.auth.access_ttl = Duration::from_secs(1)
    })
    .await;
    let with = |token: String| {
        Request::builder()
            .uri_str("/v1/me")
            .header("authorization", format!("Bearer {token}"))
            .finish()
    };
    let tokens = AccessTokens::new(
        &b"a secret of at least thirty-two bytes".as_slice().into(),
        Duration::from_secs(1),
    );
    let who = Identity {
        user: new_id(),
        login: new_id(),
    };
    let ended = tokens.sign(who, Timestamp::from_millis(0)).unwrap();
    assert_eq!(world.send(with(ended)).await.1["code"], "token_expired");
    assert_eq!(
        world.send(with("x.y.z".into())).await.1["code"],
        "unauthorized"
    );
    // A valid token of an account that does not exist.
    let (response, _) = world.send(with(world.token(new_id()))).await;
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn bodies_are_limited_and_checked() {
    let world = world(silent).await;
    let post = || {
        Request::builder()
            .method(Method::POST)
            .uri_str("/v1/auth/login")
    };
    let long = "x".repeat(world.edge.config.edge.max_frame_bytes + 1);
    let (response, body) = world
        .send(post().content_type("application/json").body(long))
        .await;
    assert_eq!(
        (response.status().as_u16(), body["code"].as_str()),
        (413, Some("too_large"))
    );
    let (response, _) = world
        .send(post().content_type("text/plain").body("{}"))
        .await;
    assert_eq!(response.status(), 415);
    let (response, body) = world
        .send(post().content_type("application/json").body("{"))
        .await;
    assert_eq!(
        (response.status().as_u16(), body["code"].as_str()),
        (400, Some("malformed"))
    );
    let (status, body) = world.post("/v1/auth/login", json!({"username": "a"})).await;
    assert_eq!(
        (status, body["errors"][0]["field"].as_str()),
        (422, Some("password"))
    );
}

#[tokio::test]
async fn only_listed_pages_may_read_answers() {
    let world = world(silent).await;
    let from = |method: Method, origin: &str| {
        Request::builder()
            .method(method)
            .uri_str("/v1/me")
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .finish()
    };
    let (response, _) = world
        .send(from(Method::OPTIONS, "https://app.example"))
        .await;
    assert_eq!(response.status(), 204);
    assert_eq!(
        response.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    assert!(
        response
            .header("access-control-allow-headers")
            .unwrap()
            .contains("Idempotency-Key")
    );
    // Error responses need CORS headers as well.
    let (response, _) = world.send(from(Method::GET, "https://app.example")).await;
    assert_eq!(
        response.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    for method in [Method::OPTIONS, Method::GET] {
        let (response, _) = world.send(from(method, "https://evil.example")).await;
        assert_eq!(response.header("access-control-allow-origin"), None);
        assert_eq!(response.header("vary"), Some("origin"));
    }
}

#[tokio::test]
async fn a_panic_is_a_problem_too() {
    struct Broken;
    impl Endpoint for Broken {
        type Output = Response;
        async fn call(&self, _: Request) -> poem::Result<Response> {
            panic!("the password is hunter2");
        }
    }
    let middleware = api::middleware::Middleware {
        cors: api::cors::Cors::new(&[]),
        max_bytes: 10,
        routes: api::routes::Routes::default(),
        log: api::request_log::RequestLog::failures_only(),
    };
    let mut response = middleware
        .around(Broken)
        .call(Request::default())
        .await
        .unwrap();
    assert_eq!(response.status(), 500);
    let text = response.take_body().into_string().await.unwrap();
    assert!(
        text.contains("internal") && !text.contains("hunter2"),
        "{text}"
    );
}
