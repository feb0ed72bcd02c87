//! Accounts, logins, tickets.

use super::*;

#[tokio::test]
async fn register_then_log_in() {
    let world = world(done).await;
    let new = json!({"username": "ada", "password": "correct horse", "email": "ada@example.com"});
    let (status, body) = world.post("/v1/auth/register", new).await;
    assert_eq!(status, 201, "{body}");
    assert_eq!(body["user"]["displayName"], "ada");
    assert_eq!(body["user"]["email"], "ada@example.com");
    assert_eq!(body["user"].get("phone"), None);
    assert_eq!(body["expiresIn"], 900);
    let identity = world
        .edge
        .auth
        .verify(body["accessToken"].as_str().unwrap())
        .unwrap();
    assert_eq!(body["user"]["id"], identity.user.to_string());

    // Stores the login as the worker would.
    let envelopes: Vec<Envelope> = world.queue.envelopes.lock().unwrap().drain(..).collect();
    let [
        Envelope {
            command:
                Command::Account(AccountCommand::Register {
                    account,
                    password_hash,
                }),
            ..
        },
        Envelope {
            command:
                Command::Account(AccountCommand::OpenLogin {
                    login, token_hash, ..
                }),
            actor,
            ..
        },
    ] = envelopes.as_slice()
    else {
        panic!("{envelopes:?}");
    };
    assert_eq!((*login, *actor), (identity.login, identity.user));
    let refresh = world
        .edge
        .auth
        .refresh
        .read(body["refreshToken"].as_str().unwrap())
        .unwrap();
    assert_eq!(refresh.hash(), *token_hash);
    world.store.accounts.lock().unwrap().push(Credentials {
        account: account.clone(),
        password_hash: password_hash.clone(),
    });

    let log_in = |name: &str, password: &str| json!({"username": name, "password": password});
    let (status, body) = world
        .post("/v1/auth/login", log_in("ada", "correct horse"))
        .await;
    assert_eq!((status, &body["user"]["username"]), (200, &json!("ada")));
    let wrong = world
        .post("/v1/auth/login", log_in("ada", "wrong horse"))
        .await;
    let unknown = world
        .post("/v1/auth/login", log_in("eve", "wrong horse"))
        .await;
    assert_eq!((wrong.0, unknown.0), (401, 401));
    assert_eq!(wrong.1["detail"], unknown.1["detail"]);
    // The user name is taken.
    let again = json!({"username": "ada", "password": "another horse"});
    assert_eq!(world.post("/v1/auth/register", again).await.0, 409);
}

#[tokio::test]
async fn a_repeated_registration_returns_only_its_own_account() {
    let world = world(done).await;
    let register = async |password: &str| {
        let request = Request::builder()
            .method(Method::POST)
            .uri_str("/v1/auth/register")
            .content_type("application/json")
            .header("idempotency-key", "k1")
            .body(json!({"username": "ada", "password": password}).to_string());
        let (response, body) = world.send(request).await;
        (response.status().as_u16(), body["user"]["id"].clone())
    };
    let (status, id) = register("correct horse").await;
    assert_eq!(status, 201);
    let stored = world
        .queue
        .envelopes
        .lock()
        .unwrap()
        .iter()
        .find_map(|envelope| match &envelope.command {
            Command::Account(AccountCommand::Register {
                account,
                password_hash,
            }) => Some(Credentials {
                account: account.clone(),
                password_hash: password_hash.clone(),
            }),
            _ => None,
        });
    world.store.accounts.lock().unwrap().push(stored.unwrap());
    assert_eq!(register("correct horse").await, (201, id));
    assert_eq!(register("another horse").await.0, 409);
}

