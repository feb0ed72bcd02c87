//! Health, metrics and the specification.

use super::*;
use crate::edge::api::spec;

#[tokio::test]
async fn health_and_metrics() {
    let world = world(silent).await;
    let get = |path: &str| Request::builder().uri_str(path).finish();
    assert_eq!(world.send(get("/healthz")).await.1, json!({"status": "ok"}));
    let (response, body) = world.send(get("/readyz")).await;
    assert_eq!(
        (response.status().as_u16(), &body["status"]),
        (200, &json!("degraded"))
    );
    assert_eq!(body["checks"]["store"]["ok"], false);
    assert_eq!(
        body["checks"]["store"]["error"],
        Store::away().message.as_str()
    );
    world.room(RoomKind::Public, new_id(), Role::Owner, false);
    let (response, body) = world.send(get("/readyz")).await;
    assert_eq!(
        (response.status().as_u16(), &body["status"]),
        (200, &json!("ready"))
    );
    let (response, body) = world.send(get("/metrics")).await;
    assert!(
        response
            .content_type()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = body.as_str().unwrap();
    assert!(
        text.contains("chat_http_requests_total{method=\"GET\",route=\"/readyz\",status=\"200\"}"),
        "{text}"
    );
    assert!(
        world
            .send(get("/"))
            .await
            .1
            .as_str()
            .unwrap()
            .contains("/api/openapi.json")
    );
    assert!(
        world
            .send(get("/api"))
            .await
            .1
            .as_str()
            .unwrap()
            .contains("SwaggerUI")
    );
    assert_eq!(
        world.send(get("/api/openapi.json")).await.1["info"]["title"],
        "chat"
    );
}

#[test]
fn the_specification_says_everything_and_always_the_same() {
    let text = spec();
    for _ in 0..3 {
        assert_eq!(spec(), text);
    }
    let spec: Value = serde_json::from_str(&text).unwrap();
    let mut operations = 0;
    for (path, methods) in spec["paths"].as_object().unwrap() {
        assert_eq!(
            text.matches(&format!("\"{path}\": {{")).count(),
            1,
            "{path} stands there twice"
        );
        for (method, operation) in methods.as_object().unwrap() {
            operations += 1;
            let name = format!("{method} {path}");
            for needed in ["summary", "operationId", "tags"] {
                assert!(!operation[needed].is_null(), "{name}: no {needed}");
            }
            if path.starts_with("/v1/") {
                for status in [
                    "400", "401", "403", "404", "409", "413", "422", "429", "500", "503",
                ] {
                    let response = &operation["responses"][status];
                    assert!(
                        !response["content"]["application/problem+json"].is_null(),
                        "{name}: {status}"
                    );
                    assert!(
                        response["description"]
                            .as_str()
                            .is_some_and(|d| !d.is_empty())
                    );
                }
            }
            let without_login = ["/v1/auth/", "/v1/webhooks/", "/v1/unsubscribe/"];
            let open = !path.starts_with("/v1/")
                || without_login.iter().any(|begin| path.starts_with(begin));
            assert!(
                open || operation["security"][0]["bearer"].is_array(),
                "{name}: no security"
            );
        }
    }
    assert_eq!(operations, 51);
    assert_eq!(
        spec["components"]["securitySchemes"]["bearer"]["scheme"],
        "bearer"
    );
}
