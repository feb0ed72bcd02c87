//! Invalid and expired tokens and tickets.

use serde_json::json;
use uuid::Uuid;

use super::assert_helpful;
use crate::harness::{
    Chat, Kind, Rest, User, both_ways,
    deployment::SECRET,
    eventually,
    jwt::{self, Algorithm},
    socket::Closed,
};

both_ways!(
    sockets_with_invalid_credentials_are_closed,
    invalid_tokens_over_rest_are_refused,
);

/// A well-formed token with the given claims, signed with `secret`.
fn token(user: Uuid, secret: &str, algorithm: Algorithm) -> String {
    let now = jwt::now();
    let claims = json!({"sub": user, "sid": Uuid::new_v4(), "iat": now, "exp": now + 600});
    jwt::sign(&claims, secret, algorithm)
}

/// Invalid tokens, each with the reason.
fn bad_tokens(ada: &User, bob: &User) -> Vec<(&'static str, String)> {
    let [header, claims, signature] = parts(&ada.access);
    let [_, bobs_claims, bobs_signature] = parts(&bob.access);
    // Decoded: `{"alg":"none","typ":"JWT"}`.
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    vec![
        ("empty", String::new()),
        ("no token", "x".to_owned()),
        ("not three parts", format!("{header}.{claims}")),
        (
            "another user's claims",
            format!("{header}.{bobs_claims}.{signature}"),
        ),
        (
            "another token's signature",
            format!("{header}.{claims}.{bobs_signature}"),
        ),
        ("no signature", format!("{header}.{claims}.")),
        ("alg none", format!("{none}.{claims}.")),
        (
            "alg none with a signature",
            format!("{none}.{claims}.{signature}"),
        ),
        (
            "another secret",
            token(
                ada.id,
                "another secret of thirty-two bytes",
                Algorithm::HS256,
            ),
        ),
        ("another algorithm", token(ada.id, SECRET, Algorithm::HS512)),
        ("a refresh token", ada.refresh.clone()),
    ]
}

fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<&str> = token.split('.').collect();
    parts.try_into().expect("an access token is a JWT")
}

async fn sockets_with_invalid_credentials_are_closed(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("auth.access_ttl", "1s")
        .set("edge.auth_timeout", "1s")
        .start()
        .await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let unauthorized =
        |closed: Closed, what: &str| assert_eq!(closed.code, 4001, "{what}: {closed:?}");

    for (what, token) in bad_tokens(&ada, &bob) {
        let refused = chat
            .dial(0)
            .bearer(&token)
            .connect()
            .await
            .err()
            .expect(what);
        assert_eq!(refused.status, 401, "{what}");
        assert_eq!(refused.content_type, "application/problem+json", "{what}");
        assert_eq!(refused.body["code"], "unauthorized", "{what}");

        let socket = chat
            .dial(1)
            .connect()
            .await
            .expect("a socket may authenticate later");
        let error = socket
            .call("auth", json!({"token": token}))
            .await
            .expect_err(what);
        assert_helpful(&error, "unauthorized", what);
        unauthorized(socket.closed().await, what);
    }
    let control = token(ada.id, SECRET, Algorithm::HS256);
    assert!(
        chat.dial(0).bearer(&control).connect().await.is_ok(),
        "the test's tokens are valid"
    );

    // A token that expires during the test.
    let rest = chat.rest_as(0, &ada);
    eventually("the token's end", || async {
        (rest.get("/v1/me").await.status == 401).then_some(())
    })
    .await;
    let refused = chat
        .dial(0)
        .bearer(&ada.access)
        .connect()
        .await
        .err()
        .expect("expired");
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (401, &json!("token_expired"))
    );
    let socket = chat
        .dial(0)
        .connect()
        .await
        .expect("a socket may authenticate later");
    let error = socket
        .call("auth", json!({"token": ada.access}))
        .await
        .expect_err("expired");
    assert_helpful(&error, "token_expired", "expired");
    unauthorized(socket.closed().await, "expired");

    let socket = chat
        .dial(0)
        .ticket("made-up")
        .connect()
        .await
        .expect("the refusal is in the close code");
    unauthorized(socket.closed().await, "an unknown ticket");
    let socket = chat
        .dial(0)
        .connect()
        .await
        .expect("a socket may authenticate later");
    let error = socket
        .join(Uuid::new_v4(), None)
        .await
        .expect_err("auth comes first");
    assert_helpful(&error, "unauthorized", "another event first");
    unauthorized(socket.closed().await, "another event first");
    let socket = chat
        .dial(0)
        .connect()
        .await
        .expect("a socket may authenticate later");
    unauthorized(socket.closed().await, "nothing at all");

    // Tokens in URLs are refused, because URLs are logged.
    for key in ["token", "access_token"] {
        let refused = chat
            .dial(0)
            .query(key, &control)
            .connect()
            .await
            .err()
            .expect(key);
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (400, &json!("malformed"))
        );
    }
    // A browser page of a foreign origin.
    let dial = chat
        .dial(0)
        .header("origin", "https://evil.example".to_owned());
    let refused = dial
        .bearer(&control)
        .connect()
        .await
        .err()
        .expect("a foreign origin");
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (403, &json!("forbidden"))
    );
    // A plain HTTP request without an upgrade.
    chat.rest(0).get("/ws").await.problem(400, "malformed");
}

async fn invalid_tokens_over_rest_are_refused(kind: Kind) {
    let chat = Chat::plan(kind).set("auth.access_ttl", "1s").start().await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let with = |token: &str| -> Rest { chat.rest(0).with_token(token) };
    for (what, token) in bad_tokens(&ada, &bob) {
        let answer = with(&token).get("/v1/me").await;
        assert!(answer.headers.contains_key("www-authenticate"), "{what}");
        answer.problem(401, "unauthorized");
    }
    chat.rest(0)
        .get("/v1/me")
        .await
        .problem(401, "unauthorized");
    chat.rest(1)
        .post("/v1/rooms", json!({}))
        .await
        .problem(401, "unauthorized");
    with(&token(ada.id, SECRET, Algorithm::HS256))
        .get("/v1/me")
        .await
        .ok(200);
    let rest = with(&ada.access);
    eventually("the token's end", || async {
        (rest.get("/v1/me").await.status == 401).then_some(())
    })
    .await;
    rest.get("/v1/me").await.problem(401, "token_expired");
    for bad in ["", "x", &ada.access, &bob.refresh[1..]] {
        chat.rest(0)
            .post("/v1/auth/refresh", json!({"refreshToken": bad}))
            .await
            .problem(401, "unauthorized");
    }
}