#[tokio::test]
async fn wrong_fields_are_all_named() {
    let world = world(done).await;
    let bad = json!({"username": "?", "password": "short", "email": "x", "phone": "1", "displayName": ""});
    let (status, body) = world.post("/v1/auth/register", bad).await;
    assert_eq!((status, body["errors"].as_array().unwrap().len()), (422, 5));
    assert!(world.queue.envelopes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_a_worker_a_registration_is_accepted_and_a_refresh_is_busy() {
    let world = world(silent).await;
    let new = json!({"username": "ada", "password": "correct horse"});
    let (status, body) = world.post("/v1/auth/register", new).await;
    assert_eq!((status, body["status"].as_str()), (202, Some("accepted")));
    assert_eq!(body.get("accessToken"), None);

    let who = Identity {
        user: new_id(),
        login: new_id(),
    };
    let token = world.edge.auth.open(who).unwrap().refresh;
    let (status, body) = world
        .post("/v1/auth/refresh", json!({"refreshToken": token}))
        .await;
    assert_eq!((status, body["retryAfterMs"].as_u64()), (503, Some(1000)));
}

#[tokio::test]
async fn a_refresh_gives_the_same_pair_again() {
    let world = world(done).await;
    let who = Identity {
        user: new_id(),
        login: new_id(),
    };
    let token = world.edge.auth.open(who).unwrap().refresh;
    let (status, first) = world
        .post("/v1/auth/refresh", json!({"refreshToken": token}))
        .await;
    assert_eq!(status, 200);
    let (_, second) = world
        .post("/v1/auth/refresh", json!({"refreshToken": token}))
        .await;
    assert_eq!(first["refreshToken"], second["refreshToken"]);
    assert_ne!(first["refreshToken"], token);
    assert_eq!(
        world
            .post("/v1/auth/refresh", json!({"refreshToken": "made up"}))
            .await
            .0,
        401
    );
}

#[tokio::test]
async fn logging_out_needs_one_of_the_tokens() {
    let world = world(done).await;
    assert_eq!(world.post("/v1/auth/logout", json!({})).await.0, 401);
    let (status, _) = world
        .call(new_id(), Method::POST, "/v1/auth/logout", Value::Null)
        .await;
    assert_eq!(status, 204);
    let who = Identity {
        user: new_id(),
        login: new_id(),
    };
    let token = world.edge.auth.open(who).unwrap().refresh;
    assert_eq!(
        world
            .post("/v1/auth/logout", json!({"refreshToken": token}))
            .await
            .0,
        204
    );
    let envelopes = world.queue.envelopes.lock().unwrap();
    let Command::Account(AccountCommand::CloseLogin { login }) = &envelopes.last().unwrap().command
    else {
        panic!("{envelopes:?}");
    };
    assert_eq!(*login, who.login);
}

#[tokio::test]
async fn logins_are_counted() {
    let world = world_with(done, |config| config.limits.logins_per_minute = 2).await;
    let attempt = json!({"username": "eve", "password": "wrong horse"});
    for expected in [401, 401, 429] {
        assert_eq!(
            world.post("/v1/auth/login", attempt.clone()).await.0,
            expected
        );
    }
    // Failed attempts for one name do not lock out another.
    assert_eq!(
        world
            .post(
                "/v1/auth/login",
                json!({"username": "bob", "password": "x"})
            )
            .await
            .0,
        401
    );
}

#[tokio::test]
async fn a_ticket_is_good_once() {
    let world = world(done).await;
    let user = new_id();
    let (status, body) = world
        .call(user, Method::POST, "/v1/auth/ticket", Value::Null)
        .await;
    assert_eq!((status, body["expiresIn"].as_u64()), (201, Some(30)));
    let ticket = body["ticket"].as_str().unwrap();
    let auth = &world.edge.auth;
    assert_eq!(
        auth.take_ticket(&*world.edge.bus.coordination, ticket)
            .await
            .unwrap()
            .user,
        user
    );
    let used = auth
        .take_ticket(&*world.edge.bus.coordination, ticket)
        .await
        .unwrap_err();
    assert_eq!(used.code, Code::Unauthorized);
}
