//! Invalid REST requests.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::{Scene, scene};
use crate::harness::{Chat, Kind, both_ways};

both_ways!(invalid_rest_requests_are_answered_with_problems,);

async fn invalid_rest_requests_are_answered_with_problems(kind: Kind) {
    let Scene {
        chat,
        ada,
        room,
        foreign,
        ..
    } = scene(Chat::start(kind).await).await;
    let rest = chat.rest_as(1, &ada);
    let messages = format!("/v1/rooms/{room}/messages");
    let nobody = Uuid::new_v4();

    // Malformed bodies.
    let json = "application/json";
    for (content_type, body, status, code) in [
        (json, &b"{"[..], 400, "malformed"),
        (json, b"hello", 400, "malformed"),
        (json, b"[]", 400, "malformed"),
        (json, b"{\"body\":5}", 400, "malformed"),
        (json, b"{\"body\":\"\xff\xfe\"}", 400, "malformed"),
        (json, b"{\"body\":\"x\"} {}", 400, "malformed"),
        ("text/plain", b"{\"body\":\"x\"}", 415, "malformed"),
        (json, b"", 422, "invalid"),
        (json, &vec![b'x'; 1 << 20], 413, "too_large"),
    ] {
        rest.send(Method::POST, &messages, Some((content_type, body.to_vec())))
            .await
            .problem(status, code);
    }

    // Invalid fields: the error names the field.
    let long = "x".repeat(16_001);
    for (path, body, status, code, field) in [
        (&*messages, json!({}), 422, "invalid", "body"),
        (&messages, json!({"body": ""}), 422, "invalid", "body"),
        (&messages, json!({"body": long}), 413, "too_large", "body"),
        (&messages, json!({"body": "\u{0}"}), 422, "invalid", "body"),
        (
            &messages,
            json!({"body": "x", "clientMsgId": "x".repeat(129)}),
            413,
            "too_large",
            "clientMsgId",
        ),
        (
            &messages,
            json!({"body": "x", "metadata": "x".repeat(4095)}),
            413,
            "too_large",
            "metadata",
        ),
        ("/v1/rooms", json!({"name": "x"}), 422, "invalid", "kind"),
        (
            "/v1/rooms",
            json!({"name": "x", "kind": "secret"}),
            400,
            "malformed",
            "kind",
        ),
        (
            "/v1/rooms",
            json!({"name": "", "kind": "public"}),
            422,
            "invalid",
            "name",
        ),
        (
            "/v1/rooms",
            json!({"kind": "direct", "members": []}),
            422,
            "invalid",
            "members",
        ),
        (
            "/v1/rooms",
            json!({"kind": "direct", "members": [ada.id]}),
            422,
            "invalid",
            "members",
        ),
        (
            "/v1/auth/register",
            json!({"username": "x y", "password": "long enough"}),
            422,
            "invalid",
            "username",
        ),
        (
            "/v1/auth/register",
            json!({"username": "xy", "password": "short"}),
            422,
            "invalid",
            "password",
        ),
    ] {
        let problem = rest.post(path, body.clone()).await.problem(status, code);
        assert_eq!(
            problem["errors"][0]["field"], field,
            "{path} {body}: {problem}"
        );
    }
    rest.post(&messages, json!({"body": "x".repeat(16_000)}))
        .await
        .ok(202);
    let unknown = json!({"kind": "private", "name": "x", "members": [nobody]});
    rest.post("/v1/rooms", unknown)
        .await
        .problem(422, "invalid");
    let taken = json!({"username": "Ada", "password": "long enough"});
    rest.post("/v1/auth/register", taken)
        .await
        .problem(409, "conflict");
    for wrong in [
        json!({"username": "ada", "password": "wrong"}),
        json!({"username": "nobody", "password": "wrong"}),
    ] {
        rest.post("/v1/auth/login", wrong)
            .await
            .problem(401, "unauthorized");
    }

    // Invalid query parameters.
    for (query, status, code) in [
        ("limit=201", 422, "invalid"),
        ("limit=0", 422, "invalid"),
        ("limit=-1", 400, "malformed"),
        ("limit=many", 400, "malformed"),
        ("after=x", 400, "malformed"),
        ("after=1000000", 422, "invalid"),
        ("before=-1", 422, "invalid"),
        ("around=1000000", 422, "invalid"),
        ("after=-1", 422, "invalid"),
        ("after=1&before=2", 400, "invalid"),
    ] {
        rest.get(&format!("{messages}?{query}"))
            .await
            .problem(status, code);
    }
    let changes = format!("/v1/rooms/{room}/changes");
    rest.get(&format!("{changes}?after=1000000"))
        .await
        .problem(409, "conflict");
    rest.get(&format!("{changes}?after=-1"))
        .await
        .problem(422, "invalid");
    rest.get(&format!("{changes}?limit=1000"))
        .await
        .problem(422, "invalid");
    rest.put(&format!("/v1/rooms/{room}/read"), json!({"seq": 1_000_000}))
        .await
        .problem(422, "invalid");
    rest.post(&format!("{messages}?wait=forever"), json!({"body": "x"}))
        .await
        .problem(400, "malformed");

    // Unknown paths and methods.
    rest.get("/v1/nothing").await.problem(404, "not_found");
    rest.get("/nothing").await.problem(404, "not_found");
    rest.get("/v1/rooms/lobby").await.problem(400, "malformed");
    rest.get(&format!("/v1/rooms/{nobody}"))
        .await
        .problem(404, "not_found");
    rest.get(&format!("/v1/rooms/{foreign}/messages"))
        .await
        .problem(404, "not_found");
    rest.get(&format!("{messages}/{nobody}"))
        .await
        .problem(404, "not_found");
    for (method, path) in [
        (Method::DELETE, "/v1/rooms"),
        (Method::GET, "/v1/auth/login"),
        (Method::PUT, &messages),
    ] {
        let answer = rest.send(method, path, None).await;
        let allow = answer
            .headers
            .get("allow")
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        answer.problem(405, "malformed");
        assert!(allow.is_some_and(|allow| allow.contains("POST")), "{path}");
    }
}
